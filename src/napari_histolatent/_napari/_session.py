"""What the user works on, one per viewer: docks come and go, this stays."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import shapely
from psygnal import Signal
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_histolatent._napari._layers import KEY
from napari_histolatent._napari.patches._marks_keeper import MarksKeeper
from napari_histolatent._napari.regions import SlideRegions, is_regions_layer

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.annotations import Annotations
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.patches import Recipe, TissueMask
    from napari_histolatent.slides import Slide

_sessions: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()


class Session:
    """The slide, its regions, the patches marked or picked by hand, and the newest dataset and runs."""

    annotations_changed = Signal()
    tray_changed = Signal()
    dataset_changed = Signal(str)
    runs_changed = Signal()

    def __init__(self, viewer: Any) -> None:
        # Weak: the viewer keeps the session, not the other way round.
        self._viewer = weakref.ref(viewer)
        self._is_looking = False
        self._last_digest = ""
        self._regions: dict[str, SlideRegions] = {}
        self._marks: dict[str, MarksKeeper] = {}
        self._tray: list[Tile] = []
        self.recipe: Recipe | None = None
        """What the Patches dock was set to when it was closed."""
        self.shows_preview = True
        self.own_masks: dict[str, TissueMask] = {}
        """Tissue masks that the user edited or loaded, by digest of their slide."""
        self._dataset: Path | None = None

    def slide(self) -> Slide | None:
        """Return the slide that the selected layer shows or lies on, else the last one that was, else the topmost.

        napari selects nothing for a moment whenever a layer comes or goes: that is no change of slide.
        """
        viewer = self._viewer()
        if viewer is None:
            return None
        slides: list[Slide] = [layer.data[0].slide for layer in slide_layers_of(viewer)]
        if not slides:
            return None
        active = viewer.layers.selection.active
        ours = active.metadata.get(KEY) if active is not None else None
        chosen = {ours.get("digest"), ours.get("slide_digest")} if isinstance(ours, dict) else set()
        for digests in (chosen, {self._last_digest}):
            found = next((slide for slide in reversed(slides) if slide.info.digest in digests), None)
            if found is not None:
                break
        else:
            found = slides[-1]
        self._last_digest = found.info.digest
        return found

    # Regions

    def look_after(self) -> None:
        """Have the regions of each slide come and go with it. Once is enough; needs a Qt application."""
        viewer = self._viewer()
        if self._is_looking or viewer is None:
            return
        self._is_looking = True
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.layers.selection.events.active.connect(self._on_active)
        self._on_active()
        QApplication.instance().aboutToQuit.connect(self.close)
        weakref.finalize(viewer, _close_all, self._regions)
        weakref.finalize(viewer, _close_all, self._marks)
        for layer in slide_layers_of(viewer):
            self.regions_of(layer.data[0].slide)

    def close(self) -> None:
        """Write what is not on the disk yet, and let go of the regions of all slides."""
        _close_all(self._regions)
        _close_all(self._marks)

    def regions_of(self, slide: Slide) -> SlideRegions:
        """Return the regions of a slide."""
        digest = slide.info.digest
        if digest not in self._regions:
            regions = SlideRegions(self._viewer(), slide)
            regions.changed.connect(self.annotations_changed.emit)
            regions.class_renamed.connect(self._on_class_renamed)
            self._regions[digest] = regions
        return self._regions[digest]

    def regions(self) -> SlideRegions | None:
        """Return the regions of the current slide."""
        slide = self.slide()
        return self.regions_of(slide) if slide is not None else None

    def annotations(self) -> Annotations | None:
        """Return the regions of the current slide as they are now, or None if it has none."""
        slide = self.slide()
        return self.annotations_of(slide) if slide else None

    def annotations_of(self, slide: Slide) -> Annotations | None:
        """Return the regions of a slide as they are now, or None if it has none."""
        regions = self._regions.get(slide.info.digest)
        return regions.annotations() if regions is not None else None

    def regions_note(self) -> str:
        """Return what the current slide's regions are, in words."""
        slide = self.slide()
        regions = self._regions.get(slide.info.digest) if slide else None
        if regions is None or not regions.document.regions:
            return ""
        counts = regions.document.counts_and_areas(None)
        classes = ", ".join(f"{n} {name}" for name, (n, _) in counts.items() if n)
        outside = _n_outside(regions) if not regions.is_many else 0
        beyond = f"; {outside} outside the slide" if outside else ""
        n = len(regions.document.regions)
        return f"{n} region{'s' if n != 1 else ''}: {classes}{beyond}"

    def _on_inserted(self, event: Any) -> None:
        if _role(event.value) == "slide":
            self.regions_of(event.value.data[0].slide)

    def _on_active(self, *_: object) -> None:
        self.slide()  # remembered

    def _on_removed(self, event: Any) -> None:
        for regions in list(self._regions.values()):
            regions.on_layer_removed(event.value)
        if _role(event.value) == "slide":
            # Not at once: napari is in the middle of telling everybody, and a layer that is moved is put back.
            QTimer.singleShot(0, self._let_go)

    def _let_go(self) -> None:
        """Close the regions of slides that are gone, and take their layers away."""
        viewer = self._viewer()
        if viewer is None:
            return
        there = {layer.data[0].slide.info.digest for layer in slide_layers_of(viewer)}
        for digest in [digest for digest in self._regions if digest not in there]:
            self._regions.pop(digest).close()
            self.own_masks.pop(digest, None)
            for layer in list(viewer.layers):
                if is_regions_layer(layer) and layer.metadata[KEY]["slide_digest"] == digest:
                    viewer.layers.remove(layer)
        for digest in [digest for digest in self._marks if digest not in there]:
            self._marks.pop(digest).close()
        self.annotations_changed.emit()

    # Patches

    def marks_of(self, slide: Slide) -> MarksKeeper:
        """Return what the user decided about single patches of a slide; it is read in a thread."""
        digest = slide.info.digest
        if digest not in self._marks:
            self._marks[digest] = MarksKeeper(slide)
        return self._marks[digest]

    def _on_class_renamed(self, digest: str, old: str, new: str) -> None:
        keeper = self._marks.get(digest)
        if keeper is not None:
            keeper.marks.rename(old, new)

    @property
    def tray(self) -> tuple[Tile, ...]:
        """The patches that were picked, oldest first."""
        return tuple(self._tray)

    def add_to_tray(self, tile: Tile) -> None:
        """Put a patch into the tray."""
        self._tray.append(tile)
        self.tray_changed.emit()

    def change_in_tray(self, index: int, tile: Tile) -> None:
        """Put a patch in the place of another."""
        self._tray[index] = tile
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


def _close_all(kept: dict[str, SlideRegions] | dict[str, MarksKeeper]) -> None:
    while kept:
        kept.popitem()[1].close()


def _n_outside(regions: SlideRegions) -> int:
    info = regions.slide.info
    extent = shapely.box(0, 0, info.width_px, info.height_px)
    shapely.prepare(extent)
    geometries = np.array([region.geometry for region in regions.document.regions.values()], object)
    return int((~shapely.intersects(extent, geometries)).sum())


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
        if QApplication.instance() is not None:
            _sessions[viewer].look_after()
    return _sessions[viewer]
