"""The store: shards are owned, nothing is lost, other programs open it."""

from dataclasses import replace

import dask
import numpy as np
import pytest
import xarray
import zarr

from atomvae.errors import InputError
from atomvae.patches.store import ARRAYS, Patches, PatchLayout, PatchStore, write_shard


def some_patches(rows: slice, shape=(1, 6, 6)) -> Patches:
    """Every value tells its row."""
    number = np.arange(rows.start, rows.stop)
    n = len(number)
    return Patches(
        image=np.ones((n, *shape), np.float32) * number[:, None, None, None],
        mask=np.ones((n, *shape[1:]), bool) * (number % 2 == 0)[:, None, None],
        atom_id=number + 1000,
        frame=number // 7,
        remainder=np.stack([number, -number], 1) / 1e6,
        norm=np.stack([number, number + 1.0], 1),
    )


@pytest.fixture
def layout() -> PatchLayout:
    return PatchLayout(n=1000, shape=(1, 6, 6), pixel_nm=0.1, key="abc", shard_rows=128)


@pytest.mark.parametrize("path", ["patches.zarr", None])
def test_parallel_writers_lose_nothing(layout, path, tmp_path):
    store = PatchStore.create(path and tmp_path / path, layout)
    order = np.random.default_rng(0).permutation(layout.n_shards)
    tasks = [
        dask.delayed(lambda k: write_shard(store, k, some_patches(layout.rows(k))))(int(k))
        for k in order
    ]
    dask.compute(*tasks, scheduler="threads", num_workers=8)
    again = PatchStore.open(tmp_path / path) if path else store
    for name in ARRAYS:
        expected = getattr(some_patches(slice(0, 1000)), name)
        np.testing.assert_array_equal(getattr(again, name)[:], expected)
        assert getattr(again, name).dtype == ARRAYS[name][0]
    assert again.layout == layout


def test_a_shard_takes_its_own_rows_only(layout):
    store = PatchStore.create(None, layout)
    with pytest.raises(ValueError, match="shard 0 owns 128"):
        write_shard(store, 0, some_patches(slice(0, 100)))
    with pytest.raises(IndexError):
        write_shard(store, 8, some_patches(slice(0, 128)))


def test_each_shard_is_one_file_of_each_array(layout, tmp_path):
    store = PatchStore.create(tmp_path / "p", layout)
    zeros = {name: np.zeros_like(a) for name, a in vars(some_patches(layout.rows(3))).items()}
    write_shard(store, 3, Patches(**zeros))  # zeros are written too: a file says "done"
    for name in ARRAYS:
        files = [f for f in (tmp_path / "p" / name / "c").rglob("*") if f.is_file()]
        assert [f.relative_to(tmp_path / "p" / name / "c").parts[0] for f in files] == ["3"]


def test_layout_on_disk(layout, tmp_path):
    store = PatchStore.create(tmp_path / "p", replace(layout, shard_rows=8192))
    image = zarr.open_array(tmp_path / "p" / "image")
    assert image.chunks == (64, 1, 6, 6) and image.shards == (8192, 1, 6, 6)
    assert image.compressors == () and store.mask.compressors != ()
    assert image.metadata.dimension_names == ("atom", "channel", "patch_y", "patch_x")
    assert dict(store.group.attrs) == {
        "pixel_nm": 0.1, "normalise": "none", "key": "abc", "shard_rows": 8192,
        "window_nm": 0.6, "size": 6,
    }  # fmt: skip


def test_opens_with_xarray_and_zarr(tmp_path):
    image = np.random.default_rng(0).random((70, 6, 6)).astype(np.float32)
    PatchStore.from_arrays(image, atom_id=np.arange(70) * 2, path=tmp_path / "p")
    found = xarray.open_zarr(tmp_path / "p", consolidated=False)
    np.testing.assert_array_equal(found["image"].values[:, 0], image)
    assert found["atom_id"].dims == ("atom",)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "p")["image"][:, 0], image)


def test_an_array_younger_than_the_consolidated_listing_is_seen(layout, tmp_path):
    root = zarr.open_group(tmp_path / "run.zarr", mode="w", zarr_format=3)
    root.create_array("before", shape=(1,), dtype="int8")
    zarr.consolidate_metadata(root.store)
    PatchStore.create(tmp_path / "run.zarr" / "patches", layout)
    assert len(PatchStore.open(tmp_path / "run.zarr" / "patches")) == 1000


def test_load_rows_in_any_order(layout):
    store = PatchStore.create(None, layout)
    for k in range(layout.n_shards):
        write_shard(store, k, some_patches(layout.rows(k)))
    rows = np.array([999, 0, 5, 5, -1, 500])
    image, mask = store.load(rows)
    np.testing.assert_array_equal(image[:, 0, 2, 2], rows % 1000)
    np.testing.assert_array_equal(mask[:, 0, 0], rows % 2 == 0)
    np.testing.assert_array_equal(store.load(slice(3, 9))[0], store.load(np.arange(3, 9))[0])
    with pytest.raises(IndexError):
        store.load(np.array([1000]))


def test_blocks_cover_every_row_once(layout):
    store = PatchStore.create(None, layout)
    rows = [np.arange(1000)[block] for block in store.blocks(100)]
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(1000))
    assert all(block[0] % 64 == 0 for block in rows)


def test_denormalise_rows():
    store = PatchStore.create(None, PatchLayout(10, (1, 6, 6)))
    write_shard(store, 0, some_patches(slice(0, 10)))
    rows = np.array([7, 2])
    image, _ = store.load(rows)
    # image = row, scale = row + 1, offset = row
    np.testing.assert_array_equal(
        store.denormalise(image, rows)[:, 0, 0, 0], [7 * 8 + 7, 2 * 3 + 2]
    )


def test_from_arrays_masks_what_is_not_finite():
    image = np.ones((2, 1, 4, 5))
    image[0, 0, 1, 2] = np.nan
    store = PatchStore.from_arrays(image)
    loaded, mask = store.load()
    assert np.isfinite(loaded).all() and not mask[0, 1, 2] and mask.sum() == 39
    assert store.layout.shape == (1, 4, 5) and store.window_nm is None


def test_empty_store(tmp_path):
    PatchStore.from_arrays(np.zeros((0, 8, 8)), path=tmp_path / "p")
    store = PatchStore.open(tmp_path / "p")
    assert len(store) == 0 and store.load()[0].shape == (0, 1, 8, 8) and not list(store.blocks())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": np.zeros((4, 4))}, "2 dimensions"),
        ({"image": np.zeros((3, 4, 4)), "mask": np.ones((3, 4, 5), bool)}, "mask has shape"),
        ({"image": np.zeros((3, 4, 4)), "atom_id": np.arange(2)}, "atom_id has shape"),
    ],
)
def test_from_arrays_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        PatchStore.from_arrays(**arguments)


def test_open_refuses_other_folders(tmp_path):
    with pytest.raises(InputError, match="no Zarr group"):
        PatchStore.open(tmp_path / "nothing")
    zarr.open_group(tmp_path / "other", mode="w", zarr_format=3)
    with pytest.raises(InputError, match="holds no patches"):
        PatchStore.open(tmp_path / "other")
