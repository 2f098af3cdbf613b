"""Every format gives back the array, the order of axes and the calibration that were written."""

import json
import os
import sys
from pathlib import Path

import cloudpickle
import h5py
import mrcfile
import numcodecs
import numpy as np
import psutil
import pytest
import tifffile
import zarr

from atomvae.errors import InputError
from atomvae.movie.read import READERS, read_movie
from atomvae.movie.units import length_in_nm

T, Y, X = 5, 24, 40
NM = 0.0125


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 60_000, (T, Y, X)).astype(np.uint16)


def write_npy(path, frames):
    np.save(path, frames)
    path.with_suffix(".json").write_text(json.dumps({"setup": {"pixel_pm": NM * 1e3}}))


def write_fortran_npy(path, frames):
    np.save(path, np.asfortranarray(frames))
    path.with_suffix(".json").write_text(json.dumps({"fov_nm": NM * X}))


def write_npz(path, frames):
    np.savez_compressed(path, frames=frames, times=np.arange(T), note=np.array("made by hand"))
    content = {"field_of_view_x": NM * X, "field_of_view_y": NM * Y, "field_of_view_units": "nm"}
    path.with_suffix(".json").write_text(json.dumps({"a": {"b": content}}))


def write_fortran_npz(path, frames):
    np.savez(path, np.asfortranarray(frames))
    path.with_suffix(".json").write_text(json.dumps({"pixel_nm": [NM, NM]}))


def write_imagej(path, frames):
    tifffile.imwrite(
        path, frames, imagej=True, resolution=(1 / NM, 1 / NM),
        metadata={"unit": "nm", "axes": "TYX", "finterval": 0.5},
    )  # fmt: skip


def write_ome(path, frames):
    metadata = {
        "axes": "TYX", "PhysicalSizeX": NM * 1e-3, "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": NM * 1e3, "PhysicalSizeYUnit": "pm",
        "TimeIncrement": 500.0, "TimeIncrementUnit": "ms",
    }  # fmt: skip
    tifffile.imwrite(path, frames, ome=True, metadata=metadata)


def write_pages(path, frames):
    """Compressed, big-endian pages with the private tags of DigitalMicrograph."""
    tags = [(65003, 2, 0, "nm", True), (65004, 2, 0, "nm", True)]
    tags += [(code, 12, 1, NM, True) for code in (65009, 65010)]
    with tifffile.TiffWriter(path, byteorder=">") as tif:
        for frame in frames:
            tif.write(frame, compression="zlib", extratags=tags, metadata=None)


def write_nsid(path, frames):
    with h5py.File(path, "w") as file:
        group = file.create_group("Measurement_000/Channel_000/movie")
        data = group.create_dataset(
            "movie", data=frames, chunks=(min(2, len(frames)), Y, X), compression="gzip"
        )
        for i, (name, step, unit) in enumerate([("t", 0.5, "s"), ("y", NM, "nm"), ("x", NM, "nm")]):
            scale = group.create_dataset(name, data=step * np.arange(frames.shape[i]))
            scale.attrs["units"] = unit
            scale.make_scale(name)
            data.dims[i].attach_scale(scale)
            data.dims[i].label = name


def write_emd(path, frames):
    """NCEM's own order: X, Y, then time, in metres."""
    with h5py.File(path, "w") as file:
        group = file.create_group("data/movie")
        group.attrs["emd_group_type"] = 1
        group.create_dataset("data", data=np.transpose(frames, (2, 1, 0)))
        for i, (name, step, unit) in enumerate(
            [("X", NM * 1e-9, "[m]"), ("Y", NM * 10, "A"), ("time", 500, "ms")]
        ):
            size = (X, Y, len(frames))[i]
            dim = group.create_dataset(f"dim{i + 1}", data=step * (np.arange(size) - 7.0))
            dim.attrs["name"], dim.attrs["units"] = np.bytes_(name), np.bytes_(unit)
        microscope = file.create_group("microscope").attrs
        microscope["high tension"], microscope["dwell time"] = 60e3, 8e-6


def write_velox(path, frames):
    """As Velox does: rows, columns, frames; JSON in bytes, padded with zeros, for each frame."""
    told = {
        "Core": {"MetadataDefinitionVersion": "7.9"},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1600000000"}},
        "Instrument": {"ControlSoftwareVersion": "2.0"},
        "Optics": {"AccelerationVoltage": "80000"},
        "BinaryResult": {
            "PixelSize": {"width": str(NM * 1e-9), "height": str(NM * 1e-9)},
            "PixelUnitX": "m", "PixelUnitY": "m", "Offset": {"x": "0", "y": "0"},
            "Detector": "HAADF", "DetectorIndex": "0",
        },
        "Detectors": {"Detector-0": {"DetectorName": "HAADF", "DetectorType": "ScanningDetector"}},
        "Scan": {"DwellTime": "2e-6", "FrameTime": "0.5"},
        "Sample": {}, "Stage": {}, "CustomProperties": {},
    }  # fmt: skip
    text = np.frombuffer(json.dumps(told).encode().ljust(3000, b"\0"), np.uint8)
    with h5py.File(path, "w") as file:
        file["Version"] = np.array([b'{"format": "Velox", "version": "1.0"}'], dtype="S100")
        group = file.create_group("Data/Image/0123456789abcdef0123456789abcdef")
        pixels = np.transpose(frames, (1, 2, 0))
        group.create_dataset("Data", data=pixels, chunks=(Y, X, 1))
        group["Metadata"] = np.repeat(text[:, None], len(frames), 1)
        for name in ("Displays", "Presentation", "Operations"):
            file.create_group(name)
        file["Application/Velox/Version"] = 1


def write_hspy(path, frames):
    with h5py.File(path, "w") as file:
        group = file.create_group("Experiments/__unnamed__")
        group.create_dataset("data", data=frames)
        for i, (name, size, scale, unit) in enumerate(
            [("t", len(frames), 0.5, "s"), ("y", Y, NM, "nm"), ("x", X, NM, "nm")]
        ):
            axis = group.create_group(f"axis-{i}").attrs
            axis["name"], axis["size"], axis["scale"], axis["units"] = name, size, scale, unit


def write_usid(path, frames):
    """A table of pixels (rows, x fastest) and frames (columns)."""
    with h5py.File(path, "w") as file:
        channel = file.create_group("Measurement_000/Channel_000")
        data = channel.create_dataset("Raw_Data", data=frames.reshape(len(frames), -1).T)
        y, x = (a.ravel() for a in np.indices((Y, X)))
        indices = channel.create_dataset("Position_Indices", data=np.stack([x, y], 1))
        values = channel.create_dataset("Position_Values", data=np.stack([x, y], 1) * NM)
        for table in (indices, values):
            table.attrs["labels"], table.attrs["units"] = ["X", "Y"], ["nm", "nm"]
        data.attrs["Position_Indices"], data.attrs["Position_Values"] = indices.ref, values.ref


def ome_attributes(version, unit_time="second", unit="nanometer"):
    axes = [{"name": "t", "type": "time", "unit": unit_time}]
    axes += [{"name": n, "type": "space", "unit": unit} for n in "yx"]
    level = [{"type": "scale", "scale": [0.5, NM / 2, NM / 2]}]
    every = [{"type": "scale", "scale": [1.0, 2.0, 2.0]}]
    scales = [{
        "version": version, "axes": axes, "coordinateTransformations": every,
        "datasets": [{"path": "0/data" if version == "0.5" else "0",
                      "coordinateTransformations": level}],
    }]  # fmt: skip
    return {"ome": {"version": "0.5", "multiscales": scales}} if version == "0.5" else {
        "multiscales": scales
    }  # fmt: skip


def write_ome_zarr_05(path, frames):
    group = zarr.open_group(str(path), mode="w")
    group.attrs.update(ome_attributes("0.5"))
    group.create_array("0/data", data=frames, chunks=(1, Y, X), shards=(2, Y, X))


def write_ome_zarr_04(path, frames):
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.attrs.update(ome_attributes("0.4"))
    # Not the default, Blosc: it does not notice that a chunk has lost its end.
    group.create_array("0", data=frames, chunks=(1, Y, X), compressors=numcodecs.Zstd())


def write_run_folder(path, frames):
    image = zarr.open_group(str(path), mode="w").create_group("images/movie")
    image.attrs.update(ome_attributes("0.5"))
    image.create_array("0/data", data=frames, chunks=(1, Y, X))
    atoms = zarr.open_group(str(path), mode="a").create_group("patches")
    atoms.create_array("image", data=np.zeros((9, 1, 16, 16), np.float32))


def write_mrc(path, frames):
    with mrcfile.new(path, data=frames) as file:
        file.voxel_size = NM * 10


WRITERS = {
    "a.npy": write_npy, "fortran.npy": write_fortran_npy, "a.npz": write_npz,
    "fortran.npz": write_fortran_npz, "imagej.tif": write_imagej, "a.ome.tif": write_ome,
    "pages.tiff": write_pages, "nsid.h5": write_nsid, "ncem.emd": write_emd,
    "velox.emd": write_velox, "a.hspy": write_hspy,
    "usid.hdf5": write_usid, "v5.ome.zarr": write_ome_zarr_05, "v4.zarr": write_ome_zarr_04,
    "run.atomvae.zarr": write_run_folder, "a.mrc": write_mrc,
}  # fmt: skip
TIMED = {"imagej.tif", "a.ome.tif", "nsid.h5", "ncem.emd", "a.hspy", "v5.ome.zarr", "v4.zarr"}
TIMED |= {"run.atomvae.zarr", "velox.emd"}


@pytest.mark.parametrize("name", WRITERS)
def test_format_gives_back_what_was_written(name, frames, tmp_path):
    WRITERS[name](tmp_path / name, frames)
    movie = read_movie(tmp_path / name)
    assert movie.shape == (T, Y, X)
    assert movie.frames.dtype == np.uint16 and movie.frames.dtype.isnative
    assert movie.pixel_size == pytest.approx((NM, NM), rel=1e-6)
    assert movie.frame_time == (0.5 if name in TIMED else None)
    assert movie.name == name.split(".")[0]
    assert movie.metadata["warnings"] == []
    np.testing.assert_array_equal(movie.frames.compute(), frames)
    np.testing.assert_array_equal(movie.frame(3), frames[3])
    np.testing.assert_array_equal(movie.frames[1:4, 5:9, ::3].compute(), frames[1:4, 5:9, ::3])
    np.testing.assert_array_equal(movie[[0, 4]].frames.compute(), frames[[0, 4]])


@pytest.mark.parametrize("name", WRITERS)
def test_movie_of_a_file_travels_as_its_path(name, frames, tmp_path):
    WRITERS[name](tmp_path / name, np.tile(frames, (20, 1, 1)))
    before = len(psutil.Process().open_files())
    movie = read_movie(tmp_path / name)
    sent = cloudpickle.dumps(movie)
    assert len(sent) < frames.nbytes * 20 / 4
    np.testing.assert_array_equal(cloudpickle.loads(sent).frame(7), frames[2])
    assert len(psutil.Process().open_files()) == before


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_given_replaces_what_is_in_the_file(name, frames, tmp_path):
    WRITERS[name](tmp_path / name, frames)
    movie = read_movie(tmp_path / name, pixel_size=(0.02, 0.03), frame_time=2)
    assert (movie.pixel_size, movie.frame_time) == ((0.02, 0.03), 2.0)
    assert movie.metadata["pixel_size_from"] == "given"


@pytest.mark.parametrize("name", WRITERS)
def test_a_single_image_is_one_frame(name, frames, tmp_path):
    """Where the writer knows a time axis, it has length one."""
    write = {
        "a.npy": lambda p: np.save(p, frames[0]),
        "a.mrc": lambda p: mrcfile.new(p, data=frames[0]).close(),
    }.get(name, lambda p: WRITERS[name](p, frames[:1]))
    write(tmp_path / name)
    movie = read_movie(tmp_path / name)
    assert movie.shape == (1, Y, X)
    np.testing.assert_array_equal(movie.frame(0), frames[0])


@pytest.mark.parametrize("name", WRITERS)
def test_a_cut_file_is_one_sentence(name, frames, tmp_path):
    path = tmp_path / name
    WRITERS[name](path, frames)
    victims = [path]
    if path.is_dir():
        victims = [p for p in path.rglob("*") if (p.is_file() and "c/" in p.as_posix())
                   or p.name.startswith(("0.0", "1.0"))]  # fmt: skip
    for victim in victims:
        os.truncate(victim, int(victim.stat().st_size * 0.6))
    with pytest.raises(InputError) as error:
        read_movie(path).frames.compute(scheduler="synchronous")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_sparse_giants_open_at_once(tmp_path):
    """Files of 20 GB: opening them, and reading one frame, takes the memory of one block."""
    n, side = 10_000, 1024
    size = n * side * side * 2
    npy = tmp_path / "big.npy"
    with npy.open("wb") as file:
        header = {"descr": "<u2", "fortran_order": False, "shape": (n, side, side)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + size)
    h5 = tmp_path / "big.h5"
    with h5py.File(h5, "w") as file:
        file.create_dataset("movie", shape=(n, side, side), dtype="u2", chunks=(1, side, side))
    tif = tmp_path / "big.tif"
    tifffile.memmap(tif, shape=(n, side, side), dtype="u2", bigtiff=True, metadata={"axes": "TYX"})
    process = psutil.Process()
    for path in (npy, h5, tif):
        before = process.memory_info().rss
        movie = read_movie(path)
        assert movie.shape == (n, side, side)
        assert movie.frame(n - 1).max() == 0
        assert process.memory_info().rss - before < 100e6
        assert len(cloudpickle.dumps(movie)) < 20e6


class TestErrors:
    """One sentence each, which says what to do."""

    def refused(self, path, sentence, **options):
        with pytest.raises(InputError, match=sentence) as error:
            read_movie(path, **options)
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_missing(self, tmp_path):
        self.refused(tmp_path / "no.npy", "does not exist")
        self.refused(tmp_path / "no*.npy", "holds no readable frame")

    def test_empty(self, tmp_path):
        for ending in READERS:
            path = tmp_path / f"empty{ending}"
            path.touch()
            self.refused(path, "is empty|does not exist")

    def test_garbage(self, tmp_path):
        for ending in READERS:
            path = tmp_path / f"garbage{ending}"
            path.write_bytes(b"this is not a movie" * 50)
            assert str(path.name) in self.refused(path, "garbage")

    def test_unknown_ending_lists_the_known(self, tmp_path):
        path = tmp_path / "movie.tff"
        path.write_bytes(b"x")
        assert ".npy, .npz" in self.refused(path, "did you mean .tiff?")

    def test_pickle_is_never_loaded(self, tmp_path):
        trap = np.array([[Trap(tmp_path / "sprung")]], dtype=object)
        np.save(tmp_path / "trap.npy", trap, allow_pickle=True)
        np.savez(tmp_path / "trap.npz", frames=trap)
        self.refused(tmp_path / "trap.npy", "never unpickled")
        self.refused(tmp_path / "trap.npz", "never unpickled")
        assert not (tmp_path / "sprung").exists()

    def test_complex_and_four_dimensions(self, tmp_path):
        np.save(tmp_path / "c.npy", np.ones((9, 9), complex))
        self.refused(tmp_path / "c.npy", "complex128; expected real numbers")
        np.save(tmp_path / "four.npy", np.ones((2, 3, 9, 9)))
        self.refused(tmp_path / "four.npy", r"4-D .*expected \(y, x\) or \(t, y, x\)")
        np.save(tmp_path / "zero.npy", np.ones((0, 9, 9)))
        self.refused(tmp_path / "zero.npy", "empty")
        np.save(tmp_path / "one.npy", np.ones(9))
        self.refused(tmp_path / "one.npy", "1 axis")

    def test_colour(self, tmp_path):
        tifffile.imwrite(tmp_path / "rgb.tif", np.ones((16, 16, 3), "u1"), photometric="rgb")
        self.refused(tmp_path / "rgb.tif", "colour image")
        stack = np.ones((4, 2, 16, 16), "u2")
        tifffile.imwrite(tmp_path / "c.tif", stack, imagej=True, metadata={"axes": "TCYX"})
        self.refused(tmp_path / "c.tif", "4-D with axes")
        tifffile.imwrite(tmp_path / "c1.tif", stack[0], imagej=True, metadata={"axes": "CYX"})
        self.refused(tmp_path / "c1.tif", "2 channels")

    def test_several_images_are_listed(self, tmp_path, frames):
        path = tmp_path / "two.h5"
        with h5py.File(path, "w") as file:
            file["a/data"], file["b/data"], file["b/table"] = frames, frames[0], np.arange(50)
        listed = self.refused(path, "holds 2 images")
        assert "a/data (5, 24, 40), b/data (24, 40)" in listed
        self.refused(path, "has no image named 'c'", dataset="c")
        self.refused(path, "holds 2 images", dataset="data")
        assert read_movie(path, dataset="b/data").shape == (1, Y, X)
        assert read_movie(path, dataset="/a/data").metadata["dataset"] == "a/data"

    def test_reciprocal_axes(self, tmp_path):
        with h5py.File(tmp_path / "d.hspy", "w") as file:
            group = file.create_group("Experiments/d")
            group["data"] = np.ones((16, 16))
            for i, name in enumerate("yx"):
                axis = group.create_group(f"axis-{i}").attrs
                axis["name"], axis["scale"], axis["units"] = name, 0.1, "1/nm"
        self.refused(tmp_path / "d.hspy", "inverse length")

    def test_missing_extra_is_named(self, tmp_path, monkeypatch):
        path = tmp_path / "a.dm4"
        path.write_bytes(b"x" * 100)
        monkeypatch.setitem(sys.modules, "rsciio.digitalmicrograph", None)
        self.refused(path, r'pip install "atomvae\[formats\]"')

    def test_sidecar(self, tmp_path):
        np.save(tmp_path / "a.npy", np.ones((4, 9, 9)))
        sidecar = tmp_path / "a.json"
        sidecar.write_text("{not json")
        self.refused(tmp_path / "a.npy", "not valid json")
        sidecar.write_text(json.dumps({"pixel_pm": 0}))
        assert read_movie(tmp_path / "a.npy").pixel_size is None
        sidecar.write_text(json.dumps({"frame_index": [1, 2]}))
        assert "numbers 2 frames" in read_movie(tmp_path / "a.npy").metadata["warnings"][0]


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestSingleFrames:
    def write(self, folder, frames):
        for t, frame in enumerate(frames):
            tifffile.imwrite(
                folder / f"frame_{t}.tif", frame, imagej=True, resolution=(1 / NM, 1 / NM),
                metadata={"unit": "nm"},
            )  # fmt: skip

    def test_folder_and_glob_in_natural_order(self, tmp_path):
        many = np.arange(12, dtype=np.uint16)[:, None, None] + np.zeros((12, Y, X), np.uint16)
        self.write(tmp_path, many)
        (tmp_path / "notes.txt").write_text("not a frame")
        for path in (tmp_path, tmp_path / "frame_*.tif"):
            movie = read_movie(path)
            np.testing.assert_array_equal(movie.frames.compute(), many)
            assert movie.pixel_size == pytest.approx((NM, NM), rel=1e-6)
            assert movie.name == tmp_path.name
            again = cloudpickle.loads(cloudpickle.dumps(movie))
            np.testing.assert_array_equal(again.frame(11), many[11])

    def test_odd_frame_is_named(self, tmp_path, frames):
        self.write(tmp_path, frames)
        tifffile.imwrite(tmp_path / "frame_3.tif", frames[0, :-1])
        with pytest.raises(InputError, match=r"frame_3.tif .* has shape \(23, 40\) and frame_0"):
            read_movie(tmp_path)

    def test_movies_and_mixtures_are_refused(self, tmp_path, frames):
        self.write(tmp_path, frames)
        np.save(tmp_path / "frame_5.npy", frames[0])
        with pytest.raises(InputError, match=r"several kinds \(.*\); choose with a glob"):
            read_movie(tmp_path)
        write_imagej(tmp_path / "frame_9.tif", frames)
        with pytest.raises(InputError, match="holds 5 frames; expected one frame per file"):
            read_movie(tmp_path / "*.tif")

    def test_other_calibration_is_told(self, tmp_path, frames):
        self.write(tmp_path, frames)
        tifffile.imwrite(tmp_path / "frame_2.tif", frames[2])
        warnings = read_movie(tmp_path).metadata["warnings"]
        assert len(warnings) == 1 and "frame_2.tif has pixel size None" in warnings[0]


def test_nan_pixels_pass(tmp_path):
    image = np.ones((16, 16))
    image[3, 4] = np.nan
    np.save(tmp_path / "nan.npy", image)
    assert np.isnan(read_movie(tmp_path / "nan.npy").frame(0)[3, 4])


def test_two_calibrations_in_one_tiff_are_told(tmp_path, frames):
    tags = [(65003, 2, 0, "nm", True), (65004, 2, 0, "nm", True)]
    tags += [(code, 12, 1, NM, True) for code in (65009, 65010)]
    tifffile.imwrite(
        tmp_path / "a.tif", frames, imagej=True, resolution=(10, 10), extratags=tags,
        metadata={"unit": "nm", "axes": "TYX"},
    )  # fmt: skip
    movie = read_movie(tmp_path / "a.tif")
    assert movie.pixel_size == (NM, NM)
    assert "two pixel sizes" in movie.metadata["warnings"][0]


def test_dots_per_inch_are_no_calibration(tmp_path, frames):
    tifffile.imwrite(tmp_path / "a.tif", frames, resolution=(300, 300), resolutionunit="INCH")
    assert read_movie(tmp_path / "a.tif").pixel_size is None


def test_velox_as_another_reader_sees_it(tmp_path, frames):
    rsciio = pytest.importorskip("rsciio.emd")
    write_velox(tmp_path / "a.emd", frames)
    movie = read_movie(tmp_path / "a.emd")
    (signal,) = rsciio.file_reader(str(tmp_path / "a.emd"))
    np.testing.assert_array_equal(movie.frames.compute(), signal["data"])
    rows = signal["axes"][1]
    assert rows["name"] == "y"
    assert length_in_nm(rows["scale"], rows["units"]) == pytest.approx(movie.pixel_size[0])
    assert movie.metadata["signal"] == "HAADF"
    assert movie.metadata["beam_energy_keV"] == 80
    assert movie.metadata["dwell_us"] == 2


class OtherReader:
    """Stands for the reader of .dm4 files: what it may return is known, a file is not at hand."""

    def __init__(self, frames):
        self.frames = frames

    def file_reader(self, path, lazy):
        axes = [("x", X, NM * 1e3, "pm"), ("y", Y, NM, "nm"), ("", len(self.frames), 0.5, "s")]
        return [{
            "data": np.transpose(self.frames, (2, 1, 0)),
            "axes": [
                {"name": name, "size": np.uint32(size), "scale": scale, "units": unit,
                 "offset": -5e-9, "index_in_array": i}
                for i, (name, size, scale, unit) in enumerate(axes)
            ],
            "metadata": {
                "General": {"title": "HAADF"},
                "Acquisition_instrument": {"TEM": {"beam_energy": 60.0}},
            },
            "original_metadata": {"tag": b"x", "n": np.float64(2), "long": np.zeros(1000)},
        }]  # fmt: skip


def test_signal_of_a_vendors_file_becomes_a_movie(tmp_path, frames, monkeypatch):
    path = tmp_path / "a.dm4"
    path.write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "rsciio.digitalmicrograph", OtherReader(frames))
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.frames.compute(), frames)
    assert movie.pixel_size == pytest.approx((NM, NM))
    assert movie.frame_time == 0.5
    assert movie.metadata["beam_energy_keV"] == 60
    assert movie.original_metadata == {"tag": "x", "n": 2.0, "long": None}


def test_a_new_format_is_one_entry(tmp_path, frames, monkeypatch):
    monkeypatch.setitem(READERS, ".xyz", "atomvae.movie.formats.arrays:read_npy")
    with (tmp_path / "a.xyz").open("wb") as file:
        np.save(file, frames)
    np.testing.assert_array_equal(read_movie(tmp_path / "a.xyz").frames.compute(), frames)
