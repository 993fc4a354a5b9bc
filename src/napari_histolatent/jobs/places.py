"""Pictures of one place (tile, reconstruction, flip): whether a classifier looks at the same spots in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from napari_histolatent.explain import Heatmap
    from napari_histolatent.explain.consistency import Consistency, Measure
    from napari_histolatent.jobs.tiles import Tile


@dataclass(frozen=True)
class Compared:
    """Two pictures of one place, and how much their heatmaps agree."""

    first: str
    second: str
    found: Consistency | None
    """None: they map different classes or have different sizes, which cannot be compared."""
    remark: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `histolatent gradcam --json` reports."""
        found = None if self.found is None else self.found.to_json()
        return {"images": [self.first, self.second], "consistency": found, "remark": self.remark}

    @property
    def words(self) -> str:
        """A line for the command line."""
        if self.found is None:
            return self.remark
        figures = [
            ("overlap of the hottest fifth", self.found.iou_of_top),
            ("rank correlation", self.found.rank_correlation),
            ("distance of the centres as a share of the side", self.found.centroid_distance),
        ]
        said = ", ".join(_figure(name, measure) for name, measure in figures)
        return f"{self.first} and {self.second}: {said}"


def compared_places(tiles: Sequence[Tile], heatmaps: Sequence[Heatmap]) -> list[Compared]:
    """Compare the heatmap of the first picture of each place with those of the others of that place.

    Chance is measured on the pictures of other places that are given, as far as their heatmaps are of the same class
    and layer.

    Parameters
    ----------
    tiles
        Pictures that know where they came from: places of a slide, or files of ours.
    heatmaps
        One a tile.
    """
    from napari_histolatent.explain.consistency import consistency

    places: dict[Hashable, list[int]] = {}
    for i, tile in enumerate(tiles):
        place = place_of(tile)
        if place is not None:
            places.setdefault(place, []).append(i)
    compared = []
    for place, (first, *rest) in places.items():
        a = heatmaps[first]
        others = [
            item
            for tile, item in zip(tiles, heatmaps, strict=True)
            if place_of(tile) != place and _are_alike(a, item)
        ]
        for i in rest:
            names, b = (_name(tiles[first]), _name(tiles[i])), heatmaps[i]
            if _are_alike(a, b):
                compared.append(Compared(*names, consistency(a, b, others=others)))
            elif a.target != b.target:
                why = f"{names[0]} and {names[1]} have heatmaps of {a.target} and of {b.target}; give one class with --target to compare them."
                compared.append(Compared(*names, None, why))
            else:
                why = f"{names[0]} and {names[1]} differ in size; give pictures of one size to compare their heatmaps."
                compared.append(Compared(*names, None, why))
    return compared


def place_of(tile: Tile) -> Hashable | None:
    """Return what pictures of one place have in common; None where a tile does not know where it came from."""
    if tile.slide_digest and tile.level0_box:
        return tile.slide_digest, tile.level0_box
    return tile.source or None


def _are_alike(a: Heatmap, b: Heatmap) -> bool:
    return (a.target, a.layer, a.values.shape) == (b.target, b.layer, b.values.shape)


def _name(tile: Tile) -> str:
    return tile.opened_as or tile.name


def _figure(name: str, measure: Measure) -> str:
    value = "nothing to measure" if math.isnan(measure.value) else f"{measure.value:.2f}"
    return f"{name} {value}" + ("" if measure.null_median is None else f" (chance {measure.null_median:.2f})")
