from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from napari_histolatent._napari._editing import Models
from napari_histolatent._napari.editing import _agreement as agreement
from napari_histolatent._napari.editing._agreement import Pair, UnrelatedMaps, agreement_words
from napari_histolatent.explain import Heatmap
from napari_histolatent.jobs import edits
from tests._napari.editing.untrained import untrained_generator

NOTHING = np.zeros((20, 20), np.float32)


def heatmap(x: float, y: float, *, target: str = "tumour") -> Heatmap:
    rows, columns = np.mgrid[:20, :20]
    values = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18).astype(np.float32)
    return Heatmap(values, target, "features.11", 0.75)


CORNERS = [heatmap(x, y) for x in (2, 17) for y in (2, 17)]


def words(a: Heatmap, b: Heatmap, unrelated: Any = ()) -> str:
    return agreement_words(Pair("tile", "reconstruction", a, b), unrelated)


def test_the_figures_stand_beside_those_of_chance() -> None:
    said = words(heatmap(10, 10), heatmap(10, 11), CORNERS)
    assert said.startswith("Grad-CAM of tile and reconstruction agree: overlap of the hottest fifth 0.")
    assert said.count("(chance ") == 3
    assert "centres 5% of the side apart (chance 46%)" in said


def test_no_more_than_chance_is_called_so() -> None:
    far = words(heatmap(2, 2), heatmap(17, 17), [heatmap(2, 3), heatmap(17, 2), heatmap(3, 3)])
    assert "reconstruction agree no more than those of unrelated tiles: overlap" in far
    little = words(heatmap(10, 10), heatmap(10, 12), [heatmap(10, 10), *CORNERS])
    assert "agree a little more than those of unrelated tiles: overlap" in little


def test_without_unrelated_tiles_only_the_figures_are_said() -> None:
    said = words(heatmap(10, 10), heatmap(10, 10))
    assert said == (
        "Grad-CAM of tile and reconstruction: overlap of the hottest fifth 1.00, rank correlation 1.00, "
        "centres 0% of the side apart."
    )
    other_size = replace(CORNERS[0], values=np.ones((4, 4), np.float32))
    assert words(heatmap(10, 10), heatmap(10, 10), [other_size]) == said


def test_what_cannot_be_compared_is_said() -> None:
    said = words(heatmap(3, 3), heatmap(3, 3, target="healthy"), CORNERS)
    assert "are of different classes (tumour, healthy); choose one at “Evidence for”" in said
    nothing = replace(CORNERS[0], values=NOTHING)
    assert "show no evidence for tumour: there is nothing to compare." in words(nothing, nothing, CORNERS)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> tuple[Models, list[tuple[int, str, str]]]:
    """Networks, and what heatmaps were asked for: how many, of which class and layer."""
    asked: list[tuple[int, str, str]] = []

    def heatmaps_of(_: Any, tiles: Any, *, target: str, layer: str) -> list[Heatmap]:
        asked.append((len(tiles), target, layer))
        return [replace(CORNERS[0], target=target, layer=layer, level0_box=(0, 0, 1, 1)) for _ in tiles]

    monkeypatch.setattr(edits, "heatmaps_of", heatmaps_of)
    generator: Any = untrained_generator()
    return Models(generator, generator), asked


def test_heatmaps_of_unrelated_tiles_are_computed_once(
    models: tuple[Models, list[tuple[int, str, str]]],
) -> None:
    loaded, asked = models
    unrelated, key = UnrelatedMaps(), ("tumour", "features.11")
    assert unrelated.known(loaded, key) == ()
    found = unrelated.compute(loaded, key, should_stop=lambda: False)
    assert len(found) == agreement.N_UNRELATED == sum(n for n, *_ in asked)
    assert {(target, layer) for _, target, layer in asked} == {key}
    assert all(item.level0_box is None for item in found)
    n_asked = len(asked)
    assert unrelated.compute(loaded, key, should_stop=lambda: False) is found
    assert unrelated.known(loaded, key) is found
    assert len(asked) == n_asked
    unrelated.compute(loaded, ("healthy", "features.11"), should_stop=lambda: False)
    assert len(asked) == 2 * n_asked
    assert unrelated.known(loaded, key) is found, "another class costs the first one nothing"
    other = replace(loaded, generator=untrained_generator(digest="e" * 64))
    assert unrelated.known(other, key) == ()


def test_they_stop_when_something_urgent_comes(models: tuple[Models, list[tuple[int, str, str]]]) -> None:
    loaded, asked = models
    unrelated, key = UnrelatedMaps(), ("tumour", "features.11")
    assert unrelated.compute(loaded, key, should_stop=lambda: len(asked) > 0) == ()
    assert len(asked) == 1
    assert unrelated.known(loaded, key) == ()
    assert unrelated.compute(replace(loaded, classifier=None), key, should_stop=lambda: False) == ()
