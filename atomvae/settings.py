"""The common behaviour of every settings model: strict, immutable, YAML-friendly."""

from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict


class Settings(BaseModel):
    """Base of the settings of a stage.

    Unknown keys are errors, instances are immutable and hashable, and the docstring under each
    field is its help text in the command line, the documentation and the napari form.
    ``None`` as a default always means: taken from the data, and shown.

    Examples
    --------
    >>> class Blur(Settings):
    ...     sigma_px: float = 1.0
    >>> Blur(sigma_px=2).sigma_px
    2.0
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def unit(name: str) -> JsonDict:
    """Say the unit of a field whose name does not say it; for ``Field(json_schema_extra=...)``.

    Parameters
    ----------
    name : str
        Shown beside the field in forms, and ``unit`` in the JSON schema.

    Returns
    -------
    dict

    Examples
    --------
    >>> unit("frames")
    {'unit': 'frames'}
    """
    return {"unit": name}
