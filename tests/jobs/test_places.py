from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from napari_histolatent.explain import Heatmap
from napari_histolatent.jobs.places import compared_places, place_of
from napari_histolatent.jobs.tiles import Tile

PIXELS = np.zeros((8, 8, 3), np.uint8)


def tile(name: str, **more: Any) -> Tile:
    return Tile(name=name, pixels=PIXELS, **more)


def heatmap(seed: int, **more: Any) -> Heatmap:
    values = np.random.default_rng(seed).random((8, 8)).astype(np.float32)
    return replace(Heatmap(values, "stroma", "features.11", 0.75), **more)


def test_what_shows_one_place() -> None:
    box = (0.0, 0.0, 8.0, 8.0)
    on_slide = tile("a", slide_digest="s", level0_box=box, source="a.tif@4,4")
    assert place_of(on_slide) == place_of(tile("b", slide_digest="s", level0_box=box, source="other"))
    assert place_of(on_slide) != place_of(tile("b", slide_digest="t", level0_box=box))
    assert place_of(tile("a", source="a.png")) == place_of(tile("a_flip", source="a.png"))
    assert place_of(tile("a")) is None


def test_pictures_of_one_place_are_compared_beside_those_of_others() -> None:
    tiles = [tile("a", source="a"), tile("b", source="b"), tile("a_flip", source="a", opened_as="flip.png")]
    tiles += [tile("c", source="c"), tile("nowhere"), tile("nowhere too")]
    maps = [heatmap(0), heatmap(1), heatmap(0), heatmap(2), heatmap(3), heatmap(4, target="fat")]
    (found,) = compared_places(tiles, maps)
    assert (found.first, found.second) == ("a", "flip.png")
    assert found.found is not None
    assert found.found.iou_of_top.value == 1
    assert found.found.iou_of_top.null_n == 3, (
        "b, c and the first that has no place, but not that of another class"
    )
    assert found.words.startswith("a and flip.png: overlap of the hottest fifth 1.00 (chance 0.")
    assert found.to_json()["images"] == ["a", "flip.png"]
    assert found.to_json()["consistency"]["rank_correlation"]["value"] > 0.999


def test_what_cannot_be_compared_is_said() -> None:
    tiles = [tile("a", source="a"), tile("a_flip", source="a")]
    (found,) = compared_places(tiles, [heatmap(0), heatmap(0, target="fat")])
    assert (found.to_json()["consistency"], found.words) == (
        None,
        "a and a_flip have heatmaps of stroma and of fat; give one class with --target to compare them.",
    )
    small = replace(heatmap(0), values=np.ones((4, 4), np.float32))
    (found,) = compared_places(tiles, [heatmap(0), small])
    assert "differ in size" in found.words
    assert compared_places(tiles[:1], [heatmap(0)]) == []


def test_a_map_of_nothing_has_nothing_to_measure() -> None:
    nothing = replace(heatmap(0), values=np.zeros((8, 8), np.float32))
    (found,) = compared_places([tile("a", source="a"), tile("b", source="a")], [nothing, nothing])
    assert "overlap of the hottest fifth nothing to measure" in found.words
