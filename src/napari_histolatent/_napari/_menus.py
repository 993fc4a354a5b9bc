"""What stands in napari's menus besides the docks."""

from __future__ import annotations

import napari
from qtpy.QtWidgets import QFileDialog

from napari_histolatent._napari._opening import SLIDE_FILES, open_in


def open_slide_files() -> None:
    """Ask for slide files of any format and open them."""
    viewer = napari.current_viewer()
    paths, _ = QFileDialog.getOpenFileNames(None, "Open slides", "", SLIDE_FILES)
    if viewer is not None and paths:
        open_in(viewer, paths)


def open_slide_folder() -> None:
    """Ask for a folder, DICOM or OME-Zarr, and open it as a slide."""
    viewer = napari.current_viewer()
    path = QFileDialog.getExistingDirectory(None, "Open a folder as a slide: DICOM or OME-Zarr")
    if viewer is not None and path:
        open_in(viewer, [path])
