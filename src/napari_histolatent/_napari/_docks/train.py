from __future__ import annotations

from typing import Any

from napari_histolatent._napari.widgets.train_binding import TrainBinding
from napari_histolatent._napari.widgets.train_view import TrainView


class TrainDock(TrainView):
    """Start, watch, stop and resume training."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.binding = TrainBinding(napari_viewer, self)
