"""What the patches of a slide look like in napari: the live grid, the box under the mouse, the tissue mask."""

from napari_histolatent._napari.patches._mask_layer import MaskLayer
from napari_histolatent._napari.patches._preview_layer import (
    GridPicture,
    GridPreview,
    box_of,
    cell_at,
    cell_px_for,
    centre_of,
    grid_picture,
    picture_of_grid,
)
from napari_histolatent._napari.patches._size_box import PatchOutline, SizeBox

__all__ = [
    "GridPicture",
    "GridPreview",
    "MaskLayer",
    "PatchOutline",
    "SizeBox",
    "box_of",
    "cell_at",
    "cell_px_for",
    "centre_of",
    "grid_picture",
    "picture_of_grid",
]
