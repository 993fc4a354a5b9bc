"""A new dataset from an old one's stored fractions: other labels, split or balance; no slide is read."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent.errors import DatasetError, writing_to
from napari_histolatent.patches._coverage import Coverage
from napari_histolatent.patches._dataset import PatchDataset
from napari_histolatent.patches._index import (
    BY_HAND,
    MEMBER,
    NO_LABEL,
    OTHER_ZOOM,
    QUALITIES,
    QUALITY,
    boxes_of,
    common_mpp,
    coverage_column,
    strings,
    with_columns,
)
from napari_histolatent.patches._labels import UNLABELLED, check_classes, label_of
from napari_histolatent.patches._plan import (
    by_hand_of,
    coverage_rows,
    require_training,
    settle,
    way_of,
    zoom_numbers,
)
from napari_histolatent.patches._recipe import Recipe
from napari_histolatent.patches._split import SPLITS
from napari_histolatent.patches._write import finish_dataset, replaced_folder, require_free

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_SAME_ZOOM = 0.02
_INCOMPLETE = (
    "Only patches that had a label were cut, so this view may lack patches that cutting anew by its recipe would "
    "give; cut with --keep tissue to have them all."
)


def recipe_of(dataset: PatchDataset) -> Recipe:
    """Return the recipe that a dataset was made by.

    Raises
    ------
    DatasetError
        If it was imported, or a newer version made it.
    """
    recipe = dataset.settings.get("recipe")
    if recipe is None:
        msg = f"{dataset.path} was imported, so its labels do not come from regions and cannot be made anew; cut one with `histolatent extract`."
        raise DatasetError(msg)
    return Recipe.from_json(recipe)


def relabel(
    dataset: PatchDataset,
    out: Path,
    *,
    recipe: Recipe,
    downsample: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Make a view of a dataset with other labels, quality limits, split and balance; its pixels are shared.

    Only patches that the dataset holds can be labelled: cut it with `keep="tissue"` to have them all. Where some
    may be missing, the view says `complete: false` and a message.

    Parameters
    ----------
    dataset
        Where fractions and pixels are; a view itself, too.
    out
        Folder to make. It names the pixels' folder by a relative path: move both together.
    recipe
        Its labels, quality, split and balance count; `recipe_of(dataset).changed(labels=...)`.
    downsample
        Take only patches of this zoom (level-0 pixels per patch pixel); None: all.
    overwrite
        Whether a dataset in `out` is replaced.

    Returns
    -------
    dict
        What `PatchDataset.report` says of the view.

    Raises
    ------
    DatasetError
        If a class has no patch, a class of the recipe is unknown, the zoom is not there, or `out` exists.
    """
    require_free(out, overwrite=overwrite)
    if out.resolve() == dataset.path.resolve():
        msg = f"{out} is the dataset itself; choose another folder for the view."
        raise DatasetError(msg)
    if (folder := dataset.pixels_folder) is not None and folder.is_relative_to(out.resolve()):
        msg = f"{out} holds the pixels that {dataset.path} is a view of, and they would go with it; choose another folder for the view."
        raise DatasetError(msg)
    table, labels, classes = _labelled(dataset, recipe)
    left_out = np.where(labels == UNLABELLED, NO_LABEL, MEMBER).astype(object)
    left_out[strings(table, "left_out") == BY_HAND] = BY_HAND
    values = {name: table[name].to_numpy() for name in QUALITIES}
    left_out[~recipe.quality.keeps(values) & (left_out == MEMBER)] = QUALITY
    zooms = table["downsample"].to_numpy()
    if downsample is not None:
        is_other = np.abs(zooms / downsample - 1) > _SAME_ZOOM
        if is_other.all():
            there = ", ".join(f"{v:g}" for v in np.unique(np.round(zooms, 2)))
            msg = f"The dataset has no patches of downsample {downsample:g}; it has {there}."
            raise DatasetError(msg)
        left_out[is_other & (left_out == MEMBER)] = OTHER_ZOOM
    classes, labels = _used(classes, labels, left_out)
    slide_names, slide_of, patients = _slides_of(table)
    zoom_of = zoom_numbers(zooms, recipe)
    boxes = boxes_of(table)
    left_out, split = settle(
        left_out, labels, slide_of, zoom_of, patients, slide_names, boxes, recipe, by_hand_of(table)
    )
    require_training(classes, labels, split, left_out)
    names = np.array([*classes, ""], object)
    table = with_columns(
        table,
        {
            "label": names[labels],
            "split": np.array([*SPLITS, ""], object)[split],
            "left_out": left_out,
        },
    )
    facts = dict(dataset.settings)
    cut_by = facts.get("cut_by") or facts.get("recipe")
    complete = _is_complete(recipe, cut_by, facts.get("not_cut"))
    settings: dict[str, Any] = {
        key: facts[key]
        for key in ("codec", "stored", "considered", "not_cut", "stain", "slides", "failed")
        if key in facts
    }
    is_member = left_out == MEMBER
    settings |= {
        "pixels": _pixels_from(dataset, out),
        "mpp": common_mpp(table["mpp"].to_numpy()[is_member]),
        "colors": facts.get("colors", {}),
        "split_by": way_of(labels, left_out, slide_of, patients, recipe),
        "recipe": recipe.to_json(),
        "view_of": {"digest": dataset.digest, "downsample": downsample},
        "cut_by": cut_by,
        "complete": complete,
        "messages": [] if complete else [_INCOMPLETE],
    }
    with writing_to(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with replaced_folder(out) as folder:
            finish_dataset(
                folder,
                table,
                size_px=dataset.size_px,
                classes=classes,
                settings=json.loads(json.dumps(settings)),
                pixels_digest=str(facts["pixels_digest"]),
            )
    return PatchDataset(out).report()


def _is_complete(recipe: Recipe, cut_by: dict[str, Any] | None, not_cut: dict[str, int] | None) -> bool:
    """Return whether all patches were cut that these labels, split and balance could take."""
    if cut_by is None:
        return False
    base = Recipe.from_json(cut_by)
    if base.store.keep == "tissue":
        return True
    # By the same labels the same patches get one; those that only split or balance left out were not cut, though.
    return base.labels == recipe.labels and set(not_cut or {}) <= {NO_LABEL, BY_HAND}


def _labelled(dataset: PatchDataset, recipe: Recipe) -> tuple[pa.Table, NDArray[np.int64], tuple[str, ...]]:
    """Return the index, the label of each row by the recipe's rule, and the names labels index."""
    table = dataset.table
    prefix = coverage_column("")
    covered = tuple(name.removeprefix(prefix) for name in table.column_names if name.startswith(prefix))
    check_classes(recipe.labels, covered)
    shares = [table[coverage_column(name)].to_numpy() for name in covered]
    n = len(table)
    coverage = Coverage(
        shares=np.column_stack(shares) if shares else np.zeros((n, 0), np.float32),
        annotated=table["annotated"].to_numpy(),
        centre_classes=table["centre_classes"].to_numpy(),
    )
    labels = np.full(n, UNLABELLED, np.int64)
    names: dict[str, int] = {}
    slides = strings(table, "slide")
    # A slide may have a label of its own for unannotated tissue.
    own = {entry["digest"]: entry.get("label") or "" for entry in dataset.settings["slides"]}
    own_label = np.array([own.get(digest, "") for digest in slides], object)
    for default_class in dict.fromkeys(own_label.tolist()):
        rows = np.flatnonzero(own_label == default_class)
        spec = replace(recipe.labels, default_class=default_class or recipe.labels.default_class)
        found, found_names = label_of(coverage_rows(coverage, rows), covered, spec)
        index = np.array([names.setdefault(name, len(names)) for name in found_names] + [UNLABELLED])
        labels[rows] = index[found]
    given = strings(table, "label")
    for row in np.flatnonzero(table["by_hand"].to_numpy() & (given != "")):
        labels[row] = names.setdefault(given[row], len(names))
    return table, labels, tuple(names)


def _used(
    classes: tuple[str, ...], labels: NDArray[np.int64], left_out: NDArray[np.object_]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the classes that have a patch, in order, and the labels as indices into them."""
    counts = np.bincount(labels[left_out == MEMBER], minlength=len(classes))
    used = tuple(sorted(name for name, count in zip(classes, counts, strict=True) if count))
    if not used:
        msg = "No patch gets a class by these settings; lower the threshold, or loosen the quality limits."
        raise DatasetError(msg)
    index = np.array([used.index(name) if name in used else UNLABELLED for name in classes] + [UNLABELLED])
    return used, index[labels]


def _slides_of(table: pa.Table) -> tuple[tuple[str, ...], NDArray[np.int64], list[str]]:
    """Return the slides' digests, which slide each row lies on, and whose each slide is."""
    slides, patients = strings(table, "slide"), strings(table, "patient")
    digests = dict.fromkeys(slides.tolist())
    number = {digest: i for i, digest in enumerate(digests)}
    slide_of = np.array([number[digest] for digest in slides], np.int64)
    _, first = np.unique(slide_of, return_index=True)
    return tuple(digests), slide_of, patients[first].tolist()


def _pixels_from(dataset: PatchDataset, out: Path) -> str | None:
    folder = dataset.pixels_folder
    if folder is None:
        return None
    try:
        return Path(os.path.relpath(folder, out.resolve())).as_posix()
    except ValueError:  # another drive
        return folder.as_posix()
