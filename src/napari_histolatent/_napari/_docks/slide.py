from __future__ import annotations

from typing import Any

from napari_histolatent._napari.widgets.slide_binding import SlideBinding
from napari_histolatent._napari.widgets.slide_view import SlideView


class SlideDock(SlideView):
    """Open slides, their facts, a map, and the way to a place."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.binding = SlideBinding(napari_viewer, self)
