from __future__ import annotations

from typing import Any

from napari_histolatent._napari.widgets.regions_binding import RegionsBinding
from napari_histolatent._napari.widgets.regions_view import RegionsView


class RegionsDock(RegionsView):
    """Draw, import, edit and export the regions of the current slide."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.binding = RegionsBinding(napari_viewer, self)
