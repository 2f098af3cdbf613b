"""What a run needs, apart from Qt: its movie as a file, its settings as YAML, its process."""

import re
from collections.abc import Generator
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import yaml

from atomvae.errors import InputError

SUFFIX = ".atomvae.zarr"
STAGES = ("import", "drift", "detect", "link", "patches", "train", "encode", "map")


class Job(NamedTuple):
    """What is to be run."""

    layer: Any  # the open movie, or None
    file: str  # the movie, if it is not open
    settings: dict[str, Any]  # by path, without the movie
    out: Path  # folder of the results
    resume: Path | None = None  # a run folder that is continued as it is


class Unfinished(NamedTuple):
    """A run that has begun."""

    path: Path
    done: list[str]  # its stages that are done
    settings: dict[str, Any]  # by path


def follow(job: Job, children: list[Any], stopped: Event) -> Generator[dict[str, Any], None, None]:
    """Prepare the movie, start the process and pass on what it says; runs in a thread.

    Parameters
    ----------
    job : Job
        What is to be run.
    children : list
        Gets the process, so that it can be stopped.
    stopped : Event
        Set before the process is stopped; then one that is just starting is stopped here.

    Yields
    ------
    dict
        The command that does the same, the reports of the process, or ``error``.
    """
    from atomvae.viewer.plugin.child import Child

    try:
        if job.resume is not None:
            source: Path = job.resume
            yield {"command": f"atomvae run {source}"}
        else:
            job.out.mkdir(parents=True, exist_ok=True)
            movie = movie_file(job.layer, job.file, job.out)
            name = run_name(movie.name.partition(".")[0])
            source = job.out / f"{name}.yaml"
            write_settings(source, name, movie, job.settings)
            yield {"command": f"atomvae run {source} --out {job.out}"}
        children.append(Child(source, job.out))
        if stopped.is_set():
            children[-1].cancel()
        yield from children[-1].reports()
    except (InputError, OSError, RuntimeError) as error:
        # Not left to the worker: the user reads it in the form, not in a traceback.
        yield {"error": str(error)}


def run_name(movie: str) -> str:
    """Name of the run of a movie: what of its name can be a folder's.

    Parameters
    ----------
    movie : str
        Name of a layer or a file without its ending.

    Returns
    -------
    str

    Examples
    --------
    >>> run_name("gold, 300 kV [1]")
    'gold_300_kV_1'
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", movie).strip("_.-") or "movie"


def write_settings(file: Path, name: str, movie: Path, settings: dict[str, Any]) -> None:
    """Write the YAML that reproduces what was clicked.

    Parameters
    ----------
    file : Path
        To write.
    name : str
        Of the run.
    movie : Path
        File of the movie.
    settings : dict
        By path, such as ``"detect.width_px"``; only what was chosen.

    Raises
    ------
    InputError
        If a setting is wrong, in one sentence.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "gold.yaml"
    >>> write_settings(file, "gold", Path("/a/gold.tif"), {"train.epochs": 3})
    >>> print(file.read_text())
    name: gold
    movie: /a/gold.tif
    train:
      epochs: 3
    """
    plain = plain_settings(name, movie, settings)
    file.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")


def plain_settings(name: str, movie: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as in a YAML file, checked.

    Parameters
    ----------
    name : str
        Of the run.
    movie : Path
        File of the movie.
    settings : dict
        By path.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If a setting is wrong, in one sentence.
    """
    from atomvae.run.config import Pipeline
    from atomvae.run.fields import nested
    from atomvae.run.yaml_text import validate

    plain = nested(settings)
    of_movie = plain.pop("movie", {})
    source = {"path": str(movie)} | of_movie if of_movie else str(movie)
    plain = {"name": name, "movie": source} | plain
    validate(Pipeline, plain, "the settings")
    return plain


def unfinished(out: Path, name: str) -> Unfinished | None:
    """Find a run that has begun and is not done; reads a few small files.

    Parameters
    ----------
    out : Path
        Folder of the results.
    name : str
        Of the run.

    Returns
    -------
    Unfinished or None
    """
    path = out / f"{name}{SUFFIX}"
    try:
        plain = yaml.safe_load((path / ".atomvae" / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    done = [stage for stage in STAGES if (path / f".atomvae/stages/{stage}.json").exists()]
    if len(done) == len(STAGES) or not isinstance(plain, dict):
        return None
    return Unfinished(path, done, chosen_settings(plain))


def chosen_settings(plain: dict[str, Any]) -> dict[str, Any]:
    """Settings by path that differ from the defaults.

    Parameters
    ----------
    plain : dict
        As in a YAML file, also one with every setting.

    Returns
    -------
    dict

    Examples
    --------
    >>> chosen_settings({"name": "a", "movie": "a.tif", "seed": 0, "train": {"epochs": 3}})
    {'train.epochs': 3}
    """
    from atomvae.run.fields import flat, setting_fields

    movie = plain.get("movie")
    source = movie[0] if isinstance(movie, list) and movie else movie
    values = flat({k: v for k, v in plain.items() if k not in ("name", "movie")})
    if isinstance(source, dict):
        names = ("frames", "dataset", "pixel_size_nm", "frame_time_s")
        given = {name: source.get(name) for name in names}
        values |= {n: v for n, v in given.items() if n != "frames" and v is not None}
        values["movie.frames"] = given["frames"]
    default = {field.path: field.default for field in setting_fields()}
    return {p: v for p, v in values.items() if p in default and v not in (default[p], None)}


def read_settings(file: str) -> tuple[str, dict[str, Any]]:
    """Read the movie and the chosen settings of a YAML file or of a run folder.

    Parameters
    ----------
    file : str
        Either.

    Returns
    -------
    movie : str
        Path of the first movie; empty for a simulation.
    settings : dict
        By path, those that differ from the defaults.

    Raises
    ------
    InputError
        If it can't be read.
    """
    from atomvae.run.config import load_pipeline

    path = Path(file).expanduser()
    pipeline = load_pipeline(path / ".atomvae/config.yaml" if path.is_dir() else path)
    return pipeline.movie[0].path or "", chosen_settings(pipeline.model_dump(mode="json"))


def is_movie(layer: Any) -> bool:
    """Whether a layer is one grey image or a stack of them."""
    grey = type(layer).__name__ == "Image" and not layer.rgb
    return grey and layer.ndim in (2, 3)


def calibration(layer: Any) -> dict[str, float]:
    """Pixel size in nm and frame time in s, as far as an image knows them.

    Parameters
    ----------
    layer : napari.layers.Image

    Returns
    -------
    dict
        ``pixel_size_nm`` and ``frame_time_s``.
    """
    about = {"scale": layer.scale, "units": layer.units}
    wanted = [("pixel_size_nm", -1, "nm"), ("frame_time_s", 0, "s")][: layer.ndim - 1]
    sizes = {name: axis_size(about, axis, unit) for name, axis, unit in wanted}
    return {name: float(f"{size:.6g}") for name, size in sizes.items() if size is not None}


def axis_size(about: dict[str, Any], axis: int, unit: str) -> float | None:
    """Step along an axis of a layer in a unit; None when it is not calibrated.

    Parameters
    ----------
    about : dict
        ``scale`` and ``units`` of a layer.
    axis : int
        Which.
    unit : str
        E.g. ``"nm"``.

    Returns
    -------
    float or None

    Examples
    --------
    >>> axis_size({"scale": (0.5, 1.0), "units": ("s", "pixel")}, 0, "ms")
    500.0
    """
    import pint

    try:
        step = pint.get_application_registry().Quantity(
            float(about["scale"][axis]), str(about["units"][axis])
        )
        return float(step.to(unit).magnitude)
    except Exception:  # pint says in several ways that pixels are no length
        return None


def movie_file(layer: Any, file: str, out: Path) -> Path:
    """Find the file of the movie; an image without one is written beside the results.

    Parameters
    ----------
    layer : napari.layers.Image or None
        The movie, if it is open.
    file : str
        The movie, if it is not.
    out : Path
        Folder of the results.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If neither is given.
    """
    import numpy as np

    if layer is None:
        if not file:
            raise InputError("no movie is chosen; open an image or choose a file")
        return Path(file).expanduser().absolute()
    data = layer.data[0] if layer.multiscale else layer.data
    frames = data if data.ndim == 3 else data[None]
    own = getattr(layer.source, "path", None)
    if own and _holds(own, frames):
        return Path(own).absolute()
    path = out / f"{run_name(layer.name)}.npy"
    target = np.lib.format.open_memmap(path, mode="w+", dtype=frames.dtype, shape=frames.shape)
    for number in range(frames.shape[0]):  # never the whole movie in memory
        target[number] = np.asarray(frames[number])
    target.flush()
    return path


def _holds(path: str, frames: Any) -> bool:
    """Whether a file is a movie with just these frames; its first and last are compared."""
    import numpy as np

    from atomvae.movie.read import read_movie

    try:
        movie = read_movie(path)
        ends = {0, len(frames) - 1}
        return movie.shape == tuple(frames.shape) and all(
            np.array_equal(movie.frame(t), np.asarray(frames[t], np.float32), equal_nan=True)
            for t in ends
        )
    except Exception:  # whatever hinders us from reading it, the frames are at hand
        return False


def duration(seconds: float) -> str:
    """Say a time as people do.

    Parameters
    ----------
    seconds : float

    Returns
    -------
    str

    Examples
    --------
    >>> duration(3.2), duration(100), duration(8000)
    ('3 s', '2 min', '2.2 h')
    """
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
