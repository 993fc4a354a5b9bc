"""What the user works on, one per viewer: docks come and go, this stays."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from psygnal import Signal

from napari_histolatent._napari._layers import KEY
from napari_histolatent.annotations import check_annotations

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.annotations import Annotations
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.slides import Slide

_sessions: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


class Session:
    """The slide, its regions, the tray of picked patches, and the newest dataset and runs."""

    annotations_changed = Signal()
    tray_changed = Signal()
    dataset_changed = Signal(str)
    runs_changed = Signal()

    def __init__(self, viewer: Any) -> None:
        # Weak: the viewer keeps the session, not the other way round.
        self._viewer = weakref.ref(viewer)
        self._annotations: dict[str, Annotations] = {}
        self._annotation_files: dict[str, Path] = {}
        self._regions_notes: dict[str, str] = {}
        self._tray: list[Tile] = []
        self._dataset: Path | None = None

    def slide(self) -> Slide | None:
        """Return the slide of the selected slide layer, else of the topmost one."""
        viewer = self._viewer()
        if viewer is None:
            return None
        layers = slide_layers_of(viewer)
        if not layers:
            return None
        active = viewer.layers.selection.active
        layer = active if active in layers else layers[-1]
        slide: Slide = layer.data[0].slide
        return slide

    def annotations(self) -> Annotations | None:
        """Return the regions of the current slide."""
        slide = self.slide()
        return self.annotations_of(slide) if slide else None

    def annotations_of(self, slide: Slide) -> Annotations | None:
        """Return the regions of a slide."""
        return self._annotations.get(slide.info.digest)

    def regions_note(self) -> str:
        """Return what the current slide's regions hold, in words."""
        slide = self.slide()
        return self._regions_notes.get(slide.info.digest, "") if slide else ""

    def annotation_file(self) -> Path | None:
        """Return the file that the current slide's regions came from."""
        slide = self.slide()
        return self._annotation_files.get(slide.info.digest) if slide else None

    def set_annotations(self, slide: Slide, annotations: Annotations, file: Path) -> None:
        """Take the regions of a slide."""
        self._annotations[slide.info.digest] = annotations
        self._annotation_files[slide.info.digest] = file
        # Once: it goes over every region, and the note is asked for at each change of the layers.
        self._regions_notes[slide.info.digest] = _described(annotations, slide)
        self.annotations_changed.emit()

    @property
    def tray(self) -> tuple[Tile, ...]:
        """The patches that were picked, oldest first."""
        return tuple(self._tray)

    def add_to_tray(self, tile: Tile) -> None:
        """Put a patch into the tray."""
        self._tray.append(tile)
        self.tray_changed.emit()

    def remove_from_tray(self, index: int) -> None:
        """Take a patch out of the tray."""
        del self._tray[index]
        self.tray_changed.emit()

    @property
    def dataset(self) -> Path | None:
        """The dataset that was cut or chosen last."""
        return self._dataset

    def set_dataset(self, path: Path) -> None:
        """Take a dataset as the current one."""
        self._dataset = path
        self.dataset_changed.emit(str(path))


def _described(annotations: Annotations, slide: Slide) -> str:
    checked = check_annotations(annotations, slide.info)
    classes = ", ".join(f"{n} {name}" for name, n in checked.classes.items())
    outside = f"; {checked.outside} outside the slide" if checked.outside else ""
    return f"{checked.regions} regions: {classes}{outside}"


def _role(layer: Any) -> str | None:
    ours = layer.metadata.get(KEY)
    role = ours.get("role") if isinstance(ours, dict) else None
    # A layer that another plugin computed from a slide copies its metadata, not its lazy levels.
    if role == "slide" and not (layer.multiscale and hasattr(layer.data[0], "slide")):
        return None
    return role


def slide_layers_of(viewer: Any) -> list[Any]:
    """Return the layers that show slides, bottom first."""
    return [layer for layer in viewer.layers if _role(layer) == "slide"]


def session_of(viewer: Any) -> Session:
    """Return the viewer's session. Plugins are handed proxies that come and go: the viewer itself is the key."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _sessions:
        _sessions[viewer] = Session(viewer)
    return _sessions[viewer]
