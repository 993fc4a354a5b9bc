from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QPushButton,
    QToolButton,
    QWidget,
)

from napari_histolatent._napari.widgets._qt import ScrollingDock, WheelScrolls, note, row, section
from napari_histolatent._napari.widgets.collapsible import collapsible
from napari_histolatent._napari.widgets.extraction_panel import ExtractionPanel
from napari_histolatent._napari.widgets.patch_gallery import PatchGallery
from napari_histolatent._napari.widgets.path_picker import PathPicker
from napari_histolatent._napari.widgets.recipe_form import RecipeForm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent.patches import Recipe

_SLIDES = "Slides (*.svs *.ndpi *.mrxs *.scn *.bif *.vms *.vmu *.svslide *.tif *.tiff *.dcm);;All files (*)"
_REGIONS = "Annotations (*.geojson *.json *.xml *.annotations *.ndpa *.tif *.tiff *.csv);;All files (*)"
_MASKS = "Pictures (*.png *.tif *.tiff *.bmp);;All files (*)"

LOOK, TOGGLE, EXTRACT = "look", "toggle", "extract"
"""What a click on the slide does."""
_MODES = {
    LOOK: ("Look", "Move over the slide; the line below says what is known of the patch under the mouse."),
    TOGGLE: (
        "In / out",
        "A click takes the patch of the grid under the mouse into the dataset, or leaves it out.\n"
        "1 to 9: class of the patch under the mouse; 0: the rule's own; Ctrl+Z: undo; Ctrl+Y: redo; Esc: stop",
    ),
    EXTRACT: (
        "Click to extract",
        "A click cuts the patch around the mouse at once, into the list below.\n"
        "1 to 9: class of the newest patch, or of the one under the mouse; 0: the rule's own; Ctrl+Z: undo; "
        "Ctrl+Y: redo; Esc: stop",
    ),
}
_GALLERY_PX, _EMPTY_GALLERY_PX = 330, 150
EMPTY = (
    "No patch was marked yet. Press “Click to extract” and click on the slide, or “In / out” and click on a patch "
    "of the grid."
)


@dataclass(frozen=True)
class CountRow:
    """A line of the table of counts."""

    name: str
    color: tuple[int, int, int]
    key: str
    """The digit that puts a patch into this class, or nothing."""
    total: int
    splits: tuple[int | None, int | None, int | None]
    """Members in train, val and test; None: not known yet."""


class PatchesView(ScrollingDock):
    """Controls of the Patches dock."""

    slide_chosen = Signal(str)
    regions_chosen = Signal(str)
    mask_chosen = Signal(str)
    recipe_changed = Signal()
    preview_switched = Signal(bool)
    mask_switched = Signal(bool)
    mask_reset = Signal()
    mode_chosen = Signal(str)
    all_switched = Signal(bool)
    normalised_switched = Signal(bool)
    undo_requested = Signal()
    redo_requested = Signal()

    def __init__(self) -> None:
        self.slide_note = note()
        self.regions_note = note()
        self.slide_picker = PathPicker("Open a slide", pattern=_SLIDES)
        self.regions_picker = PathPicker("Import regions", pattern=_REGIONS)
        self.files_part = collapsible("Open files", self.slide_picker, self.regions_picker)
        self._offers_files = False
        self.form = RecipeForm()
        self.preview_check = QCheckBox("Show the grid on the slide")
        self.preview_check.setToolTip(
            "Patches in the colours of their classes; grey: no class, faint: left out by split or balance, black: "
            "left out by hand."
        )
        self.counts_label = note()
        self.counts_label.setTextFormat(Qt.TextFormat.RichText)
        self.plan_note = note()
        self.extraction = ExtractionPanel()
        hand = section("By hand", *self._hand())
        super().__init__(
            section("Slide", self.slide_note, self.regions_note, self.files_part),
            section(
                "Patches",
                self.form.top,
                self.preview_check,
                self.counts_label,
                self.plan_note,
            ),
            hand,
            section("In detail", *self._more()),
            section("Dataset", self.extraction),
        )
        self._hand_section = hand
        self._wheel = WheelScrolls()
        self._wheel.watch(self.widget())
        self._connect()
        self.set_slide("", "")
        self.set_counts([], "")
        self.set_history("", "")

    def _more(self) -> list[QWidget]:
        self.mask_check = QCheckBox("Show it on the slide, to paint on")
        self.mask_check.setToolTip(
            "The tissue mask as a Labels layer: correct it with napari's brush, fill and eraser. Your edits are used "
            "from then on."
        )
        self.mask_note = note()
        self.mask_reset_button = QPushButton("Drop my mask")
        self.mask_reset_button.setToolTip("Forget the edits, or the picture, and use the mask that is found.")
        self.mask_picker = PathPicker("A mask of your own (picture)", pattern=_MASKS)
        self.mask_picker.setToolTip(
            "A picture of the whole slide at any size; where it is not black there is tissue."
        )
        parts = []
        for title, widget in self.form.sections.items():
            extra: tuple[QWidget, ...] = ()
            if title == "Tissue mask":
                extra = (self.mask_check, self.mask_note, self.mask_reset_button, self.mask_picker)
            parts.append(collapsible(title, widget, *extra))
        return parts

    def _hand(self) -> list[QWidget]:
        self.mode_buttons: dict[str, QPushButton] = {}
        # Before the widget itself is made: it has no parent yet.
        self._group = group = QButtonGroup()
        for mode, (title, tip) in _MODES.items():
            button = QPushButton(title)
            button.setCheckable(True)
            button.setToolTip(tip)
            group.addButton(button)
            self.mode_buttons[mode] = button
        self.mode_buttons[LOOK].setChecked(True)
        self.undo_button, self.redo_button = QToolButton(), QToolButton()
        self.undo_button.setText("Undo")
        self.redo_button.setText("Redo")
        self.hover_note = note()
        self.hover_note.setMinimumHeight(3 * self.hover_note.fontMetrics().height() + 4)
        self.hover_note.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
        self.marks_note = note()
        self.all_check = QCheckBox("All patches of the grid")
        self.all_check.setToolTip(
            "List every patch that is planned on this slide, not only those marked by hand."
        )
        self.gallery = PatchGallery()
        self.gallery.set_empty_note(EMPTY)
        self.gallery.set_heights(empty_px=_EMPTY_GALLERY_PX, filled_px=_GALLERY_PX)
        return [
            row(*self.mode_buttons.values()),
            self.hover_note,
            row(self.all_check, self.undo_button, self.redo_button, stretch=0),
            self.marks_note,
            self.gallery,
        ]

    def _connect(self) -> None:
        self.slide_picker.picked.connect(self.slide_chosen)
        self.regions_picker.picked.connect(self.regions_chosen)
        self.mask_picker.picked.connect(self.mask_chosen)
        self.form.changed.connect(self.recipe_changed)
        self.form.normalised_check.toggled.connect(self.normalised_switched)
        self.preview_check.toggled.connect(self.preview_switched)
        self.mask_check.toggled.connect(self.mask_switched)
        self.mask_reset_button.clicked.connect(lambda _=False: self.mask_reset.emit())
        self.all_check.toggled.connect(self.all_switched)
        self.undo_button.clicked.connect(lambda _=False: self.undo_requested.emit())
        self.redo_button.clicked.connect(lambda _=False: self.redo_requested.emit())
        self.mode_chosen.connect(self._show_hand)
        for mode, button in self.mode_buttons.items():
            button.toggled.connect(lambda on, mode=mode: self.mode_chosen.emit(mode) if on else None)

    def _show_hand(self, mode: str) -> None:
        """Scroll to what a click on the slide will change."""
        if mode != LOOK and self._hand_section.isVisible():
            self.verticalScrollBar().setValue(self._hand_section.y())

    @property
    def mode(self) -> str:
        """What a click on the slide does."""
        return next(mode for mode, button in self.mode_buttons.items() if button.isChecked())

    def recipe(self) -> Recipe:
        """Return what the controls say.

        Raises
        ------
        DatasetError
            If the values do not go together.
        """
        return self.form.recipe()

    def set_mode(self, mode: str) -> None:
        """Choose what a click does."""
        self.mode_buttons[mode].setChecked(True)

    def set_slide(self, slide_text: str, regions_text: str) -> None:
        """Say which slide and regions are current; without a slide, offer to open one."""
        self.slide_note.setText(slide_text or "No slide yet: drop one on the window, or open it here.")
        self.regions_note.setText(regions_text or "No regions yet.")
        self.regions_note.setVisible(bool(slide_text))
        if bool(slide_text) == self._offers_files:
            self._offers_files = not slide_text
            (self.files_part.collapse if slide_text else self.files_part.expand)(animate=False)

    def set_counts(self, rows: Sequence[CountRow], summary: str) -> None:
        """Show how many patches each class has, in all and by split."""
        lines = "".join(
            f"<tr><td>{escape(r.key)}&nbsp;</td><td><span style='color: rgb{r.color}'>■</span> {escape(r.name)}"
            f"&nbsp;&nbsp;</td><td align=right>{r.total:,}</td>"
            + "".join(f"<td align=right>&nbsp;&nbsp;{'' if n is None else f'{n:,}'}</td>" for n in r.splits)
            + "</tr>"
            for r in rows
        )
        head = (
            "<tr><td></td><td></td><td align=right><i>all</i></td>"
            "<td align=right>&nbsp;&nbsp;<i>train</i></td><td align=right>&nbsp;&nbsp;<i>val</i></td>"
            "<td align=right>&nbsp;&nbsp;<i>test</i></td></tr>"
        )
        self.counts_label.setText(f"<table>{head}{lines}</table>" if rows else "")
        self.counts_label.setVisible(bool(rows))
        self.plan_note.setText(summary)
        self.plan_note.setVisible(bool(summary))

    def set_history(self, undo: str, redo: str) -> None:
        """Say what would be undone and done again."""
        for button, what, title, key in (
            (self.undo_button, "Undo", undo, "Ctrl+Z"),
            (self.redo_button, "Redo", redo, "Ctrl+Y"),
        ):
            button.setEnabled(bool(title))
            button.setToolTip(
                f"{what}: {title} ({key} on the slide)" if title else f"Nothing to {what.lower()}"
            )

    def set_own_mask(self, text: str) -> None:
        """Say whose mask is used, where it is not the one that is found."""
        self.mask_note.setText(text)
        self.mask_note.setVisible(bool(text))
        self.mask_reset_button.setVisible(bool(text))
