from __future__ import annotations

from typing import Any

from napari_histolatent._napari.widgets.edit_binding import EditBinding
from napari_histolatent._napari.widgets.edit_view import EditView


class EditDock(EditView):
    """Reverse search, class flip, slider and Grad-CAM of a tile."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.binding = EditBinding(napari_viewer, self)
