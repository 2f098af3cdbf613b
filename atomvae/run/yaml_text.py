"""YAML as people mean it, and settings whose mistakes are told in one sentence.

YAML 1.1 has traps for settings: ``lattice: off`` is a boolean, ``010`` is eight, ``12:30`` is 750,
``1e-3`` is text, and a repeated key silently keeps its last value. Here the words on, off, yes and
no are text, numbers are decimal, ``1e-3`` is a number and a repeated key is an error. Nothing but
plain values is ever constructed.
"""

import difflib
import re
from collections.abc import Hashable
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from atomvae.errors import InputError

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Safe loader with the scalars of YAML 1.2 and no repeated keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the name PyYAML reads

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise InputError(f"line {line}: a key must be a word, found {key!r}")
            if key in seen:
                raise InputError(
                    f"line {line}: key {key!r} was already given in line {seen[key]}; keep one"
                )
            seen[key] = line
        return super().construct_mapping(node, deep)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """Decimal, whatever zeros lead."""
    return int(str(loader.construct_scalar(node)))


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]
)
_Loader.add_constructor("tag:yaml.org,2002:int", _integer)


def read_yaml(text: str, where: str) -> Any:
    r"""Read YAML text into plain values.

    Parameters
    ----------
    text : str
        The YAML.
    where : str
        What to call it in a message, e.g. the name of the file.

    Returns
    -------
    object
        Dictionaries, lists, texts, numbers, booleans, None.

    Raises
    ------
    InputError
        When it is no YAML, repeats a key, or asks for anything but plain values.

    Examples
    --------
    >>> read_yaml("{lattice: off, rate: 1e-3, frames: 010}", "settings")
    {'lattice': 'off', 'rate': 0.001, 'frames': 10}
    >>> read_yaml("a: 1\na: 2", "settings")
    Traceback (most recent call last):
    ...
    atomvae.errors.InputError: settings: line 2: key 'a' was already given in line 1; keep one
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except RecursionError:
        raise InputError(f"{where} is nested too deeply; settings need a few levels") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = "" if mark is None else f" line {mark.line + 1}:"
        raise InputError(f"{where}:{line} not valid YAML ({problem}); correct that line") from None


def set_value(settings: dict[str, Any], assignment: str) -> None:
    """Apply ``section.key=value`` to plain settings, in place.

    Parameters
    ----------
    settings : dict
        Plain values as `read_yaml` gives them.
    assignment : str
        The path with dots (numbers count along lists), ``=``, the value as YAML.

    Raises
    ------
    InputError
        When it is no assignment, or leads into something that has no keys.

    Examples
    --------
    >>> plain = {"movie": [{"path": "a.tif"}]}
    >>> set_value(plain, "movie.0.pixel_size_nm=0.01")
    >>> set_value(plain, "train.epochs=3")
    >>> plain
    {'movie': [{'path': 'a.tif', 'pixel_size_nm': 0.01}], 'train': {'epochs': 3}}
    """
    key, equals, text = assignment.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        raise InputError(f"'{assignment}' is no setting; write section.key=value")
    place: Any = settings
    for i, step in enumerate(steps):
        here = ".".join(steps[:i]) or "the settings"
        if isinstance(place, list):
            if not step.isdigit() or int(step) >= len(place):
                raise InputError(
                    f"--set {key}: {here} is a list of {len(place)}; count from 0, not {step!r}"
                )
            index: Any = int(step)
        elif isinstance(place, dict):
            index = step
        else:
            raise InputError(f"--set {key}: {here} is {place!r}, which has no key {step!r}")
        if i == len(steps) - 1:
            place[index] = read_yaml(text, f"--set {key}")
            return
        if isinstance(place, dict) and place.get(index) is None:
            place[index] = {}
        place = place[index]


def validate(model: type[Model], plain: Any, where: str) -> Model:
    """Turn plain values into settings, or say in one sentence what is wrong.

    Parameters
    ----------
    model : type
        The settings.
    plain : object
        What `read_yaml` gave.
    where : str
        What to call it in a message.

    Returns
    -------
    Settings
        An instance of ``model``.

    Raises
    ------
    InputError
        With the path of the first few wrong keys, what was found and the nearest known name.

    Examples
    --------
    >>> from atomvae.settings import Settings
    >>> class Blur(Settings):
    ...     sigma_px: float = 1.0
    >>> validate(Blur, {"sigma": 2}, "blur.yaml")
    Traceback (most recent call last):
    ...
    atomvae.errors.InputError: blur.yaml: unknown key 'sigma'; did you mean 'sigma_px'?
    """
    if plain is None:
        plain = {}
    if not isinstance(plain, dict):
        raise InputError(f"{where} holds {_kind(plain)}, expected 'key: value' lines")
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        problems = [_sentence(model, problem) for problem in error.errors()[:4]]
        raise InputError(f"{where}: {'; '.join(dict.fromkeys(problems))}") from None


def _sentence(model: type[BaseModel], problem: Any) -> str:
    """One validation problem in words: path, what was found, what was expected."""
    location = [str(step) for step in problem["loc"]]
    path = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{path}'; {_suggestion(model, location)}"
    if problem["type"] == "missing":
        return f"'{path}' is missing; please give it"
    if problem["type"] == "model_type":
        return f"{path} is {problem['input']!r}, it should be a section of 'key: value' lines"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if problem["type"] == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path} is {problem['input']!r}, it {message}"


def _suggestion(model: type[BaseModel], location: list[str]) -> str:
    """The nearest known key: in the same section, else the same word in another one."""
    section = _section(model, location[:-1])
    wrong, known = location[-1], list(section.model_fields) if section else []
    prefix = "".join(f"{step}." for step in location[:-1])
    everywhere = _paths(model)
    same = [path for path in everywhere if path.rsplit(".", 1)[-1] == wrong]
    near = [prefix + name for name in difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)]
    inside = [prefix + name for name in known if wrong in name or name in wrong]
    leaves = {path.rsplit(".", 1)[-1]: path for path in reversed(everywhere)}
    far = [leaves[name] for name in difflib.get_close_matches(wrong, leaves, n=1, cutoff=0.6)]
    for candidates in (near, same, inside, far):
        if candidates:
            return f"did you mean '{candidates[0]}'?"
    return f"known keys there: {', '.join(known)}"


def _section(model: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    """The settings class that a path leads to."""
    for step in location:
        if step.isdigit():
            continue
        field = model.model_fields.get(step)
        inner = [] if field is None else _models(field.annotation)
        if not inner:
            return None
        model = inner[0]
    return model


def _models(annotation: Any) -> list[type[BaseModel]]:
    """All settings classes named in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models(part)]


def _paths(model: type[BaseModel]) -> list[str]:
    """All keys with their path, outer ones first."""
    paths, deeper = [], []
    for name, field in model.model_fields.items():
        paths.append(name)
        for inner in _models(field.annotation):
            deeper += [f"{name}.{path}" for path in _paths(inner)]
    return paths + deeper


def _kind(value: Any) -> str:
    """What a plain value is, in words."""
    names = {list: "a list", str: "text", bool: "a truth value"}
    return names.get(type(value), f"the {type(value).__name__} {value!r}")
