from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QSlider,
    QSpinBox,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_histolatent._napari.widgets._qt import note, row
from napari_histolatent._napari.widgets.library_panel import narrow

if TYPE_CHECKING:
    from collections.abc import Sequence

DIFFERENCE, BOUNDARY, COMPONENTS, MEASURE = "difference", "boundary", "components", "measure"
"""Ways to make a direction."""

_TITLE_PX = 120
STEPS_PER_UNIT = 10
STRONGEST = 3.0
"""Of a slider, either way: units of latent space, standard deviations of what the generator knows."""

_WAYS: tuple[tuple[str, str, str], ...] = (
    (
        "from one tag to another",
        DIFFERENCE,
        "The direction from the middle of the points with one tag to the middle of those with the other.",
    ),
    (
        "across the border of two tags",
        BOUNDARY,
        "The direction straight through the plane that best parts the points of two tags; it wants more points "
        "than the middle does, and is then less disturbed by what else differs.",
    ),
    (
        "with a measured feature",
        MEASURE,
        "Draws 512 images, measures each, and finds along which direction the feature grows.",
    ),
    (
        "what varies most",
        COMPONENTS,
        "Draws 512 images and finds the directions along which they change most. What they show is for you to "
        "name.",
    ),
)
_HEADERS = ("Feature", "Follows", "Clearly in")
_HEADER_TIPS = (
    "What was measured on the images",
    "Spearman's rank correlation of feature and strength, the median over 64 points: 1 is a feature that grows at "
    "every step, -1 one that shrinks, 0 one that does not follow the slider",
    "Share of the 64 points in which the feature grows nearly without a step back (correlation of 0.9 or more)",
)


@dataclass(frozen=True)
class DirectionLine:
    """A direction as the panel shows it."""

    key: str
    """Tells it from all others."""
    name: str
    facts: str
    """What is known of it, in words."""
    is_saved: bool


@dataclass(frozen=True)
class MakeRequest:
    """What the user wants to have made."""

    way: str
    """DIFFERENCE, BOUNDARY, COMPONENTS or MEASURE."""
    name: str
    """Empty: one is found."""
    from_tag: str | None = None
    to_tag: str | None = None
    feature: str | None = None
    label: str | None = None
    """Draw in this class; None: in all, in turn."""
    n: int = 1
    """Of components."""


class DirectionsPanel(QWidget):
    """Makes directions in latent space, moves the tile along them by sliders, tries and keeps them."""

    make_requested = Signal()
    cancel_requested = Signal()
    strengths_changed = Signal()
    reset_requested = Signal()
    save_requested = Signal(str, str)
    """Key and name."""
    remove_requested = Signal(str)
    test_requested = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.way_box, self.from_box, self.to_box = QComboBox(), QComboBox(), QComboBox()
        self.feature_box, self.class_box = QComboBox(), QComboBox()
        self.number_box = QSpinBox()
        self.name_edit = QLineEdit()
        self.make_button, self.cancel_button = QPushButton("Make it"), QPushButton("Cancel")
        self.progress = QProgressBar()
        self.way_note, self.message = note(), note()
        self.chosen_box = QComboBox()
        self._fill()
        self.form = QWidget()
        self._form = QFormLayout(self.form)
        self._form.setContentsMargins(0, 0, 0, 0)
        for title, widget in (
            ("Make one", self.way_box),
            ("From tag", self.from_box),
            ("To tag", self.to_box),
            ("Feature", self.feature_box),
            ("How many", self.number_box),
            ("Drawn as", self.class_box),
            ("Name", self.name_edit),
        ):
            self._form.addRow(title, widget)
        self.sliders_note = note()
        self.sliders_box = QWidget()
        self._grid = QGridLayout(self.sliders_box)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setColumnStretch(1, 1)
        self.reset_button = QPushButton("All to 0")
        self.test_button, self.save_button = QPushButton("Test"), QPushButton("Keep")
        self.remove_button = QPushButton("Remove")
        self.table = _table()
        self.table_note = note()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for part in (
            self.form,
            self.way_note,
            self.make_button,
            row(self.progress, self.cancel_button, stretch=0),
            self.message,
            self.sliders_note,
            self.sliders_box,
            self.reset_button,
            row(QLabel("Of"), self.chosen_box, stretch=1),
            row(self.test_button, self.save_button, self.remove_button),
            self.table_note,
            self.table,
        ):
            layout.addWidget(part)
        self._lines: dict[str, DirectionLine] = {}
        self._sliders: dict[str, QSlider] = {}
        self._values: dict[str, QLabel] = {}
        self._has_generator = self._has_point = False
        self._explain()
        self._connect()
        self.set_tags([])
        self.set_classes([])
        self.set_features([])
        self.set_lines([])
        self.set_working(False)
        self.set_table(None, [])
        self.say("")
        self.set_ready(has_generator=False, has_point=False)
        self._show_way()

    # What is shown

    def set_tags(self, tags: Sequence[str]) -> None:
        """Offer the groups of the library. No signal."""
        for i, box in enumerate((self.from_box, self.to_box)):
            before = box.currentText()
            box.clear()
            box.addItems(list(tags))
            box.setPlaceholderText("no tag in the library yet")
            found = box.findText(before) if before else -1
            box.setCurrentIndex(found if found >= 0 else min(i, len(tags) - 1))
        self._show_ready()

    def set_features(self, features: Sequence[str]) -> None:
        """Offer what can be measured."""
        self.feature_box.clear()
        self.feature_box.addItems(list(features))

    def set_classes(self, classes: Sequence[str]) -> None:
        """Offer the generator's classes. No signal."""
        self.class_box.clear()
        self.class_box.addItem("all classes in turn", None)
        for name in classes:
            self.class_box.addItem(name, name)
        self._show_way()

    def set_lines(self, lines: Sequence[DirectionLine]) -> None:
        """Show directions, each with a slider; those that were there keep their strength. No signal."""
        strengths, chosen = self.strengths, self.chosen
        while (item := self._grid.takeAt(0)) is not None:
            widget = item.widget()
            if widget is not None:
                widget.setParent(None)
                widget.deleteLater()
        self._lines = {line.key: line for line in lines}
        self._sliders, self._values = {}, {}
        for i, line in enumerate(lines):
            self._add_row(i, line, strengths.get(line.key, 0.0))
        self.sliders_note.setText(
            "Move a slider to change the tile you work on; 0 is the tile as it is."
            if lines
            else "There is no direction of this generator yet: make one above."
        )
        self.chosen_box.blockSignals(True)
        self.chosen_box.clear()
        for line in lines:
            self.chosen_box.addItem(_shown(line), line.key)
        place = self.chosen_box.findData(chosen)
        self.chosen_box.setCurrentIndex(place if place >= 0 else len(lines) - 1)
        self.chosen_box.blockSignals(False)
        self._show_ready()

    def set_strengths(self, strength: float) -> None:
        """Put all sliders to one place, without a signal."""
        for key, slider in self._sliders.items():
            slider.blockSignals(True)
            slider.setValue(round(strength * STEPS_PER_UNIT))
            slider.blockSignals(False)
            self._values[key].setText(f"{slider.value() / STEPS_PER_UNIT:+.1f}")

    def choose(self, key: str) -> None:
        """Choose the direction that Test, Keep and Remove are about. No signal."""
        self.chosen_box.setCurrentIndex(self.chosen_box.findData(key))
        self._show_ready()

    def set_ready(self, *, has_generator: bool, has_point: bool) -> None:
        """Switch on what has a meaning now."""
        self._has_generator, self._has_point = has_generator, has_point
        self._show_ready()

    def set_working(self, is_working: bool, total: int = 0, done: int = 0) -> None:
        """Show whether a direction is being made or tried, and how far that is; 0 in all: nobody knows."""
        for widget in (self.progress, self.cancel_button):
            widget.setVisible(is_working)
        self.progress.setRange(0, total)
        self.progress.setValue(done)
        self._is_working = is_working
        self._show_ready()

    def set_table(self, title: str | None, rows: Sequence[tuple[str, float, float]]) -> None:
        """Show how features follow a direction: (feature, median correlation, share of points); None: nothing."""
        for widget in (self.table, self.table_note):
            widget.setVisible(title is not None)
        self.table_note.setText(title or "")
        self.table.setRowCount(len(rows))
        for i, (feature, median, share) in enumerate(rows):
            for column, text in enumerate((feature, f"{median:+.2f}", f"{share:.0%}")):
                item = QTableWidgetItem(text)
                if column:
                    item.setTextAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
                item.setToolTip(_HEADER_TIPS[column])
                self.table.setItem(i, column, item)
        height = self.table.horizontalHeader().sizeHint().height() + 2 * self.table.frameWidth()
        self.table.setFixedHeight(height + sum(self.table.rowHeight(i) for i in range(len(rows))))

    def say(self, sentence: str) -> None:
        """Say what was done, or what is missing."""
        self.message.setText(sentence)
        self.message.setVisible(bool(sentence))

    # What the user set

    @property
    def strengths(self) -> dict[str, float]:
        """The strength of each direction, by its key."""
        return {key: slider.value() / STEPS_PER_UNIT for key, slider in self._sliders.items()}

    @property
    def chosen(self) -> str | None:
        """Key of the direction that Test, Keep and Remove are about."""
        return self.chosen_box.currentData() if self.chosen_box.count() else None

    @property
    def request(self) -> MakeRequest:
        """What is to be made."""
        return MakeRequest(
            way=self.way_box.currentData(),
            name=" ".join(self.name_edit.text().split()),
            from_tag=self.from_box.currentText() or None,
            to_tag=self.to_box.currentText() or None,
            feature=self.feature_box.currentText() or None,
            label=self.class_box.currentData(),
            n=self.number_box.value(),
        )

    # Inside

    def _fill(self) -> None:
        for title, way, _ in _WAYS:
            self.way_box.addItem(title, way)
        for i, (_, _, tip) in enumerate(_WAYS):
            self.way_box.setItemData(i, tip, Qt.ItemDataRole.ToolTipRole)
        for box in (
            self.way_box,
            self.from_box,
            self.to_box,
            self.feature_box,
            self.class_box,
            self.chosen_box,
        ):
            narrow(box)
        self.number_box.setRange(1, 8)
        self.number_box.setValue(3)

    def _explain(self) -> None:
        self.way_box.setToolTip(
            "A direction is a way in the generator's latent space along which one thing changes, the number of "
            "nuclei for instance. Choose how it is found."
        )
        self.from_box.setToolTip("Points of the library with this tag lie at the left end of the slider.")
        self.to_box.setToolTip("Points of the library with this tag lie at the right end of the slider.")
        self.feature_box.setToolTip("What is measured on each image, by colour alone, without a model.")
        self.number_box.setToolTip("How many directions to find, the strongest first.")
        self.class_box.setToolTip(
            "The class in which the images are drawn from which the direction is found. In turn: what differs "
            "between the classes is left out, as the class has its own slider."
        )
        self.name_edit.setPlaceholderText("found by itself if empty")
        self.name_edit.setToolTip("The name under which the direction is kept; it can be changed until then.")
        self.make_button.setToolTip("Find the direction. It takes some seconds, and then has a slider below.")
        self.cancel_button.setToolTip("Stop what is going on; nothing of it is kept.")
        self.reset_button.setToolTip("Put all sliders to 0: back to the tile as it was.")
        self.chosen_box.setToolTip("The direction that the three buttons below are about.")
        self.test_button.setToolTip(
            "Try the direction on 64 other points, each at 7 strengths, and measure every image: does the feature "
            "move one way? Only then the slider does what its name says."
        )
        self.save_button.setToolTip(
            "Keep the direction in the latent library, under the name typed above or else its own."
        )
        self.remove_button.setToolTip("Take the direction away, out of the library too.")

    def _connect(self) -> None:
        self.way_box.activated.connect(lambda _: self._show_way())
        self.make_button.clicked.connect(self.make_requested)
        self.name_edit.returnPressed.connect(self.make_button.click)
        self.cancel_button.clicked.connect(self.cancel_requested)
        self.reset_button.clicked.connect(self.reset_requested)
        self.chosen_box.activated.connect(lambda _: self._show_ready())
        self.test_button.clicked.connect(lambda: self.test_requested.emit(self.chosen))
        self.remove_button.clicked.connect(lambda: self.remove_requested.emit(self.chosen))
        self.save_button.clicked.connect(self._save)

    def _save(self) -> None:
        line = self._lines[str(self.chosen)]
        self.save_requested.emit(line.key, " ".join(self.name_edit.text().split()) or line.name)

    def _add_row(self, i: int, line: DirectionLine, strength: float) -> None:
        title, value, slider = QLabel(), QLabel(), QSlider(Qt.Orientation.Horizontal)
        title.setTextFormat(Qt.TextFormat.PlainText)
        title.setText(title.fontMetrics().elidedText(_shown(line), Qt.TextElideMode.ElideMiddle, _TITLE_PX))
        end = round(STRONGEST * STEPS_PER_UNIT)
        slider.setRange(-end, end)
        slider.setPageStep(STEPS_PER_UNIT)
        slider.setValue(round(strength * STEPS_PER_UNIT))
        slider.setAccessibleName(line.name)
        tip = f"<qt><b>{escape(line.name)}</b><br>{escape(line.facts)}"
        tip += "" if line.is_saved else "<br>It is not kept yet: press Keep, or it goes with the dock."
        value.setText(f"{slider.value() / STEPS_PER_UNIT:+.1f}")
        value.setMinimumWidth(value.fontMetrics().horizontalAdvance("+0.0 "))
        for column, widget in enumerate((title, slider, value)):
            widget.setToolTip(f"{tip}</qt>")
            self._grid.addWidget(widget, i, column)

        def moved(place: int) -> None:
            value.setText(f"{place / STEPS_PER_UNIT:+.1f}")
            self.strengths_changed.emit()

        slider.valueChanged.connect(moved)
        self._sliders[line.key], self._values[line.key] = slider, value

    def _show_way(self) -> None:
        way = self.way_box.currentData()
        self.way_note.setText(_WAYS[max(0, self.way_box.currentIndex())][2])
        of_tags = way in (DIFFERENCE, BOUNDARY)
        for widget, shown in (
            (self.from_box, of_tags),
            (self.to_box, of_tags),
            (self.feature_box, way == MEASURE),
            (self.number_box, way == COMPONENTS),
            (self.class_box, not of_tags and self.class_box.count() > 1),
        ):
            self._form.setRowVisible(widget, shown)
        self._show_ready()

    def _show_ready(self) -> None:
        if not hasattr(self, "_lines") or not hasattr(self, "_is_working"):
            return  # in the middle of being built
        ready = self._has_generator and not self._is_working
        of_tags = self.way_box.currentData() in (DIFFERENCE, BOUNDARY)
        self.make_button.setEnabled(ready and (not of_tags or self.to_box.count() > 1))
        line = self._lines.get(str(self.chosen))
        self.test_button.setEnabled(ready and line is not None)
        self.save_button.setEnabled(line is not None and not line.is_saved)
        self.remove_button.setEnabled(line is not None)
        self.chosen_box.setEnabled(bool(self._lines))
        self.sliders_box.setEnabled(self._has_point)
        self.reset_button.setEnabled(self._has_point and bool(self._lines))


def _shown(line: DirectionLine) -> str:
    return line.name if line.is_saved else f"{line.name} *"


def _table() -> QTableWidget:
    table = QTableWidget(0, len(_HEADERS))
    table.setHorizontalHeaderLabels(list(_HEADERS))
    for i, tip in enumerate(_HEADER_TIPS):
        table.horizontalHeaderItem(i).setToolTip(tip)
    table.verticalHeader().hide()
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
    table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    table.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    header = table.horizontalHeader()
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    table.setAccessibleName("How measured features follow the direction")
    return table
