from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from shapely.geometry import LineString, MultiPoint, MultiPolygon, Point, Polygon, box

from napari_histolatent.annotations import Annotations, Region

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry


def region(class_name: str, geometry: BaseGeometry) -> Region:
    return Region(id="1", class_name=class_name, geometry=geometry)


@pytest.mark.parametrize(
    ("geometry", "n_polygons"),
    [
        (box(0, 0, 1, 1), 1),
        (MultiPolygon([box(0, 0, 1, 1), box(2, 2, 3, 3)]), 2),
        (Point(1, 1), 0),
        (MultiPoint([(1, 1), (2, 2)]), 0),
        (LineString([(0, 0), (1, 1)]), 0),
    ],
)
def test_only_polygons_cover_an_area(geometry: BaseGeometry, n_polygons: int) -> None:
    it = region("a", geometry)
    assert len(it.polygons) == n_polygons
    assert all(isinstance(part, Polygon) for part in it.polygons)
    assert it.is_area is (n_polygons > 0)


def test_classes_are_those_with_an_area_sorted_and_named_once() -> None:
    shapes = [("b", box(0, 0, 1, 1)), ("a", box(0, 0, 1, 1)), ("b", box(2, 2, 3, 3)), ("mark", Point(0, 0))]
    annotations = Annotations(tuple(region(name, shape) for name, shape in shapes), format="test")
    assert annotations.classes == ("a", "b")


def test_a_colour_comes_from_the_file_or_else_from_the_palette() -> None:
    names = ["a", "b", "c"]
    annotations = Annotations(
        tuple(region(name, box(0, 0, 1, 1)) for name in names), format="test", colors={"b": (1, 2, 3)}
    )
    colors = [annotations.color_of(name) for name in names]
    assert colors[1] == (1, 2, 3)
    assert len(set(colors)) == 3
    assert colors == [annotations.color_of(name) for name in names]


def test_a_class_that_is_not_drawn_has_a_colour_too() -> None:
    color = Annotations((), format="test").color_of("new")
    assert len(color) == 3
    assert all(0 <= v <= 255 for v in color)
