"""The settings of a whole analysis, and how they are read from YAML."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from atomvae.atoms.config import DetectConfig
from atomvae.atoms.link import LinkConfig
from atomvae.errors import InputError
from atomvae.model.config import TrainConfig
from atomvae.movie.drift import DriftConfig
from atomvae.run.compute import ComputeConfig
from atomvae.run.yaml_text import read_yaml, set_value, validate
from atomvae.settings import Settings, unit

VARIANTS = (
    "rvae", "skip_rvae", "jrvae", "jvae", "vae", "affine_rvae", "ssrvae", "ssvae", "ssvae_number",
    "conv_vae", "linear_vae", "ae", "conv_ae", "linear_ae",
)  # fmt: skip
"""Compositions of `atomvae.model.zoo` that need nothing but patches, the usual ones first."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # of things that become folders


class MovieSource(Settings):
    """Where a movie comes from: a file (``path``) or a simulation (``simulate``).

    Examples
    --------
    >>> MovieSource(path="gold.dm4", pixel_size_nm=0.01).pixel_size_nm
    0.01
    """

    path: str | None = None
    """File, folder or pattern of single frames; relative to the YAML file."""
    simulate: str | None = None
    """Name of a simulated sample instead of a file, e.g. ``si_graphene``."""
    name: str | None = Field(default=None, pattern=NAME)
    """Name of the movie in the run folder; None: that of the file or the sample."""
    dataset: str | None = None
    """Which array of a file that holds several; None: the only one that can be a movie."""
    pixel_size_nm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Pixel size in nm; None: from the file."""
    frame_time_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Time per frame in s; None: from the file."""
    frames: int | None = Field(default=None, ge=1, json_schema_extra=unit("frames"))
    """Only the first so many frames; None: all, or as many as the sample has."""
    shape: tuple[int, int] | None = None
    """Simulation only: rows and columns of a frame; None: as the sample has."""
    dose: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, json_schema_extra=unit("e/px")
    )
    """Simulation only: electrons per pixel; None: as the sample has."""
    difficulty: Literal["poisson", "scan", "full"] | None = None
    """Simulation only: which disturbances are simulated; None: all."""

    @model_validator(mode="after")
    def _one_source(self) -> "MovieSource":
        if (self.path is None) == (self.simulate is None):
            raise ValueError("a movie needs either a path or a sample to simulate, not both")
        if self.path is not None:
            for name in ("shape", "dose", "difficulty"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is for simulated movies; remove it")
        return self


class PatchConfig(Settings):
    """Settings of the window around each atom."""

    window_nm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Width of the square window in nm; None: from the spacing of the atoms."""
    size: int | None = Field(default=None, ge=4, json_schema_extra=unit("px"))
    """Pixels of a patch along an edge; None: as the movie is sampled."""
    normalise: Literal["robust", "none"] = "robust"
    """``robust``: each frame to comparable brightness; ``none``: values of the file."""


class ModelConfig(Settings):
    """Settings of the model."""

    variant: str = Field(default="rvae", examples=[*VARIANTS])
    """Name of a composition in `atomvae.model.zoo`: vae, rvae, skip_rvae, jvae, jrvae, ..."""
    name: str | None = Field(default=None, pattern=NAME)
    """Name of the model in the run folder; None: that of the variant."""
    latent_dim: int | None = Field(default=None, ge=1)
    """Numbers that describe the content of a patch; None: the variant's default."""
    classes: int | None = Field(default=None, ge=2)
    """Number of classes, for variants that have them; None: the variant's default."""
    labels: bool = False
    """Whether the classes that were given to atoms in the viewer are known while training: for
    variants with classes, such as ssrvae. They lie in the run folder."""

    @property
    def label(self) -> str:
        """Name of the model in the run folder."""
        return self.name or self.variant


class MapConfig(Settings):
    """Settings of the map."""

    symmetry: int | None = Field(default=None, ge=1, le=12, json_schema_extra=unit("fold"))
    """Rotational symmetry of the motif; None: measured."""


class Pipeline(Settings):
    """All settings of an analysis: from movies to maps.

    Examples
    --------
    >>> pipeline = Pipeline(name="test", movie="gold.tif")
    >>> pipeline.movie[0].path, pipeline.model.variant
    ('gold.tif', 'rvae')
    """

    name: str = Field(default="run", pattern=NAME)
    """Name of the run; the folder is NAME.atomvae.zarr."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of everything random: same seed, same numbers."""
    movie: tuple[MovieSource, ...] = Field(min_length=1)
    """A path, ``simulate: SAMPLE``, or a list of such."""
    pixel_size_nm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Pixel size in nm of the movies that do not give their own; None: from the files."""
    frame_time_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Time per frame in s of the movies that do not give their own; None: from the files."""
    dataset: str | None = None
    """Which array, for files with several, of the movies that do not give their own."""
    copy_movie: Literal["auto", "always", "never"] = "auto"
    """Whether frames are copied into the run folder; auto: up to ``copy_limit_gb``."""
    copy_limit_gb: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Largest movie that ``copy_movie: auto`` copies, in gigabytes."""
    drift: DriftConfig = DriftConfig()
    """How the drift of the sample is measured."""
    detect: DetectConfig = DetectConfig()
    """How atoms are found."""
    link: LinkConfig = LinkConfig()
    """How atoms are linked from frame to frame."""
    patches: PatchConfig = PatchConfig()
    """The window around each atom."""
    model: ModelConfig = ModelConfig()
    """Which model is trained."""
    train: TrainConfig = TrainConfig()
    """How it is trained."""
    map: MapConfig = MapConfig()
    """How latents are put on the lattice."""
    compute: ComputeConfig = ComputeConfig()
    """Where to compute; the results do not depend on it."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        train, seed = values.get("train", {}), values.get("seed", 0)
        if isinstance(train, dict) and isinstance(seed, int) and seed >= 0:
            train = {"seed": seed} | train  # one for all, unless the training has its own
        return _movies_as_list(values) | {"train": train}

    @model_validator(mode="after")
    def _names_differ(self) -> "Pipeline":
        names = [source.name for source in self.movie if source.name]
        if len(set(names)) < len(names):
            raise ValueError("two movies have the same name; give each its own")
        return self

    def to_yaml(self) -> str:
        """Write every setting, resolved, as YAML that `load_pipeline` reads."""
        plain = self.model_dump(mode="json")
        if self.train.seed == self.seed:
            del plain["train"]["seed"]  # it follows the seed of the pipeline
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def load_pipeline(
    path: str | os.PathLike[str],
    overrides: Iterable[str] = (),
    *,
    movies: Iterable[str | os.PathLike[str]] | None = None,
) -> Pipeline:
    r"""Read a pipeline from a YAML file.

    Parameters
    ----------
    path : path-like
        The YAML file. Paths of movies in it are relative to its folder; ``${NAME}`` in them is
        replaced by the environment variable.
    overrides : iterable of str
        ``section.key=value``, applied on top.
    movies : iterable of path-like, optional
        Files that replace the movies of the pipeline; relative to the current folder.

    Returns
    -------
    Pipeline
        With absolute paths.

    Raises
    ------
    InputError
        A missing file, no YAML, a repeated or unknown key, a value of the wrong kind; one
        sentence that names the key and, for unknown ones, the nearest known name.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "gold.yaml"
    >>> _ = file.write_text("name: gold\nmovie: {simulate: si_graphene}\n")
    >>> load_pipeline(file, ["detect.threshold=6"]).detect.threshold
    6.0
    """
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{file} does not exist; `atomvae init {file.name}` writes a commented pipeline"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as text ({error}); expected YAML") from None
    plain = read_yaml(text, file.name)
    if isinstance(plain, dict):
        if movies:
            plain["movie"] = [{"path": str(Path(movie).absolute())} for movie in movies]
        plain = _movies_as_list(plain)
        for override in overrides:
            set_value(plain, override)
        for movie in plain.get("movie") or ():
            if isinstance(movie, dict) and isinstance(movie.get("path"), str):
                movie["path"] = _absolute(movie["path"], file.absolute().parent)
    return validate(Pipeline, plain, file.name)


def _movies_as_list(plain: dict[str, Any]) -> dict[str, Any]:
    """The settings with their movies as a list of sections, however they were written."""
    movie = plain.get("movie")
    if movie is None:
        return plain
    movies = list(movie) if isinstance(movie, list | tuple) else [movie]
    return plain | {"movie": [{"path": str(m)} if isinstance(m, str | Path) else m for m in movies]}


def _absolute(path: str, folder: Path) -> str:
    """A path with its variables replaced, seen from the folder of the YAML file."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if not os.environ.get(name):
            raise InputError(
                f"the path {path} needs the environment variable {name}, which is not set; "
                f"set it to a folder, e.g. export {name}=/data"
            )
        return os.environ[name]

    expanded = Path(re.sub(r"\$\{(\w+)\}", value, path)).expanduser()
    return os.path.normpath(folder / expanded)


def json_schema() -> str:
    """Return the JSON schema of a pipeline, for editors that check YAML while it is typed.

    Examples
    --------
    >>> "seed" in json.loads(json_schema())["properties"]
    True
    """
    return json.dumps(Pipeline.model_json_schema(), indent=2)
