"""Rings around the candidates of the frame that is shown, while settings change."""

from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from atomvae.viewer.plugin.newest import Newest

NAME = "candidates"
COLOR = (0.2, 1.0, 0.9, 1.0)  # cyan: unlike the colours of latents and of a selection
EDGE = 1024  # px; of a larger frame the middle of what is seen is searched


class PreviewLayer(QObject):
    """Searches the frame that is shown in a thread and puts rings around what is found.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets a layer of points while the preview is on.
    parent : QObject
        Whose life it shares.
    """

    found = Signal(object)  # the Preview
    failed = Signal(str)

    def __init__(self, viewer: Any, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        self._cache: dict[Any, Any] = {}
        self._newest = Newest(self._search, self)
        self._newest.ready.connect(self._ready)
        self._newest.failed.connect(self.failed)
        self.shown = False

    def ask(self, layer: Any, settings: dict[str, Any]) -> None:
        """Search the frame of a layer that is shown now, with settings of the detection."""
        frame = int(self._viewer.dims.current_step[0]) if layer.ndim == 3 else 0
        data = layer.data[0] if layer.multiscale else layer.data
        corner = visible_corner(layer, data.shape[-2:])
        self._newest.ask(layer, data, frame, corner, settings)

    def hide(self) -> None:
        """Take the rings away."""
        self.shown = False
        layer = self._rings()
        if layer is not None:
            self._viewer.layers.remove(layer)

    def _search(
        self, layer: Any, data: Any, frame: int, corner: tuple[int, int], settings: dict[str, Any]
    ) -> Any:
        """Find the candidates; runs in a thread, where nothing of the viewer is touched."""
        from atomvae.atoms.config import DetectConfig
        from atomvae.run.yaml_text import validate
        from atomvae.viewer.plugin.preview import Previewer

        config = validate(DetectConfig, settings, "the detection")
        key = id(data), frame, corner
        if key not in self._cache:
            y, x = corner
            part = data[frame] if data.ndim == 3 else data
            pixels = np.asarray(part[y : y + EDGE, x : x + EDGE])
            self._cache = {key: Previewer(pixels)}  # one frame is kept
        preview = self._cache[key].find(config)
        whole = max(data.shape[-2:]) <= EDGE
        return layer, preview, np.c_[preview.y, preview.x] + corner, whole

    def _ready(self, result: Any) -> None:
        """Show the rings, if they are still wanted."""
        layer, preview, points, _ = result
        if self.shown and layer in self._viewer.layers:
            self._show(layer, points, preview.config)
        self.found.emit(result)

    def _show(self, image: Any, points: Any, config: Any) -> None:
        """Move the rings, or add them above everything."""
        size = 0.8 * float(config.spacing_px or 10.0)
        layer = self._rings()
        if layer is not None and (layer.scale != image.scale[-2:]).any():
            self._viewer.layers.remove(layer)
            layer = None
        if layer is not None:
            layer.current_size = size
            layer.data = points
            layer.size = size
            return
        chosen, active = set(self._viewer.layers.selection), self._viewer.layers.selection.active
        self._viewer.add_points(
            points,
            ndim=2,
            name=NAME,
            size=size,
            face_color="transparent",
            border_color=[COLOR],
            border_width=0.12,
            scale=image.scale[-2:],
            units=image.units[-2:],
            axis_labels=image.axis_labels[-2:],
        )
        self._viewer.layers.selection.update(chosen)
        self._viewer.layers.selection.active = active

    def _rings(self) -> Any:
        """The layer, if it is there."""
        return next((layer for layer in self._viewer.layers if layer.name == NAME), None)


def visible_corner(layer: Any, shape: tuple[int, int]) -> tuple[int, int]:
    """Corner (y, x) of the part of a large frame that is searched: the middle of what is seen.

    Parameters
    ----------
    layer : napari.layers.Image
        Shown in a viewer.
    shape : (int, int)
        Of a frame, px.

    Returns
    -------
    (int, int)
        (0, 0) for a frame that is searched whole.
    """
    if max(shape) <= EDGE:
        return 0, 0
    seen = np.asarray(layer.corner_pixels)[:, -2:].mean(0)
    if layer.multiscale:
        seen = seen * np.asarray(layer.downsample_factors)[layer.data_level][-2:]
    y, x = (
        int(np.clip(s - EDGE / 2, 0, max(n - EDGE, 0))) for s, n in zip(seen, shape, strict=True)
    )
    return y, x
