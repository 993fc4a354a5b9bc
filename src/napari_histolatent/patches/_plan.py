"""From slides and regions to the patches that are to be cut: labelled, split, balanced; no patch is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent.annotations import Annotations, read_annotations, require_on_slide
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches._balance import balanced
from napari_histolatent.patches._coverage import MAX_CLASSES, Coverage, cover
from napari_histolatent.patches._grid import (
    SNAP_ZOOM,
    GridSpec,
    Positions,
    Resolution,
    patch_boxes,
    positions_on,
    resolutions,
)
from napari_histolatent.patches._index import (
    AT_SPLIT_BORDER,
    BALANCE,
    BY_HAND,
    MEMBER,
    NO_LABEL,
    coverage_column,
    index_table,
)
from napari_histolatent.patches._labels import UNLABELLED, check_classes, label_of
from napari_histolatent.patches._split import DROPPED, SPLITS, assign_splits, how_split
from napari_histolatent.patches._stain import StainFit, fit_of_slide
from napari_histolatent.patches._tissue import TissueMask, mask_from_image, tissue_mask
from napari_histolatent.slides import STORED_SOURCE, open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from napari_histolatent.patches._labels import LabelSpec
    from napari_histolatent.patches._recipe import Recipe
    from napari_histolatent.slides import Slide

_SAME_ZOOM = 0.02
"""A mark whose downsample is within this share of a zoom's is one of its patches."""


@dataclass(frozen=True)
class HandMark:
    """What a user decided about one patch, named by its top-left corner in level-0 pixels."""

    x: int
    y: int
    label: str = ""
    """Class instead of the rule's; "" leaves it to the rule."""
    is_in: bool = True
    """False: not in the dataset, whatever the rule says."""
    downsample: float = 0.0
    """Which of the recipe's zooms the patch has, level-0 pixels per patch pixel; 0: the first."""


@dataclass(frozen=True)
class SlideSource:
    """A slide, its annotations, and whose it is."""

    slide: Path
    annotations: Path | None = None
    patient: str = ""
    mpp: float | None = None
    """Pixel size the user states, where the file says nothing."""
    label: str = ""
    """Class of all its tissue that no region covers."""
    mask: Path | None = None
    """The user's own tissue mask, a picture of the whole slide."""
    coords: Path | None = None
    """CLAM's or TRIDENT's HDF5 coordinates, in place of the grid."""
    marks: tuple[HandMark, ...] = ()
    """Patches that were toggled, labelled or picked by hand; those off the grid are added to it."""
    only_marks: bool = False
    """Whether only the marked patches are taken, none of the grid."""

    def __post_init__(self) -> None:
        # A blank that a table has beside a name would make another patient of it, in another split.
        object.__setattr__(self, "patient", self.patient.strip())

    def absolute(self) -> SlideSource:
        """Return the source with paths that mean the same from every folder."""
        paths = {name: getattr(self, name) for name in ("slide", "annotations", "mask", "coords")}
        return replace(self, **{name: path.absolute() for name, path in paths.items() if path is not None})

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return {
            "slide": str(self.slide),
            "annotations": None if self.annotations is None else str(self.annotations),
            "patient": self.patient,
            "mpp": self.mpp,
            "label": self.label,
            "mask": None if self.mask is None else str(self.mask),
            "coords": None if self.coords is None else str(self.coords),
            "marks": [[v.x, v.y, v.label, v.is_in, v.downsample] for v in self.marks],
            "only_marks": self.only_marks,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SlideSource:
        """Return the source that `to_json` wrote."""
        paths = {
            name: None if value[name] is None else Path(value[name])
            for name in ("annotations", "mask", "coords")
        }
        return cls(
            slide=Path(value["slide"]),
            patient=value["patient"],
            mpp=value["mpp"],
            label=value["label"],
            marks=tuple(HandMark(*mark) for mark in value["marks"]),
            only_marks=value["only_marks"],
            **paths,
        )


def coverage_rows(coverage: Coverage, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Coverage:
    """Return these rows of a coverage."""
    regions = coverage.regions
    return Coverage(
        shares=coverage.shares[rows],
        annotated=coverage.annotated[rows],
        centre_classes=coverage.centre_classes[rows],
        regions=None if regions is None else np.array(regions, object)[rows].tolist(),
    )


@dataclass(frozen=True)
class PatchGrid:
    """The patches of one slide at one resolution, before they are cut. Row i of every array is one patch."""

    positions: Positions
    classes: tuple[str, ...]
    """Of the regions: the columns of `coverage.shares`."""
    label_names: tuple[str, ...]
    """What a label is an index into."""
    coverage: Coverage
    tissue: NDArray[np.float32]
    """Share of tissue, shape (n,)."""
    label: NDArray[np.int64]
    """Index into `label_names`, shape (n,); -1 where the rule gives none."""
    is_out: NDArray[np.bool_]
    """Left out by hand, shape (n,)."""
    is_picked: NDArray[np.bool_]
    """Added by hand, shape (n,)."""
    is_by_hand: NDArray[np.bool_]
    """Labelled by hand, shape (n,)."""

    def __len__(self) -> int:
        return len(self.label)

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Left, top, right, bottom of each patch in level-0 pixels, shape (n, 4)."""
        return self.positions.boxes

    @property
    def is_in(self) -> NDArray[np.bool_]:
        """Whether a patch has a label and was not left out by hand, shape (n,)."""
        return np.asarray((self.label != UNLABELLED) & ~self.is_out)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> PatchGrid:
        """Return the grid of these rows."""
        return replace(
            self,
            positions=self.positions.take(rows),
            coverage=coverage_rows(self.coverage, rows),
            tissue=self.tissue[rows],
            label=self.label[rows],
            is_out=self.is_out[rows],
            is_picked=self.is_picked[rows],
            is_by_hand=self.is_by_hand[rows],
        )

    def counts(self) -> dict[str, int]:
        """Return the number of patches of each class that are in."""
        is_in = self.is_in
        return {name: int(((self.label == i) & is_in).sum()) for i, name in enumerate(self.label_names)}


@dataclass(frozen=True)
class SlidePlan:
    """What is known of one slide after planning."""

    source: SlideSource
    digest: str
    mpp: tuple[float, float] | None
    size_px: tuple[int, int]
    colors: dict[str, tuple[int, int, int]]
    grids: tuple[PatchGrid, ...]
    mask_thresholds: dict[str, float]
    stain: StainFit | None
    stated_mpp: float | None = None
    """Pixel size of level 0 that the user stated, with the source or before: the workers cut with it."""
    messages: tuple[str, ...] = ()
    """Sentences on what a user should know of it."""


def plan_grid(
    slide: Slide,
    annotations: Annotations | None,
    mask: TissueMask,
    recipe: Recipe,
    *,
    resolution: Resolution | None = None,
    default_class: str = "",
    marks: Sequence[HandMark] = (),
    only_marks: bool = False,
    corners: NDArray[np.int64] | None = None,
    with_regions: bool = True,
    should_stop: Callable[[], bool] | None = None,
) -> PatchGrid:
    """Return the patches of the grid with enough tissue, labelled by the rule.

    Pure but for reading facts off `slide`; no pixels are read.

    Parameters
    ----------
    slide, annotations, mask
        What there is.
    recipe
        Grid, tissue share and label rule.
    resolution
        One of `resolutions(slide, recipe.grid)`; None: the first.
    default_class
        Label of unannotated tissue, instead of the recipe's.
    marks, only_marks
        What the user decided about single patches; see SlideSource.
    corners
        Level-0 corners (n, 2) to take in place of the grid's.
    with_regions
        Whether the ids of the regions under each patch are looked up.
    should_stop
        Asked between steps.

    Raises
    ------
    AnnotationError
        If no region lies on the slide.
    CancelledError
        If `should_stop` said so.
    DatasetError
        If the slide is smaller than one patch, there are too many positions, or a picked patch lies off the slide.
    SlideError
        If an mpp is asked for and the slide states no pixel size.
    """
    spec = recipe.grid
    labels = replace(recipe.labels, default_class=default_class or recipe.labels.default_class)
    resolution = resolution or resolutions(slide, spec)[0]
    has_areas = annotations is not None and any(r.is_area for r in annotations.regions)
    if annotations is not None and has_areas:
        require_on_slide(annotations, slide.info)
    annotations = annotations if annotations is not None else Annotations((), format="none")
    everywhere = labels.default_class or recipe.store.keep == "tissue"
    within = None if everywhere or not has_areas else _bounds_of(annotations)
    if only_marks or corners is not None:
        positions = _positions_at(np.zeros((0, 2), np.int64) if only_marks else corners, spec, resolution)
    else:
        positions = positions_on(slide.info, spec, resolution, within)
    tissue = mask.fractions(positions.boxes)
    # Whoever names the corners has decided what tissue is.
    enough = tissue >= (recipe.tissue.min_tissue if corners is None else 0.0)
    _require_picks_on(slide, positions, marks)
    positions, tissue, is_picked = _with_picked(positions.take(enough), tissue[enough], mask, marks)
    classes = annotations.classes
    coverage = cover(
        annotations, classes, positions.boxes, with_regions=with_regions, should_stop=should_stop
    )
    label, names = label_of(coverage, classes, labels)
    is_glass = is_picked & (tissue < recipe.tissue.min_tissue)
    label = without_default(label, is_glass, coverage, classes, labels)
    label, names, is_out, is_by_hand = _by_hand(positions, label, names, marks)
    grid = PatchGrid(positions, classes, names, coverage, tissue, label, is_out, is_picked, is_by_hand)
    return grid if recipe.store.keep == "tissue" else grid.take(np.flatnonzero(grid.is_in | grid.is_out))


def _positions_at(corners: NDArray[np.int64] | None, spec: GridSpec, resolution: Resolution) -> Positions:
    """Return patches that lie on no grid."""
    corners = np.zeros((0, 2), np.int64) if corners is None else corners
    _, first = np.unique(corners, axis=0, return_index=True)
    corners = corners[np.sort(first)]
    step = spec.size_px * resolution.downsample[0], spec.size_px * resolution.downsample[1]
    return Positions(spec.size_px, resolution, corners, np.full(corners.shape, -1), (0.0, 0.0), step)


def _require_picks_on(slide: Slide, positions: Positions, marks: Sequence[HandMark]) -> None:
    """Refuse a picked patch that shows nothing of the slide."""
    info = slide.info
    width, height = (positions.size_px * v for v in positions.resolution.downsample)
    for mark in marks:
        is_on = -width < mark.x < info.width_px and -height < mark.y < info.height_px
        if mark.is_in and not is_on:
            msg = f"The patch picked by hand at ({mark.x}, {mark.y}) lies off {info.path.name} ({info.width_px} x {info.height_px} px); take it out of the list."
            raise DatasetError(msg)


def _corners_of(
    source: SlideSource, slide: Slide, recipe: Recipe
) -> tuple[NDArray[np.int64], Resolution, tuple[str, ...]] | None:
    """Return the places that an HDF5 file names, at what they are read, and what is to be said of them."""
    if source.coords is None:
        return None
    from napari_histolatent.patches.formats import coords_from_hdf5

    coords = coords_from_hdf5(source.coords)
    path = slide.info.path
    if coords.name and coords.name.casefold() not in {path.stem.casefold(), path.name.casefold()}:
        msg = f"{source.coords} holds the coordinates of {coords.name}, not of {path.name}; give those of this slide."
        raise DatasetError(msg)
    if coords.size_px != recipe.grid.size_px:
        msg = f"{source.coords} names patches of {coords.size_px} px, the recipe asks for {recipe.grid.size_px} px; give the size {coords.size_px}."
        raise DatasetError(msg)
    if len(coords):
        far = coords.level0_xy.max(axis=0) + 1
        if far[0] > slide.info.width_px or far[1] > slide.info.height_px:
            msg = f"{source.coords} names places off {slide.info.path.name} ({slide.info.width_px} x {slide.info.height_px} px); give the coordinates of this slide."
            raise DatasetError(msg)
    levels = slide.info.levels
    # Another file of the slide may have other levels of the same number.
    if (
        0 <= coords.level < len(levels)
        and abs(coords.downsample / levels[coords.level].downsample - 1) <= SNAP_ZOOM
    ):
        spec = GridSpec(size_px=coords.size_px, level=coords.level)
    else:
        spec = GridSpec(size_px=coords.size_px, downsamples=(max(1.0, coords.downsample),))
    n_doubled = len(coords) - len(np.unique(coords.level0_xy, axis=0))
    messages = (f"{source.coords.name} names {n_doubled} places more than once; each is cut once.",)
    return coords.level0_xy, resolutions(slide, spec)[0], messages if n_doubled else ()


def _with_picked(
    positions: Positions, tissue: NDArray[np.float32], mask: TissueMask, marks: Sequence[HandMark]
) -> tuple[Positions, NDArray[np.float32], NDArray[np.bool_]]:
    """Add the patches that the user picked where the grid has none."""
    if not any(mark.is_in for mark in marks):
        return positions, tissue, np.zeros(len(positions), bool)
    there = set(map(tuple, positions.level0_xy.tolist()))
    added = list(
        dict.fromkeys((mark.x, mark.y) for mark in marks if mark.is_in and (mark.x, mark.y) not in there)
    )
    is_picked = np.zeros(len(positions) + len(added), bool)
    if not added:
        return positions, tissue, is_picked
    is_picked[len(positions) :] = True
    corners = np.array(added, np.int64)
    both = replace(
        positions,
        level0_xy=np.vstack([positions.level0_xy, corners]),
        cell=np.vstack([positions.cell, np.full((len(added), 2), -1, np.int64)]),
    )
    of_added = mask.fractions(patch_boxes(corners, positions.size_px, positions.resolution.downsample))
    return both, np.concatenate([tissue, of_added]), is_picked


def without_default(
    label: NDArray[np.int64],
    is_glass: NDArray[np.bool_],
    coverage: Coverage,
    classes: Sequence[str],
    spec: LabelSpec,
) -> NDArray[np.int64]:
    """Take the label of unannotated tissue from patches that show too little tissue, however they came to be there."""
    rows = np.flatnonzero(is_glass)
    if not spec.default_class or not len(rows):
        return label
    by_region, _ = label_of(coverage_rows(coverage, rows), classes, replace(spec, default_class=""))
    label = label.copy()
    label[rows[by_region == UNLABELLED]] = UNLABELLED
    return label


def _by_hand(
    positions: Positions, label: NDArray[np.int64], names: tuple[str, ...], marks: Sequence[HandMark]
) -> tuple[NDArray[np.int64], tuple[str, ...], NDArray[np.bool_], NDArray[np.bool_]]:
    """Put the user's decisions over the rule's; return labels, names, which are out, which labelled by hand."""
    is_out, is_by_hand = np.zeros(len(label), bool), np.zeros(len(label), bool)
    if not marks:
        return label, names, is_out, is_by_hand
    row_of = {tuple(xy): row for row, xy in enumerate(positions.level0_xy.tolist())}
    all_names = tuple(sorted({*names, *(mark.label for mark in marks if mark.label)}))
    new_index = np.array([all_names.index(name) for name in names] + [UNLABELLED], np.int64)
    label = new_index[label]  # -1 takes the last entry
    for mark in marks:
        row = row_of.get((mark.x, mark.y))
        if row is None:
            continue
        is_out[row] = not mark.is_in
        if mark.label:
            label[row], is_by_hand[row] = all_names.index(mark.label), True
    return label, all_names, is_out, is_by_hand


def _bounds_of(annotations: Annotations) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of all regions with an area, in level-0 pixels."""
    bounds = np.array([r.geometry.bounds for r in annotations.regions if r.is_area])
    left, top = bounds[:, :2].min(axis=0)
    right, bottom = bounds[:, 2:].max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def _marks_at(marks: Sequence[HandMark], wanted: Sequence[Resolution], number: int) -> tuple[HandMark, ...]:
    """Return the marks of patches of this zoom among all the zooms that are wanted."""

    def zoom_of(mark: HandMark) -> int:
        if mark.downsample <= 0:
            return 0
        far = [abs(mark.downsample / resolution.downsample[0] - 1) for resolution in wanted]
        return int(np.argmin(far)) if min(far) <= _SAME_ZOOM else -1

    return tuple(mark for mark in marks if zoom_of(mark) == number)


def _messages_on(
    source: SlideSource,
    annotations: Annotations | None,
    grids: Sequence[PatchGrid],
    marks: Sequence[Sequence[HandMark]],
) -> list[str]:
    """Return what should be said of one slide that is planned."""
    messages, name = [], source.slide.name
    if annotations is not None and not any(r.is_area for r in annotations.regions):
        what = "only points or lines" if annotations.regions else "no region"
        n = sum(int(grid.is_in.sum()) for grid in grids)
        messages.append(
            f"The annotations of {name} hold {what}, so none of its patches is annotated ({n} of it are taken)."
        )
    lost = len(source.marks) - sum(map(len, marks))
    for grid, own in zip(grids, marks, strict=True):
        there = set(map(tuple, grid.positions.level0_xy.tolist())) if own else set()
        lost += sum(not mark.is_in and (mark.x, mark.y) not in there for mark in own)
    if lost and not source.only_marks:
        messages.append(
            f"{lost} of the {len(source.marks)} decisions by hand on {name} name no patch of this grid, and were not used."
        )
    return messages


def plan_slide(
    source: SlideSource, recipe: Recipe, stated_mpps: Mapping[str, float] | None = None
) -> SlidePlan:
    """Open a slide, find its tissue, read its regions and plan its patches.

    Parameters
    ----------
    source
        The slide.
    recipe
        How it is cut.
    stated_mpps
        Pixel sizes that the user stated before (`slides.stored_mpps`), where it is planned on another machine;
        None: those of this one.

    Raises
    ------
    UserError
        If the slide or its annotations cannot be used; one sentence.
    """
    with _opened(source, stated_mpps) as slide:
        info = slide.info
        is_stated = "user" in (info.mpp_source or "")
        annotations = None
        if source.annotations is not None:
            annotations = read_annotations(source.annotations, slide=info)
        default_class = source.label or recipe.labels.default_class
        if annotations is None and not (default_class or source.marks):
            msg = f"{info.path.name} has no regions and no label, so its patches get no class; annotate it, give it a label, or name a class for unannotated tissue."
            raise DatasetError(msg)
        if source.mask is not None:
            mask = mask_from_image(source.mask, info)
        else:
            mask = tissue_mask(slide, recipe.tissue)
        if source.coords is None and not mask.mask.any():
            msg = f"{info.path.name} shows no tissue to the mask ({recipe.tissue.method}); choose another threshold or method, or give a mask of your own."
            raise DatasetError(msg)
        given = _corners_of(source, slide, recipe)
        wanted = resolutions(slide, recipe.grid) if given is None else (given[1],)
        marks = [_marks_at(source.marks, wanted, i) for i in range(len(wanted))]
        grids = tuple(
            plan_grid(
                slide,
                annotations,
                mask,
                recipe,
                resolution=resolution,
                default_class=default_class,
                marks=marks[i],
                only_marks=source.only_marks,
                corners=None if given is None else given[0],
            )
            for i, resolution in enumerate(wanted)
        )
        stain = None
        if recipe.stain.method != "none":
            boxes = np.vstack([grid.boxes[grid.is_in] for grid in grids])
            if len(boxes):
                stain = fit_of_slide(slide, boxes, method=recipe.stain.method)
        names = dict.fromkeys(name for grid in grids for name in grid.label_names)
        colors = {
            name: annotations.color_of(name)
            for name in names
            if annotations is not None and name in annotations.classes
        }
        return SlidePlan(
            source=source,
            digest=info.digest,
            mpp=None if info.mpp_x is None or info.mpp_y is None else (info.mpp_x, info.mpp_y),
            size_px=(info.width_px, info.height_px),
            colors=colors,
            grids=grids,
            mask_thresholds=dict(mask.thresholds),
            stain=stain,
            stated_mpp=info.mpp_x if is_stated else source.mpp,
            messages=(*(given[2] if given else ()), *_messages_on(source, annotations, grids, marks)),
        )


def _opened(source: SlideSource, stated_mpps: Mapping[str, float] | None) -> Slide:
    """Return the slide with the pixel size that the user stated, be it on another machine."""
    slide = open_slide(source.slide, mpp=source.mpp)
    stated = (stated_mpps or {}).get(slide.info.digest)
    is_open = slide.info.mpp_x is None or slide.info.mpp_source == STORED_SOURCE
    if source.mpp is not None or stated is None or not is_open or slide.info.mpp_x == stated:
        return slide
    slide.close()
    return open_slide(source.slide, mpp=stated)


@dataclass(frozen=True)
class Plan:
    """All patches that are to be cut."""

    table: pa.Table
    """The index, without what only the pixels tell; one row a patch to cut."""
    slide_of: NDArray[np.int64]
    """Which of the slides each row lies on, shape (n,)."""
    classes: tuple[str, ...]
    considered: int
    """Patches of the grids with enough tissue that the rule, or a hand, decided on."""
    not_cut: dict[str, int]
    """Of these, patches that are not cut, by reason."""
    split_by: str
    """patient, slide or block."""
    messages: tuple[str, ...] = ()
    """Sentences on what a user should know before training."""


def assemble(plans: Sequence[SlidePlan], recipe: Recipe) -> Plan:
    """Put the slides' patches together: classes, split, balance.

    Raises
    ------
    DatasetError
        If there is no patch, or a class has none (in training).
    """
    parts = [
        (number, zoom, plan, grid)
        for number, plan in enumerate(plans)
        for zoom, grid in enumerate(plan.grids)
    ]
    if recipe.labels.priority or recipe.labels.exclude:
        check_classes(
            recipe.labels, tuple({name for plan in plans for g in plan.grids for name in g.classes})
        )
    classes = _require_classes(plans, recipe)
    covered = tuple(sorted({name for *_, grid in parts for name in grid.classes}))
    if len(covered) > MAX_CLASSES:
        msg = f"The slides have {len(covered)} classes together, more than the {MAX_CLASSES} that a dataset can hold; map some of them to one class in the annotations."
        raise DatasetError(msg)
    columns, slide_of, zoom_of, labels, is_out = _columns(parts, classes, covered)
    left_out = np.full(len(labels), MEMBER, object)
    left_out[labels == UNLABELLED] = NO_LABEL
    left_out[is_out] = BY_HAND
    patients = [plan.source.patient for plan in plans]
    left_out, split = settle(
        left_out,
        labels,
        slide_of,
        zoom_of,
        patients,
        [plan.digest for plan in plans],
        _boxes_of(columns),
        recipe,
        by_hand_of(columns),
    )
    columns["split"] = [SPLITS[i] if i >= 0 else "" for i in split]
    columns["left_out"] = left_out
    keep = np.arange(len(labels))
    if recipe.store.keep == "labelled":
        keep = np.flatnonzero(left_out == MEMBER)
    table = index_table(columns, covered).take(keep)
    require_training(classes, labels, split, left_out)
    way = way_of(labels, left_out, slide_of, patients, recipe)
    not_cut = Counter(np.delete(left_out, keep).tolist())
    return Plan(
        table,
        slide_of[keep],
        classes,
        len(labels),
        dict(sorted(not_cut.items())),
        way,
        tuple(_messages_of(plans, recipe, way)),
    )


def _messages_of(plans: Sequence[SlidePlan], recipe: Recipe, way: str) -> Iterator[str]:
    """Yield what should be said of all slides together."""
    for plan in plans:
        yield from plan.messages
    spellings: dict[str, set[str]] = {}
    for plan in plans:
        if plan.source.patient:
            spellings.setdefault("".join(plan.source.patient.split()).casefold(), set()).add(
                plan.source.patient
            )
    for alike in spellings.values():
        if len(alike) > 1:
            named = ", ".join(repr(name) for name in sorted(alike))
            yield f"The patients {named} differ in case or blanks only and count as {len(alike)} patients; write one name if they are one."
    n_unnamed = sum(not plan.source.patient for plan in plans)
    if way == "patient" and n_unnamed:
        yield f"{n_unnamed} of {len(plans)} slides name no patient; each of them was split as a patient of its own."
    spec = recipe.grid
    if spec.mpp is None and all(plan.source.coords is None for plan in plans):
        known = [plan.mpp[0] for plan in plans if plan.mpp is not None]
        if known and (max(known) > 1.02 * min(known) or len(known) < len(plans)):
            found = f"from {min(known):.4g} to {max(known):.4g} µm per px"
            if max(known) <= 1.02 * min(known):
                found = f"{min(known):.4g} µm per px"
            if len(known) < len(plans):
                found += f", and {len(plans) - len(known)} of {len(plans)} slides state none"
            yield f"The slides' pixel sizes: {found}; patches of one level or zoom may show them at different magnifications: cut at one mpp instead, and state the sizes that are missing."


def settle(
    left_out: NDArray[np.object_],
    labels: NDArray[np.int64],
    slide_of: NDArray[np.int64],
    zoom_of: NDArray[np.int64],
    patients: Sequence[str],
    names: Sequence[str],
    boxes: NDArray[np.float64],
    recipe: Recipe,
    first: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Give each patch its split and balance the classes; return the reasons to leave out, and the splits.

    Patches left out already (no label, by hand, quality) get a split, but are not counted. `patients` and `names`
    (the digests) have an entry a slide, `slide_of`, `zoom_of` and `first` one a patch; `first` are those that balancing
    keeps before any other (`by_hand_of`).
    """
    left_out = left_out.copy()
    candidates = left_out == MEMBER
    split = assign_splits(
        slides=slide_of,
        patients=patients,
        boxes=boxes,
        # A class at one zoom is a stratum: each zoom is to have its share of each class in each split.
        labels=np.where(candidates, labels + (labels.max(initial=0) + 1) * zoom_of, UNLABELLED),
        spec=recipe.split,
        names=names,
    )
    left_out[candidates & (split == DROPPED)] = AT_SPLIT_BORDER
    candidates = left_out == MEMBER
    codes = {name: i for i, name in enumerate(dict.fromkeys(patients))} | {"": -1}
    kept = balanced(
        labels=np.where(candidates, labels, UNLABELLED),
        slides=slide_of,
        patients=np.array([codes[name] for name in patients], np.int64)[slide_of],
        # Each zoom is balanced by itself: it is a set of its own.
        splits=np.where(split < 0, -1, split + len(SPLITS) * zoom_of),
        spec=recipe.balance,
        first=first,
    )
    left_out[candidates & ~kept] = BALANCE
    return left_out, split


def by_hand_of(table: Mapping[str, Any] | pa.Table) -> NDArray[np.bool_]:
    """Return which patches of an index, or of its columns, were picked or labelled by hand, shape (n,)."""
    return np.asarray((np.asarray(table["origin"]) == "picked") | np.asarray(table["by_hand"]))


def zoom_numbers(downsamples: NDArray[np.float64], recipe: Recipe) -> NDArray[np.int64]:
    """Return which of the recipe's zooms each patch has, shape (n,)."""
    zooms = np.array(recipe.grid.downsamples or (1.0,))
    if len(zooms) == 1:
        return np.zeros(len(downsamples), np.int64)
    return np.asarray(np.abs(downsamples[:, None] - zooms).argmin(axis=1), np.int64)


def way_of(
    labels: NDArray[np.int64],
    left_out: NDArray[np.object_],
    slide_of: NDArray[np.int64],
    patients: Sequence[str],
    recipe: Recipe,
) -> str:
    """Return what the split keeps together: patient, slide or block."""
    is_candidate = (left_out == MEMBER) | (left_out == BALANCE) | (left_out == AT_SPLIT_BORDER)
    labels = np.where(is_candidate, labels, UNLABELLED)
    return how_split(slides=slide_of, patients=patients, labels=labels, spec=recipe.split)


def require_training(
    classes: tuple[str, ...],
    labels: NDArray[np.int64],
    split: NDArray[np.int64],
    left_out: NDArray[np.object_],
) -> None:
    """Refuse a dataset in which a class has nothing to train on.

    Raises
    ------
    DatasetError
        Naming the class.
    """
    counts = np.bincount(labels[(split == 0) & (left_out == MEMBER)], minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if count == 0:
            msg = (
                f"Class {name!r} has no patch left in the training split; annotate more of it, "
                "cut smaller patches, or use a smaller stride."
            )
            raise DatasetError(msg)


def _require_classes(plans: Sequence[SlidePlan], recipe: Recipe) -> tuple[str, ...]:
    """Return all class names; refuse a class that got no patch."""
    counts: Counter[str] = Counter()
    for plan in plans:
        for grid in plan.grids:
            counts.update(dict.fromkeys(grid.label_names, 0))
            counts.update(grid.counts())
    spec, labels = recipe.grid, recipe.labels
    for name, count in counts.items():
        if count == 0:
            msg = (
                f"Class {name!r} has no patches of {spec.size_px} px (rule {labels.rule!r}, threshold "
                f"{labels.threshold:g}, tissue at least {recipe.tissue.min_tissue:g}); lower the threshold, cut smaller "
                "patches, or remove the class from the annotations."
            )
            raise DatasetError(msg)
    if not counts:
        msg = (
            "No patch of any slide has a class; annotate the slides, or name a class for unannotated tissue."
        )
        raise DatasetError(msg)
    return tuple(sorted(counts))


def _columns(
    parts: Sequence[tuple[int, int, SlidePlan, PatchGrid]], classes: tuple[str, ...], covered: tuple[str, ...]
) -> tuple[dict[str, Any], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return the columns of the index, and slide, zoom, label and "left out by hand" of each row."""
    columns: dict[str, list[Any]] = {}
    slide_of, zoom_of, labels, is_out = [], [], [], []
    for number, zoom, plan, grid in parts:
        n, resolution = len(grid), grid.positions.resolution
        width, height = (grid.positions.size_px * v for v in resolution.downsample)
        mpp = plan.mpp[0] * resolution.downsample[0] if plan.mpp else np.nan
        coverage = {name: np.zeros(n, np.float32) for name in covered}
        for i, name in enumerate(grid.classes):
            coverage[name] = grid.coverage.shares[:, i]
        names = np.array([*grid.label_names, ""], object)
        part = {
            "slide": np.full(n, plan.digest, object),
            "patient": np.full(n, plan.source.patient, object),
            "x": grid.positions.level0_xy[:, 0],
            "y": grid.positions.level0_xy[:, 1],
            "width_level0_px": np.full(n, width),
            "height_level0_px": np.full(n, height),
            "level": np.full(n, resolution.level),
            "downsample": np.full(n, resolution.downsample[0]),
            "mpp": np.full(n, round(mpp, 6)),
            "label": names[grid.label],
            "tissue": grid.tissue,
            "annotated": grid.coverage.annotated,
            "centre_classes": _bits_among(grid.coverage.centre_classes, grid.classes, covered),
            "regions": np.array(grid.coverage.regions or [""] * n, object),
            "by_hand": grid.is_by_hand,
            "origin": np.where(grid.is_picked, "picked", "grid").astype(object),
            **{coverage_column(name): values for name, values in coverage.items()},
        }
        for name, values in part.items():
            columns.setdefault(name, []).append(values)
        index = np.array([classes.index(name) for name in grid.label_names] + [UNLABELLED], np.int64)
        labels.append(index[grid.label])
        is_out.append(grid.is_out)
        slide_of.append(np.full(n, number, np.int64))
        zoom_of.append(np.full(n, zoom, np.int64))
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    return (
        joined,
        np.concatenate(slide_of),
        np.concatenate(zoom_of),
        np.concatenate(labels),
        np.concatenate(is_out),
    )


def _bits_among(
    bits: NDArray[np.uint64], own: tuple[str, ...], all_classes: tuple[str, ...]
) -> NDArray[np.uint64]:
    """Return bit sets of one slide's classes as bit sets of all slides' classes."""
    result = np.zeros(len(bits), np.uint64)
    for i, name in enumerate(own):
        bit = (bits >> np.uint64(i)) & np.uint64(1)
        result |= bit << np.uint64(all_classes.index(name))
    return result


def _boxes_of(columns: dict[str, Any]) -> NDArray[np.float64]:
    left, top = columns["x"].astype(np.float64), columns["y"].astype(np.float64)
    return np.column_stack([left, top, left + columns["width_level0_px"], top + columns["height_level0_px"]])
