"""The run folder: one directory that holds a whole analysis and opens without us.

::

    NAME.atomvae.zarr/
      zarr.json                attributes "atomvae": schema version, software versions, movies
      images/<movie>/0/data    OME-NGFF 0.5 (t, y, x) with scale and units, or a reference
      atoms/<column>           one array per column, dimension "atom"; attribute frame_offsets
      patches/image ...        the patch store
      latents/<name>/<column>  one table per trained model, keyed by atom_id
      models/<name>/           manifold, loss history
      .atomvae/                all that is not Zarr: config.yaml, stages/<stage>.json, weights,
                               checkpoints, run.log, tables/*.parquet, pictures
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr

import atomvae
from atomvae.atoms.table import COLUMNS
from atomvae.errors import InputError
from atomvae.run.atomic import replacing, write_text
from atomvae.run.images import read_image, write_image
from atomvae.run.tables import consolidate, open_group, read_table, write_table

if TYPE_CHECKING:
    from atomvae.model.model import Model
    from atomvae.movie.movie import Movie
    from atomvae.patches.store import PatchStore

SUFFIX = ".atomvae.zarr"
SCHEMA_VERSION = 1
SOFTWARE = ("numpy", "scipy", "scikit-image", "dask", "zarr", "torch", "pandas", "pyarrow")


def software_versions() -> dict[str, str]:
    """Return the versions of this package and of what its numbers depend on.

    Examples
    --------
    >>> "numpy" in software_versions()
    True
    """
    found = {"atomvae": atomvae.__version__}
    for name in SOFTWARE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


class RunFolder:
    """A run folder on disk: `RunFolder(path)` opens one, `RunFolder.create(path)` makes one.

    Opening reads a few JSON files and executes nothing: settings are YAML and JSON, tables are
    Zarr and parquet, weights are safetensors. A write is visible whole or not at all.

    Parameters
    ----------
    path : path-like
        An existing run folder, e.g. ``"gold.atomvae.zarr"``.

    Raises
    ------
    InputError
        When there is no run folder, or it is damaged, or of a later schema.

    Examples
    --------
    >>> import tempfile
    >>> folder = RunFolder.create(Path(tempfile.mkdtemp()) / "gold.atomvae.zarr")
    >>> folder.write_atoms(pd.DataFrame({"atom_id": [0, 1], "frame": [0, 2]}), [3])
    >>> RunFolder(folder.path).atoms(frame=2)
       atom_id  frame
    0        1      2
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.private = self.path / ".atomvae"
        self.scratch = self.private / "tmp"
        self.tables = self.private / "tables"
        schema = self.attributes.get("schema_version")
        if not isinstance(schema, int) or schema > SCHEMA_VERSION:
            raise InputError(
                f"{self.path} has schema version {schema}, this atomvae reads up to "
                f"{SCHEMA_VERSION}; upgrade atomvae"
            )

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Make an empty run folder, or open it when it is there already.

        Parameters
        ----------
        path : path-like
            Must end with ``.atomvae.zarr``.

        Returns
        -------
        RunFolder
            The folder, made whole: a killed creation leaves nothing.
        """
        target = Path(path).absolute()
        if not target.name.endswith(SUFFIX):
            raise InputError(f"{target.name} must end with {SUFFIX}, e.g. gold{SUFFIX}")
        if not target.exists():
            with replacing(target) as temporary:
                attributes = {"schema_version": SCHEMA_VERSION, "software": software_versions()}
                root = zarr.open_group(temporary, mode="w", zarr_format=3)
                root.attrs["atomvae"] = attributes | {"movies": []}
                for name in ("images", "latents", "models"):
                    root.create_group(name)
        return cls(target)

    @property
    def name(self) -> str:
        """Name of the run: the folder without its suffix."""
        return self.path.name.removesuffix(SUFFIX)

    @property
    def attributes(self) -> dict[str, Any]:
        """Our attributes of the root group: schema version, software, names of the movies."""
        if not self.path.is_dir():
            raise InputError(f"{self.path} is no folder; expected a run folder NAME{SUFFIX}")
        try:
            found = json.loads((self.path / "zarr.json").read_text())["attributes"]["atomvae"]
        except FileNotFoundError:
            raise InputError(
                f"{self.path} is no run folder: zarr.json is missing; expected NAME{SUFFIX}"
            ) from None
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                f"{self.path}/zarr.json is damaged or was not written by atomvae; "
                "restore the folder from a copy or run the pipeline anew"
            ) from None
        if not isinstance(found, dict):
            raise InputError(f"{self.path}/zarr.json holds no description of an atomvae run")
        return found

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    # ---- movies -------------------------------------------------------------------------------

    @property
    def movies(self) -> list[str]:
        """Names of the movies; the column ``movie`` of the atoms counts along this list."""
        return list(self.attributes.get("movies", []))

    def movie(self, name: str | None = None) -> "Movie":
        """Open a movie of the run, lazily.

        Parameters
        ----------
        name : str, optional
            Default: the first.

        Returns
        -------
        Movie
            Read from the copy in the folder or from the file it came from.
        """
        return read_image(self._image(name))

    def _image(self, name: str | None) -> Path:
        """Folder of a movie that exists."""
        names = self.movies
        if not names:
            raise InputError(f"{self.path} holds no movie yet; run `atomvae run` on it")
        name = names[0] if name is None else name
        if name not in names:
            raise InputError(f"no movie {name!r} in {self.path}; it has {', '.join(names)}")
        return self.path / "images" / name

    def write_movie(
        self, movie: "Movie", *, source: dict[str, Any] | None = None, copy: bool = True
    ) -> None:
        """Write a movie, or a reference to its file, under its name.

        Parameters
        ----------
        movie : Movie
            Its name becomes the name of the image.
        source : dict, optional
            How to read it again: ``path``, ``dataset``, ``pixel_size``, ``frame_time``.
        copy : bool
            Whether to copy the frames.
        """
        path = self.path / "images" / movie.name
        if source and source.get("path"):
            relative = os.path.relpath(source["path"], path)
            source = source | {"relative": relative}
        write_image(path, movie, source=source, copy=copy, scratch=self.scratch)

    def set_movies(self, names: list[str]) -> None:
        """Set which movies belong to the run, in which order; images of others are removed."""
        root = json.loads((self.path / "zarr.json").read_text())
        root["attributes"]["atomvae"] |= {"movies": names, "software": software_versions()}
        root.pop("consolidated_metadata", None)
        write_text(self.path / "zarr.json", json.dumps(root, indent=2))
        for image in (self.path / "images").iterdir():
            if image.is_dir() and image.name not in names:
                shutil.rmtree(image)

    # ---- tables -------------------------------------------------------------------------------

    def atoms(self, *, movie: int = 0, frame: int | None = None) -> pd.DataFrame:
        """Read the atom table, or the rows of one frame of one movie.

        Parameters
        ----------
        movie : int
            Number of the movie; used with ``frame`` only.
        frame : int, optional
            Only this frame. Default: all rows of all movies.

        Returns
        -------
        DataFrame
            Columns as documented in `atomvae.atoms.table`, and ``movie`` (int64) when the run has
            several; sorted by movie and frame.
        """
        path = self._existing(self.path / "atoms", "atom table", "detect")
        if frame is None:
            return read_table(path)
        group = open_group(path)
        starts = np.concatenate([[0], np.cumsum(group.attrs["frames"])])
        if not (0 <= movie < len(starts) - 1 and 0 <= frame < starts[movie + 1] - starts[movie]):
            raise InputError(
                f"no frame {frame} of movie {movie} in {self.path}; its movies have "
                f"{', '.join(str(n) for n in group.attrs['frames'])} frames"
            )
        index = starts[movie] + frame
        start, stop = group.attrs["frame_offsets"][index : index + 2]
        return read_table(path, slice(start, stop))

    def write_atoms(self, atoms: pd.DataFrame, frames: list[int]) -> None:
        """Write the atom table.

        Parameters
        ----------
        atoms : DataFrame
            Sorted by movie (if that column exists) and frame.
        frames : list of int
            Number of frames of each movie.
        """
        starts = np.concatenate([[0], np.cumsum(frames)])
        movie = atoms["movie"].to_numpy() if "movie" in atoms else np.zeros(len(atoms), int)
        running = starts[movie] + atoms["frame"].to_numpy()
        offsets = np.searchsorted(running, np.arange(starts[-1] + 1))
        about = {name: {"unit": c.unit, "description": c.meaning} for name, c in COLUMNS.items()}
        write_table(
            self.path / "atoms",
            atoms,
            {"frames": [int(n) for n in frames], "frame_offsets": offsets.tolist()},
            descriptions=about,
            scratch=self.scratch,
        )

    @property
    def patches_path(self) -> Path:
        """Where the patch store lies."""
        return self.path / "patches"

    def patches(self) -> "PatchStore":
        """Open the patch store."""
        from atomvae.patches.store import PatchStore

        return PatchStore.open(self._existing(self.patches_path, "patches", "patches"))

    @property
    def models(self) -> list[str]:
        """Names of the trained models, sorted."""
        folder = self.private / "models"
        return sorted(p.parent.name for p in folder.glob("*/model.yaml"))

    def model(self, name: str | None = None) -> "Model":
        """Load a trained model; the default is that of the last run."""
        from atomvae.model.files import load_model

        name = self._model_name(name)
        return load_model(self._existing(self.private / "models" / name, f"model {name}", "train"))

    def latents(self, name: str | None = None) -> pd.DataFrame:
        """Read the latent table of a model, keyed by ``atom_id``; default: the last run's."""
        name = self._model_name(name)
        path = self.path / "latents" / name
        return read_table(self._existing(path, f"latent table {name!r}", "encode"))

    def _model_name(self, name: str | None) -> str:
        """Name of a model, by default that of the last training."""
        return name or str((self.marker("train") or {}).get("model", "model"))

    def table(self) -> pd.DataFrame:
        """Read the joined table: the atoms with latents and maps, as far as the run has come.

        Returns
        -------
        DataFrame
            ``.atomvae/tables/atoms.parquet`` when the map stage is done, else the atom table.
        """
        if self.marker("map") is None:
            return self.atoms()
        return self.read_parquet("atoms")

    def read_parquet(self, name: str) -> pd.DataFrame:
        """Read ``.atomvae/tables/<name>.parquet``."""
        path = self.tables / f"{name}.parquet"
        try:
            return pd.read_parquet(path)
        except FileNotFoundError:
            raise InputError(f"{path} is missing; run the pipeline again") from None
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} is damaged ({str(error).splitlines()[0]}); remove it and run again"
            ) from error

    def write_parquet(self, name: str, table: pd.DataFrame) -> None:
        """Write ``.atomvae/tables/<name>.parquet``."""
        with replacing(self.tables / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)

    def _existing(self, path: Path, what: str, stage: str) -> Path:
        """The path, or the sentence that says which stage makes it."""
        if not path.exists():
            raise InputError(
                f"{self.path.name} has no {what} ({path.relative_to(self.path)} is missing); "
                f"run `atomvae {stage} {self.path}`"
            )
        return path

    # ---- markers, log, lock -------------------------------------------------------------------

    def marker(self, stage: str) -> dict[str, Any] | None:
        """Read the done marker of a stage; None when it is not done or the marker is damaged."""
        try:
            found = json.loads((self.private / "stages" / f"{stage}.json").read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write_marker(self, stage: str, content: Mapping[str, Any]) -> None:
        """Declare a stage done."""
        write_text(self.private / "stages" / f"{stage}.json", json.dumps(content, indent=2))

    def remove_marker(self, stage: str) -> None:
        """Declare a stage not done."""
        (self.private / "stages" / f"{stage}.json").unlink(missing_ok=True)

    def forget_listing(self) -> None:
        """Remove the list of all arrays from zarr.json, since it is about to change."""
        root = json.loads((self.path / "zarr.json").read_text())
        if root.pop("consolidated_metadata", None) is not None:
            write_text(self.path / "zarr.json", json.dumps(root, indent=2))

    def write_listing(self) -> None:
        """List all arrays in zarr.json: other programs open the folder faster, without a warning.

        We never read it, since a listing does not see what is added later.
        """
        consolidate(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for writing; a second process is told so in one sentence.

        The lock goes with the process, however it ends. What killed writers left is removed.
        """
        self.private.mkdir(exist_ok=True)
        with (self.private / "lock").open("a") as file:
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:  # Windows: there the user must take care
                pass
            except OSError:
                raise InputError(
                    f"{self.path} is being written by another process; wait until it is done"
                ) from None
            shutil.rmtree(self.scratch, ignore_errors=True)
            for rubbish in self.private.rglob(".*.tmp"):
                shutil.rmtree(rubbish) if rubbish.is_dir() else rubbish.unlink()
            yield
