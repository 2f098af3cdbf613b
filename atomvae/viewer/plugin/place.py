"""A path with a button to browse for it."""

from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QPushButton, QWidget


class Place(QWidget):
    """A path with a button to browse for it."""

    def __init__(self, parent: QWidget, title: str, *, folder: bool) -> None:
        super().__init__(parent)
        self.text = QLineEdit()
        self.text.setPlaceholderText(title)
        self.text.setAccessibleName(title)
        self.setFocusProxy(self.text)
        button = QPushButton("...")
        button.setMaximumWidth(30)
        button.setAccessibleName(f"browse for {title}")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.text)
        row.addWidget(button)
        button.clicked.connect(self._browse)
        self._title, self._folder = title, folder

    def _browse(self) -> None:
        """Ask for the path; cancelling keeps what was there."""
        if self._folder:
            found = QFileDialog.getExistingDirectory(self, self._title, self.text.text())
        else:
            found, _ = QFileDialog.getOpenFileName(self, self._title, self.text.text())
        if found:
            self.text.setText(found)
