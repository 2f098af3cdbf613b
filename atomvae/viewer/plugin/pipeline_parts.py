"""What the pipeline widget is made of, and how it is laid out."""

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from atomvae.viewer.plugin.panel import Panel
from atomvae.viewer.plugin.place import Place
from atomvae.viewer.plugin.preferences import preference
from atomvae.viewer.plugin.training_view import TrainingView


class PipelineParts(Panel):
    """Movie, buttons, progress, preview and room for the form; nothing happens yet."""

    def __init__(self, viewer: Any) -> None:
        super().__init__(viewer)
        self._make_parts()
        self._lay_out()

    def _make_parts(self) -> None:
        """Make what has a name."""
        self.movie = QComboBox()
        self.file = Place(self, "a movie", folder=False)
        self.out = Place(self, "where the run goes", folder=True)
        self.out.text.setText(preference("results", "folder", str(Path.home() / "atomvae")))
        self.offer = QLabel("")
        self.resume = QPushButton("C&ontinue that run")
        self.preview = QCheckBox("&Preview candidates in this frame")
        self.found = QLabel("")
        self.run = QPushButton("&Run")
        self.cancel = QPushButton("&Cancel")
        self.save = QPushButton("&Save settings ...")
        self.load = QPushButton("&Load settings ...")
        self.bar = QProgressBar()
        self.bar.setRange(0, 1000)
        self.left = QLabel("")
        self.status = QLabel("")
        self.training = TrainingView()
        self.training.hide()
        self.preview.setToolTip("Rings around what the run would fit; follows the sliders")
        self.run.setToolTip("Write the settings and run all stages in a process of their own")
        self.cancel.setToolTip("Stop; what is done is kept, and can be continued")
        for label in (self.offer, self.found, self.status, self.left):
            label.setWordWrap(True)
            label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)

    def _lay_out(self) -> None:
        """Put the parts under each other; what doesn't fit is scrolled."""
        inner = QWidget()
        self._column = QVBoxLayout(inner)
        top = QFormLayout()
        top.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
        top.addRow("&Movie", self.movie)
        top.addRow("&File", self.file)
        top.addRow("R&esults in", self.out)
        self._column.addLayout(top)
        self._column.addWidget(self.offer)
        self._column.addWidget(self.resume)
        for row in ((self.run, self.cancel), (self.load, self.save)):
            line = QHBoxLayout()
            for button in row:
                line.addWidget(button)
            self._column.addLayout(line)
        for part in (self.bar, self.left, self.status, self.training, self.preview, self.found):
            self._column.addWidget(part)
        self._place = self._column.count()
        self._waiting = QLabel("loading the settings ...")
        self._column.addWidget(self._waiting)
        self._column.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setWidget(inner)
        self._area = area
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addWidget(area)
        self.fit_width()

    def fit_width(self) -> None:
        """Be as wide as what is in it, and its scroll bar, need."""
        bar = self._area.verticalScrollBar().sizeHint().width()
        self.setMinimumWidth(self._area.widget().minimumSizeHint().width() + bar)
