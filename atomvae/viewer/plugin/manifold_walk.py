"""What the manifold widget shows, as arrays: no Qt here, and torch only when it is called."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atomvae.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from atomvae.model.model import Model
    from atomvae.patches.store import PatchStore

SIDE = 12  # pictures along each side
ENDS = (0.01, 0.99)  # quantiles of the atoms at the ends of an axis

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Grid:
    """Decoded pictures over two latents.

    Attributes
    ----------
    images : ndarray (rows, columns, h, w) float32
        The first row belongs to the lowest value of y.
    x, y : ndarray
        Values in the middle of the columns and rows; with one latent y has one value.
    label : int
        Class that was decoded.
    """

    images: Floats
    x: Floats
    y: Floats
    label: int

    def cell(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Column and row of the picture whose cell holds a value; the outermost have no end.

        Examples
        --------
        >>> grid = Grid(np.zeros((2, 3, 4, 4)), np.array([0.0, 1, 2]), np.array([0.0, 1]), 0)
        >>> grid.cell(1.4, -9.0)
        (1, 0)
        """
        found = []
        for value, axis in ((x, self.x), (y, self.y)):
            step = axis[1] - axis[0] if len(axis) > 1 else 1.0
            number = np.round((np.asarray(value) - axis[0]) / step)
            number = np.clip(np.nan_to_num(number), 0, len(axis) - 1).astype(int)
            found.append(int(number) if number.ndim == 0 else number)
        return found[0], found[1]


@dataclass(frozen=True)
class AtomCard:
    """What is known of one atom.

    Attributes
    ----------
    atom_id : int
        Which.
    patch, posed, plain : ndarray (h, w) or None
        Its patch; its reconstruction where and as it is turned; and the motif alone.
    z, z_sd : ndarray (d,)
        Its content and standard deviation; NaN where the model gives none.
    label : int
        Its class; 0 without classes.
    lines : tuple of str
        All numbers with their error bars, for people.
    """

    atom_id: int
    patch: Floats | None
    posed: Floats
    plain: Floats
    z: Floats
    z_sd: Floats
    label: int
    lines: tuple[str, ...]


class Walk:
    """A trained model, the latents of its atoms and their patches.

    Parameters
    ----------
    source : Path or None
        The run folder.
    name : str, optional
        Of the model; the one of the last run by default.

    Raises
    ------
    InputError
        One sentence says what is missing.
    """

    def __init__(self, source: Path | None, name: str | None = None) -> None:
        from atomvae.model.decode import content_columns
        from atomvae.run.folder import SUFFIX, RunFolder

        if source is None or not Path(source).name.endswith(SUFFIX):
            raise InputError(
                "these atoms come from no run folder, so there is no model to decode; run the "
                "pipeline on the movie, or open NAME.atomvae.zarr"
            )
        folder = RunFolder(source)
        load_torch()
        name = name or (folder.marker("train") or {}).get("model") or "model"
        self.model: Model = folder.model(name)
        self.latents: pd.DataFrame = folder.latents(name).set_index("atom_id")
        self.columns = content_columns(self.model)
        if not self.columns:
            raise InputError("this model has no continuous latents, so it has no manifold")
        self.classes = _class_names(self.model, folder.path / "models" / name)
        self._values = self.latents[self.columns].to_numpy(np.float64)
        self._middle = np.nanmedian(self._values, axis=0)
        self._store: PatchStore | None = None
        self._rows: dict[int, int] = {}
        self.missing = ""  # why there are no patches
        try:
            self._store = folder.patches()
            self._rows = {int(a): i for i, a in enumerate(self._store.atom_id[:])}
        except InputError as error:
            self.missing = str(error)

    def place(self, atom_id: Any) -> Floats:
        """Content (n, d) of atoms; NaN for those that the model does not know."""
        return self.latents[self.columns].reindex(np.asarray(atom_id)).to_numpy(np.float64)

    def labels(self, atom_id: Any) -> NDArray[np.int64]:
        """Class (n,) of atoms; 0 without classes."""
        if not self.classes:
            return np.zeros(len(np.asarray(atom_id)), np.int64)
        found = self.latents["class"].reindex(np.asarray(atom_id))
        return found.fillna(-1).to_numpy(np.int64)

    def grid(self, x: str, y: str, label: int = 0, side: int = SIDE) -> Grid:
        """Decode a grid over two latents; the others stay at the median of the atoms."""
        known = self._values[np.isfinite(self._values).all(1)]
        axes = []
        for name in dict.fromkeys((x, y)):
            low, high = np.quantile(known[:, self.columns.index(name)], ENDS)
            if not high > low:
                low, high = low - 0.5, high + 0.5
            axes.append(np.linspace(low, high, side))
        across, up = axes[0], axes[1] if len(axes) > 1 else np.zeros(1)
        z = np.tile(self._middle, (len(up), len(across), 1))
        z[..., self.columns.index(x)] = across
        if y != x:
            z[..., self.columns.index(y)] = up[:, None]
        images = self.decode(z.reshape(-1, len(self.columns)), label)
        return Grid(images.reshape(len(up), len(across), *images.shape[1:]), across, up, label)

    def at(self, x: str, y: str, values: tuple[float, float], label: int = 0) -> Floats:
        """Picture (h, w) at two values; the other latents at the median of the atoms."""
        z = self._middle.copy()
        z[self.columns.index(x)] = values[0]
        if y != x:
            z[self.columns.index(y)] = values[1]
        return self.decode(z[None], label)[0]

    def decode(self, z: Floats, label: int = 0, pose: dict[str, Any] | None = None) -> Floats:
        """Pictures (n, h, w) of content (n, d) at a pose; of several channels the mean."""
        from atomvae.model.decode import decode

        images = decode(self.model, z, label=label, **(pose or {}))
        return images.mean(1) if images.ndim == 4 else images

    def card(self, atom_id: int) -> AtomCard:
        """Look up an atom and decode it.

        Parameters
        ----------
        atom_id : int
            Which.

        Returns
        -------
        AtomCard

        Raises
        ------
        InputError
            If the model was not asked about this atom.
        """
        if atom_id not in self.latents.index:
            raise InputError(f"the model has no latents of atom {atom_id}; encode again")
        row = self.latents.loc[atom_id]
        z = row[self.columns].to_numpy(np.float64)[None]
        sd = np.array([row.get(f"{name}_sd", np.nan) for name in self.columns], float)
        label = int(row["class"]) if self.classes else 0
        shift = [row.get("shift_y", 0.0), row.get("shift_x", 0.0)]
        given = {
            f.name: [row[name] for name in f.columns]
            for f in self.model.poses
            if f.name not in ("angle", "shift")
        }
        pose = {"angle": row.get("angle", 0.0), "shift": shift, "given": given}
        patch = None
        if self._store is not None and atom_id in self._rows:
            start = self._rows[atom_id]
            image, mask = self._store.load(slice(start, start + 1))
            patch = np.where(mask[0], image[0].mean(0), np.nan)
        return AtomCard(
            atom_id,
            patch,
            self.decode(z, label, pose)[0],
            self.decode(z, label)[0],
            z[0],
            sd,
            label,
            tuple(say_numbers(row, self.columns, self.classes)),
        )


def load_torch() -> None:
    """Import torch from a thread without holding up the window.

    Its libraries take a quarter of a second to be linked, which `import` does while all other
    threads wait; a foreign function may do it while they don't. Where this fails, import does it.
    """
    import ctypes
    import gc
    import os
    from importlib.util import find_spec

    spec = find_spec("torch")
    if os.name == "posix" and spec is not None and spec.origin is not None:
        for library in Path(spec.origin).parent.glob("lib/libtorch_python.*"):
            link = ctypes.CDLL(None).dlopen
            link.argtypes, link.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
            link(os.fsencode(library), os.RTLD_LAZY)
    enabled = gc.isenabled()
    gc.disable()  # a collection among so many new objects takes as long again, for all threads
    try:
        import torch  # noqa: F401 - that is all
    finally:
        if enabled:
            gc.enable()


def say_numbers(row: "pd.Series[Any]", columns: list[str], classes: list[str]) -> list[str]:
    """Say the latents of an atom with their error bars.

    Parameters
    ----------
    row : Series
        Of the table of latents.
    columns : list of str
        Continuous content, which comes first.
    classes : list of str
        Names of the classes, if there are any.

    Returns
    -------
    list of str

    Examples
    --------
    >>> import pandas as pd
    >>> row = pd.Series({"z_0": 1.5, "z_0_sd": 0.25, "angle": 0.0, "angle_sd": 0.01745})
    >>> say_numbers(row, ["z_0"], [])
    ['z_0   1.50 ± 0.25', 'angle   0.0° ± 1.0°']
    """
    lines = []
    for name in columns:
        lines.append(f"{name}   {row[name]:.2f}" + _bar(row.get(f"{name}_sd"), "{:.2g}"))
    if "angle" in row:
        sd = row.get("angle_sd")
        degrees = None if sd is None else np.degrees(sd)
        lines.append(f"angle   {np.degrees(row['angle']):.1f}°" + _bar(degrees, "{:.1f}°"))
    for name in ("shift_y", "shift_x", "rotation", "scale"):
        if name in row:
            unit = " px" if name.startswith("shift") else ""
            lines.append(f"{name}   {row[name]:.2f}" + _bar(row.get(f"{name}_sd"), "{:.2g}") + unit)
    if classes and "class" in row:
        lines.append(f"class   {classes[int(row['class'])]} ({100 * row['class_p']:.0f} %)")
    if "reconstruction_error" in row:
        lines.append(f"reconstruction error   {row['reconstruction_error']:.2f} noise sd")
    return lines


def _bar(sd: Any, form: str) -> str:
    """Error bar behind a number, if there is one."""
    return "" if sd is None or not np.isfinite(sd) else f" ± {form.format(sd)}"


def _class_names(model: "Model", path: Path) -> list[str]:
    """Names of the classes of a model: those the user gave, then numbers; none without classes."""
    from atomvae.latent import Categorical
    from atomvae.run.tables import open_group

    kinds = [f for f in model.content if isinstance(f, Categorical)]
    if not kinds:
        return []
    names: list[str] = []
    if (path / "zarr.json").exists():
        names = list(open_group(path).attrs.get("class_names", []))
    return [*names, *(str(i) for i in range(len(names), kinds[0].size))]
