from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

import napari_histolatent
from napari_histolatent._files import replacing, write_json
from napari_histolatent.annotations import FORMATS, read_annotations
from napari_histolatent.errors import AnnotationError, DatasetError, SlideError, UserError, writing_to
from napari_histolatent.patches._dataset import FORMAT_VERSION, INDEX_FILE, PIXELS_FOLDER, SETTINGS_FILE
from napari_histolatent.patches._grid import plan_grid
from napari_histolatent.patches._split import DROPPED, SPLITS, SplitSpec, split_by_block, split_by_group
from napari_histolatent.patches._tissue import tissue_mask
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histolatent.patches._grid import GridSpec, PatchGrid
    from napari_histolatent.slides import Slide

_CHUNK_PATCHES, _SHARD_PATCHES = 16, 1024
"""Patches decoded together when a few are read; patches a file holds."""


@dataclass(frozen=True)
class SlideSource:
    """A slide, its annotations, and whose it is."""

    slide: Path
    annotations: Path
    patient: str = ""
    mpp: float | None = None
    """Pixel size the user states, where the file says nothing."""


@dataclass(frozen=True)
class ExtractReport:
    """What `histolatent extract` reports."""

    patches: int
    classes: dict[str, int]
    splits: dict[str, int]
    seconds: float
    failed: tuple[str, ...]
    """One sentence for each slide that was left out."""
    dropped_at_split: int
    """Patches dropped because they reach across the border of two splits."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `--json` reports."""
        return asdict(self)


@dataclass(frozen=True)
class _Planned:
    source: SlideSource
    slide: Slide
    grid: PatchGrid
    split: NDArray[np.int64]
    colors: dict[str, tuple[int, int, int]]


@dataclass(frozen=True)
class _Cutting:
    """How to cut, and whom to tell."""

    workers: int
    on_progress: Callable[[int, int], None] | None
    should_stop: Callable[[], bool]


class _DamagedSlideError(Exception):
    """A slide whose pixels could not be read where only the cutting reads."""

    def __init__(self, slide: Slide, error: SlideError) -> None:
        super().__init__(str(error))
        self.slide, self.error = slide, error


def extract(
    sources: Sequence[SlideSource],
    out: Path,
    *,
    spec: GridSpec,
    split: SplitSpec | None = None,
    workers: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ExtractReport:
    """Cut the labelled patches of slides into a dataset folder, whole or not at all.

    Parameters
    ----------
    sources
        Slides with their annotations. One that cannot be read is left out and named in the report.
    out
        Folder to make; it must not exist.
    spec
        Size, resolution, stride and label rule.
    split
        Shares of train, val and test: by patient if all sources name one, else by slide, and a slide alone by
        blocks with a guard gap.
    workers
        Threads that decode.
    on_progress
        Called with (patches cut, patches in all).
    should_stop
        Asked between batches; when it says so, nothing is left behind.

    Raises
    ------
    DatasetError
        If the folder exists, no slide can be read, a class has no patches, or stopping was asked for.
    UserError
        If the folder cannot be written.
    """
    started = perf_counter()
    if not sources:
        msg = "There is no slide to cut; give at least one."
        raise DatasetError(msg)
    if out.exists():
        msg = f"{out} exists already; choose another output folder or remove it."
        raise DatasetError(msg)
    planned, failed = _plan(sources, spec)
    run = _Cutting(workers, on_progress, should_stop or (lambda: False))
    try:
        cut, dropped = _cut(planned, out, spec, split or SplitSpec(), failed, run)
    finally:
        for item in planned:
            item.slide.close()
    classes: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    for item in cut:
        classes.update(item.grid.counts())
        splits.update(SPLITS[i] for i in item.split)
    return ExtractReport(
        patches=sum(classes.values()),
        classes=dict(sorted(classes.items())),
        splits={name: splits[name] for name in SPLITS},
        seconds=perf_counter() - started,
        failed=tuple(failed),
        dropped_at_split=dropped,
    )


def _cut(
    planned: Sequence[_Planned], out: Path, spec: GridSpec, split: SplitSpec, failed: list[str], run: _Cutting
) -> tuple[list[_Planned], int]:
    """Write the dataset; a slide that turns out damaged is left out, and the rest is split and cut again."""
    usable = list(planned)
    while True:
        ready, dropped = _split(usable, split)
        try:
            with writing_to(out):
                out.parent.mkdir(parents=True, exist_ok=True)
                with replacing(out) as folder:
                    folder.mkdir()
                    _write(ready, folder, spec, split, run)
        except _DamagedSlideError as damaged:
            usable = [item for item in usable if item.slide is not damaged.slide]
            if not usable:
                raise damaged.error from damaged
            failed.append(str(damaged.error))
            continue
        return ready, dropped


def _plan(sources: Sequence[SlideSource], spec: GridSpec) -> tuple[list[_Planned], list[str]]:
    planned: list[_Planned] = []
    errors: list[UserError] = []
    for source in sources:
        try:
            slide = open_slide(source.slide, mpp=source.mpp)
        except UserError as error:
            errors.append(error)
            continue
        try:
            annotations = read_annotations(source.annotations, slide=slide.info)
            grid = plan_grid(slide, annotations, tissue_mask(slide), spec).labelled()
        except UserError as error:
            slide.close()
            errors.append(error)
            continue
        colors = {name: annotations.color_of(name) for name in grid.classes}
        planned.append(_Planned(source, slide, grid, np.zeros(len(grid), np.int64), colors))
    if not planned:
        if len(errors) == 1:
            raise errors[0]
        msg = f"None of the {len(sources)} slides could be used; the first: {errors[0]}"
        raise DatasetError(msg)
    return planned, [str(error) for error in errors]


def _split(planned: list[_Planned], spec: SplitSpec) -> tuple[list[_Planned], int]:
    """Give each patch its split, and drop those that reach across two."""
    classes = _require_classes(planned)
    labels = [_labels_in(classes, item.grid) for item in planned]
    if len(planned) == 1:
        splits = [split_by_block(planned[0].grid.boxes, labels[0], spec)]
    else:
        has_patients = all(item.source.patient for item in planned)
        groups = [
            item.source.patient if has_patients else item.slide.info.digest
            for item in planned
            for _ in range(len(item.grid))
        ]
        assigned = split_by_group(groups, np.concatenate(labels), spec)
        splits = np.split(assigned, np.cumsum([len(v) for v in labels])[:-1])
    kept = [np.flatnonzero(v != DROPPED) for v in splits]
    dropped = sum(len(v) for v in splits) - sum(len(v) for v in kept)
    result = [
        _Planned(item.source, item.slide, item.grid.take(rows), v[rows], item.colors)
        for item, rows, v in zip(planned, kept, splits, strict=True)
    ]
    train = Counter[str]()
    for item in result:
        train.update(item.grid.classes[i] for i in item.grid.label[item.split == 0])
    for name in classes:
        if train[name] == 0:
            msg = (
                f"Class {name!r} has no patch left in the training split; annotate more of it, "
                "cut smaller patches, or use a smaller stride."
            )
            raise DatasetError(msg)
    return result, dropped


def _require_classes(planned: Sequence[_Planned]) -> tuple[str, ...]:
    """Return all class names; refuse a class of the annotations that got no patch."""
    counts: Counter[str] = Counter()
    for item in planned:
        counts.update(dict.fromkeys(item.grid.classes, 0))
        counts.update(item.grid.counts())
    for name, count in counts.items():
        if count == 0:
            spec = planned[0].grid.spec
            msg = (
                f"Class {name!r} has no patches of {spec.size_px} px (rule {spec.rule!r}, threshold "
                f"{spec.threshold:g}, tissue at least {spec.min_tissue:g}); lower the threshold, cut smaller "
                "patches, or remove the class from the annotations."
            )
            raise DatasetError(msg)
    return tuple(sorted(counts))


def _labels_in(classes: tuple[str, ...], grid: PatchGrid) -> NDArray[np.int64]:
    """Return the labels of one slide's patches as indices into the classes of all slides."""
    return np.array([classes.index(name) for name in grid.classes], np.int64)[grid.label]


def _write(
    planned: Sequence[_Planned],
    folder: Path,
    spec: GridSpec,
    split: SplitSpec,
    run: _Cutting,
) -> None:
    classes = tuple(sorted({name for item in planned for name in item.grid.classes}))
    total = sum(len(item.grid) for item in planned)
    size = spec.size_px
    pixels: Any = zarr.create_array(
        folder / PIXELS_FOLDER,
        shape=(total, size, size, 3),
        dtype="uint8",
        chunks=(_CHUNK_PATCHES, size, size, 3),
        shards=(_SHARD_PATCHES, size, size, 3),
        dimension_names=("patch", "y", "x", "rgb"),
    )
    table = _index_table(planned, classes)
    hasher = sha256("".join(map(str, table["label"].to_pylist() + table["split"].to_pylist())).encode())
    jobs = [(item, row) for item in planned for row in range(len(item.grid))]

    def cut(job: tuple[_Planned, int]) -> NDArray[np.uint8]:
        item, row = job
        x, y = (int(v) for v in item.grid.level0_xy[row])
        try:
            if spec.level is not None:
                return item.slide.read_region((x, y), size_px=(size, size), level=spec.level)
            return item.slide.read_downsampled((x, y), size_px=(size, size), downsamples=item.grid.downsample)
        except SlideError as error:
            raise _DamagedSlideError(item.slide, error) from error

    with ThreadPoolExecutor(max(1, run.workers)) as pool:
        # Whole shards at a time: a shard is rewritten as a whole each time part of it changes.
        for start in range(0, total, _SHARD_PATCHES):
            batch = list(pool.map(cut, jobs[start : start + _SHARD_PATCHES]))
            if run.should_stop():
                msg = f"Cutting was stopped after {start} of {total} patches; nothing was kept."
                raise DatasetError(msg)
            block = np.stack(batch)
            pixels[start : start + len(block)] = block
            hasher.update(block.tobytes())
            if run.on_progress:
                run.on_progress(start + len(block), total)
    pq.write_table(table, folder / INDEX_FILE)
    write_json(
        folder / SETTINGS_FILE,
        {
            "format_version": FORMAT_VERSION,
            "made_by": f"napari-histolatent {napari_histolatent.__version__}",
            "patches": total,
            "size_px": size,
            "mpp": _common_mpp(planned, spec),
            "classes": list(classes),
            "colors": {k: list(v) for item in planned for k, v in item.colors.items()},
            "grid": asdict(spec),
            "split": asdict(split),
            "slides": [
                {
                    "path": str(item.slide.info.path),
                    "digest": item.slide.info.digest,
                    "annotations": str(item.source.annotations),
                    "patient": item.source.patient or None,
                    "mpp": _patch_mpp(item),
                    "downsample": list(item.grid.downsample),
                    "patches": len(item.grid),
                }
                for item in planned
            ],
            "digest": hasher.hexdigest(),
        },
    )
    if run.should_stop():  # asked too late to save any work, yet the user was told that nothing is kept
        msg = f"Cutting was stopped after {total} of {total} patches; nothing was kept."
        raise DatasetError(msg)


def _common_mpp(planned: Sequence[_Planned], spec: GridSpec) -> float | None:
    """Return the resolution that stands for the whole dataset: scanners of one kind differ in the third digit."""
    mpps = [v for item in planned if (v := _patch_mpp(item)) is not None]
    if len(mpps) < len(planned):
        return None
    if max(mpps) - min(mpps) <= 0.02 * min(mpps):
        return round(sum(mpps) / len(mpps), 6)
    return spec.mpp


def _patch_mpp(item: _Planned) -> float | None:
    own = item.slide.info.mpp_x
    return None if own is None else round(own * item.grid.downsample[0], 6)


def _index_table(planned: Sequence[_Planned], classes: tuple[str, ...]) -> pa.Table:
    """Return the index: one row a patch; coordinates in level-0 pixels, (x, y) of the top-left corner."""
    columns: dict[str, list[Any]] = {}
    for item in planned:
        grid, n = item.grid, len(item.grid)
        width, height = (grid.spec.size_px * v for v in grid.downsample)
        coverage = dict.fromkeys((f"coverage_{name}" for name in classes), [0.0] * n)
        coverage |= {f"coverage_{name}": grid.coverage[:, i].tolist() for i, name in enumerate(grid.classes)}
        part = {
            "slide": [item.slide.info.digest] * n,
            "patient": [item.source.patient] * n,
            "x": grid.level0_xy[:, 0].tolist(),
            "y": grid.level0_xy[:, 1].tolist(),
            "width_level0_px": [width] * n,
            "height_level0_px": [height] * n,
            "label": [grid.classes[i] for i in grid.label],
            "split": [SPLITS[i] for i in item.split],
            "tissue": grid.tissue.tolist(),
            **coverage,
        }
        for name, values in part.items():
            columns.setdefault(name, []).extend(values)
    return pa.table(columns)


def annotations_for(slide: Path, annotations: Path) -> Path:
    """Return the annotation file of a slide: the path itself, or in a folder the one of the slide's name.

    Raises
    ------
    AnnotationError
        If the folder holds none for this slide.
    """
    if not annotations.is_dir():
        return annotations
    suffixes = list(dict.fromkeys(suffix for known in FORMATS for suffix in known.suffixes))
    # A mask beside its slide may have the slide's own name.
    names = [f"{slide.stem}{suffix}" for suffix in suffixes]
    for candidate in (annotations / name for name in names):
        if candidate.is_file() and not (slide.exists() and candidate.samefile(slide)):
            return candidate
    msg = f"{annotations} holds no annotations of {slide.name} ({', '.join(names)}); add them or leave the slide out."
    raise AnnotationError(msg)
