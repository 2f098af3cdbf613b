"""Does the window freeze? `xvfb-run python -m tests.viewer.bench_heartbeat` (1600 x 1000 screen)

A run of 50 frames x 5,000 atoms is opened, coloured, selected in and moved through, in a window of
1400 x 900 px. Printed is the longest time that the thread of the windows was busy with one thing,
on the clock and as CPU time of that thread; the painting, by a software renderer, is included.
"""

import tempfile
import time
from pathlib import Path

import napari
import numpy as np
import pandas as pd

from atomvae.movie.movie import Movie
from atomvae.run.folder import RunFolder
from atomvae.viewer.layers import to_layers
from tests.viewer.heartbeat import Heartbeat

FRAMES, ATOMS, EDGE = 50, 5000, 1024


def big_run(folder: Path) -> Path:
    """A run folder with a movie, atoms with latents, angles, tracks and classes."""
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
    run = RunFolder.create(folder / "big.atomvae.zarr")
    pixels = rng.poisson(20, (FRAMES, EDGE, EDGE)).astype(np.uint16)
    movie = Movie.from_array(pixels, pixel_size=0.02, frame_time=0.5)
    run.write_movie(movie)
    run.set_movies([movie.name])
    run.write_atoms(table[["atom_id", "frame", "y", "x", "amplitude"]], [FRAMES])
    run.write_parquet("atoms", table)
    run.write_marker("map", {})
    return run.path


def warm(viewer, beat) -> None:
    """One small layer of each kind: napari's own shaders, fonts and controls are made once."""
    from atomvae.viewer.plugin.open import annotate

    few = pd.DataFrame(
        {"frame": [0, 0, 1], "y": [5.0, 30, 5], "x": [5.0, 30, 5], "track": [0, 1, 0],
         "angle": [0.0, 1, 2], "class": [0, 1, 1]}
    )  # fmt: skip
    for data, options, kind in to_layers(Movie.from_array(np.ones((2, 64, 64))), few):
        getattr(viewer, f"add_{kind}")(data, **options)
    viewer.layers["tracks"].visible = True
    annotate(viewer)
    beat.watch(lambda: None, 1.0)
    viewer.layers.clear()
    beat.watch(lambda: None, 0.5)


def main() -> None:
    """Measure and print."""
    from atomvae.viewer.plugin.adding import add_run
    from atomvae.viewer.plugin.color_widget import recolor
    from atomvae.viewer.plugin.selection import atoms_of

    viewer, beat, docks = napari.Viewer(), Heartbeat(), {}
    viewer.window._qt_window.resize(1400, 900)
    warm(viewer, beat)

    def dock(name):
        docks[name] = viewer.window.add_plugin_dock_widget("atomvae", name)[1]

    def report(name, action, until=lambda: True):
        beat.watch(lambda: None, 0.3)
        start = time.perf_counter()
        beat.watch(action, 0.6, until)
        print(
            f"{name:36s} longest {1e3 * beat.longest:5.0f} ms, CPU {1e3 * beat.longest_cpu:5.0f} ms"
            f"   ({time.perf_counter() - start:.1f} s in all)",
            flush=True,
        )

    def several_frames():
        for frame in range(5, 10):
            viewer.dims.set_current_step(0, frame)

    with tempfile.TemporaryDirectory() as folder:
        path = big_run(Path(folder))
        report("open the pipeline widget", lambda: dock("Pipeline"),
               lambda: docks["Pipeline"].form is not None)  # fmt: skip
        report("open the run", lambda: add_run(viewer, path, parent=docks["Pipeline"]),
               lambda: "atoms" in viewer.layers)  # fmt: skip
        atoms = viewer.layers["atoms"]
        chosen = atoms.features["class"].to_numpy() == 1
        report("one step of the slider", lambda: viewer.dims.set_current_step(0, 3))
        report("five steps at once", several_frames)
        report("colour by a number", lambda: recolor(atoms, "z_1"))
        report("colour by class", lambda: recolor(atoms, "class"))
        report("choose 62,500 atoms", lambda: atoms_of(viewer).choose(chosen))
        report("a step with atoms chosen", lambda: viewer.dims.set_current_step(0, 20))
        report("open the Time widget", lambda: dock("Time"),
               lambda: docks["Time"].plot.curves != [])  # fmt: skip
        report("a step with the curves", lambda: viewer.dims.set_current_step(0, 21))
        viewer.layers["angles"].visible = True
        report("a step with 250,000 angles", lambda: viewer.dims.set_current_step(0, 22))
        viewer.layers["angles"].visible = False
        viewer.layers["tracks"].visible = True
        report("a step with tracks", lambda: viewer.dims.set_current_step(0, 23))
        viewer.close()


if __name__ == "__main__":
    main()
