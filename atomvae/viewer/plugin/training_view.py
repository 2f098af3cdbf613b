"""How a training goes: its losses as curves, and what the model draws by now."""

import base64
from typing import Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QLabel, QSizePolicy, QVBoxLayout, QWidget

from atomvae.viewer.plugin.plot import Curve, Plot

TRAINED, HELD_OUT = (0.34, 0.71, 0.91), (0.90, 0.62, 0.00)
SKIPPED = 0.05  # of the steps: the first losses are so high that nothing else could be seen


class TrainingView(QWidget):
    """Two pictures that grow while a model is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.plot = Plot("training step", "nats per patch")
        self.picture = QLabel()
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.picture.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.picture.setMinimumHeight(180)
        self.about = QLabel("")
        self.about.setWordWrap(True)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        for part in (self.plot, self.about, self.picture):
            column.addWidget(part)
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.steps: list[float] = []
        self.losses: list[float] = []
        self.judged: list[tuple[float, float]] = []
        self.manifold: np.ndarray[Any, Any] | None = None
        self.plot.show_curves([], "The losses appear here while the model is trained.")
        self.picture.clear()
        self.about.clear()

    def add(self, report: dict[str, Any]) -> None:
        """Take a report of the child: losses, or a manifold."""
        if "training" in report:
            self._add_losses(report["training"])
        if "manifold" in report:
            pixels = np.frombuffer(base64.b64decode(report["manifold"]), np.uint8)
            self.manifold = pixels.reshape(report["shape"])
            self._show_manifold()
            self.about.setText(
                f"What the model draws across its latents, at step {report['step']}:"
            )

    def _add_losses(self, state: dict[str, float]) -> None:
        """Lengthen the curves."""
        self.steps.append(state["step"])
        self.losses.append(state["loss"])
        if "held_out" in state and (not self.judged or self.judged[-1][1] != -state["held_out"]):
            self.judged.append((state["step"], -state["held_out"]))  # a bound: smaller is better
        first = np.searchsorted(self.steps, SKIPPED * self.steps[-1])
        steps, losses = np.array(self.steps[first:], float), np.array(self.losses[first:])
        curves = [Curve("loss", steps, losses, color=TRAINED)]
        later = np.array([pair for pair in self.judged if pair[0] >= steps[0]]).reshape(-1, 2)
        if len(later):
            curves.append(Curve("held-out patches", *later.T, color=HELD_OUT))
        self.plot.show_curves(curves)

    def _show_manifold(self) -> None:
        """Draw the picture as large as there is room."""
        if self.manifold is None:
            return
        pixels = np.ascontiguousarray(self.manifold)
        h, w = pixels.shape
        image = QImage(pixels.data, w, h, w, QImage.Format.Format_Grayscale8).copy()
        side = max(120, min(self.width() - 8, 360))
        smooth = Qt.TransformationMode.SmoothTransformation
        keep = Qt.AspectRatioMode.KeepAspectRatio
        self.picture.setPixmap(QPixmap.fromImage(image).scaled(side, side, keep, smooth))

    def resizeEvent(self, event: Any) -> None:
        """Fit the picture to the new width."""
        super().resizeEvent(event)
        self._show_manifold()
