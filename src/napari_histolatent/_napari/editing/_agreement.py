"""Whether heatmaps of the dock agree, in words: no Qt and no napari, run in threads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from napari_histolatent._napari._editing import Models
    from napari_histolatent.explain import Heatmap
    from napari_histolatent.explain.consistency import Measure

N_UNRELATED = 16
"""Heatmaps of other tiles that chance is measured on: some tenths of a second at 64 px, and steps of 6 %."""
_AT_ONCE = 4
_SEED = 7
_AGREE_PERCENT, _A_LITTLE_PERCENT = 95.0, 75.0
"""Of the unrelated tiles, that have to overlap less."""

AGREEMENT_TIP = (
    "Overlap of the hottest fifth: of each heatmap the fifth of the tile with the highest values is taken; 1 means the same "
    "places in both, 0 none in common. Rank correlation: whether places come in the same order from cold to hot; 1 is the "
    "same order, 0 no relation. Centres: how far the middles of the heat lie apart, in percent of the tile's side. Chance: "
    f"the middle one of such figures when the first heatmap is compared with those of {N_UNRELATED} unrelated tiles that the "
    "generator drew. That two heatmaps agree is no proof that the classifier looks at the right thing."
)
"""What the figures of `agreement_words` are."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two heatmaps that are to be compared, and what they are of."""

    first: str
    second: str
    a: Heatmap
    b: Heatmap

    @property
    def is_of_one_class(self) -> bool:
        """Whether both map the evidence for one class in one layer: others have nothing in common."""
        return (self.a.target, self.a.layer) == (self.b.target, self.b.layer)

    @property
    def key(self) -> tuple[str, str]:
        """Class and layer, of which heatmaps of unrelated tiles have to be too."""
        return self.a.target, self.a.layer


def agreement_words(pair: Pair, unrelated: Sequence[Heatmap] = ()) -> str:
    """Return in a sentence how much two heatmaps agree, beside what chance gives where unrelated tiles are known."""
    from napari_histolatent.explain.consistency import consistency

    what = f"Grad-CAM of {pair.first} and {pair.second}"
    if not pair.is_of_one_class:
        return f"{what} are of different classes ({pair.a.target}, {pair.b.target}); choose one at “Evidence for” to compare them."
    fitting = [item for item in unrelated if item.values.shape == pair.a.values.shape]
    found = consistency(pair.a, pair.b, others=fitting)
    if math.isnan(found.iou_of_top.value):
        return f"{what} show no evidence for {pair.a.target}: there is nothing to compare."
    figures = [_figure("overlap of the hottest fifth", found.iou_of_top)]
    if not math.isnan(found.rank_correlation.value):
        figures.append(_figure("rank correlation", found.rank_correlation))
    if not math.isnan(found.centroid_distance.value):
        figures.append(_figure("centres", found.centroid_distance, as_share=True))
    return f"{what}{_judged(found.iou_of_top.percentile)}: {', '.join(figures)}."


def _judged(percentile: float | None) -> str:
    if percentile is None:
        return ""
    if percentile >= _AGREE_PERCENT:
        return " agree"
    if percentile >= _A_LITTLE_PERCENT:
        return " agree a little more than those of unrelated tiles"
    return " agree no more than those of unrelated tiles"


def _figure(name: str, measure: Measure, *, as_share: bool = False) -> str:
    def said(value: float) -> str:
        return f"{value:.0%}" if as_share else f"{value:.2f}"

    words = f"{name} {said(measure.value)}" + (" of the side apart" if as_share else "")
    return words if measure.null_median is None else f"{words} (chance {said(measure.null_median)})"


class UnrelatedMaps:
    """Heatmaps of tiles that a generator drew at random, computed once for each pair of networks, class and layer."""

    def __init__(self) -> None:
        self._networks: tuple[str, str] = ("", "")
        self._found: dict[tuple[str, str], tuple[Heatmap, ...]] = {}

    def known(self, models: Models, key: tuple[str, str]) -> tuple[Heatmap, ...]:
        """Return those of a class and layer that were computed before; () where none were."""
        return self._found.get(key, ()) if self._networks == _digests(models) else ()

    def compute(
        self, models: Models, key: tuple[str, str], *, should_stop: Callable[[], bool]
    ) -> tuple[Heatmap, ...]:
        """Return those of a class and layer; () without a classifier, or where it was asked to stop."""
        from napari_histolatent.jobs import edits

        known = self.known(models, key)
        if known or models.classifier is None:
            return known
        target, layer = key
        tiles = edits.sample_tiles(models.generator, N_UNRELATED, label=None, seed=_SEED)
        made: list[Heatmap] = []
        # A few at a time: what becomes urgent meanwhile is not to wait for all.
        for start in range(0, len(tiles), _AT_ONCE):
            if should_stop():
                return ()
            part = tiles[start : start + _AT_ONCE]
            made += edits.heatmaps_of(models.classifier, part, target=target, layer=layer)
        if self._networks != _digests(models):
            self._networks, self._found = _digests(models), {}
        # Of the picture alone: on which slide it is has no meaning here.
        self._found[key] = tuple(replace(item, level0_box=None) for item in made)
        return self._found[key]


def _digests(models: Models) -> tuple[str, str]:
    judge = models.classifier
    return models.generator.checkpoint.digest, judge.checkpoint.digest if judge else ""


def all_words(
    pairs: Sequence[Pair], unrelated: Mapping[tuple[str, str], Sequence[Heatmap]]
) -> tuple[str, ...]:
    """Return a sentence for each pair."""
    return tuple(agreement_words(pair, unrelated.get(pair.key, ())) for pair in pairs)
