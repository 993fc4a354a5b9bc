from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QProgressBar, QPushButton

from napari_histolatent._napari._forms import form_of, values_of
from napari_histolatent._napari.widgets._qt import ScrollingDock, native, note, row, section
from napari_histolatent._napari.widgets.patch_tray import PatchTray
from napari_histolatent._napari.widgets.path_picker import PathPicker
from napari_histolatent.patches import GridSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

_SLIDES = "Slides (*.svs *.ndpi *.mrxs *.scn *.bif *.vms *.vmu *.svslide *.tif *.tiff *.dcm);;All files (*)"


class PatchesView(ScrollingDock):
    """Controls of the Patches dock."""

    slide_chosen = Signal(str)
    regions_chosen = Signal(str)
    picking_switched = Signal(bool)
    cut_requested = Signal()
    cancel_requested = Signal()

    def __init__(self) -> None:
        self.slide_picker = PathPicker("Open a slide", pattern=_SLIDES)
        self.slide_note = note("No slide yet: drop one on the window, or open it here.")
        self.regions_picker = PathPicker(
            "Import regions",
            pattern="Annotations (*.geojson *.json *.xml *.annotations *.ndpa *.tif *.tiff *.csv);;All files (*)",
        )
        self.regions_note = note("No regions yet.")
        self.form = form_of(
            GridSpec(size_px=64, mpp=0.5, stride_px=64),
            {
                "size_px": "Patch size (px)",
                "mpp": "Resolution (µm per px)",
                "stride_px": "Step between patches (px)",
                "threshold": "Least share of the class",
                "min_tissue": "Least share of tissue",
            },
            {
                "size_px": {"min": 16, "max": 1024, "step": 16},
                "mpp": {"min": 0.05, "max": 16.0, "step": 0.05},
                "stride_px": {"min": 1, "max": 4096},
                "threshold": {"min": 0.05, "max": 1.0, "step": 0.05},
                "min_tissue": {"min": 0.0, "max": 1.0, "step": 0.05},
            },
        )
        self.pick_button = QPushButton("Click on the slide to pick patches")
        self.pick_button.setCheckable(True)
        self.tray = PatchTray()
        self.out_picker = PathPicker("Dataset folder to make", is_folder=True)
        self.cut_button = QPushButton("Cut all patches")
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setEnabled(False)
        self.progress = QProgressBar()
        self.progress.setVisible(False)
        self.result_note = note()
        super().__init__(
            section(
                "Slide and regions",
                self.slide_picker,
                self.slide_note,
                self.regions_picker,
                self.regions_note,
            ),
            section("Patches", native(self.form), self.pick_button, self.tray),
            section(
                "Dataset",
                self.out_picker,
                row(self.cut_button, self.cancel_button, stretch=0),
                self.progress,
                self.result_note,
            ),
        )
        self.slide_picker.picked.connect(self.slide_chosen)
        self.regions_picker.picked.connect(self.regions_chosen)
        self.pick_button.toggled.connect(self.picking_switched)
        self.cut_button.clicked.connect(self.cut_requested)
        self.cancel_button.clicked.connect(self.cancel_requested)

    def grid_values(self) -> dict[str, Any]:
        """Return the fields of a GridSpec as they are set."""
        return values_of(self.form)

    def set_tray(self, patches: Sequence[tuple[NDArray[np.uint8], str]]) -> None:
        """Show the patches that were picked."""
        self.tray.set_patches(patches)

    def set_busy(self, busy: bool) -> None:
        """Show whether patches are being cut."""
        self.cut_button.setEnabled(not busy)
        self.cancel_button.setEnabled(busy)
        self.progress.setVisible(busy)
        self.progress.setRange(0, 0)

    def set_progress(self, done: int, total: int) -> None:
        """Show how many patches are cut."""
        self.progress.setRange(0, total)
        self.progress.setValue(done)
