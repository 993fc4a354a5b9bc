from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from shapely.geometry import LineString, MultiPolygon, Point, Polygon

from napari_histolatent._napari._layers import (
    KEY,
    boxes_layer,
    heatmap_layer,
    level0_of,
    placement,
    slide_layer,
    tile_layer,
    um_per_px,
    world_of,
)
from napari_histolatent.annotations import Annotations, Region, read_annotations
from napari_histolatent.explain import Heatmap
from napari_histolatent.jobs.tiles import Tile, cut_tile
from napari_histolatent.latent import LatentPoint
from napari_histolatent.slides import Level, SlideInfo
from tests._napari.helpers import add, classes_of, regions_layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.slides import Slide

MPPS = [None, (0.5, 0.5), (0.2527, 0.2491), (1.0, 0.25)]
"""(x, y)."""
OUTER = [(10, 20), (110, 20), (110, 100), (10, 100)]
HOLE, OTHER_HOLE = [(30, 30), (60, 30), (60, 60), (30, 60)], [(70, 35), (100, 35), (100, 90), (70, 90)]
POINT = LatentPoint((0.5, -1.0), (1.0, 0.0), "digest", origin="seed 0, number 0")


def info_of(mpp: tuple[float, float] | None, *, size_px: tuple[int, int] = (400, 300)) -> SlideInfo:
    return SlideInfo(
        path=Path("slide.svs"),
        backend="array",
        vendor=None,
        digest="d" * 64,
        levels=(Level(*size_px, 1.0),),
        mpp_x=mpp[0] if mpp else None,
        mpp_y=mpp[1] if mpp else None,
        mpp_source="array" if mpp else None,
        bounds=(0, 0, *size_px),
        background=(255, 255, 255),
        associated=(),
    )


def annotations_of(*shapes: Any, **values: Any) -> Annotations:
    regions = tuple(
        Region(id=f"r{i}", class_name=name, geometry=geometry) for i, (name, geometry) in enumerate(shapes)
    )
    return Annotations(regions, format="test", **values)


def halved(pixels: np.ndarray) -> np.ndarray:
    """Return the mean of each two by two pixels."""
    rows, columns = (n // 2 for n in pixels.shape[:2])
    return pixels.reshape(rows, 2, columns, 2, 3).mean((1, 3)).round().astype(np.uint8)


def heatmap_of(values: Any, **changes: Any) -> Heatmap:
    fields = {"target": "stroma", "layer": "features.9", "probability": 0.75, "level0_box": (40, 60, 72, 92)}
    return Heatmap(np.asarray(values, np.float32), **(fields | changes))


# Where a point is


@pytest.mark.parametrize("mpp", MPPS)
@pytest.mark.parametrize("point", [(0.0, 0.0), (0.5, 0.5), (12.25, 7.0), (399.9, -3.5)])
def test_a_point_comes_back_from_the_world(
    point: tuple[float, float], mpp: tuple[float, float] | None
) -> None:
    info = info_of(mpp)
    assert level0_of(world_of(point, info), info) == pytest.approx(point)


def test_a_world_position_is_row_then_column_in_micrometres() -> None:
    info = info_of((0.5, 0.25))
    assert world_of((100.5, 10.5), info) == (2.5, 50.0)
    assert level0_of((2.5, 50.0), info) == (100.5, 10.5)


def test_napari_puts_the_middle_of_a_pixel_where_its_number_is() -> None:
    assert world_of((0.5, 0.5), info_of((0.5, 0.25))) == (0.0, 0.0)
    assert level0_of((0.0, 0.0), info_of(None)) == (0.5, 0.5)


def test_axes_before_row_and_column_are_passed_over() -> None:
    info = info_of((0.5, 0.25))
    assert level0_of((99.0, 2.5, 50.0), info) == (100.5, 10.5)


def test_without_a_pixel_size_a_pixel_is_the_unit() -> None:
    assert um_per_px(info_of(None)) == (1.0, 1.0)
    assert um_per_px(info_of((0.5, 0.25))) == (0.25, 0.5)


@pytest.mark.parametrize(("mpp", "unit"), [(None, "pixel"), ((0.5, 0.25), "micrometer")])
def test_every_layer_says_its_unit(
    viewer: Any,
    slide_of: Callable[..., Slide],
    noise: Callable[..., np.ndarray],
    mpp: tuple[float, float] | None,
    unit: str,
) -> None:
    slide = slide_of(noise(300, 400), mpp=mpp)
    tile = cut_tile(slide, (56, 76), size_px=32, mpp=None)
    layers = {
        "slide": slide_layer(slide),
        "regions": regions_layer(annotations_of(("a", Polygon(OUTER))), slide.info),
        "boxes": boxes_layer([(0, 0, 5, 5)], slide.info, name="b", colors=[(1, 2, 3)], role="r"),
        "tile": tile_layer(tile, slide.info, name="tile"),
        "heatmap": heatmap_layer(heatmap_of(np.ones((32, 32))), slide.info, name="Grad-CAM"),
    }
    for name, data in layers.items():
        layer = add(viewer, data)
        assert [str(v) for v in layer.units] == [unit, unit], name
        assert tuple(layer.scale) == ((0.25, 0.5) if mpp else (1.0, 1.0)), name


# Half-pixel exactness, by napari's own transforms


@pytest.mark.parametrize("mpp", MPPS)
def test_a_slide_pixel_lies_where_its_level0_point_is(
    viewer: Any,
    slide_of: Callable[..., Slide],
    noise: Callable[..., np.ndarray],
    mpp: tuple[float, float] | None,
) -> None:
    slide = slide_of(noise(300, 400), mpp=mpp)
    layer = add(viewer, slide_layer(slide))
    for row, column in ((0, 0), (299, 399), (17, 203)):
        middle = layer.data_to_world((row, column))
        assert level0_of(middle, slide.info) == pytest.approx((column + 0.5, row + 0.5))
        assert world_of((column + 0.5, row + 0.5), slide.info) == pytest.approx(tuple(middle))
    # The whole picture: level-0 pixel i covers [i, i + 1).
    assert level0_of(layer.data_to_world((-0.5, -0.5)), slide.info) == pytest.approx((0, 0))
    assert level0_of(layer.data_to_world((299.5, 399.5)), slide.info) == pytest.approx((400, 300))


@pytest.mark.parametrize("own", [(0.5, 0.5), (0.2527, 0.2491)])
def test_a_tile_lies_pixel_on_pixel(
    viewer: Any,
    slide_of: Callable[..., Slide],
    noise: Callable[..., np.ndarray],
    own: tuple[float, float],
) -> None:
    pixels = noise(300, 400)
    slide = slide_of(pixels, mpp=own)
    below = add(viewer, slide_layer(slide))
    tile = cut_tile(slide, (123.4, 87.9), size_px=32, mpp=own[0])
    layer = add(viewer, tile_layer(tile, slide.info, name="tile"))
    for row, column in ((0, 0), (0, 31), (31, 0), (31, 31), (9, 20)):
        at = np.asarray(below.world_to_data(layer.data_to_world((row, column))))
        assert at == pytest.approx(at.round(), abs=1e-6)
        assert np.array_equal(layer.data[row, column], pixels[tuple(at.round().astype(int))])


def test_a_tile_at_downsample_2_lies_on_the_four_pixels_of_each_of_its_own(
    viewer: Any, slide_of: Callable[..., Slide], noise: Callable[..., np.ndarray]
) -> None:
    pixels = noise(300, 400)
    slide = slide_of(pixels, halved(pixels), mpp=(0.5, 0.5))
    below = add(viewer, slide_layer(slide))
    tile = cut_tile(slide, (124, 88), size_px=32, mpp=1.0)
    layer = add(viewer, tile_layer(tile, slide.info, name="tile"))
    for row, column in ((0, 0), (0, 31), (31, 0), (31, 31)):
        middle = np.asarray(below.world_to_data(layer.data_to_world((row, column))))
        # The middle of four pixels is where they meet.
        assert middle % 1 == pytest.approx([0.5, 0.5])
        top, left = (middle - 0.5).round().astype(int)
        mean = pixels[top : top + 2, left : left + 2].mean((0, 1))
        assert layer.data[row, column] == pytest.approx(mean, abs=0.51)


@pytest.mark.parametrize("own", MPPS[1:])
@pytest.mark.parametrize("mpp", [0.5, 0.7, 1.0, 1.9373])
def test_the_corners_of_a_tile_lie_on_the_corners_of_what_it_was_cut_from(
    viewer: Any,
    slide_of: Callable[..., Slide],
    noise: Callable[..., np.ndarray],
    own: tuple[float, float],
    mpp: float,
) -> None:
    slide = slide_of(noise(700, 800), mpp=own)
    below = add(viewer, slide_layer(slide))
    tile = cut_tile(slide, (320.3, 300.7), size_px=32, mpp=mpp)
    layer = add(viewer, tile_layer(tile, slide.info, name="tile"))
    left, top, right, bottom = tile.level0_box
    assert (left % 1, top % 1) == (0, 0)
    # A level read as it is stored may differ by 2 % from what was asked.
    assert right - left == pytest.approx(32 * mpp / own[0], rel=0.021)
    assert bottom - top == pytest.approx(32 * mpp / own[1], rel=0.021)
    first = below.world_to_data(layer.data_to_world((-0.5, -0.5)))
    last = below.world_to_data(layer.data_to_world((31.5, 31.5)))
    assert tuple(first) == pytest.approx((top - 0.5, left - 0.5))
    assert tuple(last) == pytest.approx((bottom - 0.5, right - 0.5))


@pytest.mark.parametrize("mpp", MPPS)
def test_a_box_outlines_its_pixels(
    viewer: Any,
    slide_of: Callable[..., Slide],
    noise: Callable[..., np.ndarray],
    mpp: tuple[float, float] | None,
) -> None:
    slide = slide_of(noise(300, 400), mpp=mpp)
    below = add(viewer, slide_layer(slide))
    boxes = [(40, 60, 72, 92), (100, 10, 144.8, 54.8)]
    layer = add(
        viewer, boxes_layer(boxes, slide.info, name="b", colors=[(1, 2, 3), (255, 0, 51)], role="patches")
    )
    for (left, top, right, bottom), corners in zip(boxes, layer.data, strict=True):
        found = np.array([below.world_to_data(layer.data_to_world(corner)) for corner in corners])
        expected = np.array([[top, left], [top, right], [bottom, right], [bottom, left]]) - 0.5
        assert found == pytest.approx(expected)
    assert list(layer.shape_type) == ["rectangle"] * 2
    assert layer.edge_color[1] == pytest.approx([1, 0, 0.2, 1])
    assert layer.metadata == {KEY: {"role": "patches", "slide_digest": slide.info.digest}}


def test_a_box_and_the_tile_cut_from_it_have_the_same_extent(
    viewer: Any, slide_of: Callable[..., Slide], noise: Callable[..., np.ndarray]
) -> None:
    slide = slide_of(noise(300, 400), mpp=(0.25, 0.25))
    tile = cut_tile(slide, (150, 150), size_px=32, mpp=0.7)
    box = add(viewer, boxes_layer([tile.level0_box], slide.info, name="b", colors=[(0, 0, 0)], role="r"))
    picture = add(viewer, tile_layer(tile, slide.info, name="tile"))
    corners = np.array([box.data_to_world(corner) for corner in box.data[0]])
    ends = np.array([picture.data_to_world(corner) for corner in ((-0.5, -0.5), (31.5, 31.5))])
    assert np.array([corners.min(0), corners.max(0)]) == pytest.approx(ends)


def test_a_picture_of_any_shape_fills_its_box() -> None:
    placed = placement((10, 20, 50, 40), (5, 20, 3), info_of((0.5, 0.25)))
    assert placed["scale"] == (1.0, 1.0)  # 4 level-0 px of 0.25 um; 2 of 0.5 um
    assert placed["translate"] == ((22 - 0.5) * 0.25, (11 - 0.5) * 0.5)


# Regions


@pytest.mark.parametrize("holes", [[HOLE], [HOLE[::-1]], [HOLE, OTHER_HOLE], [OTHER_HOLE[::-1], HOLE]])
def test_napari_leaves_a_hole_open(viewer: Any, holes: list[Any]) -> None:
    polygon = Polygon(OUTER, holes)
    layer = add(viewer, regions_layer(annotations_of(("a", polygon)), info_of(None)))
    (mask,) = layer.to_masks((300, 400))
    assert mask.sum() == polygon.area
    for row, column in ((45, 45), (25, 15), (80, 50), (50, 85), (5, 5)):
        assert mask[row, column] == polygon.contains(Point(column + 0.5, row + 0.5))
    # What is drawn is what counts: the triangles of the mesh.
    shape = layer._data_view.shapes[0]
    a, b, c = shape._face_vertices[shape._face_triangles][..., -2:].transpose(1, 0, 2)
    areas = np.abs(np.linalg.det(np.stack([b - a, c - a], axis=1))) / 2
    assert areas.sum() == pytest.approx(polygon.area)


@pytest.mark.parametrize(
    "holes",
    [[], [HOLE], [HOLE[::-1]], [HOLE, OTHER_HOLE], [HOLE[::-1], OTHER_HOLE[::-1]], [OTHER_HOLE, HOLE[::-1]]],
)
@pytest.mark.parametrize("outer", [OUTER, OUTER[::-1]])
def test_a_ring_through_the_holes_has_the_area_of_the_polygon(
    outer: list[tuple[float, float]], holes: list[Any]
) -> None:
    polygon = Polygon(outer, holes)
    (ring,) = regions_layer(annotations_of(("a", polygon)), info_of(None)).data
    assert Polygon(ring).area == pytest.approx(polygon.area)
    corners = {(float(column), float(row)) for row, column in ring + 0.5}
    assert corners == {tuple(map(float, point)) for part in (outer, *holes) for point in part}


def test_each_part_of_a_region_is_a_shape_of_its_class(viewer: Any) -> None:
    parts = MultiPolygon([Polygon(OUTER), Polygon([(200, 200), (250, 200), (200, 250)])])
    annotations = annotations_of(
        ("tumour", parts),
        ("stroma", Polygon([(300, 10), (350, 10), (350, 60)])),
        ("mark", Point(5, 5)),
        ("cut", LineString([(0, 0), (5, 5)])),
        colors={"tumour": (255, 0, 51)},
    )
    layer = add(viewer, regions_layer(annotations, info_of((0.5, 0.5)), name="mine"))
    assert layer.name == "mine"
    assert list(layer.features["class"]) == ["tumour", "tumour", "stroma", "mark", "cut"]
    assert list(layer.features["id"]) == ["r0", "r0", "r1", "r2", "r3"]
    assert layer.shape_type == ["polygon", "polygon", "polygon", "ellipse", "path"]
    assert layer.edge_color[0] == pytest.approx([1, 0, 0.2, 1])
    (stroma,) = [item for item in classes_of(annotations) if item.name == "stroma"]
    assert layer.edge_color[2] == pytest.approx([*(v / 255 for v in stroma.color), 1])
    assert layer.face_color[0][:3] == pytest.approx([1, 0, 0.2])
    assert 0 < layer.face_color[0][3] < 0.3, "the tissue shines through"


def test_a_region_lies_on_its_pixels(viewer: Any, slide: Slide, tiny_regions: Path) -> None:
    below = add(viewer, slide_layer(slide))
    layer = add(viewer, regions_layer(read_annotations(tiny_regions), slide.info))
    corners = np.array([below.world_to_data(layer.data_to_world(v)) for v in layer.data[1]])
    assert corners.min(0) == pytest.approx([59.5, 399.5])
    assert corners.max(0) == pytest.approx([579.5, 699.5])


# Tiles and heatmaps


def test_the_more_evidence_the_less_shines_through() -> None:
    values = np.linspace(0, 2, 32 * 32).reshape(32, 32)
    data, options, kind = heatmap_layer(heatmap_of(values), info_of((0.5, 0.5)), name="Grad-CAM edit")
    assert (data.shape, data.dtype, kind, options["rgb"]) == ((32, 32, 4), np.uint8, "image", True)
    alpha = data[..., 3].ravel().astype(int)
    assert (np.diff(alpha) >= 0).all()
    assert (alpha[0], alpha[-1]) == (0, 255)
    assert len(np.unique(alpha)) > 200


def test_a_shared_maximum_makes_heatmaps_comparable() -> None:
    weak, strong = heatmap_of(np.full((8, 8), 0.5)), heatmap_of(np.full((8, 8), 2.0))
    alphas = [
        heatmap_layer(item, info_of(None), name="h", maximum=2.0)[0][0, 0, 3] for item in (weak, strong)
    ]
    assert alphas == [64, 255]
    assert heatmap_layer(weak, info_of(None), name="h")[0][0, 0, 3] == 255, "its own maximum by default"


def test_a_heatmap_without_evidence_hides_nothing() -> None:
    data, _, _ = heatmap_layer(heatmap_of(np.zeros((8, 8))), info_of(None), name="h")
    assert not data[..., 3].any()


def test_a_heatmap_of_another_size_lies_over_its_tile(viewer: Any) -> None:
    info = info_of((0.5, 0.25))
    layer = add(viewer, heatmap_layer(heatmap_of(np.ones((8, 16))), info, name="h"))
    assert level0_of(layer.data_to_world((-0.5, -0.5)), info) == pytest.approx((40, 60))
    assert level0_of(layer.data_to_world((7.5, 15.5)), info) == pytest.approx((72, 92))


def test_what_a_network_drew_says_so(viewer: Any, slide_of: Callable[..., Slide]) -> None:
    slide = slide_of(np.zeros((300, 400, 3), np.uint8), mpp=(0.5, 0.5))
    real = cut_tile(slide, (100, 100), size_px=32, mpp=0.5)
    drawn = real.redrawn(np.full((32, 32, 3), 9, np.uint8), POINT, "flip_stroma")
    for tile, name, synthetic in ((real, "tile", False), (drawn, "SYNTHETIC tile", True)):
        layer = add(viewer, tile_layer(tile, slide.info, name="tile"))
        assert layer.name == name
        facts = layer.metadata[KEY]
        assert (facts["role"], facts["synthetic"]) == ("tile", synthetic)
        assert facts["slide_digest"] == slide.info.digest
    assert facts["model_digest"] == "digest"
    assert LatentPoint.from_json(facts["latent_point"]) == POINT
    assert np.array_equal(layer.data, drawn.pixels)


def test_what_else_there_is_to_say_of_a_tile_is_kept(slide: Slide) -> None:
    tile = cut_tile(slide, (100, 100), size_px=32, mpp=0.5)
    _, options, _ = tile_layer(tile, slide.info, name="tile", frame=3)
    assert options["metadata"][KEY]["frame"] == 3


def test_the_metadata_of_every_layer_is_json(viewer: Any, slide: Slide, tiny_regions: Path) -> None:
    # A click arrives in numpy's numbers.
    centre = level0_of((np.float64(70.25), np.float64(50.5)), slide.info)
    tile = cut_tile(slide, centre, size_px=32, mpp=0.7)
    drawn = Tile(**{**vars(tile), "synthetic": True, "point": POINT})
    heatmap = heatmap_of(np.ones((32, 32)), level0_box=tile.level0_box, probability=float(np.float32(0.3)))
    layers = [
        slide_layer(slide),
        regions_layer(read_annotations(tiny_regions), slide.info),
        boxes_layer([tile.level0_box], slide.info, name="b", colors=[(1, 2, 3)], role="picked"),
        tile_layer(tile, slide.info, name="tile"),
        tile_layer(drawn, slide.info, name="edit"),
        heatmap_layer(heatmap, slide.info, name="Grad-CAM"),
    ]
    for data in layers:
        metadata = add(viewer, data).metadata
        assert list(metadata) == [KEY]
        read_again = json.loads(json.dumps(metadata, allow_nan=False))
        assert read_again.keys() == metadata.keys()
        assert read_again[KEY]["role"] == metadata[KEY]["role"]


def test_a_slide_layer_says_which_slide_it_is(viewer: Any, slide: Slide) -> None:
    layer = add(viewer, slide_layer(slide))
    facts = layer.metadata[KEY]
    assert layer.name == "tiny.tiff"
    assert (facts["role"], facts["digest"], facts["path"]) == (
        "slide",
        slide.info.digest,
        str(slide.info.path),
    )
    assert tuple(layer.contrast_limits) == (0, 255)
