"""Every setting of a pipeline as a row of a form: what it is called, its unit, what it may be."""

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from atomvae.run.config import MovieSource, Pipeline

Kind = Literal["number", "whole", "yes or no", "choice", "text", "list"]
UNITS = {"_nm": "nm", "_px": "px", "_s": "s", "_gb": "GB"}
NOT_HERE = {"name", "movie"}  # chosen by other means than a field
OF_FILES = ("frames",)  # settings of a movie that hold for a file and that a pipeline lacks


@dataclass(frozen=True)
class SettingField:
    """One setting.

    Attributes
    ----------
    path : str
        Where it stands in the YAML, e.g. ``"detect.width_px"``.
    label, unit, help : str
        Name without its unit, the unit (may be empty), and what it is for.
    kind : str
        What is entered; see `Kind`.
    default : object
        A plain value; None means that it is taken from the data.
    choices : tuple of str
        Known values; of a choice all, of a text suggestions.
    """

    path: str
    label: str
    unit: str
    help: str
    kind: Kind
    default: Any
    choices: tuple[str, ...] = ()

    @property
    def section(self) -> str:
        """Section of the YAML, empty for what stands at its top."""
        return self.path.rpartition(".")[0]

    @property
    def optional(self) -> bool:
        """Whether it may be left to the data."""
        return self.default is None


def setting_fields(model: type[BaseModel] = Pipeline) -> tuple[SettingField, ...]:
    """List every setting of a pipeline, in the order of the YAML.

    Parameters
    ----------
    model : type
        A settings model.

    Returns
    -------
    tuple of SettingField
        Without the movie and the name of the run, of which a form knows otherwise.

    Examples
    --------
    >>> width = next(f for f in setting_fields() if f.path == "detect.width_px")
    >>> width.label, width.unit, width.kind, width.default
    ('Width', 'px', 'number', None)
    """
    own = _fields(model, "")
    if model is not Pipeline:
        return own
    source = [_field(f"movie.{name}", MovieSource.model_fields[name]) for name in OF_FILES]
    return (*source, *own)


def section_help(section: str) -> str:
    """Say what a section of the settings is about.

    Parameters
    ----------
    section : str
        E.g. ``"detect"`` or ``"compute.slurm"``; empty for the top.

    Returns
    -------
    str

    Examples
    --------
    >>> section_help("detect")
    'How atoms are found.'
    """
    if not section:
        return "What holds for the whole run."
    model: Any = Pipeline
    for name in section.split("."):
        field = model.model_fields[name]
        model = field.annotation
    return " ".join((field.description or "").split())


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Turn values by path into sections as in a YAML file.

    Parameters
    ----------
    values : dict
        Keys such as ``"detect.width_px"``.

    Returns
    -------
    dict

    Examples
    --------
    >>> nested({"seed": 1, "detect.width_px": 2.0, "compute.slurm.queue": "gpu"})
    {'seed': 1, 'detect': {'width_px': 2.0}, 'compute': {'slurm': {'queue': 'gpu'}}}
    """
    plain: dict[str, Any] = {}
    for path, value in values.items():
        *sections, name = path.split(".")
        place = plain
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return plain


def flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn sections into values by path: the reverse of `nested`.

    Parameters
    ----------
    plain : dict
        As in a YAML file.
    prefix : str
        Put before every path.

    Returns
    -------
    dict

    Examples
    --------
    >>> flat({"seed": 1, "detect": {"width_px": 2.0}})
    {'seed': 1, 'detect.width_px': 2.0}
    """
    values: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


def _fields(model: type[BaseModel], prefix: str) -> tuple[SettingField, ...]:
    """Fields of a model, those of its sections after its own."""
    own: list[SettingField] = []
    deeper: list[SettingField] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if not prefix and name in NOT_HERE:
            continue
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            deeper += _fields(inner, f"{prefix}{name}.")
        else:
            own.append(_field(prefix + name, field))
    return (*own, *deeper)


def _field(path: str, field: FieldInfo) -> SettingField:
    """One field in words."""
    name = path.rpartition(".")[2]
    suffix = next((s for s in UNITS if name.endswith(s)), "")
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    words = name.removesuffix(suffix).replace("_", " ")
    kind, choices = _kind(field.annotation)
    text = " ".join((field.description or "").split())
    return SettingField(
        path=path,
        label=field.title or words[:1].upper() + words[1:],
        unit=str(extra.get("unit", UNITS.get(suffix, ""))),
        help=re.sub(r"\bNone\b", "empty", text.replace("`", "")),
        kind=kind,
        default=_plain(field.get_default(call_default_factory=True)),
        choices=choices or tuple(str(example) for example in field.examples or ()),
    )


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    """What is entered for a type, and the choices of a literal."""
    inner = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) is Literal:
        return "choice", tuple(str(value) for value in get_args(annotation))
    if type(None) in get_args(annotation) and len(inner) == 1:
        return _kind(inner[0])
    kinds: dict[Any, Kind] = {bool: "yes or no", int: "whole", float: "number", str: "text"}
    return kinds.get(annotation, "list"), ()


def _plain(value: Any) -> Any:
    """A default as YAML writes it."""
    return list(value) if isinstance(value, tuple) else value
