"""The Shapes layer of a slide's regions, in step with the document both ways.

What is done to the layer with napari's own tools (draw, move, edit vertices, delete, change the class in the
feature table) becomes a change of the document; what changes in the document is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from napari.layers import Shapes
from shapely.geometry import MultiPoint, Point

from napari_histolatent._napari._layers import KEY, space_of
from napari_histolatent._napari.regions._outlines import (
    geometry_of,
    outlines_of,
    together,
    with_vertices_moved,
)
from napari_histolatent.annotations import UNCLASSIFIED, Region, edited
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from napari_histolatent._napari.regions._outlines import Outlines
    from napari_histolatent.annotations import ClassTable, RegionClass, RegionDocument
    from napari_histolatent.slides import SlideInfo

_FACE_ALPHA = 0.12
_NO_COLOR = (128, 128, 128)


def build_layer(
    regions: Sequence[Region], classes: ClassTable, info: SlideInfo, *, name: str, edge_width: float
) -> tuple[Shapes, Outlines]:
    """Return a new Shapes layer of regions, and of which region each shape is. May run in any thread."""
    outlines = outlines_of(regions)
    by_id = {region.id: region for region in regions}
    rows = [by_id[own] for own in outlines.ids]
    layer = Shapes(
        outlines.data or None,
        ndim=2,
        shape_type=outlines.shape_types or "polygon",
        edge_color=_colors(rows, classes, 1.0) if rows else "white",
        face_color=_colors(rows, classes, _FACE_ALPHA) if rows else "transparent",
        edge_width=edge_width,
        # As objects: an empty column of napari's is one of numbers, and takes no text.
        features={
            "class": np.array([region.class_name for region in rows], object),
            "name": np.array([region.name for region in rows], object),
            "id": np.array(outlines.ids, object),
        },
        feature_defaults={"class": UNCLASSIFIED, "name": "", "id": ""},
        name=name,
        metadata={KEY: {"role": "regions", "slide_digest": info.digest}},
        **space_of(info),
    )
    return layer, outlines


class RegionShapes:
    """Keeps one Shapes layer and one document in step.

    Parameters
    ----------
    layer, outlines
        As `build_layer` made them.
    document
        The regions; only those with a shape in the layer are looked after.
    current_class
        Returns the name of the class that new shapes get.
    on_refused
        Called with the sentence where a change is refused; the layer then shows again what is true.
    """

    def __init__(
        self,
        layer: Shapes,
        outlines: Outlines,
        document: RegionDocument,
        *,
        current_class: Callable[[], str],
        on_refused: Callable[[str], None],
    ) -> None:
        self.layer, self._document = layer, document
        self._rows = list(outlines.ids)
        self._current_class, self._on_refused = current_class, on_refused
        self._is_own = False
        layer.events.data.connect(self._on_data)
        layer.events.features.connect(self._on_features)

    def close(self) -> None:
        """Stop looking after the layer."""
        self.layer.events.data.disconnect(self._on_data)
        self.layer.events.features.disconnect(self._on_features)

    # What is selected

    @property
    def ids(self) -> tuple[str, ...]:
        """The region of each shape, in the layer's order."""
        return tuple(self._rows)

    @property
    def selected(self) -> tuple[str, ...]:
        """Ids of the selected regions."""
        rows = sorted(int(row) for row in self.layer.selected_data)
        return tuple(dict.fromkeys(self._rows[row] for row in rows if row < len(self._rows)))

    def select(self, ids: Iterable[str]) -> None:
        """Select regions, with all their parts."""
        wanted = set(ids)
        self.layer.selected_data = {row for row, own in enumerate(self._rows) if own in wanted}

    def set_current(self, item: RegionClass) -> None:
        """Draw new shapes in a class; what is selected keeps its own."""
        color = np.array(item.color) / 255
        with self.layer.block_update_properties():
            self.layer.current_edge_color = [*color, 1.0]
            self.layer.current_face_color = [*color, _FACE_ALPHA]
        defaults = {"class": item.name, "name": "", "id": ""}
        if dict(self.layer.feature_defaults.iloc[0]) != defaults:
            self._own(lambda: setattr(self.layer, "feature_defaults", defaults))

    # From the document to the layer

    def show(self, ids: Iterable[str], *, only_shown: bool = False) -> None:
        """Bring the shapes of some regions up to date: gone, changed, or new."""
        ids = set(ids)
        if only_shown:
            ids &= set(self._rows)
        regions = [
            region
            for own in ids
            if (region := self._document.regions.get(own)) is not None and self._is_visible(region)
        ]
        self._own(lambda: self._replace(ids, regions))

    def recolor(self) -> None:
        """Show the classes' colours."""
        # One that the same change takes away is still shown.
        rows = [self._document.regions.get(own) for own in self._rows]
        if rows:

            def paint() -> None:
                self.layer.edge_color = _colors(rows, self._document.classes, 1.0)
                self.layer.face_color = _colors(rows, self._document.classes, _FACE_ALPHA)

            self._own(paint)

    def set_edge_width(self, width: float) -> None:
        """Draw all outlines so wide, in level-0 pixels."""
        with self.layer.block_update_properties():
            self.layer.current_edge_width = width
        if self._rows:
            self._own(lambda: setattr(self.layer, "edge_width", width))

    def _own(self, action: Callable[[], None]) -> None:
        was, self._is_own = self._is_own, True
        try:
            action()
        finally:
            self._is_own = was

    def _is_visible(self, region: Region) -> bool:
        item = self._document.classes.get(region.class_name)
        return item is None or item.is_visible

    def _replace(self, ids: set[str], regions: Sequence[Region]) -> None:
        selected = set(self.selected)
        old = [row for row, own in enumerate(self._rows) if own in ids]
        width = self.layer.current_edge_width
        if old:
            # Nothing selected, or napari takes a removed shape's colour for the next one.
            self.layer.selected_data = set()
            self.layer.remove(old)
            gone = set(old)
            self._rows = [own for row, own in enumerate(self._rows) if row not in gone]
        outlines = outlines_of(regions)
        if len(outlines):
            by_id = {region.id: region for region in regions}
            rows = [by_id[own] for own in outlines.ids]
            self.layer.add(
                outlines.data,
                shape_type=outlines.shape_types,
                edge_color=_colors(rows, self._document.classes, 1.0),
                face_color=_colors(rows, self._document.classes, _FACE_ALPHA),
                edge_width=width,
            )
            first = len(self._rows)
            self._rows += outlines.ids
            self._describe(range(first, len(self._rows)))
        self.select(selected)

    def _describe(self, rows: Iterable[int]) -> None:
        """Write class, name and id of some rows into the feature table."""
        table = self.layer.features
        columns = {name: table.columns.get_loc(name) for name in ("class", "name", "id")}
        for row in rows:
            region = self._document.regions[self._rows[row]]
            table.iat[row, columns["class"]] = region.class_name
            table.iat[row, columns["name"]] = region.name
            table.iat[row, columns["id"]] = region.id

    # From the layer to the document

    def _on_data(self, event: Any) -> None:
        if self._is_own:
            return
        action = str(getattr(event.action, "value", event.action))
        n_shapes = len(self.layer.data)
        if action == "added" and n_shapes > len(self._rows):
            self._take_new(range(len(self._rows), n_shapes))
        elif action in ("removed", "changed"):
            rows = sorted({row % len(self._rows) for row in event.data_indices}) if self._rows else []
            if n_shapes + (len(rows) if action == "removed" else 0) != len(self._rows):
                self._take_all()
            elif action == "removed":
                self._take_removed(rows)
            else:
                self._take_changed(rows)

    def _drawn(self, rows: Iterable[int], *, is_copy: bool = False) -> list[Region]:
        """Return new regions of some shapes; copies are of the class in the table, others of the current one."""
        new = []
        for row in rows:
            geometry = geometry_of([(self.layer.shape_type[row], self.layer.data[row])])
            if geometry is not None:
                class_name, name = self._texts(row) if is_copy else (self._current_class(), "")
                new.append(Region(str(uuid4()), class_name, geometry, name))
        return new

    def _take_new(self, rows: range, *, is_copy: bool = False) -> None:
        new = self._drawn(rows, is_copy=is_copy)
        ids = {region.id for region in new}
        # The shapes as drawn go, and come back as what is true: an outline that crosses itself is repaired.
        self._own(lambda: self.layer.remove(list(rows)))
        if self._change("Draw region" if len(new) == 1 else f"Draw {len(new)} regions", new):
            self._own(lambda: self._replace(ids, [r for r in new if self._is_visible(r)]))
            self.select(ids)

    def _take_all(self) -> None:
        """Take what a script put in the place of all shapes."""
        gone, new = set(self._rows), self._drawn(range(len(self.layer.data)))
        self._rows = [""] * len(self.layer.data)
        if self._change("Replace all regions", new, gone):
            gone = {region.id for region in new}
        regions = [self._document.regions[own] for own in gone]
        self._own(lambda: self._replace({""}, [region for region in regions if self._is_visible(region)]))

    def _take_removed(self, rows: Sequence[int]) -> None:
        gone = set(rows)
        touched = {self._rows[row] for row in gone}
        self._rows = [own for row, own in enumerate(self._rows) if row not in gone]
        left = touched & set(self._rows)
        put = [region for own in left if (region := self._as_shown(own)) is not None]
        if not self._change(
            f"Delete {len(touched)} regions" if len(touched) > 1 else "Delete region", put, touched - left
        ):
            self.show(touched)
            return
        crooked = [own for own in left if not self._shows_truly(own)]
        if crooked:
            self.show(crooked)

    def _take_changed(self, rows: Sequence[int]) -> None:
        touched = list(dict.fromkeys(self._rows[row] for row in rows))
        put, remove = [], []
        for own in touched:
            region = self._as_shown(own)
            if region is None:
                remove.append(own)
            else:
                put.append(region)
        if not self._change(
            "Edit outline" if len(touched) == 1 else f"Move {len(touched)} regions", put, remove
        ):
            self.show(touched)
            return
        crooked = [own for own in touched if own in remove or not self._shows_truly(own)]
        if crooked:
            self.show(crooked)

    def _as_shown(self, own: str) -> Region | None:
        """Return a region with the geometry that its shapes have now."""
        region = self._document.regions[own]
        rows = [row for row, other in enumerate(self._rows) if other == own]
        shapes = [(self.layer.shape_type[row], np.asarray(self.layer.data[row])) for row in rows]
        geometry: BaseGeometry | None = self._moved(region, shapes)
        if geometry is None:
            is_point = isinstance(region.geometry, (Point, MultiPoint))
            geometry = geometry_of(shapes, is_point=is_point)
        return None if geometry is None else edited(region, geometry)

    def _moved(self, region: Region, shapes: Sequence[tuple[str, NDArray[Any]]]) -> BaseGeometry | None:
        """Return a region's geometry where vertices were moved but none added or taken away."""
        expected = outlines_of([region])
        if len(expected) != len(shapes) or not all(
            kind == "polygon" and len(old) == len(new)
            for kind, old, (_, new) in zip(expected.shape_types, expected.data, shapes, strict=True)
        ):
            return None
        parts = [
            with_vertices_moved(polygon, vertices)
            for polygon, (_, vertices) in zip(region.polygons, shapes, strict=True)
        ]
        left = [part for part in parts if part is not None]
        return together(left) if left else None

    def _shows_truly(self, own: str) -> bool:
        """Return whether the shapes of a region are what its geometry would be drawn as."""
        expected = outlines_of([self._document.regions[own]]).data
        rows = [row for row, other in enumerate(self._rows) if other == own]
        return len(expected) == len(rows) and all(
            want.shape == np.shape(self.layer.data[row])
            and np.allclose(want, self.layer.data[row], atol=1e-6)
            for want, row in zip(expected, rows, strict=True)
        )

    def _on_features(self, _: Any) -> None:
        if self._is_own:
            return
        n_shapes, table = len(self.layer.data), self.layer.features
        if n_shapes > len(self._rows) and len(table) == n_shapes:
            # Pasted: napari tells of the table only.
            self._take_new(range(len(self._rows), n_shapes), is_copy=True)
            return
        if len(table) != len(self._rows):
            return
        if not {"class", "name", "id"} <= set(table.columns):
            self._own(self._mend_table)
            return
        wanted: dict[str, Region] = {}
        for row, own in enumerate(self._rows):
            region = self._document.regions[own]
            class_name, text = self._texts(row)
            if (class_name, text) != (region.class_name, region.name):
                wanted[own] = Region(own, class_name, region.geometry, text, region.source)
        if wanted:
            self._change("Change features", list(wanted.values()))
            self.show(wanted)
        if list(self.layer.features["id"]) != self._rows:
            self._own(self._mend_table)

    def _texts(self, row: int) -> tuple[str, str]:
        """Return the class and the name in a row of the feature table."""
        table = self.layer.features
        values = [table[column].iloc[row] if column in table else None for column in ("class", "name")]
        # What is missing is None, or a number that is not itself.
        class_name, name = ("" if value is None or value != value else str(value) for value in values)
        return class_name.strip() or UNCLASSIFIED, name

    def _mend_table(self) -> None:
        """Put our columns back, with what is true."""
        table = self.layer.features.copy()
        rows = [self._document.regions[own] for own in self._rows]
        table["class"] = np.array([region.class_name for region in rows], object)
        table["name"] = np.array([region.name for region in rows], object)
        table["id"] = np.array(self._rows, object)
        self.layer.features = table

    def _change(self, title: str, put: Sequence[Region], remove: Iterable[str] = ()) -> bool:
        """Make a change of the document; whether it was made. The layer shows it already."""
        if not put and not remove:
            return False
        was, self._is_own = self._is_own, True
        try:
            return self._document.apply(title, put, remove) is not None
        except AnnotationError as error:
            self._on_refused(str(error))
            return False
        finally:
            self._is_own = was

    @property
    def is_telling(self) -> bool:
        """Whether a change of the document is being made by what was done to the layer."""
        return self._is_own


def _colors(regions: Sequence[Region | None], classes: ClassTable, alpha: float) -> NDArray[np.float64]:
    table = {item.name: item.color for item in classes}
    rgb = (
        np.array([table.get(region.class_name if region else "", _NO_COLOR) for region in regions]).reshape(
            -1, 3
        )
        / 255
    )
    return np.column_stack([rgb, np.full(len(rgb), alpha)])
