"""What the Regions dock does: its view on one side, the regions of the current slide on the other."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakSet

import numpy as np
import shapely
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QMessageBox

from napari_histolatent._napari._layers import KEY, width_on_canvas
from napari_histolatent._napari._session import session_of, slide_layers_of
from napari_histolatent._napari._workers import run_safely
from napari_histolatent._napari.regions import HINTS, DrawingBoard
from napari_histolatent._napari.widgets.class_table import ClassRow
from napari_histolatent._napari.widgets.mapping_editor import MappingEditor
from napari_histolatent._napari.widgets.versions_dialog import VersionsDialog
from napari_histolatent.annotations import (
    AS_IS,
    FORMATS,
    Region,
    RegionClass,
    WriteOptions,
    added,
    default_mapping,
    edited,
    formats_written,
    freehand_of,
    length_of,
    merged,
    polygon_of,
    simplified,
    split,
    stroke_of,
    subtracted,
    without_holes,
    write_annotations,
)
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_histolatent._napari.regions import Drawn, Imported, SlideRegions
    from napari_histolatent._napari.widgets.regions_view import RegionsView
    from napari_histolatent.annotations import Stored, StoredVersion
    from napari_histolatent.slides import SlideInfo

TOOL_KEYS = {
    "polygon": "P",
    "freehand": "F",
    "rectangle": "R",
    "ellipse": "E",
    "brush_add": "B",
    "brush_subtract": "N",
    "split": "X",
    "measure": "M",
    "pick": "K",
}
ACTION_KEYS = {"undo": "Control-Z", "redo": "Control-Shift-Z"}
_BRUSH_CANVAS_PX = 15.0
"""Of a brush that nobody has set."""


class RegionsBinding(QObject):
    """Binds a `RegionsView` to a viewer's session."""

    def __init__(self, viewer: Any, view: RegionsView) -> None:
        super().__init__()
        viewer = getattr(viewer, "__wrapped__", viewer)
        self._viewer, self._view = viewer, view
        self._session = session_of(viewer)
        self._board = DrawingBoard(viewer, self._on_drawn)
        self._regions: SlideRegions | None = None
        self._layers_with_keys: WeakSet[Any] = WeakSet()
        self._dialog: Any = None
        self._has_brush = False
        self._keys = self._make_keys()
        self._is_closed = False
        view.import_filter = _filter()
        view.set_export_formats([(f.name, f.title, f.suffixes[0]) for f in formats_written()])
        for tool, key in TOOL_KEYS.items():
            view.set_tool_key(tool, key)
        for action, key in ACTION_KEYS.items():
            view.set_action_key(action, key.replace("Control", "Ctrl").replace("-", "+"))
        self._connect()
        for key, act in self._keys.items():
            viewer.bind_key(key, act, overwrite=True)
        self._follow_slide()

    def _connect(self) -> None:
        view = self._view
        view.classes.picked.connect(self._pick_class)
        view.classes.renamed.connect(self._rename_class)
        view.classes.changed.connect(self._change_class)
        view.class_added.connect(self._add_class)
        view.class_removed.connect(self._remove_class)
        view.tool_chosen.connect(self.use_tool)
        view.brush_changed.connect(self._set_brush)
        view.action.connect(self.act)
        view.edit_in_view_requested.connect(self._edit_in_view)
        view.put_back_requested.connect(lambda: self._with_regions(lambda regions: regions.put_back()))
        view.import_chosen.connect(self.import_file)
        view.export_chosen.connect(self.export)
        view.groups_requested.connect(self._edit_groups)
        view.proposal_accepted.connect(self._accept_proposal)
        view.versions_requested.connect(self._show_versions)
        view.cancel_requested.connect(lambda: self._with_regions(lambda regions: regions.cancel()))
        self._session.annotations_changed.connect(self._follow_slide)
        for event in self._events():
            event.connect(self._follow_slide)
        view.closed.connect(self.close)
        view.destroyed.connect(self.close)

    def _events(self) -> tuple[Any, ...]:
        layers = self._viewer.layers
        return layers.events.inserted, layers.events.removed, layers.selection.events.active

    def close(self, *_: object) -> None:
        """Let go of the viewer; the regions stay with the session."""
        if self._is_closed:
            return
        self._is_closed = True
        self._board.put_down()
        self._leave_slide()
        for event in self._events():
            event.disconnect(self._follow_slide)
        self._session.annotations_changed.disconnect(self._follow_slide, missing_ok=True)
        for owner in (self._viewer, *self._layers_with_keys):
            for key in self._keys:
                owner.bind_key(key, None, overwrite=True)

    # The slide

    def _follow_slide(self, *_: object) -> None:
        """Show the regions of the slide that is current now."""
        if self._is_closed:
            return
        regions = self._session.regions()
        if regions is not self._regions:
            self._leave_slide()
            self._regions = regions
            self._view.set_report([])
            self._view.set_proposals([])
            self._view.set_groups_enabled(False)
            if regions is not None:
                regions.imported.connect(self._on_imported)
                if regions.last_import is not None:
                    self._on_imported(regions.last_import)
                regions.saved.connect(self._on_saved)
                regions.busy.connect(self._view.set_busy)
                if regions.document.version:
                    self._on_saved(time.time())
        self._show()

    def _leave_slide(self) -> None:
        regions, self._regions = self._regions, None
        if regions is not None:
            self._board.put_down()
            self._view.set_tool("")
            for signal, slot in (
                (regions.imported, self._on_imported),
                (regions.saved, self._on_saved),
                (regions.busy, self._view.set_busy),
            ):
                signal.disconnect(slot)
            self._view.set_busy("")

    def _with_regions(self, action: Callable[[SlideRegions], object]) -> None:
        """Do something with the current slide's regions; what is refused is said."""

        def act() -> None:
            if self._regions is None:
                msg = "There is no slide open; drop a slide on the window first."
                raise AnnotationError(msg)
            self._regions.require_loaded()
            action(self._regions)

        run_safely(act)
        self._show()

    # What is shown

    def _show(self) -> None:
        view, regions = self._view, self._regions
        if regions is None:
            view.set_slide_note("")
            view.set_autosave_note("")
            view.set_classes([])
            view.set_history("", "")
            view.set_selection(0, "")
            view.set_many("")
            return
        document, info = regions.document, regions.slide.info
        mpp = self._mpp()
        n = len(document.regions)
        state = "reading its regions …" if regions.is_loading else f"{n:,} region{'' if n == 1 else 's'}"
        view.set_slide_note(f"{info.path.name}: {state}")
        counts = document.counts_and_areas(mpp)
        view.set_classes([ClassRow(item, *counts.get(item.name, (0, 0.0))) for item in document.classes])
        view.set_current_class(regions.current_class)
        view.crop_box.setVisible(_is_offset(info))
        view.set_area_unit("mm²" if mpp else "px²")
        view.set_length_unit("µm" if mpp else "px")
        view.set_history(document.undo_title, document.redo_title)
        self._show_selection(regions)
        many = ""
        if regions.is_many:
            many = (
                f"{n:,} regions are shown as a picture; {regions.n_editable:,} of them can be edited. "
                "Pick one, or take those in view."
            )
        view.set_many(many)
        saver = regions.autosaver
        if saver is not None and not saver.is_saved:
            view.set_autosave_note("Changes are saved in a moment …")
        item = document.classes.get(regions.current_class)
        if item is not None:
            self._board.set_color(item.color)
        self._bind_layers()

    def _show_selection(self, regions: SlideRegions) -> None:
        chosen = self._selected(regions)
        if not chosen:
            self._view.set_selection(0, "")
            return
        mpp = self._mpp()
        areas = [region for region in chosen if region.is_area]
        classes = ", ".join(dict.fromkeys(region.class_name for region in chosen))
        text = f"{len(chosen)} region{'' if len(chosen) == 1 else 's'} ({classes})"
        if areas:
            geometries = np.array([region.geometry for region in areas], object)
            if mpp:
                geometries = shapely.transform(geometries, lambda xy: xy * mpp)
            size = float(shapely.area(geometries).sum()) / (1e6 if mpp else 1)
            around = float(shapely.length(geometries).sum())
            text += f", {size:.4g} {'mm²' if mpp else 'px²'}, outline {_length(around, mpp)}"
        self._view.set_selection(len(chosen), text)

    def _selected(self, regions: SlideRegions) -> list[Region]:
        known = regions.document.regions
        return [known[own] for own in regions.selected if own in known]

    def _mpp(self) -> tuple[float, float] | None:
        info = self._regions.slide.info if self._regions is not None else None
        return (info.mpp_x, info.mpp_y) if info is not None and info.mpp_x and info.mpp_y else None

    def _px(self, length: float) -> float:
        """Return a length of the dock in level-0 pixels."""
        mpp = self._mpp()
        return length / mpp[0] if mpp else length

    def _on_saved(self, when: float) -> None:
        self._view.set_autosave_note(f"Saved {time.strftime('%H:%M:%S', time.localtime(when))}")

    # Classes

    def _pick_class(self, name: str) -> None:
        self._with_regions(lambda regions: regions.set_current_class(name))

    def _rename_class(self, old: str, new: str) -> None:
        def rename(regions: SlideRegions) -> None:
            is_current = regions.current_class == old
            if is_current:
                regions.current_class = new.strip()
            try:
                regions.document.rename_class(old, new)
            except AnnotationError:
                regions.current_class = old if is_current else regions.current_class
                raise

        self._with_regions(rename)

    def _change_class(self, name: str, item: object) -> None:
        assert isinstance(item, RegionClass)
        self._with_regions(lambda regions: regions.document.set_class(item))

    def _add_class(self, name: str) -> None:
        def add(regions: SlideRegions) -> None:
            table = regions.document.classes
            if name.strip() in table:
                msg = f'There is a class "{name.strip()}" already; choose it in the table.'
                raise AnnotationError(msg)
            regions.document.apply(f"Add class {name.strip()}", classes=table.completed([name]))
            regions.set_current_class(name.strip())

        self._with_regions(add)

    def _remove_class(self, name: str) -> None:
        def remove(regions: SlideRegions) -> None:
            n = regions.document.counts_and_areas(None).get(name, (0, 0.0))[0]
            if n:
                msg = (
                    f'The class "{name}" has {n} regions; delete them or give them another class first, '
                    "then remove it."
                )
                raise AnnotationError(msg)
            if len(regions.document.classes) == 1:
                msg = f'"{name}" is the only class; add another one first.'
                raise AnnotationError(msg)
            regions.document.remove_class(name)

        self._with_regions(remove)

    # Drawing

    def use_tool(self, name: str) -> None:
        """Take up a drawing tool, or put it down (no name)."""
        regions = self._regions
        if name and regions is None:
            self._view.set_tool("")
            self._with_regions(lambda _: None)  # says that there is no slide
            return
        if name and regions is not None and regions.is_loading:
            self._view.set_tool("")
            show_info("The regions of this slide are still being read; try again in a moment.")
            return
        if name and regions is not None:
            regions.ensure_layer()
            if not self._has_brush:
                self._propose_brush(regions)
            if regions.shapes is not None:
                regions.shapes.layer.mode = "pan_zoom"
        self._board.use(
            name,
            regions.slide.info if regions is not None else None,
            brush_radius_px=self._px(self._view.brush_spin.value()) / 2,
        )
        self._view.set_tool(name)
        self._view.set_hint(HINTS.get(name, ""))
        self._show()

    def _propose_brush(self, regions: SlideRegions) -> None:
        """Begin with a brush that can be seen at this zoom."""
        self._has_brush = True
        mpp = self._mpp()
        size = 2 * width_on_canvas(self._viewer, regions.slide.info, canvas_px=_BRUSH_CANVAS_PX)
        self._view.set_brush(float(f"{size * (mpp[0] if mpp else 1):.2g}"))

    def _set_brush(self, size: float) -> None:
        self._has_brush = True
        self._board.set_brush_radius(self._px(size) / 2)

    def _on_drawn(self, drawn: Drawn) -> None:
        draw = {
            "polygon": self._draw_outline,
            "freehand": self._draw_outline,
            "rectangle": self._draw_outline,
            "ellipse": self._draw_outline,
            "brush_add": self._brush_add,
            "brush_subtract": self._brush_subtract,
            "split": self._split,
            "measure": self._measure,
            "pick": self._pick,
        }[drawn.tool]
        self._with_regions(lambda regions: draw(regions, drawn))

    def _draw_outline(self, regions: SlideRegions, drawn: Drawn) -> None:
        if drawn.tool == "freehand":
            geometry = freehand_of(drawn.points, self._px(self._view.tolerance_spin.value()))
        else:
            geometry = polygon_of(drawn.points)
        if geometry is None:
            msg = f"This {drawn.tool} encloses no area; draw it larger."
            raise AnnotationError(msg)
        regions.apply(f"Draw {drawn.tool}", [Region(str(uuid4()), regions.current_class, geometry)])

    def _stroke(self, drawn: Drawn) -> Any:
        return stroke_of(drawn.points, self._px(self._view.brush_spin.value()) / 2)

    def _brush_add(self, regions: SlideRegions, drawn: Drawn) -> None:
        stroke = self._stroke(drawn)
        target = self._under_brush(regions, drawn, stroke)
        if target is None:
            regions.apply("Draw with brush", [Region(str(uuid4()), regions.current_class, stroke)])
            return
        geometry = added(target.geometry, stroke)
        if geometry is not None:
            regions.apply("Brush: add", [edited(target, geometry)])

    def _under_brush(self, regions: SlideRegions, drawn: Drawn, stroke: Any) -> Region | None:
        """Return the region that a stroke adds to: the selected one, or one of the current class where it starts."""
        chosen = [r for r in self._selected(regions) if r.is_area and r.class_name == regions.current_class]
        if len(chosen) == 1 and shapely.intersects(chosen[0].geometry, stroke):
            return chosen[0]
        own = regions.region_at((float(drawn.points[0, 0]), float(drawn.points[0, 1])))
        found = regions.document.regions[own] if own is not None else None
        return (
            found
            if found is not None and found.is_area and found.class_name == regions.current_class
            else None
        )

    def _brush_subtract(self, regions: SlideRegions, drawn: Drawn) -> None:
        stroke = self._stroke(drawn)
        chosen = [r for r in self._selected(regions) if r.is_area]
        hit = [r for r in chosen or self._editable(regions, stroke) if shapely.intersects(r.geometry, stroke)]
        if not hit:
            msg = "There is no region under the brush that may be changed; locked and hidden classes are left alone."
            raise AnnotationError(msg)
        put, remove = [], []
        for region in hit:
            geometry = subtracted(region.geometry, stroke)
            if geometry is None:
                remove.append(region.id)
            else:
                put.append(edited(region, geometry))
        regions.apply("Brush: subtract", put, remove)

    def _editable(self, regions: SlideRegions, geometry: Any) -> list[Region]:
        """Return the areas that a shape touches and that may be changed."""
        classes = {c.name for c in regions.document.classes if c.is_visible and not c.is_locked}
        return [r for r in regions.touching(geometry) if r.is_area and r.class_name in classes]

    def _split(self, regions: SlideRegions, drawn: Drawn) -> None:
        line = shapely.LineString(drawn.points)
        chosen = [r for r in self._selected(regions) if r.is_area]
        put: list[Region] = []
        n = 0
        for region in chosen or self._editable(regions, line):
            parts = split(region.geometry, drawn.points)
            if len(parts) > 1:
                n += 1
                put.append(edited(region, parts[0]))
                put += [replace(edited(region, part), id=str(uuid4())) for part in parts[1:]]
        if not put:
            msg = "The line splits nothing; draw it right across a region, from outside to outside."
            raise AnnotationError(msg)
        regions.apply("Split region" if n == 1 else f"Split {n} regions", put)

    def _measure(self, regions: SlideRegions, drawn: Drawn) -> None:
        mpp = self._mpp()
        self._view.set_measure(f"Distance: {_length(length_of(drawn.points, mpp), mpp)}")

    def _pick(self, regions: SlideRegions, drawn: Drawn) -> None:
        own = regions.region_at((float(drawn.points[0, 0]), float(drawn.points[0, 1])))
        regions.select([] if own is None else [own])
        if own is not None:
            region = regions.document.regions[own]
            self._view.set_measure(f"Picked {region.name or region.class_name}")

    # Changing what is selected

    def act(self, name: str) -> None:
        """Do what one of the Change buttons says."""
        actions: dict[str, Callable[[SlideRegions], object]] = {
            "undo": lambda regions: None if self._board.take_back() else regions.undo(),
            "redo": lambda regions: regions.redo(),
            "merge": self._merge,
            "fill_holes": lambda r: self._edit(r, "Fill holes", without_holes),
            "simplify": lambda r: self._edit(
                r, "Simplify", lambda g: simplified(g, self._px(self._view.tolerance_spin.value()))
            ),
            "delete": lambda r: r.apply(f"Delete {len(r.selected)} regions", remove=r.selected),
            "assign": lambda r: r.document.assign_class(r.selected, r.current_class),
        }
        self._with_regions(actions[name])

    def _merge(self, regions: SlideRegions) -> None:
        chosen = [r for r in self._selected(regions) if r.is_area]
        if len(chosen) < 2:
            msg = f"{len(chosen)} regions with an area are selected; select two or more to merge them."
            raise AnnotationError(msg)
        classes = sorted({r.class_name for r in chosen})
        if len(classes) > 1:
            msg = f"The selected regions are of {len(classes)} classes ({', '.join(classes)}); give them one first: Set class."
            raise AnnotationError(msg)
        geometry = merged([r.geometry for r in chosen])
        if geometry is not None:
            others = [r.id for r in chosen[1:]]
            regions.apply(f"Merge {len(chosen)} regions", [edited(chosen[0], geometry)], others)
            regions.select([chosen[0].id])

    def _edit(self, regions: SlideRegions, title: str, change: Callable[[Any], Any]) -> None:
        put = []
        for region in self._selected(regions):
            if region.is_area:
                geometry = change(region.geometry)
                if not shapely.equals_identical(geometry, region.geometry):
                    put.append(edited(region, geometry))
        if not put:
            msg = f"{title} changes nothing of what is selected."
            raise AnnotationError(msg)
        regions.apply(title, put)

    def _edit_in_view(self) -> None:
        def edit(regions: SlideRegions) -> None:
            box = self._visible_box(regions)
            n = regions.edit_in(box)
            show_info(
                f"{n:,} regions in view can be edited now." if n else "There are no more regions in view."
            )

        self._with_regions(edit)

    def _visible_box(self, regions: SlideRegions) -> tuple[float, float, float, float]:
        for layer in slide_layers_of(self._viewer):
            if layer.data[0].slide.info.digest == regions.slide.info.digest:
                factor = layer.downsample_factors[layer.data_level][:2]
                (top, left), (bottom, right) = layer.corner_pixels[:, :2] * factor
                return float(left), float(top), float(right), float(bottom)
        info = regions.slide.info
        return 0.0, 0.0, float(info.width_px), float(info.height_px)

    # Files

    def import_file(self, path: str) -> None:
        """Read an annotation file, and take its regions in."""
        self._view.set_report([])
        self._view.set_proposals([])
        self._with_regions(lambda regions: regions.import_file(Path(path)))

    def _on_imported(self, imported: Imported) -> None:
        check = imported.check
        self._view.set_report([f"{imported.path.name}", *check.lines])
        is_placed = imported.placement != AS_IS
        self._view.set_proposals(
            [] if is_placed else [f"{p.placement.words}: {p.reason}" for p in check.proposals]
        )
        self._view.set_groups_enabled(any(group.strip() for group, _ in imported.groups))
        self._view.export_start = str(imported.path.parent)
        self._show()

    def _edit_groups(self) -> None:
        regions = self._regions
        imported = regions.last_import if regions is not None else None
        if imported is None or regions is None:
            return
        mapping = imported.mapping or default_mapping(imported.check.format)
        groups = [(group, n) for group, n in imported.groups if group.strip()]
        dialog = MappingEditor(groups, mapping, classes=regions.document.classes.names, parent=self._view)

        def accepted() -> None:
            n = imported.changed_in(regions.document)
            if n == 0 or self.ask_to_discard(n):
                self._with_regions(
                    lambda r: r.import_file(imported.path, mapping=dialog.mapping(), in_place_of=imported)
                )

        dialog.accepted.connect(accepted)
        self._dialog = dialog
        dialog.open()

    def ask_to_discard(self, n: int) -> bool:
        """Ask whether regions may be read from their file again, though so many were changed since."""
        answer = QMessageBox.question(
            self._view,
            "Groups of the file",
            f"{n:,} of the imported regions were changed or deleted since. Reading the file again with other classes "
            "takes these changes back (Undo brings them here again). Read it again?",
        )
        return bool(answer == QMessageBox.StandardButton.Yes)

    def _accept_proposal(self, index: int) -> None:
        imported = self._regions.last_import if self._regions is not None else None
        if imported is not None:
            placement = imported.check.proposals[index].placement
            self._with_regions(lambda regions: regions.accept(imported, placement))
            self._view.set_proposals([])

    def export(self, path: str, format_name: str, rings: str) -> None:
        """Write the regions to a file, in a thread."""

        def start(regions: SlideRegions) -> None:
            annotations = regions.annotations()
            if annotations is None:
                msg = "There are no regions to export yet; draw some, or import a file."
                raise AnnotationError(msg)
            info = regions.slide.info
            is_cropped = (
                format_name == "qupath-geojson" and self._view.crop_box.isChecked() and _is_offset(info)
            )
            options = WriteOptions(
                slide=info,
                rings="source" if rings == "source" else "repaired",
                offset_xy=(-float(info.bounds[0]), -float(info.bounds[1])) if is_cropped else (0.0, 0.0),
            )
            sources = regions.sources

            def work(_: Callable[[], bool]) -> int:
                write_annotations(
                    path, annotations, format_name=format_name, options=options, imported_from=sources
                )
                return len(annotations.regions)

            def done(n: int) -> None:
                show_info(f"{n:,} regions written to {Path(path).name}.")

            regions.in_background(f"Writing {Path(path).name} …", work, done)

        self._with_regions(start)

    def _show_versions(self) -> None:
        def ask(regions: SlideRegions) -> None:
            saver = regions.autosaver
            if saver is None:
                return

            def show(versions: Sequence[StoredVersion]) -> None:
                dialog = VersionsDialog(versions, parent=self._view)
                dialog.restore_requested.connect(lambda version: self._restore(regions, version))
                self._dialog = dialog
                dialog.open()

            regions.in_background("", lambda _: saver.versions().result(), show)

        self._with_regions(ask)

    def _restore(self, regions: SlideRegions, version: int) -> None:
        saver = regions.autosaver
        if saver is None:
            return

        def show(stored: Stored | None) -> None:
            if stored is None:
                show_error("This version is not there any more.")
                return
            when = time.strftime("%H:%M:%S", time.localtime(stored.time))
            run_safely(lambda: regions.restore(stored, f"Go back to {when}"))

        regions.in_background("Reading an earlier version …", lambda _: saver.load(version).result(), show)

    # Keys

    def _make_keys(self) -> dict[str, Callable[[Any], None]]:
        keys: dict[str, Callable[[Any], None]] = {}
        for tool, key in TOOL_KEYS.items():
            keys[key] = _on_key(self._toggle_tool, tool)
        for action, key in ACTION_KEYS.items():
            keys[key] = _on_key(self.act, action)
        for digit in "123456789":
            keys[digit] = _on_key(self._pick_class_by_key, digit)
        keys["Escape"] = _on_key(self._give_up)
        keys["Enter"] = _on_key(self._finish)
        keys["Backspace"] = _on_key(self._take_back)
        keys["Delete"] = _on_key(self._delete_selected)
        return keys

    def _toggle_tool(self, tool: str) -> None:
        self.use_tool("" if self._board.tool == tool else tool)

    def _give_up(self) -> None:
        if not self._board.cancel():
            self.use_tool("")

    def _finish(self) -> None:
        self._board.finish()

    def _take_back(self) -> None:
        if not self._board.take_back():
            self._delete_selected()

    def _bind_layers(self) -> None:
        """Have the keys on our layers too: napari asks the selected layer first, and that has its own P, R and 1."""
        for layer in self._viewer.layers:
            if KEY in layer.metadata and layer not in self._layers_with_keys:
                self._layers_with_keys.add(layer)
                for key, act in self._keys.items():
                    layer.bind_key(key, act, overwrite=True)

    def _pick_class_by_key(self, digit: str) -> None:
        regions = self._regions
        if regions is None:
            return
        for item in regions.document.classes:
            if item.key == digit:
                self._pick_class(item.name)

    def _delete_selected(self) -> None:
        if self._regions is not None and self._regions.selected and not self._board.tool:
            self.act("delete")


def _is_offset(info: SlideInfo) -> bool:
    """Return whether the scanned part begins elsewhere than the slide: QuPath counts from there."""
    return tuple(info.bounds[:2]) != (0, 0)


def _on_key(action: Callable[..., object], *arguments: str) -> Callable[[Any], None]:
    """Return what napari calls at a key: a function, for it asks for the name."""

    def press(_: Any) -> None:
        action(*arguments)

    return press


def _filter() -> str:
    suffixes = sorted({suffix for known in FORMATS for suffix in known.suffixes})
    every = " ".join(f"*{suffix}" for suffix in suffixes)
    singly = ";;".join(f"{f.title} ({' '.join(f'*{s}' for s in f.suffixes)})" for f in FORMATS)
    return f"Annotations ({every});;{singly};;All files (*)"


def _length(length: float, mpp: tuple[float, float] | None) -> str:
    if mpp is None:
        return f"{length:,.0f} px"
    return f"{length / 1000:.4g} mm" if length >= 1000 else f"{length:.4g} µm"
