"""What a report reads of a run: every part for itself, so that one may be missing."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from atomvae.errors import InputError
from atomvae.maps.scatter import content_names
from atomvae.maps.style import is_kind
from atomvae.movie.movie import Movie
from atomvae.run.folder import RunFolder
from atomvae.run.images import blank_movie
from atomvae.run.stages import STAGES
from atomvae.run.tables import read_table

if TYPE_CHECKING:
    from atomvae.model.model import Model
    from atomvae.patches.store import PatchStore

FRAMES = 4  # shown of a movie
MOVIES = 3  # shown of a batch, a frame each
MOST_LATENTS = 6  # with a map each
MOST_KINDS = 12  # with a colour each
NO_KINDS = ("movie", "origin", "sublattice")  # name kinds, but say nothing of the structure


class Findings:
    """A run folder, read part by part when it is asked for; what is missing raises InputError.

    Parameters
    ----------
    folder : RunFolder
        Which.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.markers: dict[str, dict[str, Any]] = {
            stage.name: folder.marker(stage.name) or {} for stage in STAGES
        }

    def figures(self, stage: str) -> dict[str, Any]:
        """What a stage said when it ended; empty if it has not."""
        found = self.markers[stage].get("figures")
        return found if isinstance(found, dict) else {}

    def movie(self, number: int = 0) -> Movie:
        """A movie with its frames."""
        names = self.folder.movies
        movie = self.folder.movie(names[number] if names else None)
        for t in self.frames(movie):
            movie.frame(t)  # what is gone or damaged shows here
        return movie

    def backdrop(self, number: int = 0) -> Movie:
        """A movie; blank frames of its size where it can't be read."""
        try:
            return self.movie(number)
        except Exception:  # whatever a damaged file makes of its codecs
            names = self.folder.movies
            if not names:
                raise
            return blank_movie(self.folder.path / "images" / names[number])

    @cached_property
    def first(self) -> Movie:
        """The first movie, or blank frames of its size."""
        return self.backdrop()

    @property
    def shown(self) -> range:
        """Numbers of the movies that are shown: all of a few."""
        return range(max(1, min(len(self.folder.movies), MOVIES)))

    @property
    def panel(self) -> float | None:
        """Width of a frame in a figure, inches: small if there are several movies."""
        return 3.2 if len(self.shown) > 1 else None

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """Pixel size of the first movie in nm; None if it is unknown."""
        try:
            return self.first.pixel_size
        except InputError:
            return None

    @property
    def n_frames(self) -> int | None:
        """Frames of all movies; None if it is unknown."""
        found = self.figures("import").get("frames")
        return found if isinstance(found, int) else None

    @cached_property
    def table(self) -> pd.DataFrame:
        """Atoms of all movies, with latents as far as the run has come."""
        table = self.folder.table()
        if table.empty:
            raise InputError("no atoms were found")
        if (self.folder.tables / "labels.parquet").exists():  # classes that a person gave
            given = self.folder.read_parquet("labels").set_index("atom_id")["label"]
            table["label"] = table["atom_id"].map(given).fillna("none given").astype(str)
        for name in table.select_dtypes(exclude="number"):
            # Figures take what stands between dollars for a formula.
            table[name] = table[name].astype(str).str.replace("$", r"\$")
        return table

    @cached_property
    def latents(self) -> pd.DataFrame:
        """The same, once there are latents."""
        if not self.markers["map"]:
            raise InputError("there are no latents yet; run the stages up to map")
        return self.table

    def of_movie(self, table: pd.DataFrame, number: int = 0) -> pd.DataFrame:
        """Rows of a movie."""
        return table[table["movie"] == number] if "movie" in table else table

    def frames(self, movie: Movie) -> list[int]:
        """Numbers of the frames that are shown: evenly spread, both ends among them.

        Of each of several movies it is the one in the middle.
        """
        last = movie.n_frames - 1
        if len(self.shown) > 1:
            return [last // 2]
        return sorted({round(k * last / (FRAMES - 1)) for k in range(FRAMES)})

    @property
    def contents(self) -> list[str]:
        """Columns of continuous content."""
        return [name for name in content_names(self.latents) if f"{name}_sd" in self.latents] or (
            content_names(self.latents)
        )

    @property
    def kinds(self) -> list[str]:
        """Columns that sort atoms into a few kinds."""
        columns = [str(name) for name in self.table]
        numbered = [name.removesuffix("_name") for name in columns if name.endswith("_name")]
        return [
            name
            for name in columns
            if name not in (*NO_KINDS, *numbered)
            and is_kind(self.table, name)
            and 1 < self.table[name].nunique() <= MOST_KINDS
        ]

    @property
    def order(self) -> int:
        """Order of the motif's symmetry; 1 if nothing is known."""
        known = self.latents.get("angle_n", pd.Series(dtype=float)).dropna()
        return int(known.iloc[0]) if len(known) else 1

    @property
    def label(self) -> str:
        """Name of the model of the run."""
        return str(self.markers["train"].get("model", "model"))

    @cached_property
    def model(self) -> "Model":
        """The trained model."""
        return self.folder.model(self.label)

    @cached_property
    def history(self) -> pd.DataFrame:
        """How it was trained."""
        if not self.markers["train"]:
            raise InputError("the model is not trained yet")
        return read_table(self.folder.path / "models" / self.label / "history")

    def examples(self, each: int) -> "tuple[PatchStore, pd.Series[float]]":
        """Best, median and worst patches in a small store of their own, with their errors.

        Patches that the edge of a frame cuts are left out, unless there are hardly any others.
        """
        from atomvae.maps.pictures import rank_rows
        from atomvae.patches.store import PatchStore

        store, table = self.folder.patches(), self.latents.set_index("atom_id")
        error = table["reconstruction_error"].reindex(store.atom_id[:])
        whole = np.concatenate([store.mask[rows].all((1, 2)) for rows in store.blocks()])
        if whole.sum() >= 3 * each:
            error = error.where(whole)
        rows = np.array([row for row, _ in rank_rows(error, each)])
        image, mask = store.load(rows)
        return (
            PatchStore.from_arrays(image, mask=mask, pixel_nm=store.pixel_nm),
            error.iloc[rows].reset_index(drop=True),
        )

    @property
    def lead(self) -> str:
        """One line under the title."""
        done = [marker for marker in self.markers.values() if marker]
        if not done:
            return "Nothing is done yet."
        times = [marker.get("seconds") for marker in done]
        took = seconds(sum(t for t in times if isinstance(t, int | float)))
        versions = done[-1].get("versions")
        version = versions.get("atomvae", "") if isinstance(versions, dict) else ""
        day = str(done[-1].get("started", ""))[:10]
        return f"Made with atomvae {version}, {day}; computed in {took}."

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What a reader wants to know first, as far as it is known."""
        found = []
        for name, fact in FACTS.items():
            try:
                value = fact(self)
            except (InputError, OSError, ValueError, KeyError, TypeError):
                continue
            if value:
                found.append((name, value))
        return found

    @property
    def warnings(self) -> list[str]:
        """Sentences that a reader must know before trusting a picture."""
        found = [str(w) for w in self.figures("import").get("warnings", [])]
        doubtful = self.figures("drift").get("ambiguous", 0)
        if doubtful:
            found.append(
                f"Drift is ambiguous in {doubtful} of {self.n_frames} frames: it may be off by a "
                "lattice vector there, and tracks by a site."
            )
        for stage in STAGES:
            marker = self.markers[stage.name]
            old = [
                name
                for name, key in marker.get("needs", {}).items()
                if self.markers.get(name, {}).get("key") not in (None, key)
            ]
            if old:
                found.append(
                    f"{stage.name} was made from an older {', '.join(old)}; run the pipeline again."
                )
        undone = [stage.name for stage in STAGES if not self.markers[stage.name]]
        if undone:
            found.append(f"Not done yet: {', '.join(undone)}.")
        if len(self.folder.movies) > 1:
            found.append(
                f"This run has {len(self.folder.movies)} movies. One frame is shown of each of "
                f"{', '.join(self.folder.movies[:MOVIES])}; curves over frames, spacings and drift "
                f"are of {self.folder.movies[0]}; distributions and numbers of all."
            )
        return found + self._idle()

    def _idle(self) -> list[str]:
        """Latents that vary no more than they are uncertain."""
        try:
            table, names = self.latents, self.contents
        except InputError:
            return []
        idle = [
            name
            for name in names
            if f"{name}_sd" in table and table[name].std() < table[f"{name}_sd"].median()
        ]
        return [f"{name} says little: it varies less than its error bars." for name in idle]

    def log(self, most: int = 40) -> list[str]:
        """Last warnings and errors of the run's log."""
        try:
            text = (self.folder.private / "run.log").read_text("utf-8", errors="replace")
        except OSError:
            return []
        lines = [line for line in text.splitlines() if " WARNING " in line or " ERROR " in line]
        return lines[-most:]


def seconds(value: Any) -> str:
    """Write a time for people.

    Examples
    --------
    >>> seconds(3.21), seconds(75), seconds(7320), seconds(None)
    ('3.2 s', '1 min 15 s', '2 h 2 min', '')
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _view(run: Findings) -> str:
    """Size of a frame in nm; of each movie if they differ."""
    found: dict[str, None] = {}  # in order, each once
    for movie in map(run.backdrop, run.shown):
        py, px = movie.pixel_size or (1.0, 1.0)
        height, width = movie.shape[1] * py, movie.shape[2] * px
        kind, unit = (".0f", "px") if movie.pixel_size is None else (".3g", "nm")
        found[f"{height:{kind}} × {width:{kind}} {unit}"] = None
    return ", ".join(found)


def _duration(run: Findings) -> str:
    """Length of the movie in s."""
    movie = run.first
    if movie.frame_time is None or movie.n_frames < 2:
        return ""
    return f"{movie.n_frames * movie.frame_time:.3g} s"


def _spacing(run: Findings) -> str:
    """Distance between neighbours."""
    figures = run.figures("detect")
    if "spacing_nm" in figures:
        return f"{1000 * figures['spacing_nm']:.3g} pm"
    return f"{figures['spacing_px']:.3g} px"


def _error_bar(run: Findings) -> str:
    """Median standard deviation of a position."""
    sd = float(np.nanmedian(run.table[["y_sd", "x_sd"]].to_numpy(np.float64)))
    if not math.isfinite(sd):
        return ""
    return f"{sd:.2g} px" if run.pixel_size is None else f"{1000 * sd * run.pixel_size[0]:.2g} pm"


def _symmetry(run: Findings) -> str:
    """Order of the motif."""
    order = int(run.figures("map")["symmetry"])
    return f"{order}-fold" if order > 1 else "none"


FACTS: dict[str, Callable[[Findings], str]] = {
    "frames": lambda run: f"{run.n_frames:,}" if run.n_frames else "",
    "field of view": _view,
    "duration": _duration,
    "atoms": lambda run: f"{run.figures('detect')['atoms']:,}",
    "spacing": _spacing,
    "error bar": _error_bar,
    "model": lambda run: run.label if run.markers["train"] else "",
    "symmetry": _symmetry,
}
"""Facts by their names."""
