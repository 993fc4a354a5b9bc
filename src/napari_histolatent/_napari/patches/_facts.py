"""What is known of single patches: class, fractions, and cards of it for the gallery."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import numpy as np

from napari_histolatent._napari.patches._hand_marks import MarkKey
from napari_histolatent._napari.patches._planner import corner_numbers
from napari_histolatent._napari.widgets.patch_model import NO_CLASS, Card, CardTable
from napari_histolatent.annotations import Annotations
from napari_histolatent.jobs.tiles import Tile, cut_tile
from napari_histolatent.patches import (
    UNLABELLED,
    GridSpec,
    Resolution,
    TissueMask,
    cover,
    label_of,
    quality_of,
    resolutions,
)
from napari_histolatent.patches._cutting import read_patch
from napari_histolatent.patches._index import MEMBER, NO_LABEL
from napari_histolatent.patches._plan import without_default

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from numpy.typing import NDArray

    from napari_histolatent._napari.patches._hand_marks import Decision
    from napari_histolatent._napari.patches._planner import Planned, Settled
    from napari_histolatent.patches import LabelSpec
    from napari_histolatent.slides import Slide

PatchId = tuple[str, MarkKey]
"""Digest of the slide, and which patch of it: the key of its card."""
RGB = tuple[int, int, int]

NO_CLASS_COLOR: RGB = (128, 128, 128)


@dataclass(frozen=True)
class Facts:
    """What the rule and the regions say of a patch."""

    label: str = ""
    """Class by the rule, "" if it gives none."""
    values: dict[str, float] = field(default_factory=dict)
    """Shares by class, and of tissue where it is known."""
    lacks_tissue: bool = False
    """Whether it has no class for that it shows less tissue than a patch needs."""

    @property
    def how_to_label(self) -> str:
        """What to do where the rule gives no class."""
        if self.lacks_tissue:
            return "no tissue: press a digit to label it"
        return "no class: the rule gives none; press a digit"


@dataclass(frozen=True)
class CutPatch:
    """A patch that was read."""

    pixels: NDArray[np.uint8]
    quality: dict[str, float]


def facts_of(
    keys: Sequence[MarkKey],
    annotations: Annotations | None,
    labels: LabelSpec,
    mask: TissueMask | None = None,
    *,
    min_tissue: float = 0.0,
    should_stop: Callable[[], bool] | None = None,
) -> dict[MarkKey, Facts]:
    """Return what the rule says of single patches, wherever they lie. For a worker thread.

    What shows less than `min_tissue` of tissue is no unannotated tissue; where there is no mask, that is not known.
    """
    if not keys:
        return {}
    boxes = np.array([(k.x, k.y, k.x + k.width_px, k.y + k.width_px) for k in keys], np.float64)
    tissue = None if mask is None else mask.fractions(boxes)
    annotations = annotations or Annotations((), format="none")
    classes = annotations.classes
    coverage = cover(annotations, classes, boxes, with_regions=False, should_stop=should_stop)
    found_label, names = label_of(coverage, classes, labels)
    is_glass = np.zeros(len(keys), bool) if tissue is None else tissue < min_tissue
    label = without_default(found_label, is_glass, coverage, classes, labels)
    lacks_tissue = label != found_label
    shares = coverage.shares
    found = {}
    for i, key in enumerate(keys):
        values = {name: float(shares[i, j]) for j, name in enumerate(classes)}
        if tissue is not None:
            values["tissue"] = float(tissue[i])
        name = "" if label[i] == UNLABELLED else names[int(label[i])]
        found[key] = Facts(name, values, bool(lacks_tissue[i]))
    return found


def resolution_of(slide: Slide, key: MarkKey, planned: Planned | None) -> Resolution:
    """Return at what a patch is read."""
    if planned is not None:
        resolution = planned.grid.positions.resolution
        if abs(resolution.downsample[0] - key.downsample) < 1e-6:
            return resolution
    return resolutions(slide, GridSpec(size_px=key.size_px, downsamples=(max(1.0, key.downsample),)))[0]


def cut_patch(slide: Slide, key: MarkKey, resolution: Resolution) -> CutPatch:
    """Read a patch and measure it. For a worker thread.

    Raises
    ------
    SlideError
        If the slide cannot be read.
    """
    pixels = read_patch(
        slide,
        np.array([key.x, key.y]),
        size_px=key.size_px,
        level=resolution.level,
        downsample=np.array(resolution.downsample),
    )
    quality = {name: float(values[0]) for name, values in quality_of(pixels[None]).items()}
    return CutPatch(pixels, quality)


def labelled_tile(
    slide: Slide,
    annotations: Annotations | None,
    centre: tuple[float, float],
    *,
    size_px: int,
    mpp: float | None,
    labels: LabelSpec,
) -> Tile:
    """Return the tile around a level-0 point, with its class by the rule (None where that gives none).

    Raises
    ------
    UserError
        If the point lies off the slide.
    """
    tile = cut_tile(slide, centre, size_px=size_px, mpp=mpp)
    if annotations is None or not annotations.classes:
        return tile
    assert tile.level0_box is not None
    coverage = cover(annotations, annotations.classes, np.array([tile.level0_box]), with_regions=False)
    (label,), names = label_of(coverage, annotations.classes, labels)
    return tile if label == UNLABELLED else replace(tile, label=names[label])


def mark_card(
    patch: PatchId,
    decision: Decision,
    facts: Facts,
    quality: Mapping[str, float],
    slide_name: str,
    color_of: Callable[[str], RGB],
    reason: str = "",
) -> Card:
    """Return the card of a patch that was marked by hand; `reason`: why it is left out all the same."""
    _, key = patch
    label = decision.label or facts.label
    notes = []
    if decision.is_picked:
        notes.append("picked by a click")
    if decision.label:
        notes.append(f"class by hand (the rule says: {facts.label or 'none'})")
    if not decision.is_in:
        notes.append("left out by hand")
    elif not label:
        notes.append(facts.how_to_label)
    elif reason:
        notes.append(f"left out: {reason}")
    return Card(
        key=patch,
        label=label,
        color=color_of(label) if label else NO_CLASS_COLOR,
        slide=slide_name,
        values={**facts.values, **quality},
        note="; ".join(notes),
        is_left_out=not decision.is_in or not label or bool(reason),
        xy=(key.x, key.y),
    )


def grid_table(
    planned: Planned,
    settlement: Settled | None,
    qualities: Mapping[PatchId, Mapping[str, float]],
    color_of: Callable[[str], RGB],
) -> CardTable:
    """Return a card for each patch of the first grid, made when it is looked at. For a worker thread.

    Only whole columns are touched: 200,000 objects would keep all other threads waiting for a second.
    """
    grid, info = planned.grid, planned.request.slide.info
    positions, n = grid.positions, len(grid)
    size_px, downsample = positions.size_px, positions.resolution.downsample[0]
    digest, names = info.digest, (*grid.label_names, NO_CLASS)
    colors = {name: color_of(name) for name in grid.label_names}
    if settlement is not None and len(settlement.left_out) >= n:
        left_out = settlement.left_out[:n]
    else:
        left_out = np.array([NO_LABEL, MEMBER], object)[grid.is_in.astype(np.int64)]
    measured: dict[int, Mapping[str, float]] = {}
    slot_of = _slots_of(planned)
    for patch, quality in qualities.items():
        slot = slot_of(patch)
        if slot >= 0:
            measured[slot] = quality
    values = {name: grid.coverage.shares[:, i] for i, name in enumerate(grid.classes)}
    values["tissue"] = grid.tissue
    columns: dict[str, NDArray[np.float32]] = {}
    for slot, quality in measured.items():
        for name, value in quality.items():
            if name not in columns:  # a class may have the name too
                columns[name] = np.array(values.get(name, np.full(n, np.nan)), np.float32)
            columns[name][slot] = value

    def key_of(slot: int) -> PatchId:
        x, y = positions.level0_xy[slot].tolist()
        return digest, MarkKey(x, y, size_px, downsample)

    def card_of(slot: int) -> Card:
        patch, name, reason = key_of(slot), names[grid.label[slot]], left_out[slot]
        shares = zip(grid.classes, grid.coverage.shares[slot].tolist(), strict=True)
        return Card(
            key=patch,
            label=name,
            color=colors.get(name, NO_CLASS_COLOR),
            slide=info.path.name,
            values={**dict(shares), "tissue": float(grid.tissue[slot]), **measured.get(slot, {})},
            note=f"left out: {reason}" if reason else "",
            is_left_out=bool(reason),
            xy=(patch[1].x, patch[1].y),
        )

    return CardTable.from_columns(
        n,
        card_of=card_of,
        key_of=key_of,
        slot_of=slot_of,
        labels=(np.where(grid.label == UNLABELLED, len(grid.label_names), grid.label), names),
        slide=info.path.name,
        values=values | columns,
    )


def _slots_of(planned: Planned) -> Callable[[Hashable], int]:
    """Return what finds the row of a patch in the first grid, -1 if it has none."""
    positions, digest = planned.grid.positions, planned.request.slide.info.digest
    size_px, downsample = positions.size_px, positions.resolution.downsample[0]
    numbers = corner_numbers(positions.level0_xy)
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]

    def slot_of(key: Hashable) -> int:
        own, patch = cast("PatchId", key)
        if own != digest or not len(numbers) or (patch.size_px, patch.downsample) != (size_px, downsample):
            return -1
        number = corner_numbers(np.array([(patch.x, patch.y)], np.int64))[0]
        at = int(np.searchsorted(numbers, number))
        return int(order[at]) if at < len(numbers) and numbers[at] == number else -1

    return slot_of
