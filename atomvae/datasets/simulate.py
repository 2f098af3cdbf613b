"""Simulated STEM movies with everything known about them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from atomvae.datasets.detector import dark_rows
from atomvae.datasets.lattices import Floats
from atomvae.datasets.presets import PRESETS, Difficulty, Preset
from atomvae.datasets.scene import Scene
from atomvae.errors import InputError
from atomvae.movie.movie import Movie


def simulate(
    preset: str | Preset = "si_graphene",
    *,
    frames: int | None = None,
    shape: tuple[int, int] | None = None,
    dose: float | None = None,
    seed: int = 0,
    difficulty: Difficulty = "full",
) -> "Simulation":
    """Simulate a STEM movie, lazily, with its truth.

    Intensities are linear: every column has Z ** 1.7 of each of its atoms, spread by a Gaussian
    core and a broad tail. Expected electrons are counted with Poisson noise and digitised.

    Parameters
    ----------
    preset : str or Preset
        `graphene`, `si_graphene`, `mos2_vacancies`, `perovskite`, or a changed copy:
        ``PRESETS["si_graphene"].replace({"jitter_px": 0.3})``.
    frames : int, optional
        Number of frames; of the preset if not given. So are the next two.
    shape : tuple of int, optional
        Rows and columns.
    dose : float, optional
        Mean electrons per pixel from the perfect crystal.
    seed : int
        Same arguments and seed, same bytes.
    difficulty : {"poisson", "scan", "full"}
        `poisson`: perfect scan, Poisson noise alone; `scan`: and drift, shear, row jitter, events
        in the middle of frames; `full`: and contamination, changing focus, lost rows and frames,
        correlated noise.

    Returns
    -------
    Simulation

    Raises
    ------
    InputError
        An unknown preset or difficulty, or a value out of range.

    Examples
    --------
    >>> simulation = simulate("si_graphene", frames=3, shape=(96, 96), seed=1)
    >>> simulation.movie.shape, simulation.movie.pixel_size
    ((3, 96, 96), (0.0117, 0.0117))
    >>> sorted(simulation.truth["species"].unique().tolist())
    ['C', 'Si']
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise InputError(f"preset is {preset!r}, expected one of {', '.join(PRESETS)}")
        name, settings = preset, PRESETS[preset]
    else:
        name, settings = preset.material, preset
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed is {seed!r}, expected a whole number, 0 or more")
    given = {"frames": frames, "shape": shape, "dose": dose}
    settings = settings.replace({key: value for key, value in given.items() if value is not None})
    settings = settings.at(difficulty)
    scene = Scene.build(settings, int(seed), whole_frames=difficulty == "poisson")
    return Simulation(name, difficulty, scene)


@dataclass(frozen=True)
class Simulation:
    """A simulated movie and all that is known about it.

    Attributes
    ----------
    name : str
        Name of the preset.
    difficulty : str
    scene : Scene
        What the frames are made from.
    """

    name: str
    difficulty: str
    scene: Scene = field(repr=False)

    @property
    def preset(self) -> Preset:
        """The settings that were used, without the faults that the difficulty leaves out."""
        return self.scene.preset

    @cached_property
    def movie(self) -> Movie:
        """The movie; a frame is made when it is asked for, from the seed and its number."""
        preset = self.preset
        height, width = preset.shape
        frames = da.map_blocks(
            _render_block,
            da.arange(preset.frames, chunks=1),
            scene=dask.delayed(self.scene, pure=True),
            chunks=((1,) * preset.frames, (height,), (width,)),
            new_axis=[1, 2],
            dtype=preset.dtype,
            meta=np.empty((0, 0, 0), dtype=preset.dtype),
        )
        return Movie(
            frames=frames,
            pixel_size=(preset.pixel_nm, preset.pixel_nm),
            frame_time=preset.frame_time_s,
            name=self.name,
            metadata=self._metadata(),
            original_metadata={},
        )

    @cached_property
    def truth(self) -> pd.DataFrame:
        """Atoms, one row per atom and frame, sorted by frame.

        Columns: `frame`; `id` (of the atom or column, keeps when it moves); `y`, `x` (px in the
        frame, at the time its row was scanned, row jitter included); `y_sample`, `x_sample` (px,
        sample at rest and scan perfect); `species`; `site`; `sublattice`; `n_bonds`; `bond_0` ...
        `bond_3` (ids of bonded atoms, -1); `defect` (number of the defect that it is part of, as
        its centre or as a neighbour, -1), `defect_kind`, `defect_angle` (rad, modulo
        2 pi / `defect_order`); `angle` (rad, of the perfect motif around the site, or of the
        polar displacement; modulo 2 pi / `angle_order`; NaN and order 0 without); `changed` (it
        moved, came, went or changed while this frame was scanned); `time_s` (when its row was
        scanned); `visible` (its row was not lost). Angles are those on the sample, without the
        shear of the scan.
        """
        return self._of_frames(self.scene.truth)

    @cached_property
    def defects(self) -> pd.DataFrame:
        """Defects, one row per defect and frame, outside the frame too, at the start of the frame.

        Columns: `frame`, `defect`, `kind`, `site`, `y`, `x` (px of the frame), `angle` (rad,
        modulo 2 pi / `order`), `order`. `y`, `x` of a vacancy are those of the empty site.
        """
        return self._of_frames(self.scene.defects)

    @cached_property
    def events(self) -> pd.DataFrame:
        """What happened under the beam, in order of time.

        Columns: `frame`; `time` (in frames: 3.25 is a quarter through frame 3); `time_s`; `kind`;
        `atom`, `other` (ids, -1 for none); `site_from`, `site_to` (-1 for nowhere).
        """
        names = ["time", "kind", "atom", "other", "site_from", "site_to"]
        table = pd.DataFrame(list(self.scene.history.events), columns=names)
        table = table.astype({"time": float, **dict.fromkeys(names[2:], "int64")})
        table.insert(0, "frame", np.floor(table["time"]).astype("int64"))
        table.insert(2, "time_s", table["time"] * self.preset.frame_time_s)
        return table

    @cached_property
    def drift(self) -> pd.DataFrame:
        """Drift: content of each frame relative to frame 0, when its middle row is scanned.

        Columns: `frame`, `dy`, `dx` in px: what is at y in frame 0 is at y + dy in that frame.
        """
        table = pd.DataFrame(self.scene.scan.drift, columns=["dy", "dx"])
        table.insert(0, "frame", np.arange(len(table)))
        return table

    def expected(self, frame: int) -> Floats:
        """Return the expected electrons per pixel, before the detector, no row lost.

        Parameters
        ----------
        frame : int

        Returns
        -------
        ndarray (rows, columns) float64
        """
        return self.scene.expected(frame)

    def row_shift(self, frame: int) -> Floats:
        """Shift of each row along x by jitter and hum, px.

        Parameters
        ----------
        frame : int

        Returns
        -------
        ndarray (rows,) float64
        """
        return self.scene.scan.row_shift(frame)

    def lost_rows(self, frame: int) -> NDArray[np.bool_]:
        """Which rows of a frame saw no beam.

        Parameters
        ----------
        frame : int

        Returns
        -------
        ndarray (rows,) bool
        """
        return dark_rows(self.preset, frame, self.scene.seed)

    def save(self, path: str | Path) -> Path:
        """Write the movie and its truth; see `atomvae.datasets.files.save`.

        Parameters
        ----------
        path : str or Path
            `NAME.tif`, `NAME.npz` or a folder.

        Returns
        -------
        Path
            The movie file.
        """
        from atomvae.datasets.files import save

        return save(self.movie, self._tables(), path)

    def _tables(self) -> dict[str, pd.DataFrame]:
        return {
            "truth": self.truth, "defects": self.defects, "events": self.events,
            "drift": self.drift,
        }  # fmt: skip

    def _of_frames(self, make: Callable[[int], pd.DataFrame]) -> pd.DataFrame:
        """Tables of all frames below each other."""
        return pd.concat([make(t) for t in range(self.preset.frames)], ignore_index=True)

    def _metadata(self) -> dict[str, Any]:
        preset = self.preset
        return {
            "signal": preset.signal,
            "beam_energy_keV": preset.beam_energy_kev,
            "dwell_us": preset.dwell_us,
            "flyback_us": preset.flyback_us,
            "gain": preset.gain,
            "offset": preset.offset,
            "simulated": f"atomvae simulate, preset {self.name}, difficulty {self.difficulty}, "
            f"seed {self.scene.seed}",
            "warnings": [],
        }


def _render_block(numbers: NDArray[np.int64], scene: Scene) -> NDArray[np.generic]:
    """Frames of one block, (n, rows, columns)."""
    return np.stack([scene.render(int(t)) for t in numbers])
