"""Where patches live: a Zarr group whose shards are the unit of writing."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from atomvae.errors import InputError

CHUNK_ROWS = 64
"""Patches per chunk, the unit of reading."""
SHARD_ROWS = 8192
"""Patches per shard, the unit of writing."""
BLOCK_ROWS = 2048
"""Patches read at once by `PatchStore.blocks`."""

ARRAYS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "image": ("float32", ("atom", "channel", "patch_y", "patch_x"), "normalised intensity"),
    "mask": ("bool", ("atom", "patch_y", "patch_x"), "True where the frame has a pixel"),
    "atom_id": ("int64", ("atom",), "atom_id of the atom that row i belongs to"),
    "frame": ("int64", ("atom",), "number of the frame it was cut from"),
    "remainder": ("float64", ("atom", "y_x"), "(y - round(y), x - round(x)) of the atom, px"),
    "norm": ("float64", ("atom", "offset_scale"), "file units = image * scale + offset"),
}
"""Arrays of the group: dtype, dimensions, meaning. Row i of each belongs to ``atom_id[i]``.

The middle of a patch, index ``((h - 1) / 2, (w - 1) / 2)``, is the sub-pixel position of the
atom; ``remainder`` says how far that is from the nearest pixel of the frame.
"""


@dataclass(frozen=True)
class PatchLayout:
    """What is known of a stack of patches before the first one is cut.

    Parameters
    ----------
    n
        Number of patches.
    shape
        ``(channels, height, width)`` of one patch.
    pixel_nm
        Side of a (square) pixel of the patch in nm; None when unknown.
    normalise
        "robust" or "none", see `atomvae.patches.cut.cut_patches`.
    key
        Hash of what the patches were cut from, "" when unknown.
    shard_rows
        Patches per shard, a multiple of `CHUNK_ROWS`.

    Examples
    --------
    >>> layout = PatchLayout(n=10_000, shape=(1, 24, 24), pixel_nm=0.025)
    >>> layout.n_shards, layout.rows(1), layout.window_nm
    (2, slice(8192, 10000, None), 0.6)
    """

    n: int
    shape: tuple[int, int, int]
    pixel_nm: float | None = None
    normalise: str = "none"
    key: str = ""
    shard_rows: int = SHARD_ROWS

    def __post_init__(self) -> None:
        if self.n < 0 or min(self.shape) < 1 or self.shard_rows % CHUNK_ROWS:
            raise ValueError(f"no such layout: {self}")

    @property
    def size(self) -> int:
        """Height of a patch in its own pixels."""
        return self.shape[1]

    @property
    def window_nm(self) -> float | None:
        """Height of the window in nm, from outer edge to outer edge of its pixels."""
        return None if self.pixel_nm is None else round(self.size * self.pixel_nm, 12)

    @property
    def n_shards(self) -> int:
        """Number of shards, each written by one task."""
        return -(-self.n // self.shard_rows)

    def rows(self, k: int) -> slice:
        """Rows that shard ``k`` owns."""
        if not 0 <= k < self.n_shards:
            raise IndexError(f"shard {k} of {self.n_shards}")
        return slice(k * self.shard_rows, min((k + 1) * self.shard_rows, self.n))


@dataclass(frozen=True)
class Patches:
    """A few patches in memory, e.g. the rows of one shard; arrays as in `ARRAYS`."""

    image: NDArray[np.float32]  # (n, c, h, w)
    mask: NDArray[np.bool_]  # (n, h, w)
    atom_id: NDArray[np.int64]  # (n,)
    frame: NDArray[np.int64]  # (n,)
    remainder: NDArray[np.float64]  # (n, 2)
    norm: NDArray[np.float64]  # (n, 2)


class PatchStore:
    """Patches on disk or in memory: one Zarr v3 group, arrays as documented in `ARRAYS`.

    ``store.image``, ``store.mask``, ``store.atom_id``, ``store.frame``, ``store.remainder`` and
    ``store.norm`` are Zarr arrays: ``store.atom_id[:]`` reads one whole.

    Parameters
    ----------
    group
        A group made by `create`.

    Examples
    --------
    >>> store = PatchStore.from_arrays(np.ones((3, 8, 8), dtype=np.float32), pixel_nm=0.1)
    >>> len(store), store.image.shape, store.window_nm, store.atom_id[:].tolist()
    (3, (3, 1, 8, 8), 0.8, [0, 1, 2])
    """

    def __init__(self, group: zarr.Group) -> None:
        missing = [name for name in ARRAYS if name not in group]
        if missing:
            raise InputError(
                f"the group {str(group.store_path)!r} holds no patches (no array "
                f"{missing[0]!r}); give the folder that cut_patches wrote"
            )
        self.group = group
        # A missing file then means a shard that was not written, never one of zeros.
        with zarr.config.set({"array.write_empty_chunks": True}):
            self.image, self.mask = group["image"], group["mask"]
            self.atom_id, self.frame = group["atom_id"], group["frame"]
            self.remainder, self.norm = group["remainder"], group["norm"]
        attrs = dict(group.attrs)
        self.layout = PatchLayout(
            n=self.image.shape[0],
            shape=self.image.shape[1:],
            pixel_nm=attrs.get("pixel_nm"),
            normalise=str(attrs.get("normalise", "none")),
            key=str(attrs.get("key", "")),
            shard_rows=int(attrs.get("shard_rows", SHARD_ROWS)),
        )

    @classmethod
    def create(cls, path: str | Path | None, layout: PatchLayout) -> "PatchStore":
        """Allocate all arrays, to be filled shard by shard with `write_shard`.

        Parameters
        ----------
        path
            Folder of the group, replaced if it exists; None keeps it in memory.
        layout
            Number and shape of the patches.
        """
        target: Any = zarr.storage.MemoryStore() if path is None else Path(path)
        group = zarr.open_group(target, mode="w", zarr_format=3)
        c, h, w = layout.shape
        shapes = {"image": (c, h, w), "mask": (h, w), "remainder": (2,), "norm": (2,)}
        for name, (dtype, dimensions, meaning) in ARRAYS.items():
            rest = shapes.get(name, ())
            wide = name in ("image", "mask")  # sharded: many chunks in a file
            group.create_array(
                name,
                shape=(layout.n, *rest),
                dtype=dtype,
                chunks=(CHUNK_ROWS if wide else layout.shard_rows, *rest),
                shards=(layout.shard_rows, *rest) if wide else None,
                # Noisy float32 shrinks by 7 % only and would be read at a third of the speed.
                compressors=None if name == "image" else "auto",
                dimension_names=dimensions,
                attributes={"meaning": meaning},
            )
        attrs = asdict(layout) | {"window_nm": layout.window_nm, "size": layout.size}
        group.attrs.update({k: v for k, v in attrs.items() if k not in ("n", "shape")})
        return cls(group)

    @classmethod
    def open(cls, path: str | Path) -> "PatchStore":
        """Open a stored group for reading (and for `write_shard`).

        Raises
        ------
        InputError
            If there is no group of patches at ``path``.
        """
        try:
            # The listing of consolidated metadata is frozen: it may miss younger arrays.
            group = zarr.open_group(Path(path), mode="r+", use_consolidated=False)
        except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
            raise InputError(
                f"no Zarr group at {str(path)!r}; give the folder that cut_patches wrote"
            ) from error
        return cls(group)

    @classmethod
    def from_arrays(
        cls,
        image: NDArray[Any],
        mask: NDArray[np.bool_] | None = None,
        *,
        atom_id: NDArray[np.int64] | None = None,
        frame: NDArray[np.int64] | None = None,
        pixel_nm: float | None = None,
        path: str | Path | None = None,
    ) -> "PatchStore":
        """Wrap images that exist already.

        Parameters
        ----------
        image
            ``(n, h, w)`` or ``(n, c, h, w)``, stored as float32 as it is. Pixels that are not
            finite are set to 0 and masked.
        mask
            ``(n, h, w)``, True where the image holds data; default everywhere.
        atom_id, frame
            ``(n,)``; default 0 to n-1 and 0.
        pixel_nm
            Pixel size in nm, if known.
        path
            Folder to write; None keeps the group in memory.

        Raises
        ------
        InputError
            If the shapes do not belong together.
        """
        image = np.asarray(image, dtype=np.float32)
        if image.ndim == 3:
            image = image[:, None]
        if image.ndim != 4:
            raise InputError(
                f"the images have {image.ndim} dimensions; expected (n, h, w) or (n, c, h, w)"
            )
        n, _, h, w = image.shape
        finite = np.isfinite(image)
        mask = np.ones((n, h, w), bool) if mask is None else np.asarray(mask, dtype=bool)
        patches = Patches(
            image=np.where(finite, image, np.float32(0)),
            mask=mask,
            atom_id=np.arange(n) if atom_id is None else np.asarray(atom_id, dtype=np.int64),
            frame=np.zeros(n, np.int64) if frame is None else np.asarray(frame, dtype=np.int64),
            remainder=np.zeros((n, 2)),
            norm=np.tile([0.0, 1.0], (n, 1)),
        )
        for name, shape in (("mask", (n, h, w)), ("atom_id", (n,)), ("frame", (n,))):
            if (found := getattr(patches, name).shape) != shape:
                raise InputError(f"{name} has shape {found}; {n} images need {shape}")
        patches = replace(patches, mask=mask & finite.all(1))
        store = cls.create(path, PatchLayout(n, image.shape[1:], pixel_nm))
        for k in range(store.layout.n_shards):
            rows = store.layout.rows(k)
            write_shard(store, k, Patches(**{a: getattr(patches, a)[rows] for a in ARRAYS}))
        return store

    def __len__(self) -> int:
        return self.layout.n

    def __repr__(self) -> str:
        c, h, w = self.layout.shape
        window = "" if self.window_nm is None else f", {self.window_nm:.4g} nm"
        return f"PatchStore({len(self)} patches, {c} x {h} x {w}{window})"

    @property
    def pixel_nm(self) -> float | None:
        """Side of a pixel in nm; None when unknown."""
        return self.layout.pixel_nm

    @property
    def window_nm(self) -> float | None:
        """Height of the window in nm; None when unknown."""
        return self.layout.window_nm

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[slice]:
        """Contiguous row ranges that cover the store, aligned to chunks.

        Parameters
        ----------
        rows
            Rows per range, rounded up to whole chunks.

        Examples
        --------
        >>> store = PatchStore.from_arrays(np.zeros((100, 4, 4)))
        >>> [store.load(block)[0].shape[0] for block in store.blocks(64)]
        [64, 36]
        """
        step = -(-rows // CHUNK_ROWS) * CHUNK_ROWS
        for start in range(0, len(self), step):
            yield slice(start, min(start + step, len(self)))

    def load(
        self, rows: slice | NDArray[np.integer[Any]] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read patches into memory.

        Parameters
        ----------
        rows
            None for all, a slice, or an array of row numbers in any order. Row numbers are read
            as whole blocks: Zarr is some 300 times slower than memory at single rows.

        Returns
        -------
        image : ndarray
            ``(m, c, h, w)`` float32.
        mask : ndarray
            ``(m, h, w)`` bool.
        """
        if rows is None or isinstance(rows, slice):
            part = slice(None) if rows is None else rows
            return self.image[part], self.mask[part]
        wanted = np.asarray(rows)
        wanted = np.arange(len(self))[wanted]  # negative numbers, booleans, out of range
        image = np.empty((len(wanted), *self.layout.shape), dtype=np.float32)
        mask = np.empty((len(wanted), *self.layout.shape[1:]), dtype=bool)
        for block in self.blocks():
            here = (wanted >= block.start) & (wanted < block.stop)
            if here.any():
                inside = wanted[here] - block.start
                image[here] = self.image[block][inside]
                mask[here] = self.mask[block][inside]
        return image, mask

    def denormalise(
        self, image: NDArray[Any], rows: slice | NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float64]:
        """Undo the normalisation: intensities in the units of the movie.

        Parameters
        ----------
        image
            ``(m, ...)``, e.g. what `load` gave for ``rows``, or a decoder's answer for them.
        rows
            The rows the images belong to; None for all.

        Returns
        -------
        ndarray
            float64, shape of ``image``.
        """
        norm = self.norm[:][slice(None) if rows is None else rows]
        offset, scale = (v.reshape(-1, *[1] * (image.ndim - 1)) for v in norm.T)
        result: NDArray[np.float64] = image * scale + offset
        return result


def write_shard(store: PatchStore, k: int, patches: Patches) -> None:
    """Write the rows that shard ``k`` owns, all of them, and no other.

    Two writers of different shards never touch the same file; this is the only way in. Writing
    a shard again replaces it.

    Parameters
    ----------
    store
        A store made by `PatchStore.create`.
    k
        Number of the shard, 0 to ``store.layout.n_shards - 1``.
    patches
        The patches of rows ``store.layout.rows(k)``.

    Raises
    ------
    ValueError
        If ``patches`` holds another number of rows than the shard owns.
    """
    rows = store.layout.rows(k)
    for name in ARRAYS:
        values = getattr(patches, name)
        if len(values) != rows.stop - rows.start:
            raise ValueError(
                f"{name} has {len(values)} rows, shard {k} owns {rows.stop - rows.start}"
            )
    for name in ARRAYS:
        getattr(store, name)[rows] = getattr(patches, name)
