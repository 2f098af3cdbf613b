"""How long it takes from a lasso to the marks in the image; printed, not judged.

    xvfb-run -a -s "-screen 0 1600x1000x24" python tests/viewer/bench_explorer.py

A million atoms in ten frames, so 100,000 in the current view. On the software renderer the canvas
itself needs most of a second to draw so many markers; the marks do not wait for it: they are
painted on a sheet over the canvas, and enter the canvas when the user pauses.
"""

import os
import sys
import time

import numpy as np
import pandas as pd
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

FRAMES, SIDE = 10, 4096  # px


def make_table(in_view: int) -> pd.DataFrame:
    """Atoms at random, with latents in three clusters."""
    rng = np.random.default_rng(0)
    n = FRAMES * in_view
    kind = rng.integers(0, 3, n)
    return pd.DataFrame(
        {
            "atom_id": np.arange(n),
            "frame": np.repeat(np.arange(FRAMES), in_view),
            "y": rng.random(n) * SIDE,
            "x": rng.random(n) * SIDE,
            "z_0": rng.normal(size=n) * 0.4 + 3 * (kind - 1),
            "z_1": rng.normal(size=n) * 0.4 + 2 * (kind == 1),
            "class": kind,
        }
    )


def lasso(plot, centre: tuple[float, float], radius: float) -> None:
    """Draw around a place with the mouse, up to the moment before the button is released."""
    angle = np.linspace(0, 2 * np.pi, 60)
    around = [plot.place(centre[0] + radius * np.cos(a), centre[1] + radius * np.sin(a))
              for a in angle]  # fmt: skip
    points = [QPoint(round(p.x()), round(p.y())) for p in around]
    none = Qt.KeyboardModifier.NoModifier
    QTest.mousePress(plot, Qt.MouseButton.LeftButton, none, points[0])
    for point in points[1:]:
        QTest.mouseMove(plot, point)
    QApplication.processEvents()


def settle(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def measure(in_view: int) -> None:
    """Print the times for one number of atoms in view."""
    import napari

    from atomvae.viewer.layers import to_layers

    viewer = napari.Viewer(show=True)
    rng = np.random.default_rng(1)
    viewer.add_image(rng.random((FRAMES, 512, 512)).astype("f4"), scale=(1, SIDE / 512, SIDE / 512))
    for data, options, kind in to_layers(None, make_table(in_view)):
        getattr(viewer, f"add_{kind}")(data, **options)
    _, explorer = viewer.window.add_plugin_dock_widget("atomvae", "Explorer")
    settle(3)
    print(f"{in_view:,} atoms in view, {FRAMES * in_view:,} in the table")
    chosen, plot, glow = [], [], []
    for centre in ((-3, 0), (0, 2), (3, 0)) * 2:
        lasso(explorer.plot, centre, 1.6)
        start = (time.perf_counter(), time.process_time())
        painted = explorer._glow.painted
        QTest.mouseRelease(explorer.plot, Qt.MouseButton.LeftButton)
        chosen.append(time.perf_counter() - start[0])
        while explorer.atoms.slow and explorer._glow.painted == painted:
            QApplication.processEvents()
        if explorer._glow.painted == painted:  # the marks are in the canvas
            viewer.screenshot(canvas_only=True, flash=False)
        glow.append((time.perf_counter() - start[0], time.process_time() - start[1]))
        QApplication.processEvents()
        plot.append(time.perf_counter() - start[0])
        settle(0.8)
    count = int(explorer.atoms.chosen.sum())
    say = lambda name, values: print(f"  {name:34s}" + " ".join(f"{1e3 * v:6.0f}" for v in values))  # noqa: E731
    print(f"  ms from releasing the lasso ({count:,} chosen):")
    say("selection known", chosen)
    say("marks in the image, wall", [g[0] for g in glow])
    say("marks in the image, CPU", [g[1] for g in glow])
    say("dots of the explorer, too", plot)
    start = (time.perf_counter(), time.process_time())
    viewer.screenshot(canvas_only=True, flash=False)
    print(f"  the canvas drawn once: {1e3 * (time.perf_counter() - start[0]):.0f} ms wall, "
          f"{1e3 * (time.process_time() - start[1]):.0f} ms CPU")  # fmt: skip
    viewer.close()


if __name__ == "__main__":
    for number in map(int, sys.argv[1:] or ("5000", "100000")):
        measure(number)
    sys.stdout.flush()
    os._exit(0)  # Qt may abort while it is taken apart
