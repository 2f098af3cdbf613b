"""The window never freezes: what a user does at 50 frames x 5,000 atoms, watched by a heartbeat.

Counted is the CPU time of the thread of the windows, which other programs on the machine do not
lengthen much, in the best of three rounds; painting, by a software renderer, is included. With
`pytest -s` the table of all gestures is printed.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from heartbeat import Heartbeat

from atomvae.movie.movie import Movie
from atomvae.run.folder import RunFolder
from atomvae.viewer.plugin.legend import PREFIX

pytestmark = pytest.mark.gui

FRAMES, ATOMS, EDGE = 50, 5000, 1024
LIMIT = 0.2  # s
REFERENCE = 0.004  # s that a piece of pure Python took where the limit was tried
ROUNDS = 3
Gesture = tuple[str, Callable[[], object], Callable[[], object]]


@pytest.fixture
def big_run(tmp_path) -> Path:
    """A run folder with a movie, atoms with latents, angles, tracks, classes and names."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(ATOMS**0.5))
    sites = np.mgrid[:side, :side].reshape(2, -1).T[:ATOMS] * 14.0 + 10
    frames = []
    for frame in range(FRAMES):
        y, x = (sites + rng.normal(0, 0.5, sites.shape)).T
        frames.append(pd.DataFrame({"frame": frame, "y": y, "x": x, "track": np.arange(ATOMS)}))
    table = pd.concat(frames, ignore_index=True)
    table.insert(0, "atom_id", np.arange(len(table)))
    for name in ("z_0", "z_1", "angle", "amplitude"):
        table[name] = rng.normal(size=len(table))
    table = table.assign(angle_sd=0.1, angle_n=3)
    table["class"] = rng.integers(0, 4, len(table))
    table["species"] = np.where(table["z_0"] > 1, "Si", "C")
    run = RunFolder.create(tmp_path / "big.atomvae.zarr")
    pixels = rng.integers(0, 60, (FRAMES, EDGE, EDGE), np.uint16)
    movie = Movie.from_array(pixels, pixel_size=0.02, frame_time=0.5)
    run.write_movie(movie)
    run.set_movies([movie.name])
    run.write_atoms(table[["atom_id", "frame", "y", "x", "amplitude"]], [FRAMES])
    run.write_parquet("atoms", table)
    run.write_marker("map", {})
    return run.path


def gestures(viewer, path: Path) -> Iterator[Gesture]:
    """Yield what a user does, one after the other: a name, a call, and what it ends with."""
    from atomvae.viewer.plugin.selection import atoms_of

    docks = {}

    def dock(name: str) -> None:
        docks[name] = viewer.window.add_plugin_dock_widget("atomvae", name)[1]

    def step(name: str, frame: int) -> Gesture:
        return name, lambda: viewer.dims.set_current_step(0, frame), lambda: True

    def steps() -> None:
        for frame in range(5, 10):
            viewer.dims.set_current_step(0, frame)

    def color_by(column: str) -> Gesture:
        def ended() -> bool:
            return viewer.layers["tracks"].color_by == column

        choose = docks["Colour by"].column.textActivated.emit
        return f"colour by {column}", lambda: choose(column), ended

    def show(name: str, visible: bool) -> Gesture:
        word = "show" if visible else "hide"
        return f"{word} the {name}", lambda: setattr(layers[name], "visible", visible), lambda: True

    def choose(name: str, rows) -> Gesture:
        return name, lambda: atoms_of(viewer).choose(rows), lambda: True

    def opened() -> bool:
        legend = [name for name in viewer.canvas.overlays if name.startswith(PREFIX)]
        return len(legend) >= 4 and "atoms: class" in viewer.canvas.overlays.text.text

    layers = viewer.layers
    yield (
        "open the run",
        lambda: viewer.open(str(path), plugin="atomvae"),
        opened,
    )
    table = layers["atoms"].features
    kind = table["class"].to_numpy()
    yield step("step", 3)
    yield "five steps at once", steps, lambda: True
    yield "open Colour by", lambda: dock("Colour by"), lambda: True
    for column in ("z_1", "class", "z_0"):
        yield color_by(column)
    yield (
        "colour by species",
        lambda: docks["Colour by"].column.textActivated.emit("species"),
        (lambda: layers["atoms"].metadata["atomvae"]["shows"].startswith("species")),
    )
    yield choose("choose 62,500 atoms", kind == 1)
    yield step("step, with atoms chosen", 20)
    yield "open Time", lambda: dock("Time"), lambda: docks["Time"].plot.curves != []
    yield step("step, with curves", 21)
    yield show("angles", True)
    yield step("step, with 250,000 angles", 22)
    yield show("angles", False)
    yield show("tracks", True)
    yield step("step, with tracks", 23)
    yield show("tracks", False)
    yield "open the Explorer", lambda: dock("Explorer"), lambda: True
    yield choose("choose, with an explorer", kind == 2)
    yield step("step, with an explorer", 24)
    named = table.assign(class_name=np.where(kind == 2, "mine", "other"))
    panel = docks["Explorer"].classes
    yield (
        "new classes come",
        lambda: panel._tell({"table": named}),
        (lambda: panel.note.text().startswith("done")),
    )
    for widget in docks.values():
        viewer.window.remove_dock_widget(widget)


def slowness() -> float:
    """How many times slower than where the limit was set Python is here; at least 1."""
    took = []
    for _ in range(7):
        start = time.thread_time()
        sum(i * i for i in range(100_000))
        took.append(time.thread_time() - start)
    return max(1.0, min(took) / REFERENCE)


def test_nothing_keeps_the_window_busy(make_napari_viewer, big_run):
    viewer, beat = make_napari_viewer(show=True), Heartbeat()
    viewer.window.resize(1400, 900)
    cpu: dict[str, list[float]] = {}
    wall: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, action, ended in gestures(viewer, big_run):
            beat.watch(action, 0.6, ended)
            cpu.setdefault(name, []).append(beat.longest_cpu)
            wall.setdefault(name, []).append(beat.longest)
        beat.watch(viewer.layers.clear)  # napari collects garbage for each: not judged
    factor = slowness()
    print(f"\nms of CPU (and on the clock); this machine is taken to be {factor:.2f} x slower")
    for name in cpu:
        took = " ".join(
            f"{1e3 * c:4.0f} ({1e3 * w:4.0f})" for c, w in zip(cpu[name], wall[name], strict=True)
        )
        print(f"{name:28s} {took}")
    limit = LIMIT * factor
    assert {name: took for name, took in cpu.items() if min(took) > limit} == {}
    # Waiting takes no CPU; for what a busy machine does to it there is room.
    assert {name: took for name, took in wall.items() if min(took) > 10 * limit} == {}
