"""The regions of one slide in one viewer: what is true, the layers that show it, and the file that keeps it."""

from __future__ import annotations

import glob
import time
import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QObject, QTimer, Signal

from napari_histolatent._napari._layers import KEY, width_on_canvas
from napari_histolatent._napari._settings import keeps_regions_beside_slide
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.regions._autosaver import Autosaver
from napari_histolatent._napari.regions._raster import RegionsSource, palette_of, raster_layer
from napari_histolatent._napari.regions._shapes import RegionShapes, build_layer
from napari_histolatent._napari.viewing import attach, expected
from napari_histolatent.annotations import (
    AS_IS,
    Annotations,
    ClassTable,
    Region,
    RegionClass,
    RegionDocument,
    RegionRaster,
    RegionStore,
    check_annotations,
    collecting_later,
    moved,
    n_vertices,
    read_beside,
    regions_folder,
    with_unique_ids,
)
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from napari.layers import Shapes
    from shapely.geometry.base import BaseGeometry

    from napari_histolatent._napari.regions._outlines import Outlines
    from napari_histolatent.annotations import (
        AnnotationCheck,
        Change,
        ClassMapping,
        DocumentState,
        Placement,
        Stored,
    )
    from napari_histolatent.slides import Slide

MANY = 5000
"""More regions than this are shown as a picture, and edited a part at a time."""
_FEW = 200
"""So many shapes are changed in the layer; for more it is built anew, in a thread."""
_HEAVY_VERTICES = 3000
"""Outlines of more vertices take napari longer than a window may be held."""
_OUTLINE_CANVAS_PX = 2.0
_ZOOM_REST_MS = 200
_TOLD_MS = 60
DEFAULT_CLASSES = ClassTable(
    (RegionClass("tumour", (200, 30, 60), "1"), RegionClass("normal", (40, 140, 80), "2"))
)
"""Of a slide that has no regions yet; what a file brings takes their place."""


@dataclass(frozen=True)
class Imported:
    """What an import brought, for the dock."""

    path: Path
    check: AnnotationCheck
    groups: tuple[tuple[str, int], ...]
    """Groups of the file, with the number of their shapes."""
    mapping: ClassMapping | None
    placement: Placement
    """Of the regions now: a proposal that was accepted is in it."""
    regions: dict[str, Region] = field(default_factory=dict, repr=False)
    """As they came in, by id."""

    @property
    def ids(self) -> frozenset[str]:
        """The regions that came of it."""
        return frozenset(self.regions)

    @property
    def summary(self) -> str:
        """Say it in one line."""
        check = self.check
        said = f"{self.path.name}: {check.regions:,} regions with {check.holes:,} holes"
        for n, word in (
            (check.repaired, "repaired"),
            (check.dropped, "dropped"),
            (check.outside, "outside the slide"),
        ):
            said += f", {n:,} {word}" if n else ""
        return said

    def changed_in(self, document: RegionDocument) -> int:
        """Return how many of the regions were changed or deleted since."""
        return sum(document.regions.get(own) is not region for own, region in self.regions.items())


@dataclass(frozen=True)
class _Built:
    """Layers made in a thread, of the document at one version."""

    version: int
    shapes: tuple[Shapes, Outlines] | None
    """None where the layer that is there shows the same: nothing."""
    raster: RegionRaster | None
    names: tuple[str, ...]
    raster_ids: tuple[str, ...]


_Plan = tuple["Iterable[Region]", "Iterable[str]", "ClassTable | None"]
"""What is put, the ids of what goes, and the class table if it is another."""


class SlideRegions(QObject):
    """One per slide and viewer; layers, docks and the autosave all follow its document."""

    changed = Signal()
    class_renamed = Signal(str, str, str)
    """Digest of the slide, the class's old name and its new one."""
    """Regions, classes, selection or what is shown changed; not more than some times a second."""
    imported = Signal(object)
    """An `Imported`."""
    saved = Signal(float)
    busy = Signal(str)
    """What is going on, or nothing."""

    def __init__(self, viewer: Any, slide: Slide) -> None:
        super().__init__()
        # Weak: the viewer's session keeps the regions, not the other way round.
        self._viewer_ref, self.slide = weakref.ref(viewer), slide
        self.document = RegionDocument(classes=DEFAULT_CLASSES)
        self.current_class = DEFAULT_CLASSES.names[0]
        self.sources: tuple[Path, ...] = ()
        """Files that regions were imported from: never written to."""
        self.last_import: Imported | None = None
        self.is_loading = False
        self._shapes: RegionShapes | None = None
        self._source: RegionsSource | None = None
        self._raster_layer: Any = None
        self._raster: RegionRaster | None = None
        self._raster_names: tuple[str, ...] = ()
        self._raster_ids: tuple[str, ...] = ()
        self._editable: set[str] = set()
        self._to_select: set[str] = set()
        self._autosaver: Autosaver | None = None
        self._is_closed = self._is_swapping = False
        self._is_building = self._is_stale = False
        self._snapshot: tuple[int, Annotations] | None = None
        self._loader = LatestWorker(in_turn=True, on_error=lambda _: self._set_busy(""))
        self._builder = LatestWorker(in_turn=True, on_error=lambda _: self._on_build_failed())
        self._exporter = LatestWorker(in_turn=True, on_error=lambda _: self._set_busy(""))
        self._tell = _single_shot(self, self.changed.emit)
        self._rest = _single_shot(self, self._match_zoom)
        viewer.scene.camera.events.zoom.connect(self._on_zoom)
        self._load()

    @property
    def _viewer(self) -> Any:
        """The viewer; None once it is gone, and then the regions are closed."""
        return self._viewer_ref()

    # Keeping

    def _store_path(self) -> Path:
        """Return the file that keeps the regions: where they are kept already, else where the user wants them."""
        info = self.slide.info
        own = regions_folder() / f"{info.digest}.sqlite"
        beside = info.path.with_name(f"{info.path.name}.regions.sqlite")
        wanted = beside if keeps_regions_beside_slide() and info.url is None else own
        there = [path for path in (wanted, own, beside) if _has_store(path)]
        return there[0] if there else wanted

    def _load(self) -> None:
        info, path = self.slide.info, self._store_path()
        facts = {"name": info.path.name, "path": info.location, "digest": info.digest}
        if not _has_store(path):
            self._keep(Autosaver(path, facts))
            return
        self.is_loading = True

        def work(_: Callable[[], bool]) -> tuple[RegionStore, Stored | None, RegionDocument | None, bool]:
            store = RegionStore(path, facts)
            stored = store.load()
            document = stored.to_document() if stored is not None else None
            return store, stored, document, bool(store.others())

        def show(found: tuple[RegionStore, Stored | None, RegionDocument | None, bool]) -> None:
            store, stored, document, has_others = found
            self.is_loading = False
            if self._is_closed:
                store.close()
                return
            if document is not None and stored is not None:
                if not document.classes.names:
                    document.set_class(DEFAULT_CLASSES.classes[0])
                self.document = document
                self.current_class = document.classes.names[0]
                self._say_back(store, stored, has_others=has_others)
            if store.notice:
                show_warning(store.notice)
            self._keep(Autosaver(path, facts, store))
            if self.document.regions:
                self._build()
            self._say_changed()

        loader = LatestWorker(on_error=self._on_load_failed)
        self._first_loader = loader
        loader.submit(work, show)

    def _on_load_failed(self, _: Exception) -> None:
        # The sentence was shown. Regions can be drawn all the same, and are kept in a file beside the unreadable one.
        self.is_loading = False
        if self._is_closed:
            return
        info = self.slide.info
        facts = {"name": info.path.name, "path": info.location, "digest": info.digest}
        self._keep(Autosaver(self._store_path(), facts))
        self._say_changed()

    def _say_back(self, store: RegionStore, stored: Stored, *, has_others: bool) -> None:
        when = time.strftime("%d %B %H:%M:%S", time.localtime(stored.time))
        name, n = self.slide.info.path.name, stored.count
        if store.is_open_elsewhere:
            show_warning(
                f"{name} is open in another window too: its {n} regions are shown as of {when}, and what you change "
                "here is kept apart from there."
            )
        elif store.was_interrupted:
            show_warning(
                f"napari ended unexpectedly last time; the {n} regions of {name} are back, as of {when}."
            )
        elif n:
            show_info(f"The {n} regions of {name} are back, as of {when}.")
        if has_others:
            show_info(
                f"Regions of {name} that were made in a second window are kept too: see Earlier versions… in the "
                "Regions dock."
            )

    def _keep(self, autosaver: Autosaver) -> None:
        self._autosaver = autosaver
        autosaver.watch(self.document)
        autosaver.saved.connect(self.saved.emit)
        autosaver.failed.connect(lambda text: show_error(f"Regions are not saved: {text} It is tried again."))
        autosaver.told.connect(show_warning)
        self.document.changed.connect(self._on_changed)

    @property
    def autosaver(self) -> Autosaver | None:
        """What keeps the regions on the disk; None while they are being loaded."""
        return self._autosaver

    def close(self) -> None:
        """Write what is not on the disk yet, and let go of the viewer; the layers go with the slide."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._viewer is not None:
            self._viewer.scene.camera.events.zoom.disconnect(self._on_zoom)
        for worker in (self._loader, self._builder, self._exporter):
            worker.cancel()
        self._tell.stop()
        self._rest.stop()
        if self._shapes is not None:
            self._shapes.close()
        if self._autosaver is not None:
            self._autosaver.close()

    # What there is

    @property
    def shapes(self) -> RegionShapes | None:
        """The editable layer, if there is one."""
        return self._shapes

    @property
    def is_many(self) -> bool:
        """Whether there are so many regions that they are shown as a picture."""
        return len(self.document.regions) > MANY

    @property
    def selected(self) -> tuple[str, ...]:
        """Ids of the selected regions."""
        return self._shapes.selected if self._shapes is not None else ()

    @property
    def n_editable(self) -> int:
        """How many regions are in the editable layer."""
        return len(self._editable) if self.is_many else len(self.document.regions)

    def annotations(self) -> Annotations | None:
        """Return the regions as they are now, or None where there are none."""
        if not self.document.regions:
            return None
        if self._snapshot is None or self._snapshot[0] != self.document.version:
            self._snapshot = (self.document.version, self.document.to_annotations())
        return self._snapshot[1]

    def region_at(self, xy: tuple[float, float]) -> str | None:
        """Return the id of the topmost visible region at a level-0 point: the smallest, where several are."""
        point, regions = shapely.points(xy), self.document.regions
        if self.is_many and self._raster is not None:
            near = {self._raster_ids[k] for k in self._raster.at(*xy)} | self._editable
        else:
            near = set(regions)
        candidates = [regions[own] for own in near if own in regions]
        hidden = {item.name for item in self.document.classes if not item.is_visible}
        candidates = [region for region in candidates if region.class_name not in hidden]
        if not candidates:
            return None
        geometries = np.array([region.geometry for region in candidates], object)
        hits = np.flatnonzero(shapely.intersects(geometries, point))
        if not len(hits):
            return None
        areas = shapely.area(geometries[hits])
        return candidates[int(hits[int(areas.argmin())])].id

    def touching(self, geometry: BaseGeometry) -> list[Region]:
        """Return the regions that a level-0 geometry touches; of many, only those that can be edited."""
        known = self.document.regions
        if self.is_many:
            box = tuple(float(v) for v in geometry.bounds)
            near = set(self._editable)
            if self._raster is not None:
                near |= {self._raster_ids[k] for k in self._raster.within((box[0], box[1], box[2], box[3]))}
            candidates = [known[own] for own in near if own in known]
        else:
            candidates = list(known.values())
        if not candidates:
            return []
        hits = shapely.intersects(np.array([region.geometry for region in candidates], object), geometry)
        return [candidates[k] for k in np.flatnonzero(hits)]

    def set_current_class(self, name: str) -> None:
        """Draw in a class from now on."""
        item = self.document.classes.get(name)
        if item is None:
            return
        self.current_class = name
        if self._shapes is not None:
            self._shapes.set_current(item)
        self._say_changed()

    def select(self, ids: Iterable[str]) -> None:
        """Select regions; of many, those become editable."""
        ids = set(ids)
        if self.is_many:
            self.edit(ids)
        self._to_select = ids if self._is_building else set()
        if self._shapes is not None:
            self._shapes.select(ids)
        self._say_changed()

    # Changing

    def apply(
        self,
        title: str,
        put: Sequence[Region] = (),
        remove: Iterable[str] = (),
        classes: ClassTable | None = None,
    ) -> None:
        """Make a change, and show it.

        Raises
        ------
        AnnotationError
            If it is refused, or the regions are still being read.
        """
        self.require_loaded()
        put = list(put)
        before = set(self._editable)
        if self.is_many and len(put) <= _FEW:
            # What is being drawn or edited stays in the hand.
            self._editable |= {region.id for region in put}
        try:
            self.document.apply(title, put, remove, classes)
        except AnnotationError:
            self._editable = before
            raise

    def require_loaded(self) -> None:
        """Refuse to change what is about to be replaced by what was kept.

        Raises
        ------
        AnnotationError
            If the regions are still being read.
        """
        if self.is_loading:
            msg = "The regions of this slide are still being read; try again in a moment."
            raise AnnotationError(msg)

    def import_file(
        self, path: Path, *, mapping: ClassMapping | None = None, in_place_of: Imported | None = None
    ) -> None:
        """Read an annotation file in a thread, and take its regions in; `imported` tells when.

        Parameters
        ----------
        path
            The file.
        mapping
            Classes of its groups, by default as named.
        in_place_of
            An earlier import, whose regions go, and whose place the new ones take.
        """
        self.require_loaded()
        info = self.slide.info
        placement = in_place_of.placement if in_place_of is not None else AS_IS
        self._set_busy(f"Reading {path.name} …")

        def work(should_stop: Callable[[], bool]) -> tuple[Imported, Annotations] | None:
            found = read_beside(
                path, slide=info, mapping=mapping, placement=placement, should_stop=should_stop
            )
            if found is None:
                return None
            check = check_annotations(found, info)
            return Imported(path, check, tuple(found.groups.items()), mapping, placement), found

        def show(result: tuple[Imported, Annotations] | None) -> None:
            if result is None:
                self._set_busy("")
                return
            old = in_place_of.ids if in_place_of is not None else frozenset()
            self.take_in(result[1], f"Import {path.name}", in_place_of=old, imported=result[0])

        self._loader.submit(work, show)

    def take_in(
        self,
        annotations: Annotations,
        title: str,
        *,
        in_place_of: frozenset[str] | None = frozenset(),
        imported: Imported | None = None,
    ) -> None:
        """Take regions in as one change, planned in a thread: there may be 200,000 of them.

        Parameters
        ----------
        annotations
            The regions; ids that are taken are changed.
        title
            For the undo button.
        in_place_of
            Ids of regions that go; None for all.
        imported
            Passed on with `imported`, once they are there.
        """
        taken: dict[str, Region] = {}

        def plan(state: DocumentState) -> _Plan:
            replaced = frozenset(state.regions) if in_place_of is None else in_place_of & state.regions.keys()
            kept = [region for own, region in state.regions.items() if own not in replaced]
            new = with_unique_ids(annotations.regions, [region.id for region in kept])
            taken.clear()
            taken.update((region.id, region) for region in new)
            table = state.classes if kept or not new or state.classes != DEFAULT_CLASSES else ClassTable()
            # Classes that only what goes had, go with it; those that the user made stay.
            left = {region.class_name for region in kept} | {region.class_name for region in new}
            for gone in {state.regions[own].class_name for own in replaced} - left:
                table = table.without(gone)
            return new, replaced, table.completed(sorted(left), annotations.colors)

        def done() -> None:
            if imported is not None:
                self.sources = (*self.sources, imported.path)
                self._tell_import(replace(imported, regions=taken))

        self.change_in_background(title, plan, done)

    def _tell_import(self, imported: Imported) -> None:
        self.last_import = imported
        if not imported.check.regions:
            show_error(f"{imported.path.name} holds no regions; see the report in the Regions dock.")
        elif imported.check.dropped or imported.check.outside or imported.check.proposals:
            show_warning(f"{imported.summary}; see the report in the Regions dock.")
        else:
            show_info(f"{imported.summary}.")
        self.imported.emit(imported)

    def change_in_background(
        self, title: str, plan: Callable[[DocumentState], _Plan], done: Callable[[], object] = lambda: None
    ) -> None:
        """Make a change that may concern all regions: what takes time of it is done in a thread.

        Parameters
        ----------
        title
            For the undo button.
        plan
            Returns what is put, which ids go, and the class table, from the state it is given; called in a thread,
            and again if the regions changed meanwhile.
        done
            Called on the UI thread when the change is made.
        """
        self.require_loaded()
        document = self.document
        state = document.state()

        def work(_: Callable[[], bool]) -> Change | None:
            with collecting_later():
                put, remove, classes = plan(state)
                return document.plan(title, put, remove, classes)

        def show(change: Change | None) -> None:
            if document.version != state.version:
                # Something was drawn meanwhile: once more, on top of that.
                self.change_in_background(title, plan, done)
                return
            if change is not None:
                document.commit(change, planned_at=state.version)
            self._set_busy("")
            done()

        self._loader.submit(work, show)

    def accept(self, imported: Imported, placement: Placement) -> None:
        """Put the regions of an import where a proposal says, as one change."""
        moved_regions: list[Region] = []

        def plan(state: DocumentState) -> _Plan:
            regions = tuple(state.regions[own] for own in imported.ids if own in state.regions)
            moved_regions[:] = moved(Annotations(regions, format="drawn"), placement).regions
            return moved_regions, (), None

        def done() -> None:
            self.last_import = replace(
                imported,
                placement=imported.placement.then(placement),
                regions={region.id: region for region in moved_regions},
            )

        self.change_in_background(f"Move {len(imported.ids):,} regions: {placement.words}", plan, done)

    def restore(self, stored: Stored, title: str) -> None:
        """Make regions and classes what they were at an earlier version; one undo takes it back."""

        def plan(state: DocumentState) -> _Plan:
            return (
                stored.regions,
                state.regions.keys() - {region.id for region in stored.regions},
                stored.classes,
            )

        self.change_in_background(title, plan)

    def undo(self) -> None:
        """Take the last change back."""
        self.require_loaded()
        self.document.undo()

    def redo(self) -> None:
        """Make the last undone change again."""
        self.require_loaded()
        self.document.redo()

    def in_background(
        self, text: str, work: Callable[[Callable[[], bool]], Any], show: Callable[[Any], None]
    ) -> None:
        """Do something about the regions that takes a while, an export for example."""
        self._set_busy(text)

        def done(result: Any) -> None:
            self._set_busy("")
            show(result)

        self._exporter.submit(work, done)

    def cancel(self) -> None:
        """Stop what is being read."""
        self._loader.cancel()
        self._set_busy("")

    def _say_changed(self) -> None:
        if not self._tell.isActive() and not self._is_closed:
            self._tell.start(_TOLD_MS)

    def _set_busy(self, text: str) -> None:
        self.busy.emit(text)

    # Showing

    def _on_changed(self, change: Change) -> None:
        self._snapshot = None
        if renamed := change.renamed_class:
            self.class_renamed.emit(self.slide.info.digest, *renamed)
        self._say_changed()
        shapes = self._shapes
        is_many = self.is_many
        names = self.document.classes.names
        if self.current_class not in names:
            self.current_class = names[0] if names else ""
        if is_many:
            self._editable &= self.document.regions.keys() if len(change.after) > _FEW else self._editable
            for own, region in change.after.items():
                if region is None:
                    self._editable.discard(own)
        if shapes is None or is_many != (self._source is not None) or self._visibility_changed(change):
            self._build()
            return
        if change.classes_after is not None:
            shapes.recolor() if not is_many or self._editable else None
            self._repaint()
            item = self.document.classes.get(self.current_class)
            if item is not None:
                shapes.set_current(item)
        if is_many and not change.after.keys() <= self._editable:
            self._build()
            return
        if shapes.is_telling or not change.after:
            return
        if len(change.after) > _FEW or _n_vertices(change) > _HEAVY_VERTICES:
            self._build()
        else:
            shapes.show(change.after)

    def _visibility_changed(self, change: Change) -> bool:
        before, after = change.classes_before, change.classes_after
        if before is None or after is None:
            return False

        def hidden(table: ClassTable) -> set[str]:
            return {item.name for item in table if not item.is_visible}

        return hidden(before) != hidden(after)

    def _build(self) -> None:
        """Make the layers anew, in a thread; once more if something changes meanwhile."""
        if self._is_closed or self._viewer is None:
            return
        if self._is_building:
            self._is_stale = True
            return
        self._is_building, self._is_stale = True, False
        state, info = self.document.state(), self.slide.info
        editable = frozenset(self._editable) if self.is_many else None
        width = width_on_canvas(self._viewer, info, canvas_px=_OUTLINE_CANVAS_PX)
        name = f"regions of {info.path.name}"
        is_blank = self._shapes is not None and not self._shapes.ids

        def work(_: Callable[[], bool]) -> _Built:
            hidden = {item.name for item in state.classes if not item.is_visible}
            regions = state.regions.values()
            shown = [
                region
                for region in regions
                if (editable is None or region.id in editable) and region.class_name not in hidden
            ]
            shapes = None
            if shown or not is_blank:
                shapes = build_layer(shown, state.classes, info, name=name, edge_width=width)
            if editable is None:
                return _Built(state.version, shapes, None, (), ())
            names = state.classes.names
            codes = {class_name: code for code, class_name in enumerate(names, start=1)}
            rest = [region for region in regions if region.is_area and region.id not in editable]
            raster = RegionRaster(
                np.array([region.geometry for region in rest], object),
                np.array([codes[region.class_name] for region in rest]),
            )
            return _Built(state.version, shapes, raster, names, tuple(region.id for region in rest))

        self._builder.submit(work, self._on_built)

    def _on_build_failed(self) -> None:
        self._is_building = False

    def _on_built(self, built: _Built) -> None:
        self._is_building = False
        if self._is_closed or self._viewer is None:
            return
        if built.version != self.document.version or self._is_stale:
            self._build()
            return
        if built.shapes is not None:
            self._show_shapes(*built.shapes)
        elif self._shapes is None:  # the blank layer was removed meanwhile
            self._build()
            return
        self._show_raster(built)
        self._say_changed()

    def _show_shapes(self, layer: Shapes, outlines: Outlines) -> None:
        layers = self._viewer.layers
        old = self._shapes
        selected = old.selected if old is not None else ()
        active = layers.selection.active
        was_active = old is not None and active is old.layer
        at = layers.index(old.layer) if old is not None and old.layer in layers else self._place()
        mode = old.layer.mode if old is not None else None
        if old is not None:
            old.close()
        self._shapes = RegionShapes(
            layer,
            outlines,
            self.document,
            current_class=lambda: self.current_class,
            on_refused=show_error,
        )
        item = self.document.classes.get(self.current_class)
        if item is not None:
            self._shapes.set_current(item)
        if old is not None and old.layer in layers:
            self._is_swapping = True
            layer.visible, layer.opacity = old.layer.visible, old.layer.opacity
            layers.remove(old.layer)
            self._is_swapping = False
        layers.insert(min(at, len(layers)), layer)
        if was_active or active is None:
            layers.selection.active = layer
            if mode is not None:
                layer.mode = mode
        elif active in layers:
            layers.selection.active = active
        self._shapes.select(self._to_select or selected)
        self._to_select = set()
        layer.selected_data.events.items_changed.connect(self._on_selected)

    def _place(self) -> int:
        """Return where in the layer list the regions go: right above their slide, below what was added later."""
        layers = self._viewer.layers
        own = [
            k
            for k, layer in enumerate(layers)
            if isinstance(layer.metadata.get(KEY), dict)
            and self.slide.info.digest
            in (layer.metadata[KEY].get("digest"), layer.metadata[KEY].get("slide_digest"))
            and layer.metadata[KEY].get("role") in ("slide", "overview", "regions raster")
        ]
        return max(own) + 1 if own else len(layers)

    def _on_selected(self, *_: object) -> None:
        self._say_changed()

    def _show_raster(self, built: _Built) -> None:
        layers = self._viewer.layers
        self._raster, self._raster_names, self._raster_ids = built.raster, built.names, built.raster_ids
        if built.raster is None:
            if self._raster_layer is not None and self._raster_layer in layers:
                layers.remove(self._raster_layer)
            self._raster_layer = self._source = None
            return
        palette = palette_of(self.document.classes, built.names)
        if self._source is not None and self._raster_layer in layers:
            self._source.change(built.raster, palette)
            self._show_source()
            return
        self._source = RegionsSource(self.slide, built.raster, palette)
        window = attach(self._viewer)
        name = f"{len(built.raster_ids):,} regions of {self.slide.info.path.name}"
        (data, options, _), *_rest = expected([raster_layer(self._source, name=name)])
        active = layers.selection.active
        self._raster_layer = self._viewer.add_image(data, **options)
        assert window is not None
        if self._shapes is not None and self._shapes.layer in layers:
            # The picture lies under what is edited.
            layers.move(layers.index(self._raster_layer), layers.index(self._shapes.layer))
        layers.selection.active = active

    def _repaint(self) -> None:
        if self._source is not None:
            self._source.change(palette=palette_of(self.document.classes, self._raster_names))
            self._show_source()

    def _show_source(self) -> None:
        window = attach(self._viewer)
        if window is not None and self._source is not None:
            window.show_anew(self._source)

    # Many regions: a part at a time

    def edit(self, ids: Iterable[str]) -> None:
        """Take regions of the picture into the editable layer."""
        if not self.is_many:
            return
        new = {own for own in ids if own in self.document.regions} - self._editable
        if not new:
            return
        if len(self._editable) + len(new) > MANY:
            msg = (
                f"{len(self._editable) + len(new):,} regions are too many to be edited at once (at most {MANY:,}); "
                "zoom in, or put those back that are done."
            )
            raise AnnotationError(msg)
        self._editable |= new
        self._build()

    def edit_in(self, box: tuple[float, float, float, float]) -> int:
        """Take the regions that touch a level-0 box (left, top, right, bottom) into the editable layer."""
        if self._raster is None:
            return 0
        found = [self._raster_ids[k] for k in self._raster.within(box)]
        self.edit(found)
        return len(found)

    def put_back(self) -> None:
        """Show all regions in the picture again."""
        if self._editable:
            self._editable = set()
            self._build()

    # The window

    def on_layer_removed(self, layer: Any) -> None:
        """Take note that the user removed a layer: only the picture goes, never the regions."""
        if self._is_swapping or self._is_closed:
            return
        if self._shapes is not None and layer is self._shapes.layer:
            self._shapes.close()
            self._shapes = None
            QTimer.singleShot(0, self._say_kept)
        if layer is self._raster_layer:
            self._raster_layer = self._source = None

    def _say_kept(self) -> None:
        """Say that the regions are kept, if it was not the slide that went."""
        if self.document.regions and not self._is_closed and self._shapes is None and self._is_slide_there():
            show_info(
                f"The layer is gone; the {len(self.document.regions)} regions of {self.slide.info.path.name} are "
                "kept, and come back with the next change, or when a drawing tool is chosen."
            )

    def _is_slide_there(self) -> bool:
        return any(
            layer.metadata[KEY].get("digest") == self.slide.info.digest
            for layer in self._viewer.layers
            if isinstance(layer.metadata.get(KEY), dict)
        )

    def ensure_layer(self) -> None:
        """Have an editable layer, empty if there is nothing yet, for who draws with napari's own tools."""
        if self._shapes is None and not self.is_loading:
            self._build()

    def _on_zoom(self, *_: object) -> None:
        self._rest.start(_ZOOM_REST_MS)

    def _match_zoom(self) -> None:
        """Draw outlines equally thin on the canvas at every zoom: napari's widths are in pixels of the slide."""
        if self._shapes is None or self._is_closed:
            return
        width = width_on_canvas(self._viewer, self.slide.info, canvas_px=_OUTLINE_CANVAS_PX)
        ratio = width / max(self._shapes.layer.current_edge_width, 1e-9)
        if not 2 / 3 < ratio < 3 / 2:
            self._shapes.set_edge_width(width)


def _has_store(path: Path) -> bool:
    """Return whether there is a file of regions of this name, or one of a second window."""
    return any(path.parent.glob(f"{glob.escape(path.stem)}*.sqlite"))


def _n_vertices(change: Change) -> int:
    return sum(n_vertices(region.geometry) for region in change.after.values() if region is not None)


def _single_shot(parent: QObject, action: Callable[[], object]) -> QTimer:
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.timeout.connect(action)
    return timer


def is_regions_layer(layer: Any) -> bool:
    """Return whether a layer is one of ours that shows regions."""
    ours = layer.metadata.get(KEY)
    return isinstance(ours, dict) and ours.get("role") in ("regions", "regions raster")
