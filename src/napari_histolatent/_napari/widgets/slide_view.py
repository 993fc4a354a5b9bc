from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QGridLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QWidget,
)

from napari_histolatent._napari.widgets._qt import ScrollingDock, note, row, section
from napari_histolatent._napari.widgets.associated_images import AssociatedImages, WrappedText, size_in_px
from napari_histolatent._napari.widgets.minimap import Minimap
from napari_histolatent.slides import MPP_OF_OBJECTIVE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qtpy.QtCore import QMimeData
    from qtpy.QtGui import QDragEnterEvent, QDragMoveEvent, QDropEvent

    from napari_histolatent.slides import Level, SlideInfo

USERS_SOURCES = ("set by the user for this slide", "stated by the user")
"""What `SlideInfo.mpp_source` says of a pixel size that is not the file's."""

_NO_SLIDE = "No slide yet: drop one here, or open it above."
_ICC_TIP = "Convert the scanner's colours to sRGB with the slide's ICC profile"
_NO_ICC_TIP = "This slide has no ICC profile"
_NOT_STATED = "not stated"
_MB = 2**20
_FINEST_BAR = 1000  # Qt counts in 32 bits: bytes are too many


def millimetres(length_px: int, mpp: float) -> str:
    """Return a length as millimetres, without their name."""
    mm = length_px * mpp / 1000
    return f"{mm:,.1f}" if mm >= 1 else f"{mm:.2g}"


def size_text(info: SlideInfo) -> str:
    """Return the size of level 0."""
    text = size_in_px(info.width_px, info.height_px)
    if info.mpp_x is None or info.mpp_y is None:
        return text
    return f"{text} ({millimetres(info.width_px, info.mpp_x)} × {millimetres(info.height_px, info.mpp_y)} mm)"


def levels_text(levels: Sequence[Level]) -> str:
    """Return how many levels there are, and by how much each is smaller than level 0."""
    downsamples = (f"{level.downsample:.4f}".rstrip("0").rstrip(".") for level in levels)
    return f"{len(levels)}: {', '.join(downsamples)}"


def pixel_size_text(info: SlideInfo) -> str:
    """Return the pixel size and who states it."""
    if info.mpp_x is None or info.mpp_y is None:
        return _NOT_STATED
    x, y = f"{info.mpp_x:.4g}", f"{info.mpp_y:.4g}"
    text = f"{x if x == y else f'{x} × {y}'} µm per px"
    return f"{text} ({info.mpp_source})" if info.mpp_source else text


def objective_text(power: float | None) -> str:
    """Return the objective as it is written on it."""
    return _NOT_STATED if power is None else f"{power:g}x"


def backend_text(info: SlideInfo) -> str:
    """Return what reads the slide, and why."""
    return f"{info.backend}: {info.backend_reason}" if info.backend_reason else info.backend


def cache_text(used_bytes: int, cap_bytes: int) -> str:
    """Return how full the cache of tiles is."""
    return f"tiles in memory: {round(used_bytes / _MB):,} of {round(cap_bytes / _MB):,} MB"


def locations_of(mime: QMimeData) -> list[str]:
    """Return the paths and the http(s) addresses among what is dragged."""
    found = []
    for url in mime.urls():
        if url.isLocalFile():
            found.append(url.toLocalFile())
        elif url.scheme() in ("http", "https"):
            found.append(bytes(url.toEncoded()).decode())
    if not found and mime.hasText():  # some browsers drag an address as text only
        lines = (line.strip() for line in mime.text().splitlines())
        found = [line for line in lines if line.casefold().startswith(("http://", "https://"))]
    return found


class SlideView(ScrollingDock):
    """Controls of the Slide dock."""

    open_file_requested = Signal()
    open_folder_requested = Signal()
    url_entered = Signal(str)
    locations_dropped = Signal(list)
    cancel_requested = Signal()
    slide_chosen = Signal(int)
    icc_switched = Signal(bool)
    mpp_entered = Signal(float)
    mpp_forgotten = Signal()
    go_requested = Signal(float, float, str)
    """x, y and their unit, "px" or "µm"."""
    copy_requested = Signal()
    retry_requested = Signal()

    def __init__(self) -> None:
        self._shown: tuple[str, str] | None = None  # the location and digest of the slide that is shown
        self._make_opening_controls()
        self._make_slide_controls()
        self._make_mpp_controls()
        self._make_view_controls()
        self._make_cache_controls()
        super().__init__(
            section(
                "Open",
                row(self.file_button, self.folder_button),
                row(self.url_edit, self.url_button, stretch=0),
                self._opening,
            ),
            section("Slide", self.slides_box, self.no_slide_note, self._details),
            self._mpp_section,
            self._view_section,
            self._cache_section,
        )
        self.setMinimumWidth(320)  # what napari's theme needs beside a scroll bar
        self.setAcceptDrops(True)
        for edit in self.findChildren(QLineEdit):
            edit.setAcceptDrops(False)  # a file that is dropped on one is opened too, not written into it
        self._connect()
        self.set_opening("")
        self.set_slides([], 0)
        self.set_position("")
        self.set_trouble("")
        self.set_cache(0, 0)
        self.set_slide(None)

    def set_opening(self, text: str) -> None:
        """Show what is being opened; nothing is, if the text is empty."""
        self.opening_note.set_text(text)
        self._opening.setVisible(bool(text))

    def set_slides(self, names: Sequence[str], current: int) -> None:
        """Show which slides are open, and which of them the dock is about."""
        self.slides_box.blockSignals(True)
        self.slides_box.clear()
        self.slides_box.addItems(names)
        for i, name in enumerate(names):
            self.slides_box.setItemData(i, escape(name), Qt.ItemDataRole.ToolTipRole)
        self.slides_box.setCurrentIndex(current)
        self.slides_box.blockSignals(False)
        self.slides_box.setVisible(len(names) > 1)

    def set_slide(self, info: SlideInfo | None) -> None:
        """Show what a slide says of itself. Images of the last slide are forgotten."""
        self.no_slide_note.setVisible(info is None)
        for part in (self._details, self._view_section, self._cache_section):
            part.setVisible(info is not None)
        shown = None if info is None else (info.location, info.digest)
        if shown != self._shown:
            self._shown = shown
            self.associated.set_names([] if info is None else info.associated)
        if info is None:
            self._mpp_section.hide()
            return
        self._set_values(info)
        self.icc_check.setEnabled(info.has_icc_profile)
        self.icc_check.setToolTip(_ICC_TIP if info.has_icc_profile else _NO_ICC_TIP)
        if not info.has_icc_profile:
            self.set_icc(False)
        has_mpp, is_users = info.mpp_x is not None, info.mpp_source in USERS_SOURCES
        self._mpp_section.setVisible(is_users or not has_mpp)
        self.mpp_forget_button.setVisible(is_users)
        if is_users:
            self.mpp_spin.setValue(info.mpp_x)
        self.unit_box.model().item(1).setEnabled(has_mpp)
        self.unit_box.setToolTip("" if has_mpp else "µm need a pixel size: set it above")
        if not has_mpp:
            self.unit_box.setCurrentIndex(0)

    def set_icc(self, on: bool) -> None:
        """Show whether the colours are converted."""
        self.icc_check.blockSignals(True)
        self.icc_check.setChecked(on)
        self.icc_check.blockSignals(False)

    def set_position(self, text: str) -> None:
        """Show where the middle of the view is."""
        self.position_note.set_text(text)
        self.position_note.setVisible(bool(text))

    def set_cache(self, used_bytes: int, cap_bytes: int) -> None:
        """Show how full the cache of tiles is."""
        self.cache_note.setText(cache_text(used_bytes, cap_bytes))
        self.cache_bar.setValue(round(_FINEST_BAR * min(used_bytes / cap_bytes, 1)) if cap_bytes else 0)

    def set_trouble(self, text: str) -> None:
        """Show what cannot be read; everything can, if the text is empty."""
        self.trouble_note.set_text(text)
        self._trouble.setVisible(bool(text))

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Take what can be opened."""
        self._take(event)

    def dragMoveEvent(self, event: QDragMoveEvent) -> None:
        """Take what can be opened."""
        self._take(event)

    def dropEvent(self, event: QDropEvent) -> None:
        """Tell what is to be opened."""
        if self._take(event):
            self.locations_dropped.emit(locations_of(event.mimeData()))

    def _take(self, event: QDropEvent) -> bool:
        if not locations_of(event.mimeData()):
            event.ignore()
            return False
        event.setDropAction(Qt.DropAction.CopyAction)  # after a move the file manager might delete the slide
        event.accept()
        return True

    def _make_opening_controls(self) -> None:
        self.file_button = QPushButton("Open slide…")
        self.folder_button = QPushButton("Open folder…")
        self.folder_button.setToolTip("A folder of DICOM files, or an OME-Zarr")
        self.url_edit = QLineEdit()
        self.url_edit.setPlaceholderText("https://… (OME-Zarr)")
        self.url_edit.setAccessibleName("URL of an OME-Zarr")
        self.url_button = QPushButton("Open URL")
        self.opening_note = WrappedText()
        self.cancel_button = QPushButton("Cancel")
        self._opening = row(self.opening_note, self.cancel_button, stretch=0)

    def _make_slide_controls(self) -> None:
        self.slides_box = QComboBox()
        self.slides_box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.slides_box.setMinimumContentsLength(14)
        self.slides_box.setAccessibleName("Slide")
        self.no_slide_note = note(_NO_SLIDE)
        self.icc_check = QCheckBox("Show colours as sRGB (ICC)")
        self.associated = AssociatedImages()
        self._details = QWidget()
        rows = QGridLayout(self._details)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.setColumnStretch(1, 1)
        self.values: dict[str, tuple[QLabel, WrappedText]] = {}
        for name in ("Name", "Location", "Read by", "Vendor", "Size", "Levels", "Pixel size", "Objective"):
            self._add_value(rows, name)
        rows.addWidget(self.icc_check, rows.rowCount(), 0, 1, 2)
        self._add_value(rows, "Notes")
        rows.addWidget(self.associated, rows.rowCount(), 0, 1, 2)

    def _make_mpp_controls(self) -> None:
        self.mpp_spin = QDoubleSpinBox()
        self.mpp_spin.setDecimals(4)
        self.mpp_spin.setRange(0.01, 100.0)
        self.mpp_spin.setSingleStep(0.01)
        self.mpp_spin.setValue(next(iter(MPP_OF_OBJECTIVE.values())))
        self.mpp_spin.setSuffix(" µm per px")
        self.mpp_spin.setAccessibleName("Pixel size in micrometres per pixel")
        self.mpp_buttons = {name: QPushButton(f"{name} ({mpp})") for name, mpp in MPP_OF_OBJECTIVE.items()}
        self.mpp_button = QPushButton("Set")
        self.mpp_forget_button = QPushButton("Forget")
        self.mpp_forget_button.setToolTip("Use what the file states again")
        self._mpp_section = section(
            "Set pixel size",
            row(*self.mpp_buttons.values()),
            row(self.mpp_spin, self.mpp_button, stretch=0),
            note("Kept on this computer for this slide; never written into the slide."),
            self.mpp_forget_button,
        )

    def _make_view_controls(self) -> None:
        self.minimap = Minimap()
        self.x_spin, self.y_spin = _coordinate("x"), _coordinate("y")
        self.unit_box = QComboBox()
        self.unit_box.addItems(["px", "µm"])
        self.unit_box.setAccessibleName("Unit of x and y")
        self.go_button = QPushButton("Go")
        self.unit_box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.unit_box.setMinimumContentsLength(2)
        self.go_button.setToolTip("Bring this place to the middle of the view")
        self.position_note = WrappedText()
        self.copy_button = QPushButton("Copy position")
        coordinates = row(self.x_spin, self.y_spin, self.unit_box)
        coordinates.layout().setStretch(2, 0)
        self._view_section = section(
            "View",
            self.minimap,
            coordinates,
            row(self.go_button, self.copy_button),
            self.position_note,
        )

    def _make_cache_controls(self) -> None:
        self.cache_note = note()
        self.cache_bar = QProgressBar()
        self.cache_bar.setRange(0, _FINEST_BAR)
        self.cache_bar.setTextVisible(False)
        self.cache_bar.setMaximumHeight(10)
        self.cache_bar.setAccessibleName("Tiles in memory")
        self.trouble_note = WrappedText()
        self.retry_button = QPushButton("Try again")
        self._trouble = row(self.trouble_note, self.retry_button, stretch=0)
        self._cache_section = section("Cache", self.cache_note, self.cache_bar, self._trouble)

    def _connect(self) -> None:
        self.file_button.clicked.connect(self.open_file_requested)
        self.folder_button.clicked.connect(self.open_folder_requested)
        self.url_button.clicked.connect(self._emit_url)
        self.url_edit.returnPressed.connect(self._emit_url)
        self.cancel_button.clicked.connect(self.cancel_requested)
        self.slides_box.activated.connect(self.slide_chosen)
        self.icc_check.toggled.connect(self.icc_switched)
        for name, button in self.mpp_buttons.items():
            button.clicked.connect(lambda _, mpp=MPP_OF_OBJECTIVE[name]: self.mpp_spin.setValue(mpp))
        self.mpp_button.clicked.connect(self._emit_mpp)
        self.mpp_spin.lineEdit().returnPressed.connect(self._emit_mpp)
        self.mpp_forget_button.clicked.connect(self.mpp_forgotten)
        self.go_button.clicked.connect(self._emit_go)
        for spin in (self.x_spin, self.y_spin):
            spin.lineEdit().returnPressed.connect(self._emit_go)
        self.copy_button.clicked.connect(self.copy_requested)
        self.retry_button.clicked.connect(self.retry_requested)

    def _emit_url(self) -> None:
        url = self.url_edit.text().strip()
        if url:
            self.url_entered.emit(url)

    def _emit_mpp(self) -> None:
        self.mpp_entered.emit(self.mpp_spin.value())

    def _emit_go(self) -> None:
        self.go_requested.emit(self.x_spin.value(), self.y_spin.value(), self.unit_box.currentText())

    def _add_value(self, rows: QGridLayout, name: str) -> None:
        label, value = QLabel(name), WrappedText()
        value.setAccessibleName(name)
        line = rows.rowCount()
        rows.addWidget(label, line, 0, Qt.AlignmentFlag.AlignTop)
        rows.addWidget(value, line, 1)
        self.values[name] = (label, value)

    def _set_values(self, info: SlideInfo) -> None:
        where = "Folder" if info.url is None else "URL"
        self.values["Location"][0].setText(where)
        self.values["Location"][1].setAccessibleName(where)
        texts = {
            "Name": info.path.name,
            "Location": info.url or str(info.path.parent),
            "Read by": backend_text(info),
            "Vendor": info.vendor or _NOT_STATED,
            "Size": size_text(info),
            "Levels": levels_text(info.levels),
            "Pixel size": pixel_size_text(info),
            "Objective": objective_text(info.objective_power),
            "Notes": "\n".join(info.notes),
        }
        for name, text in texts.items():
            label, value = self.values[name]
            value.set_text(text)
            for widget in (label, value):
                widget.setVisible(bool(text))


def _coordinate(name: str) -> QDoubleSpinBox:
    spin = QDoubleSpinBox()
    spin.setDecimals(1)
    spin.setRange(0.0, 99_999_999.0)
    spin.setButtonSymbols(QDoubleSpinBox.ButtonSymbols.NoButtons)
    spin.setMinimumWidth(68)
    spin.setPrefix(f"{name} ")
    spin.setAccessibleName(name)
    return spin
