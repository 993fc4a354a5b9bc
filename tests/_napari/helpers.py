"""What a user's hand does, and what napari does with a layer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from napari_histolatent._napari._session import session_of
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.regions._shapes import build_layer
from napari_histolatent.annotations import ClassTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent._napari._layers import LayerData
    from napari_histolatent._napari.regions import SlideRegions
    from napari_histolatent.annotations import Annotations
    from napari_histolatent.slides import Slide, SlideInfo


def add(viewer: Any, layer: LayerData | Any) -> Any:
    """Put a layer into a viewer, as napari does with a reader's."""
    if not isinstance(layer, tuple):
        return viewer.add_layer(layer)
    data, options, kind = layer
    return getattr(viewer, f"add_{kind}")(data, **options)


def click(
    viewer: Any, world: Sequence[float], *, button: int = 1, path: Sequence[tuple[float, float]] = ()
) -> None:
    """Press a mouse button on the canvas, move along a path of offsets in canvas pixels, and let go."""
    from napari.utils._proxies import ReadOnlyWrapper
    from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks

    def event(kind: str, x: float, y: float) -> Any:
        values = {"type": kind, "button": button, "pos": (100 + x, 80 + y), "position": tuple(world)}
        values["modifiers"] = ()
        return ReadOnlyWrapper(SimpleNamespace(is_dragging=True, **values))

    mouse_press_callbacks(viewer, event("mouse_press", 0, 0))
    for x, y in path:
        mouse_move_callbacks(viewer, event("mouse_move", x, y))
    mouse_release_callbacks(viewer, event("mouse_release", *(path[-1] if path else (0, 0))))


def classes_of(annotations: Annotations) -> ClassTable:
    """Return the class table that an import of the annotations makes."""
    return ClassTable().completed(annotations.classes, annotations.colors)


def regions_layer(annotations: Annotations, info: SlideInfo, *, name: str = "regions") -> Any:
    """Return the Shapes layer that shows annotations, in their own colours."""
    return build_layer(annotations.regions, classes_of(annotations), info, name=name, edge_width=1.0)[0]


def give_regions(viewer: Any, slide: Slide, annotations: Annotations) -> SlideRegions:
    """Make annotations the regions of a slide, as an import does, without waiting for a thread."""
    regions = session_of(viewer).regions_of(slide)
    regions.apply("Import", annotations.regions, set(regions.document.regions), classes_of(annotations))
    return regions


def settled(qtbot: Any, regions: SlideRegions) -> None:
    """Wait until nothing is read, built or written in a thread, and everybody was told."""
    workers = [item for item in vars(regions).values() if isinstance(item, LatestWorker)]
    assert workers
    qtbot.waitUntil(
        lambda: not any(worker.is_busy for worker in workers) and not regions._tell.isActive(), timeout=20_000
    )
