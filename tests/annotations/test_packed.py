"""Annotations as flat arrays: what is unpacked is what was packed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from shapely.geometry import LineString, MultiPoint, MultiPolygon, Point, Polygon, box

from napari_histolatent.annotations import Annotations, Region, Repair, SourceRing, read_annotations
from napari_histolatent.annotations._packed import pack, unpack

if TYPE_CHECKING:
    from pathlib import Path

ODD = ["", "Drüse µ 腫瘍", 'say "aah" \\ & <b>', " blank ", "line\nbreak\0", "🔬", "None", "\ud800"]


def assert_same(one: Annotations | None, other: Annotations) -> None:
    assert one is not None
    assert len(one.regions) == len(other.regions)
    for a, b in zip(one.regions, other.regions, strict=True):
        assert (a.id, a.class_name, a.name) == (b.id, b.class_name, b.name)
        assert a.geometry.equals_exact(b.geometry, 0)
        assert a.geometry.geom_type == b.geometry.geom_type
        assert len(a.source) == len(b.source)
        for x, y in zip(a.source, b.source, strict=True):
            assert x.is_hole is y.is_hole
            np.testing.assert_array_equal(x.xy, y.xy)
    for name in (
        "format",
        "colors",
        "elements",
        "repairs",
        "tidied",
        "dropped",
        "messages",
        "groups",
        "hole_class",
    ):
        assert getattr(one, name) == getattr(other, name), name


def test_every_kind_of_region_with_odd_texts_and_source_rings(tmp_path: Path) -> None:
    holed = Polygon(box(0, 0, 1 / 3, 10).exterior, [box(0.1, 2, 0.2, 4).exterior])
    shapes = [holed, MultiPolygon([holed, box(5, 5, 6, 6)]), Point(1e9, -1e-9), MultiPoint([(1, 2), (3, 4)])]
    shapes += [LineString([(0, 0), (np.pi, np.e)])] * 4
    rings = [
        SourceRing(np.array([[0, np.nan], [1, np.inf], [1e300, 5]]), is_hole=False),
        SourceRing(np.zeros((0, 2)), is_hole=True),
        SourceRing(np.random.default_rng(0).random((50, 2)), is_hole=True),
    ]
    before = Annotations(
        tuple(
            Region(f"id {text}", text, shape, ODD[-1 - i], tuple(rings[: i % 4]))
            for i, (text, shape) in enumerate(zip(ODD, shapes, strict=True))
        ),
        format="test",
        colors={"Drüse": (1, 2, 3), "": (255, 0, 0)},
        elements=12,
        repairs=(Repair("shape 1", 0.1, 1 / 3), Repair("ü", -1.0, 2.0)),
        tidied=3,
        dropped=4,
        messages=("one", 'two "2"'),
        groups={"": 3, "_2": 1},
        hole_class="negative",
    )
    pack(before, tmp_path / "a.npz")
    assert_same(unpack(tmp_path / "a.npz"), before)


def test_nothing_at_all(tmp_path: Path) -> None:
    before = Annotations((), format="test", messages=("all were dropped",), dropped=7, elements=7)
    pack(before, tmp_path / "a.npz")
    assert_same(unpack(tmp_path / "a.npz"), before)


@pytest.mark.parametrize("n", [999, 1000, 1001, 3500])
def test_regions_over_the_edge_of_a_chunk(tmp_path: Path, n: int) -> None:
    ring = SourceRing(np.ones((3, 2)), is_hole=False)
    before = Annotations(
        tuple(Region(str(i), f"c{i % 7}", Point(i, i), source=(ring,) * (i % 3)) for i in range(n)),
        format="test",
    )
    pack(before, tmp_path / "a.npz")
    assert_same(unpack(tmp_path / "a.npz"), before)
    asked = iter([False, True, True, True])
    assert unpack(tmp_path / "a.npz", should_stop=lambda: next(asked)) is None or n <= 1000


@pytest.mark.parametrize(
    "name", ["annotations/asap/camelyon16_tumor_039.xml", "nuclei/monuseg/TCGA-A6-6782-01A-01-BS1.xml"]
)
def test_real_files(data_dir: Path, tmp_path: Path, name: str) -> None:
    before = read_annotations(data_dir / name)
    pack(before, tmp_path / "a.npz")
    assert_same(unpack(tmp_path / "a.npz"), before)
