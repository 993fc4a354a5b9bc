from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSlider,
    QSpinBox,
    QWidget,
)

from napari_histolatent._napari.editing._edits import EFFECT_TIP
from napari_histolatent._napari.editing._scene import Look
from napari_histolatent._napari.editing._searching import FIGURES_TIP
from napari_histolatent._napari.widgets._qt import ScrollingDock, WheelScrolls, note, row, section
from napari_histolatent._napari.widgets.agreement_note import AgreementNote
from napari_histolatent._napari.widgets.arithmetic_panel import ArithmeticPanel
from napari_histolatent._napari.widgets.calibration_offer import CalibrationOffer
from napari_histolatent._napari.widgets.collapsible import collapsible
from napari_histolatent._napari.widgets.compare_strip import CompareStrip
from napari_histolatent._napari.widgets.directions_panel import DirectionsPanel
from napari_histolatent._napari.widgets.history_bar import HistoryBar
from napari_histolatent._napari.widgets.library_panel import LibraryPanel
from napari_histolatent._napari.widgets.path_panel import PathPanel
from napari_histolatent._napari.widgets.probability_bars import ProbabilityBars
from napari_histolatent._napari.widgets.region_heatmap_panel import RegionHeatmapPanel
from napari_histolatent._napari.widgets.verdict_badge import VerdictBadge
from napari_histolatent.latent.search_options import SearchOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

NO_CLASSIFIER = "none: no Grad-CAM"
CLASS_SEEN = "the class it sees"
LAST_LAYER = "the last one"
EVERY_CLASS = "each class in turn"

METHODS = {
    "faithful": (
        "Faithful (for real tiles)",
        "Finds the latent vector, then tunes a copy of the generator to this tile, so that its nuclei are drawn too. The "
        "copy is kept with the tile, the model itself stays as it is. A few seconds.",
    ),
    "fast": (
        "Fast",
        "Finds the latent vector alone, from the encoder's guess where there is one. Colours and coarse structure come "
        "back, single nuclei do not. About a second.",
    ),
    "layers": (
        "Layers",
        "As fast, then a small offset for each layer of the generator: nearer to the tile, with the generator as it is. "
        "A second or two.",
    ),
    "s1": (
        "As in the paper (s1)",
        "500 steps from a random start, on the latent vector alone: the published method, kept for comparison. Some ten "
        "times slower than fast.",
    ),
}
"""Reverse search: name -> (caption, what it does)."""

_THRESHOLDS = {
    "none": (),
    "50 %": (0.5,),
    "25, 50 and 75 %": (0.25, 0.5, 0.75),
    "80 %": (0.8,),
}
_SLIDER_STEPS = 100
_LEAST_BUTTON_PX = 44
_BUTTON_EDGES_PX = 16


class EditView(ScrollingDock):
    """Controls of the Edit dock."""

    generator_chosen = Signal(str)
    classifier_chosen = Signal(str)
    picking_switched = Signal(bool)
    from_tray_requested = Signal()
    random_requested = Signal()
    zoom_requested = Signal()
    normalising_switched = Signal(bool)
    search_class_chosen = Signal()
    search_requested = Signal()
    cancel_requested = Signal()
    target_chosen = Signal()
    residual_switched = Signal(bool)
    flip_requested = Signal()
    look_changed = Signal()
    heatmaps_switched = Signal()
    """Which class or layer is mapped was changed."""

    def __init__(self) -> None:
        self._make_models()
        self._make_tile()
        self._make_search()
        self._make_edit()
        self._make_look()
        self.library_panel, self.region_panel = LibraryPanel(), RegionHeatmapPanel()
        self.arithmetic_panel, self.directions_panel = ArithmeticPanel(), DirectionsPanel()
        models = QWidget()
        form = QFormLayout(models)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Generator", self.generator_box)
        form.addRow("Classifier", self.classifier_box)
        super().__init__(
            section("Models", models, self.models_note),
            section(
                "Tile",
                row(self.pick_button, self.tray_button, self.zoom_button),
                row(self.random_button, self.random_box, stretch=1),
                self.normalise_check,
                self.tile_note,
                self.strip,
                self.bars,
                self.agreement,
                self.history_bar,
            ),
            section(
                "Reverse search",
                self.method_box,
                self.method_note,
                self.search_class_row,
                self.search_class_note,
                self.more_part,
                self.search_button,
                row(self.progress, self.cancel_button, stretch=0),
                self.search_note,
                self.badge,
                self.calibration,
            ),
            section(
                "Edit",
                row(QLabel("Towards"), self.target_box, stretch=1),
                self.flip_button,
                self.residual_check,
                self.path_panel,
                self.edit_note,
            ),
            section("On the slide", self._look_form(), self.look_note),
            section("Grad-CAM", self._heatmap_form()),
            collapsible("Heatmap of a region", self.region_panel),
            collapsible("Latent library", self.library_panel),
            collapsible("Arithmetic of latent vectors", self.arithmetic_panel),
            collapsible("Directions", self.directions_panel),
        )
        self._connect()
        self._wheel = WheelScrolls(self)
        self._wheel.watch(self)
        self._show_method()
        self.set_searching(False)
        self.set_search_classes(())
        self.set_ready(has_tile=False, has_point=False)

    # parts

    def _make_models(self) -> None:
        self.generator_box, self.classifier_box = _wide_box(), _wide_box()
        self.generator_box.setToolTip("The trained network that draws tiles; its latent space is searched.")
        self.classifier_box.setToolTip(
            "The trained network that says which class it sees, and where it looks. It has to know the generator's classes."
        )
        self.models_note = note()

    def _make_tile(self) -> None:
        self.pick_button = QPushButton("Pick on slide")
        self.pick_button.setCheckable(True)
        self.pick_button.setToolTip("While this is on, a click on the slide picks the tile under it.")
        self.tray_button = QPushButton("From tray")
        self.tray_button.setToolTip("Take the newest patch of the Patches dock's tray.")
        self.zoom_button = QPushButton("Zoom to it")
        self.zoom_button.setToolTip("Show the tile and what lies beside it in the middle of the window.")
        self.random_button = QPushButton("Random")
        self.random_button.setToolTip(
            "Have the generator draw a new tile of its own. It is SYNTHETIC and has no place on the slide: it is shown to "
            "the left of it."
        )
        self.random_box = _wide_box()
        self.random_box.setToolTip("The class of the random tile.")
        self.normalise_check = QCheckBox("Normalise the stain")
        self.normalise_check.setToolTip(
            "Give a tile that is stained unlike what the generator draws the generator's colours before it is searched. "
            "Tiles of the known stain stay as they are."
        )
        self.tile_note = note("Pick a tile on the slide to begin.")
        self.strip = CompareStrip()
        self.bars = ProbabilityBars()
        self.agreement = AgreementNote()
        self.history_bar = HistoryBar()

    def _make_search(self) -> None:
        self.method_box = _wide_box()
        for name, (caption, does) in METHODS.items():
            self.method_box.addItem(caption, name)
            self.method_box.setItemData(self.method_box.count() - 1, does, Qt.ItemDataRole.ToolTipRole)
        self.method_box.setToolTip("How the latent vector of the tile is searched.")
        self.method_note = note()
        self.search_class_box = _wide_box()
        self.search_class_box.setToolTip(
            "The class that the search takes the tile to be of. The flip goes from it to another one. At first it is the "
            "class of the annotation; without one, the class that the classifier sees in the tile."
        )
        self.search_class_row = row(QLabel("Search as"), self.search_class_box, stretch=1)
        self.search_class_note = note()
        self.starts_spin = _spin(
            1, 16, 1, "Searches from so many starts; the nearest is kept, and their spread is told."
        )
        self.polish_spin = _spin(
            0,
            200,
            0,
            "Further steps of a slower, more exact search (L-BFGS) at the end of the fast one. 0: none.",
        )
        self.seed_spin = _spin(
            0, 999_999, 0, "The random numbers of the search: the same seed finds the same again."
        )
        self.free_class_check = QCheckBox("Free class")
        self.free_class_check.setToolTip(
            "Search the class too, anywhere between those that the generator knows; else it stays the tile's own."
        )
        more = QWidget()
        form = QFormLayout(more)
        form.setContentsMargins(0, 0, 0, 0)
        for caption, spin in (
            ("Starts", self.starts_spin),
            ("Polish steps", self.polish_spin),
            ("Seed", self.seed_spin),
        ):
            form.addRow(caption, spin)
        form.addRow(self.free_class_check)
        self.more_part = collapsible("More", more)
        self.search_button = QPushButton("Reverse search: find its latent vector")
        self.search_button.setToolTip(
            "Look for the numbers (the latent vector) from which the generator draws this very tile. Edits start from them."
        )
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setToolTip("End the search; what was found before stays.")
        self.progress = QProgressBar()
        self.search_note = note()
        self.search_note.setToolTip(f"<qt>{FIGURES_TIP}</qt>")
        self.badge, self.calibration = VerdictBadge(), CalibrationOffer()

    def _make_edit(self) -> None:
        self.target_box = QComboBox()
        _make_narrow(self.target_box, 6)  # a word is beside it
        self.target_box.setToolTip(
            "What the right end of the slider is: the same latent vector in another class, or another tile of the tray or "
            "of the latent library."
        )
        self.flip_button = QPushButton("Flip the class")
        self.flip_button.setToolTip("Move the slider to its right end.")
        self.residual_check = QCheckBox("Keep what the generator cannot draw")
        self.residual_check.setToolTip(
            "Put the change alone onto the real tile (tile + image after - image before), so that details the generator "
            "cannot draw are kept. The result is SYNTHETIC all the same."
        )
        self.path_panel = PathPanel()
        panel = self.path_panel
        _make_narrow(panel.timing_box, 4)
        # Qt makes no button narrower than 80 px by itself; six words in a row are wider than a dock.
        for button in (
            panel.add_key_button,
            panel.remove_key_button,
            panel.up_button,
            panel.down_button,
            panel.clear_keys_button,
            panel.export_button,
        ):
            words_px = button.fontMetrics().horizontalAdvance(button.text())
            button.setMinimumWidth(max(_LEAST_BUTTON_PX, words_px + _BUTTON_EDGES_PX))
        self.edit_note = note()
        self.edit_note.setToolTip(f"<qt>{EFFECT_TIP}</qt>")

    def _make_look(self) -> None:
        self.beside_check = QCheckBox("Side by side, to the right of the tile")
        self.beside_check.setToolTip(
            "Off: reconstruction and edit cover the tile at its place. On: they lie to the right of it, each a tile "
            "further, with their heatmaps; the tissue there is covered, not changed."
        )
        self.wipe_slider = _slider(
            0, "Before and after: the left part of the edit's layer shows what was before."
        )
        self.wipe_box = QComboBox()
        for caption, name in (("tile", "tile"), ("reconstruction", "reconstruction")):
            self.wipe_box.addItem(caption, name)
        self.wipe_box.setToolTip("What the left part of the wipe shows: the real tile or its reconstruction.")
        self.picture_slider = _slider(100, "How much the pictures cover the tissue: one slider for all.")
        self.heatmap_slider = _slider(70, "How much the heatmaps cover the pictures: one slider for all.")
        self.residual_layer_check = QCheckBox("What the generator misses (residual)")
        self.residual_layer_check.setToolTip(
            "A layer of tile less reconstruction; grey is no difference, lighter and darker is what the generator lacks."
        )
        self.look_note = note()
        self.look_note.hide()
        self.heatmap_check = QCheckBox("Show where the classifier looks")
        self.heatmap_check.setChecked(True)
        self.heatmap_check.setToolTip(
            "Grad-CAM: the brighter a place, the more it speaks for the class, to this classifier. It is no proof that it "
            "matters to a pathologist."
        )
        self.heatmap_class_box = _wide_box()
        self.heatmap_class_box.setToolTip("The class whose evidence is mapped.")
        self.layer_box = _wide_box()
        self.layer_box.setToolTip(
            "Which layer of the classifier is mapped: early ones are sharp and see edges, late ones are coarse and see tissue."
        )
        self.colormap_box = _wide_box()
        for caption, name in (
            ("ember: blue to yellow", "ember"),
            ("jet: as in most papers", "jet"),
        ):
            self.colormap_box.addItem(caption, name)
        self.colormap_box.setToolTip("The colours of the heatmaps.")
        self.contour_box = QComboBox()
        for caption, thresholds in _THRESHOLDS.items():
            self.contour_box.addItem(caption, thresholds)
        self.contour_box.setToolTip(
            "Lines around where a heatmap is above this share of the brightest value."
        )
        self.difference_check = QCheckBox("Heatmap difference")
        self.difference_check.setToolTip(
            "A layer of where the classifier sees more (red) and less (blue) of a class in the edit than in the "
            "reconstruction."
        )

    def _look_form(self) -> QWidget:
        box = QWidget()
        form = QFormLayout(box)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow(self.beside_check)
        form.addRow("Before / after", row(self.wipe_slider, self.wipe_box, stretch=0))
        form.addRow("Pictures", self.picture_slider)
        form.addRow("Heatmaps", self.heatmap_slider)
        form.addRow(self.residual_layer_check)
        return box

    def _heatmap_form(self) -> QWidget:
        box = QWidget()
        form = QFormLayout(box)
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow(self.heatmap_check)
        form.addRow("Evidence for", self.heatmap_class_box)
        form.addRow("Layer", self.layer_box)
        form.addRow("Colours", self.colormap_box)
        form.addRow("Contour lines", self.contour_box)
        form.addRow(self.difference_check)
        return box

    def _connect(self) -> None:
        self.generator_box.activated.connect(
            lambda i: self.generator_chosen.emit(self.generator_box.itemData(i))
        )
        self.classifier_box.activated.connect(
            lambda i: self.classifier_chosen.emit(self.classifier_box.itemData(i))
        )
        self.pick_button.toggled.connect(self.picking_switched)
        self.tray_button.clicked.connect(self.from_tray_requested)
        self.random_button.clicked.connect(self.random_requested)
        self.zoom_button.clicked.connect(self.zoom_requested)
        self.normalise_check.toggled.connect(self.normalising_switched)
        self.method_box.currentIndexChanged.connect(self._show_method)
        self.search_class_box.activated.connect(lambda _: self.search_class_chosen.emit())
        self.search_button.clicked.connect(self.search_requested)
        self.cancel_button.clicked.connect(self.cancel_requested)
        self.target_box.activated.connect(lambda _: self.target_chosen.emit())
        self.residual_check.toggled.connect(self.residual_switched)
        self.flip_button.clicked.connect(self.flip_requested)
        self.heatmap_check.toggled.connect(self.agreement.set_wanted)
        for check in (
            self.beside_check,
            self.residual_layer_check,
            self.heatmap_check,
            self.difference_check,
        ):
            check.toggled.connect(lambda _: self.look_changed.emit())
        for slider in (self.wipe_slider, self.picture_slider, self.heatmap_slider):
            slider.valueChanged.connect(lambda _: self.look_changed.emit())
        for box in (self.wipe_box, self.colormap_box, self.contour_box):
            box.activated.connect(lambda _: self.look_changed.emit())
        for box in (self.heatmap_class_box, self.layer_box):
            box.activated.connect(lambda _: self.heatmaps_switched.emit())

    def _show_method(self) -> None:
        self.method_note.setText(METHODS[self.method][1])

    # what the controls say

    @property
    def method(self) -> str:
        """How to search."""
        return str(self.method_box.currentData())

    @property
    def search_class(self) -> str | None:
        """The class to search in; None: each in turn."""
        label = self.search_class_box.currentData()
        return None if label is None else str(label)

    def options(self) -> SearchOptions:
        """Return what is asked of a search besides its method."""
        return SearchOptions(
            seed=self.seed_spin.value(),
            starts=self.starts_spin.value(),
            polish_steps=self.polish_spin.value(),
            free_class=self.free_class_check.isChecked(),
        )

    def look(self) -> Look:
        """Return how the scene is to be shown."""
        return Look(
            is_beside=self.beside_check.isChecked(),
            wipe=self.wipe_slider.value() / _SLIDER_STEPS,
            wipe_from=str(self.wipe_box.currentData()),
            picture_opacity=self.picture_slider.value() / _SLIDER_STEPS,
            heatmap_opacity=self.heatmap_slider.value() / _SLIDER_STEPS,
            colormap=str(self.colormap_box.currentData()),
            shows_heatmaps=self.heatmap_check.isChecked(),
            thresholds=_THRESHOLDS[self.contour_box.currentText()],
            shows_difference=self.difference_check.isChecked(),
            shows_residual=self.residual_layer_check.isChecked(),
        )

    # what is shown

    def set_models(self, box: QComboBox, models: Sequence[tuple[str, str]], current: str | None) -> None:
        """Show (caption, path) of the runs that have a checkpoint."""
        box.blockSignals(True)
        box.clear()
        for caption, path in models:
            box.addItem(caption, path)
        box.setCurrentIndex(-1 if current is None else box.findData(current))
        box.setPlaceholderText("choose a run" if models else "none trained yet: use the Train dock")
        box.blockSignals(False)

    def set_classes(self, classes: Sequence[str]) -> None:
        """Show which classes the generator knows: a random tile is of one of them."""
        before = self.random_box.currentText()
        self.random_box.clear()
        self.random_box.addItems(list(classes))
        self.random_box.setCurrentIndex(max(0, self.random_box.findText(before)))
        self.random_box.setVisible(bool(classes))

    def set_search_classes(self, classes: Sequence[str]) -> None:
        """Show in which classes a tile can be searched; without classes there is nothing to choose."""
        self.search_class_box.clear()
        for name in classes:
            self.search_class_box.addItem(name, name)
        self.search_class_box.addItem(EVERY_CLASS, None)
        self.search_class_row.setVisible(bool(classes))
        self.set_search_class(None, "")

    def set_search_class(self, label: str | None, why: str) -> None:
        """Show in which class a tile will be searched, None for each in turn, and why. No signal."""
        box = self.search_class_box
        box.setCurrentIndex(box.count() - 1 if label is None else box.findData(label))
        self.search_class_note.setText(why)
        self.search_class_note.setVisible(bool(why))

    def set_targets(self, targets: Sequence[tuple[str, object]], current: int, why_none: str = "") -> None:
        """Show what the slider can go towards; where there is no other class, say why."""
        self.target_box.blockSignals(True)
        self.target_box.clear()
        for caption, value in targets:
            self.target_box.addItem(caption, value)
        self.target_box.setCurrentIndex(current if targets else -1)
        self.target_box.setPlaceholderText("" if targets else "nothing to go towards")
        self.target_box.blockSignals(False)
        self.flip_button.setToolTip(why_none or "Move the slider to its right end.")
        if why_none:
            self.edit_note.setText(why_none)

    def set_heatmap_classes(self, classes: Sequence[str]) -> None:
        """Show which class's evidence can be mapped."""
        _fill(self.heatmap_class_box, CLASS_SEEN, classes)

    def set_layers(self, layers: Sequence[str]) -> None:
        """Show which layers of the classifier can be mapped."""
        _fill(self.layer_box, LAST_LAYER, layers)

    def set_searching(self, searching: bool) -> None:
        """Show whether a search runs."""
        self.progress.setVisible(searching)
        self.cancel_button.setVisible(searching)
        self.search_button.setVisible(not searching)

    def set_progress(self, done: int, total: int) -> None:
        """Show how far the search is."""
        self.progress.setRange(0, total)
        self.progress.setValue(min(done, total))

    def set_ready(
        self, *, has_tile: bool, has_point: bool, has_target: bool = True, is_searched: bool = True
    ) -> None:
        """Switch on what has a meaning now."""
        self.search_button.setEnabled(has_tile)
        self.search_class_row.setEnabled(has_tile)
        self.zoom_button.setEnabled(has_tile or has_point)
        for widget in (self.target_box, self.path_panel):
            widget.setEnabled(has_point)
        self.flip_button.setEnabled(has_point and has_target)
        self.residual_check.setEnabled(has_point and is_searched)

    def set_picture(self, row: str, column: str, pixels: NDArray[np.uint8] | None) -> None:
        """Show a tile or its heatmap in the strip; None clears it."""
        self.strip.set_picture(row, column, pixels)


def _wide_box() -> QComboBox:
    """Return a list that takes what room there is: the dock is a column, however long the names in it."""
    box = QComboBox()
    _make_narrow(box, 12)
    return box


def _make_narrow(box: QComboBox, characters: int) -> None:
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(characters)


def _spin(least: int, most: int, value: int, tip: str) -> QSpinBox:
    spin = QSpinBox()
    spin.setRange(least, most)
    spin.setValue(value)
    spin.setToolTip(tip)
    return spin


def _slider(value: int, tip: str) -> QSlider:
    slider = QSlider(Qt.Orientation.Horizontal)
    slider.setRange(0, _SLIDER_STEPS)
    slider.setValue(value)
    slider.setToolTip(tip)
    return slider


def _fill(box: QComboBox, first: str, names: Sequence[str]) -> None:
    """Offer None, in the words `first`, and names; what was chosen stays while it is there."""
    entries = [first, *names]
    if [box.itemText(i) for i in range(box.count())] != entries:
        box.clear()
        box.addItem(first, None)
        for name in names:
            box.addItem(name, name)
