"""The docks that napari.yaml names: a view with its binding."""

from __future__ import annotations

from typing import Any

from napari_histolatent._napari.widgets.edit_binding import EditBinding
from napari_histolatent._napari.widgets.edit_view import EditView
from napari_histolatent._napari.widgets.patches_binding import PatchesBinding
from napari_histolatent._napari.widgets.patches_view import PatchesView
from napari_histolatent._napari.widgets.regions_binding import RegionsBinding
from napari_histolatent._napari.widgets.regions_view import RegionsView
from napari_histolatent._napari.widgets.slide_binding import SlideBinding
from napari_histolatent._napari.widgets.slide_view import SlideView
from napari_histolatent._napari.widgets.train_binding import TrainBinding
from napari_histolatent._napari.widgets.train_view import TrainView


class SlideDock(SlideView):
    """Open slides, their facts, a map, and the way to a place."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.binding = SlideBinding(napari_viewer, self)


class RegionsDock(RegionsView):
    """Draw, import, edit and export the regions of the current slide."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.binding = RegionsBinding(napari_viewer, self)


class PatchesDock(PatchesView):
    """Slide, regions, click-to-extract, and cutting a dataset."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.binding = PatchesBinding(napari_viewer, self)


class TrainDock(TrainView):
    """Start, watch, stop and resume training."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.binding = TrainBinding(napari_viewer, self)


class EditDock(EditView):
    """Reverse search, class flip, slider and Grad-CAM of a tile."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.binding = EditBinding(napari_viewer, self)
