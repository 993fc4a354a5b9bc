from __future__ import annotations

from typing import Any

from napari_histolatent._napari.widgets.patches_binding import PatchesBinding
from napari_histolatent._napari.widgets.patches_view import PatchesView


class PatchesDock(PatchesView):
    """Slide, regions, click-to-extract, and cutting a dataset."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.binding = PatchesBinding(napari_viewer, self)
