from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

from napari_histolatent.errors import UserError
from napari_histolatent.explain import Heatmap
from napari_histolatent.explain.consistency import (
    centroid_distance,
    consistency,
    iou_of_top,
    rank_correlation,
    share_on,
    top_of,
)

NOTHING = np.zeros((20, 20), np.float32)


def bump(x: float, y: float, *, size: int = 20) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18).astype(np.float32)


def heatmap(values: np.ndarray) -> Heatmap:
    return Heatmap(values, "stroma", "features.11", 0.75)


def random_maps(n: int, seed: int = 0) -> list[Heatmap]:
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.normal(size=(n, 20, 20)), (0, 3, 3))
    return [heatmap(np.maximum(field, 0).astype(np.float32)) for field in fields]


def test_the_top_is_a_fifth_of_the_area() -> None:
    values = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    top = top_of(values)
    assert top.sum() == 80
    assert values[top].min() > values[~top].max()


def test_nothing_is_no_top() -> None:
    assert not top_of(NOTHING).any()
    few = NOTHING.copy()
    few[3, 4] = few[5, 6] = 1
    assert top_of(few).sum() == 2


def test_intersection_over_union() -> None:
    left, right = NOTHING.copy(), NOTHING.copy()
    left[:, :4], right[:, 2:6] = 1, 2
    assert iou_of_top(left, right) == pytest.approx(2 / 6)
    assert iou_of_top(left, left * 7) == 1
    assert iou_of_top(left, NOTHING) == 0
    assert math.isnan(iou_of_top(NOTHING, NOTHING))


def test_rank_correlation_is_spearmans() -> None:
    a, b = (item.values for item in random_maps(2))
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, a.max() - a) == pytest.approx(-1)
    assert math.isnan(rank_correlation(a, NOTHING))


def test_centres_of_mass() -> None:
    assert centroid_distance(bump(6, 10), bump(10, 13)) == pytest.approx(5 / 20, abs=0.01)
    assert centroid_distance(bump(6, 10), 9 * bump(6, 10)) == pytest.approx(0, abs=1e-6)
    assert math.isnan(centroid_distance(bump(6, 10), NOTHING))


def test_the_share_on_nuclei() -> None:
    mask = np.zeros((20, 20), bool)
    mask[:, :5] = True
    assert share_on(np.ones((20, 20), np.float32), mask) == pytest.approx(0.25)
    assert share_on(bump(1, 10), mask) > 0.8
    assert math.isnan(share_on(NOTHING, mask))


def test_maps_that_agree_are_beyond_chance() -> None:
    a, *others = random_maps(41)
    found = consistency(a, heatmap(a.values * 3 + 0.001), others=others)
    for measure in (found.iou_of_top, found.rank_correlation, found.centroid_distance):
        assert measure.percentile == 100
        assert measure.null_n == 40
    assert found.iou_of_top.value > 0.95 > found.iou_of_top.null_median  # type: ignore[operator]


def test_unrelated_maps_are_at_chance() -> None:
    maps = random_maps(80, seed=1)
    percentiles = [
        (found.iou_of_top.percentile, found.rank_correlation.percentile, found.centroid_distance.percentile)
        for i in range(20)
        for found in [consistency(maps[i], maps[20 + i], others=maps[40:])]
    ]
    assert np.all(np.abs(np.mean(percentiles, axis=0) - 50) < 20)


def test_ties_count_half() -> None:
    a = heatmap(bump(6, 10))
    same = consistency(a, a, others=[a, heatmap(bump(15, 3))])
    assert same.iou_of_top.percentile == 75
    assert same.centroid_distance.percentile == 75


def test_nuclei_beside_those_of_other_tiles() -> None:
    own = bump(5, 5) > 0.5
    others = [bump(x, y) > 0.5 for x, y in [(15, 5), (5, 15), (15, 15), (12, 10)]]
    on, off = heatmap(bump(5, 5)), heatmap(bump(15, 15))
    found = consistency(on, off, nuclei=(own, own), other_nuclei=others)
    assert found.on_nuclei is not None
    assert found.on_nuclei[0].percentile == 100
    assert found.on_nuclei[1].percentile == 0
    assert found.nuclei_share == (own.mean(), own.mean())
    assert found.iou_of_top.percentile is None


def test_a_map_of_nothing_has_no_figures() -> None:
    found = consistency(heatmap(NOTHING), heatmap(NOTHING), others=random_maps(3), nuclei=(NOTHING > 0,) * 2)
    facts = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert facts["iou_of_top"]["value"] == 0 or facts["iou_of_top"]["value"] is None
    assert facts["rank_correlation"]["value"] is None
    assert facts["centroid_distance"] == {
        "value": None,
        "percentile": None,
        "null_median": None,
        "null_n": 0,
    }
    assert facts["nuclei_share"] == [0, 0]


@pytest.mark.parametrize("what", ["b", "others", "nuclei", "other_nuclei"])
def test_other_sizes_are_refused(what: str) -> None:
    a, small = heatmap(bump(5, 5)), bump(5, 5, size=10)
    given = {
        "b": {"b": heatmap(small)},
        "others": {"b": a, "others": [heatmap(small)]},
        "nuclei": {"b": a, "nuclei": (small > 1, small > 1)},
        "other_nuclei": {"b": a, "other_nuclei": [small > 1]},
    }[what]
    with pytest.raises(UserError, match="have 20 x 20 and 10 x 10 px; compare those of tiles of one size"):
        consistency(a, **given)  # type: ignore[arg-type]
