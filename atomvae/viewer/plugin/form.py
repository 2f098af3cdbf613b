"""A form made from the settings themselves: a field, its unit and its help for every one."""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import yaml
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QSlider,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from atomvae.errors import InputError
from atomvae.run.fields import SettingField, section_help

TICKS = 100  # of a slider, from a quarter of its middle to four times it
REACH = 4.0
FROM_DATA = "from the data"
MEASURED = "{} (measured)"


class SettingsForm(QWidget):
    """All settings: the common ones first, the others in sections that open.

    Parameters
    ----------
    fields : iterable of SettingField
        What is asked for.
    common : mapping of str to str
        Paths of the settings that stand first, and how they are called there.
    sliders : collection of str
        Paths of numbers that also have a slider.
    """

    changed = Signal(str)  # path of a setting that the user changes

    def __init__(
        self,
        fields: Iterable[SettingField],
        common: Mapping[str, str],
        sliders: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.fields = {field.path: field for field in fields}
        self.editors: dict[str, TextEditor | ChoiceEditor] = {}
        self.sections: dict[str, Section] = {}
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addWidget(
            self._grid([(self.fields[p], text) for p, text in common.items()], sliders)
        )
        self._sliders = sliders
        self._groups: dict[str, list[tuple[SettingField, str]]] = {}
        for path, field in self.fields.items():
            if path not in common:
                self._groups.setdefault(field.section, []).append((field, field.label))

    def build(self) -> bool:
        """Build the next section: a window that is opened does not wait for all; False at the end.

        Returns
        -------
        bool
            Whether there is more to build.
        """
        if self._groups:
            name = next(iter(self._groups))
            title = (name or "run").replace(".", ": ").capitalize()
            section = Section(title, section_help(name) if name != "movie" else "The movie.")
            section.body.layout().addWidget(self._grid(self._groups.pop(name), self._sliders))
            self.sections[name] = section
            self.layout().addWidget(section)
        return bool(self._groups)

    def _grid(self, rows: list[tuple[SettingField, str]], sliders: Collection[str]) -> QWidget:
        """Fields under each other, each over its help."""
        box = QWidget()
        grid = QGridLayout(box)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(2)
        grid.setColumnStretch(1, 1)
        for row, (field, text) in enumerate(rows):
            choices = field.kind in ("choice", "yes or no") or bool(field.choices)
            editor = ChoiceEditor(field) if choices else TextEditor(field, field.path in sliders)
            editor.changed.connect(lambda path=field.path: self.changed.emit(path))
            self.editors[field.path] = editor
            label = QLabel(text)
            label.setBuddy(editor.focus)
            help_text = QLabel(field.help)
            help_text.setObjectName("help")
            help_text.setWordWrap(True)
            help_text.setStyleSheet("QLabel#help { font-size: 10px; }")
            help_text.setEnabled(False)
            for part in (label, editor):
                part.setToolTip(f"<p>{field.help}</p><p><code>{field.path}</code></p>")
            editor.focus.setAccessibleName(f"{text} {field.unit}".strip())
            editor.focus.setAccessibleDescription(field.help)
            grid.addWidget(label, 2 * row, 0)
            grid.addWidget(editor, 2 * row, 1, 1, 1 if field.unit else 2)
            if field.unit:
                grid.addWidget(QLabel(field.unit), 2 * row, 2)
            grid.addWidget(help_text, 2 * row + 1, 0, 1, 3)
        return box

    def values(self) -> dict[str, Any]:
        """Read what was entered, by path; what is left at its default is left out.

        Raises
        ------
        InputError
            If a field does not hold what it should.
        """
        found = {path: editor.value() for path, editor in self.editors.items()}
        return {path: value for path, value in found.items() if value is not None}

    def fill(self, values: Mapping[str, Any]) -> None:
        """Enter values by path; all other fields go back to their defaults."""
        for path, editor in self.editors.items():
            editor.enter(values.get(path))

    def suggest(self, path: str, value: Any) -> None:
        """Show what the data say where nothing is entered."""
        self.editors[path].suggest(value)


class TextEditor(QWidget):
    """A line for a number, a text or a list; with a slider if wanted."""

    changed = Signal()

    def __init__(self, field: SettingField, slider: bool) -> None:
        super().__init__()
        self.field = field
        self.line = self.focus = QLineEdit()
        self.slider: QSlider | None = None
        self._middle = math.nan
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self.line.setMinimumWidth(66)
        row.addWidget(self.line, 2)
        if slider:
            self.slider = QSlider(Qt.Orientation.Horizontal)
            self.slider.setRange(0, TICKS)
            self.slider.setEnabled(False)  # until the data say where its middle is
            self.slider.setAccessibleName(f"{field.label} slider")
            self.slider.setMinimumWidth(60)
            self.slider.valueChanged.connect(self._slid)
            row.addWidget(self.slider, 3)
        default = "" if field.default in (None, [], "") else f"{field.default}"
        self.line.setPlaceholderText(default or (FROM_DATA if field.optional else ""))
        self.line.textEdited.connect(self._typed)

    def value(self) -> Any:
        """What was entered; None when nothing was."""
        text = self.line.text().strip()
        if not text:
            return None
        if self.field.kind == "text":
            return text
        if self.field.kind == "list":
            try:
                found = yaml.safe_load(text)
            except yaml.YAMLError:
                found = None
            if not isinstance(found, list):
                raise InputError(f"{self.field.path} is {text!r}, expected a list such as [a, b]")
            return found
        number = int if self.field.kind == "whole" else float
        try:
            return number(text.replace(",", "."))
        except ValueError:
            raise InputError(
                f"{self.field.path} is {text!r}, expected a {self.field.kind} number; leave it "
                f"empty for {self.line.placeholderText() or 'none'}".replace("a number n", "a n")
            ) from None

    def enter(self, value: Any) -> None:
        """Put a value in, or empty the line; nobody is told."""
        if isinstance(value, list | tuple):
            text = yaml.safe_dump(list(value), default_flow_style=True).strip()
        else:
            text = (
                "" if value is None else f"{value:.6g}" if isinstance(value, float) else f"{value}"
            )
        self.line.setText(text)
        self._place()

    def suggest(self, value: Any) -> None:
        """Show a value found in the data where nothing is entered; None forgets it."""
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        if self.slider is None:
            text = MEASURED.format(text)
        self.line.setPlaceholderText(FROM_DATA if value is None else text)
        if self.slider is not None and isinstance(value, int | float) and value > 0:
            self._middle = float(value)
            self.slider.setEnabled(True)
            self._place()

    def _typed(self) -> None:
        self._place()
        self.changed.emit()

    def _place(self) -> None:
        """Move the slider to the number in the line."""
        if self.slider is None or not self._middle > 0:
            return
        try:
            value = self.value() or self._middle
        except InputError:
            return
        share = math.log(max(value, 1e-9) / self._middle) / math.log(REACH)
        self.slider.blockSignals(True)
        self.slider.setValue(round(TICKS / 2 * (1 + share)))
        self.slider.blockSignals(False)

    def _slid(self, tick: int) -> None:
        """Take the number under the slider."""
        self.line.setText(f"{self._middle * REACH ** (2 * tick / TICKS - 1):.3g}")
        self.changed.emit()


class ChoiceEditor(QWidget):
    """A list of choices; of a text, also anything else that is typed."""

    changed = Signal()

    def __init__(self, field: SettingField) -> None:
        super().__init__()
        self.field = field
        self.list = self.focus = QComboBox()
        self.list.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.list.setMinimumContentsLength(6)
        policy = QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        self.list.setSizeAdjustPolicy(policy)
        self.list.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        words = ("yes", "no") if field.kind == "yes or no" else field.choices
        if field.optional:
            words = (FROM_DATA, *words)
        self.list.addItems(words)
        self.list.setEditable(field.kind == "text")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.list)
        self.enter(None)
        self.list.activated.connect(lambda _: self.changed.emit())

    def value(self) -> Any:
        """What was chosen; None for the default."""
        text = self.list.currentText().strip()
        if not text or (self.field.optional and self.list.currentIndex() == 0):
            return None
        value: Any = text
        if self.field.kind == "yes or no":
            value = text == "yes"
        return None if value == self.field.default else value

    def enter(self, value: Any) -> None:
        """Choose a value, or the default; nobody is told."""
        value = self.field.default if value is None else value
        if value is None:
            self.list.setCurrentIndex(0)
            return
        text = {True: "yes", False: "no"}.get(value, value) if value in (True, False) else value
        self.list.setCurrentText(str(text))

    def suggest(self, value: Any) -> None:
        """Show what the data say beside the entry that leaves it to them."""
        if self.field.optional:
            text = {True: "yes", False: "no"}.get(value, value)
            self.list.setItemText(0, FROM_DATA if value is None else MEASURED.format(text))


class Section(QWidget):
    """A heading that opens and closes what is under it, with the mouse or the keyboard."""

    def __init__(self, title: str, about: str) -> None:
        super().__init__()
        self.head = QToolButton()
        self.head.setText(title)
        self.head.setToolTip(about)
        self.head.setCheckable(True)
        self.head.setAutoRaise(True)
        self.head.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.head.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.head.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.body = QWidget()
        inner = QVBoxLayout(self.body)
        inner.setContentsMargins(12, 0, 0, 6)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self.head)
        column.addWidget(self.body)
        self.head.toggled.connect(self.open)
        self.open(False)

    def open(self, wanted: bool) -> None:
        """Show or hide the body."""
        self.head.setChecked(wanted)
        arrow = Qt.ArrowType.DownArrow if wanted else Qt.ArrowType.RightArrow
        self.head.setArrowType(arrow)
        self.body.setVisible(wanted)
