"""Preview of the detection at 1024 x 1024: `xvfb-run python -m tests.viewer.bench_preview`.

Printed are the search alone (CPU, in its thread), and the whole way from a slider that moves to
rings that are drawn, in a real window.
"""

import statistics
import time

import napari
from qtpy.QtWidgets import QApplication

from atomvae.atoms.config import DetectConfig
from atomvae.datasets.simulate import simulate
from atomvae.viewer.layers import to_layers
from atomvae.viewer.plugin.preview import Previewer
from atomvae.viewer.plugin.preview_layer import NAME

EDGE, TIMES = 1024, 9
STEPS = {
    "threshold": [{"threshold": 2.0 + 0.1 * k} for k in range(TIMES)],
    "width": [{"width_px": 2.4 + 0.1 * k, "threshold": 2.0} for k in range(TIMES)],
    "width, threshold measured anew": [{"width_px": 2.45 + 0.1 * k} for k in range(TIMES)],
}


def main() -> None:
    """Measure and print."""
    made = simulate("graphene", frames=1, shape=(EDGE, EDGE), seed=0)
    frame = made.movie.frame(0)
    began = time.perf_counter()
    previewer = Previewer(frame)
    atoms = len(previewer.find(DetectConfig()).y)
    first = time.perf_counter() - began
    print(
        f"frame {EDGE} x {EDGE}, {len(made.truth)} atoms, {atoms} candidates; first look, once a "
        f"frame: {1e3 * first:.0f} ms"
    )
    for name, configs in STEPS.items():
        wall, cpu = [], []
        for config in configs:
            start, used = time.perf_counter(), time.process_time()
            previewer.find(DetectConfig(**config))
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - used)
        print(
            f"search, {name}: median {1e3 * statistics.median(wall):.0f} ms, "
            f"{1e3 * statistics.median(cpu):.0f} ms CPU, longest {1e3 * max(wall):.0f} ms"
        )
    in_window(made.movie)


def in_window(movie) -> None:
    """Move the slider of a real widget and wait until the rings are drawn."""
    viewer = napari.Viewer()
    for data, options, kind in to_layers(movie):
        getattr(viewer, f"add_{kind}")(data, **options)
    _, widget = viewer.window.add_plugin_dock_widget("atomvae", "Pipeline")
    wait(lambda: widget.form is not None)
    slider = widget.form.editors["detect.threshold"].slider
    wait(slider.isEnabled)
    slider.setValue(55)
    wait(lambda: NAME in viewer.layers and not widget.rings._newest.busy)
    times = []
    for tick in range(56, 56 + TIMES):
        QApplication.processEvents()
        before = widget.found.text()
        start = time.perf_counter()
        slider.setValue(tick)
        wait(lambda before=before: widget.found.text() != before, pause=0.0)
        QApplication.processEvents()  # the canvas is painted
        times.append(time.perf_counter() - start)
    print(
        f"slider to rings in the window: median {1e3 * statistics.median(times):.0f} ms, longest "
        f"{1e3 * max(times):.0f} ms"
    )
    viewer.close()


def wait(done, pause=0.002, most=60.0) -> None:
    """Let events go on until something is done."""
    end = time.perf_counter() + most
    while not done():
        assert time.perf_counter() < end, "waited in vain"
        QApplication.processEvents()
        time.sleep(pause)


if __name__ == "__main__":
    main()
