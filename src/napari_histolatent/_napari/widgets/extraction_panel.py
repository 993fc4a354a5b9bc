from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_histolatent._napari.widgets._qt import note, row
from napari_histolatent._napari.widgets.collapsible import Collapsible
from napari_histolatent._napari.widgets.path_picker import PathPicker
from napari_histolatent.patches.formats import EXPORTS

if TYPE_CHECKING:
    from pathlib import Path

IDLE, PREPARING, RUNNING, STOPPING, PAUSED = "idle", "preparing", "running", "stopping", "paused"
"""What the panel can show of an extraction."""

_FOLDER, _TABLE = "A folder of slides", "A table (CSV)"


class ExtractionPanel(QWidget):
    """Controls to cut a dataset, of one slide or of many, and to open or export it."""

    extract_requested = Signal()
    pause_requested = Signal()
    resume_requested = Signal()
    cancel_requested = Signal()
    forget_requested = Signal()
    batch_requested = Signal()
    open_requested = Signal()
    export_requested = Signal()
    export_cancelled = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.out_picker = PathPicker("Dataset folder to make", is_folder=True)
        self.overwrite_check = QCheckBox("Replace it if it is there")
        self.overwrite_check.setToolTip(
            "The old dataset goes only when the new one is whole. A folder that is no dataset is never replaced."
        )
        self.extract_button = QPushButton("Extract")
        self.extract_button.setToolTip(
            "Cut the patches of this slide, in a process of its own that goes on when napari is closed."
        )
        self.pause_button, self.cancel_button = QPushButton("Pause"), QPushButton("Cancel")
        self.progress = QProgressBar()
        self.progress.setTextVisible(True)
        self.state_note, self.result_note = note(), note()
        self.open_button = QPushButton("Open as stack")
        self.open_button.setToolTip("Show the newest dataset as a layer: a slider goes through its patches.")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        for widget in (
            self.out_picker,
            self.overwrite_check,
            row(self.extract_button, self.pause_button, self.cancel_button),
            self.progress,
            self.state_note,
            self.result_note,
            self.open_button,
            self._batch_part(),
            self._export_part(),
        ):
            layout.addWidget(widget)
        self.extract_button.clicked.connect(self.extract_requested)
        self.pause_button.clicked.connect(self._pause_or_go_on)
        self.cancel_button.clicked.connect(self._cancel_or_forget)
        self.batch_button.clicked.connect(self.batch_requested)
        self.open_button.clicked.connect(self.open_requested)
        self.export_button.clicked.connect(self._export_or_cancel)
        self.batch_kind.currentIndexChanged.connect(self._show_batch_kind)
        self.export_box.currentIndexChanged.connect(self._show_export_format)
        self._show_batch_kind()
        self._show_export_format()
        self.set_state(IDLE)
        self.set_result("")
        self.set_dataset(None)
        self.set_exporting(False)

    def _batch_part(self) -> Collapsible:
        self.batch_kind = QComboBox()
        self.batch_kind.addItems([_FOLDER, _TABLE])
        self.slides_picker = PathPicker("Folder of slides", is_folder=True)
        self.annotations_picker = PathPicker("Folder of their annotations", is_folder=True)
        self.annotations_picker.setToolTip(
            "A file for each slide, of the slide's name; a slide without one is left out and named."
        )
        self.table_picker = PathPicker("CSV table", pattern="Tables (*.csv *.tsv *.txt);;All files (*)")
        self.table_picker.setToolTip(
            "A line a slide, with the columns slide, annotation, patient, label, mpp, mask, coords; only slide is "
            "needed. Paths are relative to the table's folder."
        )
        self.batch_button = QPushButton("Extract batch")
        self.batch_button.setToolTip("Cut the patches of all these slides into one dataset, as set above.")
        return _collapsible(
            "Batch: many slides",
            self.batch_kind,
            self.slides_picker,
            self.annotations_picker,
            self.table_picker,
            self.batch_button,
        )

    def _export_part(self) -> Collapsible:
        self.export_box = QComboBox()
        self.export_box.addItems(list(EXPORTS))
        self.export_format_note = note()
        self.export_picker = PathPicker("Folder to make", is_folder=True)
        self.export_button = QPushButton("Export")
        self.export_progress = QProgressBar()
        self.export_note = note()
        return _collapsible(
            "Export for other programs",
            self.export_box,
            self.export_format_note,
            self.export_picker,
            self.export_button,
            self.export_progress,
            self.export_note,
        )

    @property
    def out(self) -> Path | None:
        """The folder to make, or None."""
        return self.out_picker.path

    @property
    def overwrite(self) -> bool:
        """Whether a dataset that is there is replaced."""
        return bool(self.overwrite_check.isChecked())

    @property
    def batch(self) -> tuple[Path | None, Path | None]:
        """Folder of slides and folder of annotations, or a table and None."""
        if self.batch_kind.currentText() == _TABLE:
            return self.table_picker.path, None
        return self.slides_picker.path, self.annotations_picker.path

    @property
    def export(self) -> tuple[str, Path | None]:
        """Name of the export format, and the folder to make."""
        return str(self.export_box.currentText()), self.export_picker.path

    def set_state(self, state: str, text: str = "") -> None:
        """Say where the extraction stands, and which buttons have a meaning."""
        self._state = state
        is_paused = state == PAUSED
        self.extract_button.setEnabled(state in (IDLE, PAUSED))
        self.batch_button.setEnabled(state in (IDLE, PAUSED))
        self.pause_button.setText("Go on" if is_paused else "Pause")
        self.pause_button.setToolTip(
            "Go on where it was."
            if is_paused
            else "Stop for now; what is cut is kept, also when napari is closed."
        )
        self.cancel_button.setText("Forget" if is_paused else "Cancel")
        self.cancel_button.setToolTip(
            "Offer this one no more; what it has cut stays on the disk."
            if is_paused
            else "Stop, and offer it no more; what is cut stays on the disk."
        )
        for button in (self.pause_button, self.cancel_button):
            button.setEnabled(state in (RUNNING, PAUSED))
        self.progress.setVisible(state != IDLE)
        if state == PREPARING:
            self.set_progress(0, 0)
        self.state_note.setText(text)
        self.state_note.setVisible(bool(text))

    def set_progress(self, done: int, total: int) -> None:
        """Show how many patches are cut; a total of 0: not known yet."""
        # Qt counts in 32 bits, and shows no text while nothing is known.
        self.progress.setRange(0, 1000 if total else 0)
        self.progress.setValue(round(1000 * done / total) if total else 0)
        self.progress.setFormat(f"{done:,} of {total:,} patches" if total else "")

    def set_result(self, text: str) -> None:
        """Show what was cut."""
        self.result_note.setText(text)
        self.result_note.setVisible(bool(text))

    def set_dataset(self, path: Path | None) -> None:
        """Say which dataset would be opened and exported."""
        self._has_dataset = path is not None
        self.open_button.setEnabled(self._has_dataset)
        self.open_button.setText(f"Open {_shortened(path.name)} as stack" if path else "Open as stack")
        self.export_button.setEnabled(self._has_dataset)

    def set_exporting(self, busy: bool, text: str = "") -> None:
        """Show whether a dataset is being exported, or what came of it."""
        self._is_exporting = busy
        self.export_button.setText("Cancel export" if busy else "Export")
        self.export_button.setEnabled(busy or self._has_dataset)
        self.export_progress.setVisible(busy)
        self.export_progress.setRange(0, 0)
        self.export_note.setText(text)
        self.export_note.setVisible(bool(text))

    def set_export_progress(self, done: int, total: int) -> None:
        """Show how many patches are exported."""
        self.export_progress.setRange(0, total)
        self.export_progress.setValue(done)
        self.export_progress.setFormat("%v of %m patches")

    def _pause_or_go_on(self) -> None:
        (self.resume_requested if self._state == PAUSED else self.pause_requested).emit()

    def _cancel_or_forget(self) -> None:
        (self.forget_requested if self._state == PAUSED else self.cancel_requested).emit()

    def _export_or_cancel(self) -> None:
        (self.export_cancelled if self._is_exporting else self.export_requested).emit()

    def _show_batch_kind(self) -> None:
        is_table = self.batch_kind.currentText() == _TABLE
        self.table_picker.setVisible(is_table)
        self.slides_picker.setVisible(not is_table)
        self.annotations_picker.setVisible(not is_table)

    def _show_export_format(self) -> None:
        what = EXPORTS[self.export_box.currentText()].what
        self.export_format_note.setText(f"{what[:1].upper()}{what[1:]}.")


def _collapsible(title: str, *widgets: QWidget) -> Collapsible:
    part = Collapsible(title)
    part.layout().setContentsMargins(0, 0, 0, 0)
    for widget in widgets:
        part.addWidget(widget)
    return part


def _shortened(name: str, longest: int = 24) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"
