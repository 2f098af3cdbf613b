"""A pipeline to start from, written from the settings themselves: it is never out of date."""

import json
import re
import textwrap

import yaml
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from atomvae.run.config import Pipeline

HEAD = """\
# A pipeline of atomvae. Run it with: atomvae run {name}.yaml
# Lines with ## explain. To change a setting, remove "# " before it and before its section.
# null means: taken from the data, and shown. "atomvae schema" prints a schema for editors.
"""


def template(name: str, movie: str) -> str:
    """Write a commented pipeline.

    Parameters
    ----------
    name : str
        Name of the run.
    movie : str
        Path of the movie.

    Returns
    -------
    str
        YAML with every setting, its default and its meaning.

    Examples
    --------
    >>> [line for line in template("gold", "gold.dm4").splitlines() if line[:1] not in "#"]
    ['name: gold', 'movie: "gold.dm4"']
    """
    chosen = re.sub(r"[^A-Za-z0-9_.-]", "-", name).lstrip("-._") or "run"
    lines = [HEAD.format(name=chosen), f"name: {chosen}", f"movie: {json.dumps(movie)}", ""]
    return "\n".join(lines + _fields(Pipeline, 0, {"name", "movie"})) + "\n"


def _fields(model: type[BaseModel], depth: int, without: set[str]) -> list[str]:
    """Every field as a commented line under its meaning."""
    lines: list[str] = []
    pad = "  " * depth
    for name, field in model.model_fields.items():
        if name in without:
            continue
        meaning = " ".join((field.description or "").split())
        lines += [f"## {pad}{line}" for line in textwrap.wrap(meaning, 88 - 2 * depth)]
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            lines += [f"# {pad}{name}:", *_fields(field.annotation, depth + 1, {"seed"})]
        else:
            value = to_jsonable_python(field.get_default(call_default_factory=True))
            text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
            lines.append(f"# {pad}{name}: {text}")
        if depth == 0:
            lines.append("")
    return lines
