from __future__ import annotations

import itertools
import json
import pkgutil
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openslide
import pyarrow.parquet as pq
import pytest
import zarr
from PIL import Image

from napari_histolatent.annotations import read_annotations
from napari_histolatent.errors import DatasetError, SlideError, UserError
from napari_histolatent.patches import (
    CODECS,
    SPLITS,
    ExtractionStoppedError,
    GridSpec,
    HandMark,
    PatchDataset,
    SlideSource,
    SplitSpec,
    coverage_of,
    extract,
    quality_of,
    recipe_named,
)
from napari_histolatent.patches._cutting import cut_shard
from napari_histolatent.slides import open_slide, write_synthetic_slide
from tests.patches.drawn import (
    EVERYWHERE,
    MANY,
    RECIPE,
    SHARD_BYTES,
    assert_pixels_are_those_of,
    content,
    damaged_slide,
    left_beside,
    regions,
    write_tiff,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent.patches import ExtractReport, Recipe

# What is cut


@pytest.mark.parametrize(
    "grid",
    [
        {},
        {"mpp": 0.5},
        {"mpp": 0.7, "stride_px": None},
        {"mpp": 2.0, "stride_px": 4},
        {"mpp": None, "level": 0},
        {"mpp": None, "level": 1},
        {"mpp": None, "downsamples": (2.0,)},
        {"mpp": None, "downsamples": (1.0, 2.0, 3.0)},
        {"stride_px": None, "overlap_px": 10},
        {"stride_px": None, "stride_um": 11.3},
        {"stride_px": None, "overlap_um": 15.0, "origin_px": (13.0, -7.0)},
        {"size_px": 45, "edge": "shift"},
        {"size_px": 45, "edge": "pad"},
    ],
)
def test_patches_are_the_region_that_the_index_names(
    source: SlideSource, tmp_path: Path, grid: dict[str, Any]
) -> None:
    recipe = replace(RECIPE.changed(grid=grid, store={"codec": "raw"}), tissue=EVERYWHERE)
    extract([source], tmp_path / "ds", recipe=recipe)
    dataset = PatchDataset(tmp_path / "ds")
    assert len(dataset) > 10
    assert dataset.size_px == recipe.grid.size_px
    assert_pixels_are_those_of([source], dataset, every=5)


def test_a_level_that_is_not_stored_is_averaged_from_the_next_finer_one(tmp_path: Path) -> None:
    # Levels 1 and 4; zoom 1 and 3 are made of the pixels of level 0 and 1, the others are stored.
    pixels = np.random.default_rng(0).integers(60, 200, (512, 512, 3), dtype=np.uint8)
    write_tiff(tmp_path / "s.tiff", pixels, levels=(1, 4))
    source = SlideSource(
        tmp_path / "s.tiff", regions(tmp_path, ("a", (0, 0, 256, 512)), ("b", (256, 0, 512, 512)))
    )
    recipe = replace(
        RECIPE, tissue=EVERYWHERE, grid=GridSpec(size_px=16, downsamples=(1.0, 2.0, 4.0, 8.0), stride_px=8)
    )
    extract([source], tmp_path / "ds", recipe=recipe)
    dataset = PatchDataset(tmp_path / "ds")
    table, seen = dataset.table.to_pydict(), set()
    for row in range(0, len(dataset), 3):
        x, y, zoom = table["x"][row], table["y"][row], int(table["downsample"][row])
        finer = {1: 1, 2: 1, 4: 4, 8: 4}[zoom]
        stored = pixels[::finer, ::finer]
        n, at = zoom // finer, (y // finer, x // finer)
        region = stored[at[0] : at[0] + 16 * n, at[1] : at[1] + 16 * n].astype(float)
        expected = region.reshape(16, n, 16, n, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(dataset.read([row])[0], expected, atol=0.51)
        assert table["level"][row] == {1: 0, 2: -1, 4: 1, 8: -1}[zoom]
        seen.add(zoom)
    assert seen == {1, 2, 4, 8}


def test_patches_of_a_level_are_what_openslide_reads(source: SlideSource, tmp_path: Path) -> None:
    extract([source], tmp_path / "ds", recipe=RECIPE.changed(grid={"mpp": None, "level": 1}))
    dataset = PatchDataset(tmp_path / "ds")
    with openslide.OpenSlide(source.slide) as handle:
        for row in range(0, len(dataset), 11):
            xy = dataset.columns["x"][row], dataset.columns["y"][row]
            direct = np.asarray(handle.read_region(xy, 1, (32, 32)).convert("RGB"))
            np.testing.assert_array_equal(dataset[row][0], direct)


def test_a_real_slide_is_cut_at_its_own_pixels(cmu_slide: Path, tmp_path: Path) -> None:
    annotations = regions(tmp_path, ("a", (300, 300, 1000, 1800)), ("b", (1100, 300, 1900, 1800)))
    source = SlideSource(cmu_slide, annotations)
    recipe = replace(RECIPE, grid=GridSpec(size_px=128, mpp=0.5), tissue=EVERYWHERE)
    extract([source], tmp_path / "ds", recipe=recipe)
    dataset = PatchDataset(tmp_path / "ds")
    assert dataset.mpp == 0.499  # half a micrometre was asked for, and the level taken as it is
    assert set(dataset.columns["level"].tolist()) == {0}
    assert_pixels_are_those_of([source], dataset)


def test_what_a_patch_shows_beyond_the_slide_is_background(tmp_path: Path) -> None:
    write_tiff(tmp_path / "s.tiff", np.full((300, 300, 3), 90, np.uint8), levels=(1,))
    source = SlideSource(tmp_path / "s.tiff", regions(tmp_path, ("a", (0, 0, 300, 300))))
    recipe = replace(RECIPE, grid=GridSpec(size_px=64, level=0, edge="pad"), tissue=EVERYWHERE)
    extract([source], tmp_path / "ds", recipe=recipe.changed(labels={"rule": "any"}))
    dataset = PatchDataset(tmp_path / "ds")
    (row,) = np.flatnonzero((dataset.columns["x"] == 256) & (dataset.columns["y"] == 0))
    patch = dataset[int(row)][0]
    assert (patch[:, : 300 - 256] == 90).all()
    with open_slide(source.slide) as slide:
        assert (patch[:, 300 - 256 :] == slide.info.background).all()


def test_the_index_holds_what_the_plan_knew(source: SlideSource, tmp_path: Path) -> None:
    extract([replace(source, patient="p1")], tmp_path / "ds", recipe=RECIPE)
    dataset = PatchDataset(tmp_path / "ds")
    columns = dataset.columns
    n = len(columns["x"])
    with open_slide(source.slide) as slide:
        assert columns["slide"].tolist() == [slide.info.digest] * n
    assert columns["patient"].tolist() == ["p1"] * n
    assert columns["width_level0_px"].tolist() == columns["height_level0_px"].tolist() == [64.0] * n
    assert columns["downsample"].tolist() == [2.0] * n
    assert columns["mpp"].tolist() == [1.0] * n
    corners = np.column_stack([columns["x"], columns["y"]])
    coverage = coverage_of(
        read_annotations(source.annotations or ""),
        ["epithelium", "stroma"],
        np.hstack([corners, corners + 64.0]),
    )
    np.testing.assert_array_equal(columns["coverage_epithelium"], coverage[:, 0])
    np.testing.assert_array_equal(columns["coverage_stroma"], coverage[:, 1])
    np.testing.assert_allclose(columns["annotated"], coverage.sum(axis=1), atol=1e-6)
    assert columns["label"].tolist() == ["epithelium" if a >= 0.75 else "stroma" for a in coverage[:, 0]]
    assert min(columns["tissue"]) >= 0.5
    assert set(columns["split"]) <= set(SPLITS)
    assert set(columns["origin"]) == {"grid"}
    assert set(columns["regions"]) == {"epithelium-", "stroma-"}
    measured = quality_of(dataset.read(range(n)))
    for name, values in measured.items():
        np.testing.assert_array_equal(columns[name], values)


def test_the_columns_and_their_types_are_those_of_the_design(source: SlideSource, tmp_path: Path) -> None:
    extract([source], tmp_path / "ds", recipe=RECIPE)
    schema = pq.read_schema(tmp_path / "ds" / "index.parquet")
    assert {field.name: str(field.type) for field in schema} == {
        **dict.fromkeys(("slide", "patient", "label", "split", "left_out", "origin", "regions"), "string"),
        **dict.fromkeys(("x", "y"), "int64"),
        **dict.fromkeys(("width_level0_px", "height_level0_px", "downsample", "mpp"), "double"),
        **dict.fromkeys(("tissue", "annotated", "coverage_epithelium", "coverage_stroma"), "float"),
        **dict.fromkeys(("focus", "saturation", "white", "pen"), "float"),
        "level": "int16",
        "by_hand": "bool",
        "centre_classes": "uint64",
    }
    assert "pandas" not in str(schema.metadata)


def test_the_report_is_that_of_the_dataset(source: SlideSource, tmp_path: Path) -> None:
    report = extract([source], tmp_path / "ds", recipe=RECIPE)
    dataset = PatchDataset(tmp_path / "ds")
    fields = json.loads(json.dumps(report.to_json()))
    assert {"patches", "classes", "splits", "seconds", "failed"} <= set(fields)
    assert report.patches == len(dataset)
    assert report.classes == dataset.report()["classes"]
    assert report.splits == {name: len(dataset.rows_of(name)) for name in SPLITS}
    assert report.failed == ()
    assert report.left_out["split border"] > 0
    assert report.considered == report.patches + sum(report.left_out.values())
    assert report.taken_up == 0
    assert report.seconds >= 0


def test_the_settings_tell_where_the_patches_come_from(source: SlideSource, tmp_path: Path) -> None:
    recipe = RECIPE.changed(grid={"mpp": 0.5})
    extract([replace(source, mpp=0.25)], tmp_path / "ds", recipe=recipe)
    settings = PatchDataset(tmp_path / "ds").settings
    (slide,) = settings["slides"]
    assert slide["path"] == str(source.slide)
    assert slide["annotations"] == str(source.annotations)
    assert slide["patient"] is None
    assert slide["downsample"] == [2, 2]
    assert slide["mpp"] == settings["mpp"] == 0.5  # by the pixel size that the user stated
    assert settings["recipe"] == json.loads(json.dumps(recipe.to_json()))
    assert settings["colors"] == {"epithelium": [200, 0, 0], "stroma": [200, 0, 0]}
    assert {"napari-histolatent", "openslide", "imagecodecs", "numcodecs", "numpy", "shapely"} == set(
        settings["versions"]
    )
    provenance = json.loads((tmp_path / "ds" / "provenance.json").read_text())
    assert {"began", "seconds", "host", "workers"} <= set(provenance)
    assert sorted(path.name for path in (tmp_path / "ds").iterdir()) == [
        "dataset.json",
        "index.parquet",
        "pixels.zarr",
        "provenance.json",
    ]
    assert left_beside(tmp_path / "ds") == []


@pytest.mark.usefixtures("small_shards")
def test_the_number_of_workers_does_not_change_a_byte(cohort: Sequence[SlideSource], tmp_path: Path) -> None:
    recipe = replace(RECIPE.changed(grid={"stride_px": 8}), split=SplitSpec())
    for workers in (1, 4):
        extract(cohort, tmp_path / str(workers), recipe=recipe, workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "4")
    assert sum(name.startswith("pixels.zarr/c/") for name in content(tmp_path / "1")) > 8


@pytest.mark.usefixtures("small_shards")
def test_more_slides_than_are_held_open_are_cut_by_many_threads(
    cohort: Sequence[SlideSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_histolatent.patches._cutting._MAX_OPEN_SLIDES", 1)
    recipe = replace(RECIPE, split=SplitSpec())
    report = extract(cohort, tmp_path / "ds", recipe=recipe, workers=4)
    assert report.failed == ()
    assert_pixels_are_those_of(cohort, PatchDataset(tmp_path / "ds"), every=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"split": {"seed": 1}},
        {"grid": {"stride_px": 32}},
        {"labels": {"threshold": 1.0}},
        {"grid": {"mpp": 0.9}},
        {"balance": {"method": "smallest"}},
        {"store": {"codec": "raw"}},
    ],
)
def test_another_content_has_another_digest(
    source: SlideSource, tmp_path: Path, tiny_digest: str, changes: dict[str, Any]
) -> None:
    extract([source], tmp_path / "b", recipe=RECIPE.changed(**changes))
    assert PatchDataset(tmp_path / "b").digest != tiny_digest


@pytest.fixture(scope="module")
def tiny_digest(tiny_slide: Path, tiny_regions: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("digest") / "a"
    extract([SlideSource(tiny_slide, tiny_regions)], out, recipe=RECIPE)
    return PatchDataset(out).digest


def digest_and_columns(
    sources: Sequence[SlideSource], out: Path, recipe: Recipe
) -> tuple[str, dict[str, list[Any]]]:
    extract(sources, out, recipe=replace(recipe, tissue=EVERYWHERE))
    dataset = PatchDataset(out)
    return dataset.digest, {name: values.tolist() for name, values in dataset.columns.items()}


def test_pixels_splits_and_labels_each_count_in_the_digest(
    cohort: Sequence[SlideSource], tmp_path: Path
) -> None:
    by_slide = [replace(v, patient="") for v in cohort]
    digest, columns = digest_and_columns(by_slide[:1], tmp_path / "a", RECIPE)
    other, same = digest_and_columns(by_slide[1:2], tmp_path / "pixels", RECIPE)
    assert (same["label"], same["split"]) == (columns["label"], columns["split"])
    assert other != digest

    renamed = tmp_path / "renamed.geojson"
    assert cohort[0].annotations is not None
    renamed.write_text(cohort[0].annotations.read_text().replace("stroma", "zzz"))
    other, same = digest_and_columns([replace(by_slide[0], annotations=renamed)], tmp_path / "labels", RECIPE)
    assert (same["x"], same["y"], same["split"]) == (columns["x"], columns["y"], columns["split"])
    assert other != digest

    digest, columns = digest_and_columns(by_slide, tmp_path / "b", replace(RECIPE, split=SplitSpec(seed=0)))
    other, same = digest_and_columns(by_slide, tmp_path / "c", replace(RECIPE, split=SplitSpec(seed=1)))
    assert (same["x"], same["y"], same["label"]) == (columns["x"], columns["y"], columns["label"])
    assert same["split"] != columns["split"]
    assert other != digest


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_callers_own_does_not_blame_the_disk(
    source: SlideSource, tmp_path: Path, workers: int
) -> None:
    def gone(*_: int) -> None:
        raise ConnectionResetError("whoever listened is gone")

    with pytest.raises(ConnectionResetError):
        extract([source], tmp_path / "out", recipe=RECIPE, workers=workers, on_progress=gone)


@pytest.mark.usefixtures("small_shards")
def test_progress_is_told_up_to_the_last_patch(source: SlideSource, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    report = extract(
        [source],
        tmp_path / "ds",
        recipe=RECIPE,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(done, report.patches) for done in [*range(0, report.patches, 8), report.patches]]


@pytest.mark.parametrize("codec", CODECS)
def test_more_patches_than_one_file_holds(source: SlideSource, tmp_path: Path, codec: str) -> None:
    recipe = replace(
        RECIPE, grid=GridSpec(size_px=8, mpp=1.0, stride_px=6), split=SplitSpec(block_patches=20)
    )
    extract([source], tmp_path / "ds", recipe=recipe.changed(store={"codec": codec}))
    dataset = PatchDataset(tmp_path / "ds")
    assert 1024 < len(dataset) < 2048
    assert sorted(path.name for path in (tmp_path / "ds" / "pixels.zarr" / "c").iterdir()) == ["0", "1"]
    # Many rows of the first file and few of the last, in any order, some twice; zarr reads the same.
    everything = zarr.open_array(tmp_path / "ds" / "pixels.zarr", mode="r")[:]
    rows = np.random.default_rng(0).permutation([*range(900), *range(50), 1024, len(dataset) - 1])
    np.testing.assert_array_equal(dataset.read(rows), everything[rows])
    if codec != "jpeg":
        assert_pixels_are_those_of([source], dataset, every=100)


def test_jpeg_is_near_the_pixels_and_as_pillow_reads_it(source: SlideSource, tmp_path: Path) -> None:
    import io

    for quality in (50, 95):
        recipe = RECIPE.changed(store={"codec": "jpeg", "jpeg_quality": quality})
        extract([source], tmp_path / str(quality), recipe=recipe)
    fine, coarse = (PatchDataset(tmp_path / name) for name in ("95", "50"))
    with open_slide(source.slide) as slide:
        xy = fine.columns["x"][3], fine.columns["y"][3]
        exact = slide.read_region(xy, size_px=(32, 32), level=1).astype(int)
    off = [np.abs(dataset[3][0] - exact).mean() for dataset in (fine, coarse)]
    assert off[0] < 3 < off[1] < 20
    fine.read([3])
    with Image.open(io.BytesIO(fine._source().read_bytes(3))) as picture:  # type: ignore[union-attr]
        assert picture.format == "JPEG"
        np.testing.assert_allclose(np.asarray(picture).astype(int), fine[3][0], atol=2)


# The named recipe


def test_the_recipe_of_s1_on_a_drawn_slide_with_tissue_that_is_not_annotated(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    sources = []
    for seed in range(3):
        write_synthetic_slide(tmp_path / f"{seed}.tiff", size_px=(768, 640), seed=seed)
        sources.append(
            SlideSource(
                tmp_path / f"{seed}.tiff",
                regions(tmp_path, ("tumour", (150, 150, 420, 420)), name=f"{seed}.geojson"),
                patient=f"p{seed}",
            )
        )
    recipe = recipe_named("s1").changed(grid={"size_px": 32}, store={"keep": "tissue"})
    extract(sources, tmp_path / "ds", recipe=recipe)
    dataset = PatchDataset(tmp_path / "ds")
    assert dataset.classes == ("negative", "positive")
    table = dataset.table.to_pydict()
    counts: dict[tuple[str, float, str], int] = {}
    before: dict[tuple[str, float, str], int] = {}
    for row, reason in enumerate(table["left_out"]):
        share, label = table["coverage_tumour"][row], table["label"][row]
        assert label == ("positive" if share >= 0.75 else "negative" if share == 0 else "")
        assert (reason == "no label") == (label == "")
        key = table["split"][row], table["downsample"][row], label
        counts[key] = counts.get(key, 0) + (reason == "")
        before[key] = before.get(key, 0) + (label != "")
    for split, zoom in product(("train", "val", "test"), (1.0, 2.0)):
        both = [before[split, zoom, label] for label in ("positive", "negative")]
        smallest = min(both)
        assert 0 < smallest < max(both)
        assert [counts[split, zoom, label] for label in ("positive", "negative")] == [smallest] * 2
    by_patient = {(p, s) for p, s in zip(table["patient"], table["split"], strict=True)}
    assert sorted(split for _, split in by_patient) == ["test", "train", "val"]
    assert_pixels_are_those_of(sources, dataset, every=23)


# Balance, limits, marks


def test_caps_leave_out_and_are_counted(source: SlideSource, tmp_path: Path) -> None:
    report = extract([source], tmp_path / "ds", recipe=RECIPE.changed(balance={"per_class": 9}))
    assert report.classes == {"epithelium": 9, "stroma": 9}
    assert report.left_out["balance"] == report.considered - 18 - report.left_out["split border"]
    assert len(PatchDataset(tmp_path / "ds").table) == 18  # the others were never cut


def test_limits_of_quality_leave_out_what_was_cut(source: SlideSource, tmp_path: Path) -> None:
    extract([source], tmp_path / "all", recipe=RECIPE)
    everything = PatchDataset(tmp_path / "all")
    limit = float(np.median(everything.columns["focus"]))
    report = extract([source], tmp_path / "ds", recipe=RECIPE.changed(quality={"min_focus": limit}))
    dataset = PatchDataset(tmp_path / "ds")
    assert dataset.columns["focus"].min() >= limit
    table = dataset.table.to_pydict()
    failing = [row for row, value in enumerate(table["focus"]) if value < limit]
    assert {table["left_out"][row] for row in failing} == {"quality"}
    assert report.left_out["quality"] == len(failing) > 0
    # The places read are those of the index, also between rows that are left out.
    assert_pixels_are_those_of([source], dataset)
    for row in (0, len(dataset) - 1):
        xy = (dataset.columns["x"][row], dataset.columns["y"][row])
        (other,) = [
            i
            for i in range(len(everything))
            if (everything.columns["x"][i], everything.columns["y"][i]) == xy
        ]
        np.testing.assert_array_equal(dataset[row][0], everything[other][0])


def test_what_balance_leaves_out_is_not_let_in_again_by_a_limit_it_does_not_pass(
    source: SlideSource, tmp_path: Path
) -> None:
    # BUG: limits were asked of members only, so what balance had left out came back unasked.
    recipe = MANY.changed(balance={"method": "smallest"}, store={"keep": "tissue"})
    extract([source], tmp_path / "a", recipe=recipe)
    limit = float(np.median(PatchDataset(tmp_path / "a").columns["focus"]))
    extract([source], tmp_path / "b", recipe=recipe.changed(quality={"min_focus": limit}))
    dataset = PatchDataset(tmp_path / "b")
    assert dataset.columns["focus"].min() >= limit
    report = dataset.report()
    for classes in report["classes_per_split"].values():
        assert len(set(classes.values()) - {0}) <= 1


def test_marks_of_a_hand_stand_in_the_index(source: SlideSource, tmp_path: Path) -> None:
    extract([source], tmp_path / "rule", recipe=MANY)
    before = PatchDataset(tmp_path / "rule").table.to_pydict()
    toggled, renamed = ((before["x"][row], before["y"][row]) for row in (0, 1))
    marks = (
        HandMark(*toggled, is_in=False),
        HandMark(*renamed, label="by me"),
        HandMark(333, 301, label="by me"),
    )
    recipe = MANY.changed(store={"keep": "tissue"}, split={"fractions": (1, 0, 0)})
    report = extract([replace(source, marks=marks)], tmp_path / "ds", recipe=recipe)
    dataset = PatchDataset(tmp_path / "ds")
    rows = {(row["x"], row["y"]): row for row in dataset.table.to_pylist()}
    assert rows[toggled]["left_out"] == "by hand"
    assert (rows[renamed]["label"], rows[renamed]["by_hand"]) == ("by me", True)
    assert (rows[333, 301]["origin"], rows[333, 301]["left_out"]) == ("picked", "")
    assert report.left_out["by hand"] == 1
    assert report.classes["by me"] == 2
    assert dataset.settings["slides"][0]["by_hand"] == 3
    assert_pixels_are_those_of([source], dataset, every=11)


# Splits


def test_no_pixel_is_in_two_splits(source: SlideSource, tmp_path: Path) -> None:
    extract([source], tmp_path / "ds", recipe=MANY)
    columns = PatchDataset(tmp_path / "ds").columns
    owner = np.full((640, 768), -1)
    for x, y, split in zip(columns["x"], columns["y"], columns["split"], strict=True):
        patch = owner[y : y + 64, x : x + 64]
        assert set(np.unique(patch)) <= {-1, SPLITS.index(split)}
        patch[:] = SPLITS.index(split)
    assert set(np.unique(owner)) == {-1, 0, 1, 2}
    # The gap of a quarter of a patch: 16 px around each split belong to no other.
    for split in range(3):
        rows, columns_ = np.nonzero(owner == split)
        for dx, dy in ((15, 0), (0, 15), (15, 15), (-15, 15)):
            inside = (rows + dy < 640) & (columns_ + dx < 768) & (columns_ + dx >= 0)
            beside = owner[rows[inside] + dy, columns_[inside] + dx]
            assert set(np.unique(beside)) <= {-1, split}


def splits_by(columns: Any, key: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, split in zip(columns[key], columns["split"], strict=True):
        found.setdefault(name, set()).add(split)
    return found


def test_slides_are_split_by_patient_if_all_name_one(cohort: Sequence[SlideSource], tmp_path: Path) -> None:
    recipe = replace(RECIPE, split=SplitSpec(fractions=(0.5, 0.5, 0)))
    report = extract(cohort, tmp_path / "ds", recipe=recipe)
    dataset = PatchDataset(tmp_path / "ds")
    assert sorted(splits_by(dataset.columns, "patient").values(), key=str) == [{"train"}, {"val"}]
    assert dataset.settings["split_by"] == "patient"
    assert "split border" not in report.left_out
    assert report.splits["train"] > 0


def test_a_slide_that_names_no_patient_is_one_of_its_own(
    cohort: Sequence[SlideSource], tmp_path: Path
) -> None:
    sources = [*(replace(v, patient="p") for v in cohort[:2]), *(replace(v, patient="") for v in cohort[2:])]
    report = extract(sources, tmp_path / "ds", recipe=replace(RECIPE, split=SplitSpec()))
    columns = PatchDataset(tmp_path / "ds").columns
    by_slide = splits_by(columns, "slide")
    assert len(by_slide) == 4
    assert all(len(splits) == 1 for splits in by_slide.values())
    assert set.union(*by_slide.values()) == set(SPLITS)
    assert len(splits_by(columns, "patient")["p"]) == 1
    assert report.messages == (
        "2 of 4 slides name no patient; each of them was split as a patient of its own.",
    )


def test_leaks_and_empty_splits_are_told(cohort: Sequence[SlideSource], tmp_path: Path) -> None:
    recipe = replace(RECIPE, split=SplitSpec(by="slide", fractions=(0.5, 0.25, 0.25)))
    report = extract(cohort, tmp_path / "ds", recipe=recipe)
    leaked = report.messages[0]
    assert leaked.startswith("Patient p")
    assert leaked.endswith("; split by patient.")
    assert PatchDataset(tmp_path / "ds").settings["messages"] == list(report.messages)
    report = extract(cohort[::2], tmp_path / "two", recipe=recipe)
    (sentence,) = report.messages
    assert sentence.startswith("The split val got no patch, though it was to have 25%;")


def test_a_link_in_place_of_the_folder_stays_one(source: SlideSource, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "ds").symlink_to(tmp_path / "real" / "of it")
    extract([source], tmp_path / "ds", recipe=RECIPE)
    extract([source], tmp_path / "ds", recipe=RECIPE.changed(split={"seed": 1}), overwrite=True)
    assert (tmp_path / "ds").is_symlink()
    assert len(PatchDataset(tmp_path / "real" / "of it")) == len(PatchDataset(tmp_path / "ds")) > 0
    assert left_beside(tmp_path / "real" / "of it") == []


def test_two_patients_of_one_class_each_both_train(cohort: Sequence[SlideSource], tmp_path: Path) -> None:
    sources = [
        replace(cohort[0], annotations=regions(tmp_path, ("a", (60, 60, 180, 280)), name="l.geojson")),
        replace(cohort[2], annotations=regions(tmp_path, ("b", (200, 60, 340, 280)), name="r.geojson")),
    ]
    report = extract(sources, tmp_path / "ds", recipe=replace(RECIPE, split=SplitSpec()))
    assert report.splits == {"train": report.patches, "val": 0, "test": 0}


# The same slide twice


def test_a_slide_is_cut_once_whatever_it_is_called(cohort: Sequence[SlideSource], tmp_path: Path) -> None:
    # BUG: the same file named twice was cut twice, and slides of one name in two folders were taken for one.
    shutil.copy(cohort[0].slide, tmp_path / "copy.tiff")
    (tmp_path / "other").mkdir()
    shutil.copy(cohort[1].slide, tmp_path / "other" / cohort[0].slide.name)
    sources = [
        cohort[0],
        replace(cohort[0], slide=tmp_path / "copy.tiff"),
        cohort[0],
        replace(cohort[1], slide=tmp_path / "other" / cohort[0].slide.name),
    ]
    report = extract(sources, tmp_path / "ds", recipe=replace(RECIPE, split=SplitSpec()))
    assert report.failed == (
        f"{tmp_path / 'copy.tiff'} is the same slide as {cohort[0].slide}; it is left out.",
        f"{cohort[0].slide} is the same slide as {cohort[0].slide}; it is left out.",
    )
    dataset = PatchDataset(tmp_path / "ds")
    assert len(set(dataset.columns["slide"])) == len(dataset.settings["slides"]) == 2
    places = list(zip(*(dataset.columns[name] for name in ("slide", "x", "y")), strict=True))
    assert len(places) == len(set(places))


# Stopped, killed, and taken up again

ZSTD = MANY.changed(store={"codec": "zstd"})


@dataclass(frozen=True)
class Job:
    """An extraction of many small files, one slide of which fails while it is cut."""

    sources: tuple[SlideSource, ...]
    recipe: Recipe
    expected: dict[str, str]
    """Content of the folder that an uninterrupted extraction made."""

    def cut(self, out: Path, **options: Any) -> ExtractReport:
        return extract(self.sources, out, recipe=self.recipe, **options)


@pytest.fixture(scope="module")
def job(tiny_slide: Path, tiny_regions: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    damaged_slide(folder / "damaged.tiff", tile=20)  # x 768 to 1024, y 256 to 512
    shapes = regions(folder, ("epithelium", (600, 0, 900, 256)), ("stroma", (600, 256, 900, 512)))
    sources = (SlideSource(tiny_slide, tiny_regions), SlideSource(folder / "damaged.tiff", shapes))
    grid = GridSpec(size_px=32, mpp=0.5)
    recipe = replace(ZSTD, grid=grid, tissue=EVERYWHERE, split=SplitSpec(by="block", block_patches=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("napari_histolatent.patches._store._SHARD_BYTES", SHARD_BYTES)
        report = extract(sources, folder / "ds", recipe=recipe)
    assert len(report.failed) == 1
    expected = content(folder / "ds")
    assert len(expected) > 15
    return Job(sources, recipe, expected)


def test_a_slide_that_fails_in_the_middle_costs_its_own_patches_only(job: Job, tmp_path: Path) -> None:
    # BUG: one damaged tile ended the whole extraction, after hours on a large cohort.
    report = job.cut(tmp_path / "ds")
    (sentence,) = report.failed
    assert re.match(r"damaged\.tiff opens, but its pixels at x=\d+, y=\d+ cannot be read", sentence)
    dataset = PatchDataset(tmp_path / "ds")
    assert dataset.settings["failed"] == [sentence]
    assert dataset.settings["rows"] == dataset.settings["stored"] == len(dataset.table)
    assert [Path(slide["path"]) for slide in dataset.settings["slides"]] == [job.sources[0].slide]
    assert dataset.settings["slides"][0]["patches"] == len(dataset.table)
    assert_pixels_are_those_of(job.sources[:1], dataset, every=7)
    array = zarr.open_array(tmp_path / "ds" / "pixels.zarr", mode="r")
    np.testing.assert_array_equal(dataset.read(range(len(dataset))), array[:][dataset.rows])
    # Alone, and without borders between splits, the other slide has these patches and the same about them.
    extract(job.sources[:1], tmp_path / "alone", recipe=job.recipe.changed(split={"fractions": (1, 0, 0)}))
    of_alone = PatchDataset(tmp_path / "alone").table.select(["slide", "x", "y", "label", "tissue", "focus"])
    rows = {tuple(row.values()) for row in of_alone.to_pylist()}
    found = {tuple(row.values()) for row in dataset.table.select(of_alone.column_names).to_pylist()}
    assert found <= rows
    assert len(found) > 0.5 * len(rows)
    assert len(dataset) == report.patches > 0.5 * len(found)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(("seed", "workers"), [(0, 1), (1, 3)])
def test_stopped_again_and_again_it_ends_with_the_same_bytes(
    job: Job, tmp_path: Path, seed: int, workers: int
) -> None:
    rng, stops, out = random.Random(seed), 0, tmp_path / "ds"
    said: list[str] = []
    while not out.exists():
        asked, most = itertools.count(), rng.randint(1, 30)
        try:
            report = job.cut(out, workers=workers, should_stop=lambda: next(asked) >= most)  # noqa: B023
        except ExtractionStoppedError as error:
            stops += 1
            said.append(str(error))
        is_begun = said[-1:] != ["Stopped before any patch was cut; the same command begins anew."]
        assert left_beside(out) == (["ds.part"] if is_begun and not out.exists() else [])
        assert stops < 100
    assert stops > 1
    kept = re.compile(
        r"Cutting was stopped after \d+ of \d+ patches; they are kept: the same command goes on\."
    )
    assert any(kept.fullmatch(sentence) for sentence in said)
    assert content(out) == job.expected
    assert report.taken_up > 0
    assert left_beside(out) == []


class CrashError(BaseException):
    """Stands for a process that ends here."""


# Each call is ended before it: what comes after one step is what comes before the next.
STEPS = (
    "_extract.pq.write_table",
    "_extract.create_array",
    "_cutting.write_shard",
    "_cutting.ShardDone.save",
    "_extract.write_json",
    "_extract.copy_without",
    "_write.pq.write_table",
    "_write.write_json",
    "_extract._clean",
    "_extract.swap_in",
)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("step", STEPS)
def test_ended_at_any_step_it_ends_with_the_same_bytes(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    out, target = tmp_path / "ds", f"napari_histolatent.patches.{step}"
    calls = 0
    original = pkgutil.resolve_name(target)
    # The first of its calls, or the third of many.
    at = {"_extract.write_json": 3, "_cutting.write_shard": 3, "_cutting.ShardDone.save": 3}.get(step, 1)

    def crash(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise CrashError
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(target, crash)
        with pytest.raises(CrashError):
            job.cut(out)
    assert calls == at
    assert not out.exists()
    job.cut(out)
    assert content(out) == job.expected
    assert left_beside(out) == []


CHILD = """
import json, sys
from pathlib import Path
import napari_histolatent.patches._store as store
from napari_histolatent.patches import Recipe, SlideSource, extract
given = json.load(sys.stdin)
store._SHARD_BYTES = given["shard_bytes"]
print("begins", flush=True)
extract([SlideSource.from_json(v) for v in given["sources"]], Path(given["out"]),
        recipe=Recipe.from_json(given["recipe"]), workers=2)
"""


def killed_after(job: Job, out: Path, seconds: float) -> bool:
    """Cut in a child that is killed in the midst of it; return whether it was done before."""
    given = {
        "shard_bytes": SHARD_BYTES,
        "sources": [source.to_json() for source in job.sources],
        "recipe": job.recipe.to_json(),
        "out": str(out),
    }
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    with child, child.stdin as stdin:
        stdin.write(json.dumps(given).encode())
        stdin.close()
        assert child.stdout.readline() == b"begins\n"
        time.sleep(seconds)
        child.kill()
    return out.exists()


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(job: Job, tmp_path: Path, kills: int) -> None:
    began = time.perf_counter()
    job.cut(tmp_path / "uninterrupted")
    seconds = time.perf_counter() - began
    rng = random.Random(kills)
    for number in range(kills):
        out = tmp_path / str(number)
        if not killed_after(job, out, rng.uniform(0.05, 1) * seconds):
            job.cut(out)
        assert content(out) == job.expected
        assert left_beside(out) in ([], [f".{out.name}.lock"])


def stopped_half_way(source: SlideSource, out: Path, recipe: Recipe = ZSTD) -> None:
    asked = itertools.count()
    with pytest.raises(ExtractionStoppedError):
        extract([source], out, recipe=recipe, should_stop=lambda: next(asked) >= 6)
    assert (out.parent / "ds.part" / "plan.json").exists()


@pytest.mark.usefixtures("small_shards")
def test_another_request_does_not_take_up_what_is_unfinished(source: SlideSource, tmp_path: Path) -> None:
    out = tmp_path / "ds"
    stopped_half_way(source, out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = ZSTD.changed(labels={"threshold": 0.5})
    for sources, recipe in (([source], other), ([replace(source, patient="p")], ZSTD)):
        with pytest.raises(
            DatasetError, match=r"ds\.part holds an unfinished dataset of other slides, regions"
        ):
            extract(sources, out, recipe=recipe)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    extract([source], out, recipe=other, overwrite=True)
    extract([source], tmp_path / "direct", recipe=other)
    assert content(out) == content(tmp_path / "direct")
    assert left_beside(out) == []


@pytest.mark.usefixtures("small_shards")
def test_regions_that_were_changed_are_another_request(source: SlideSource, tmp_path: Path) -> None:
    shapes = tmp_path / "mine.geojson"
    assert source.annotations is not None
    shutil.copy(source.annotations, shapes)
    mine = replace(source, annotations=shapes)
    stopped_half_way(mine, tmp_path / "ds")
    shapes.write_text(shapes.read_text().replace("370", "360"))
    with pytest.raises(
        DatasetError, match="holds an unfinished dataset of other slides, regions or settings"
    ):
        extract([mine], tmp_path / "ds", recipe=ZSTD)


@pytest.mark.usefixtures("small_shards")
def test_a_slide_that_was_replaced_meanwhile_is_not_mixed_in(
    cohort: Sequence[SlideSource], tmp_path: Path
) -> None:
    slide = tmp_path / "slide.tiff"
    shutil.copy(cohort[0].slide, slide)
    mine = replace(cohort[0], slide=slide)
    stopped_half_way(mine, tmp_path / "ds")
    shutil.copy(cohort[1].slide, slide)
    with pytest.raises(UserError, match=r"slide\.tiff is not the file that the patches were planned on"):
        extract([mine], tmp_path / "ds", recipe=ZSTD)
    assert not (tmp_path / "ds").exists()


@pytest.mark.usefixtures("small_shards")
def test_a_slide_that_is_back_is_read_again(source: SlideSource, tmp_path: Path) -> None:
    # BUG: that it could not be read was kept with its shards, so the same call failed for ever.
    slide = tmp_path / "slide.tiff"
    shutil.copy(source.slide, slide)
    mine = replace(source, slide=slide)
    extract([mine], tmp_path / "uninterrupted", recipe=ZSTD)
    stopped_half_way(mine, tmp_path / "ds")
    slide.rename(tmp_path / "away.tiff")
    with pytest.raises(UserError, match=r"slide\.tiff does not exist"):
        extract([mine], tmp_path / "ds", recipe=ZSTD)
    (tmp_path / "away.tiff").rename(slide)
    report = extract([mine], tmp_path / "ds", recipe=ZSTD)
    assert 0 < report.taken_up < report.patches
    assert content(tmp_path / "ds") == content(tmp_path / "uninterrupted")


def test_what_lies_in_the_way_of_the_working_folder_is_not_touched(
    source: SlideSource, tmp_path: Path
) -> None:
    (tmp_path / "ds.part").mkdir()
    (tmp_path / "ds.part" / "mine").write_text("here first")
    with pytest.raises(DatasetError, match=r"ds\.part is in the way and none of ours"):
        extract([source], tmp_path / "ds", recipe=RECIPE, overwrite=True)
    with pytest.raises(DatasetError, match=r"ds\.part holds an unfinished dataset"):
        extract([source], tmp_path / "ds", recipe=RECIPE)
    assert (tmp_path / "ds.part" / "mine").read_text() == "here first"


@pytest.mark.usefixtures("small_shards")
def test_of_two_extractions_into_one_folder_the_second_is_refused(
    source: SlideSource, tmp_path: Path
) -> None:
    refused: list[str] = []

    def meanwhile(*_: int) -> None:
        if not refused:
            for overwrite in (False, True):
                with pytest.raises(DatasetError) as caught:
                    extract([source], tmp_path / "ds", recipe=ZSTD, overwrite=overwrite)
                refused.append(str(caught.value))
            extract([source], tmp_path / "other", recipe=ZSTD)

    extract([source], tmp_path / "ds", recipe=ZSTD, on_progress=meanwhile)
    assert (
        refused
        == [
            f"Another extraction into {tmp_path / 'ds'} is running; wait until it has ended, or choose another output folder."
        ]
        * 2
    )
    assert content(tmp_path / "ds") == content(tmp_path / "other")
    assert left_beside(tmp_path / "ds") == []


@pytest.mark.usefixtures("small_shards")
def test_the_old_dataset_stays_until_the_new_one_stands(
    source: SlideSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, new = tmp_path / "ds", ZSTD.changed(labels={"threshold": 0.5})
    extract([source], out, recipe=ZSTD)
    extract([source], tmp_path / "new", recipe=new)
    old = content(out)

    def look_and_end(done: int, total: int) -> None:
        assert content(out) == old
        if done == total:
            raise CrashError

    with pytest.raises(CrashError):
        extract([source], out, recipe=new, overwrite=True, on_progress=look_and_end)
    assert content(out) == old

    # Ended between the two renames: what was there is still there under its hidden name, and nothing is lost.
    def rename_and_end(fresh: Path, target: Path) -> None:
        target.rename(target.with_name(".ds.12345678.old"))
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr("napari_histolatent.patches._extract.swap_in", rename_and_end)
        with pytest.raises(CrashError):
            extract([source], out, recipe=new, overwrite=True)
    assert not out.exists()
    assert content(tmp_path / ".ds.12345678.old") == old
    extract([source], out, recipe=new, overwrite=True)
    assert content(out) == content(tmp_path / "new")
    assert left_beside(out) == []


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have the pixels of these slides be unreadable."""
    from napari_histolatent.patches import _cutting

    original = _cutting.read_patch

    def read(slide: Any, *arguments: Any, **options: Any) -> np.ndarray:
        if slide.info.path.name in names:
            msg = f"{slide.info.path.name} is gone"
            raise SlideError(msg)
        return original(slide, *arguments, **options)

    monkeypatch.setattr(_cutting, "read_patch", read)


@pytest.mark.usefixtures("small_shards")
def test_pixels_written_anew_without_a_slide_are_forgotten_once_it_is_back(
    cohort: Sequence[SlideSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # BUG: those of the call that was killed took the place of the whole ones, and the dataset could not be read.
    out = tmp_path / "ds"
    with monkeypatch.context() as patch:
        without(patch, "1.tiff")

        def crash(*_: Any, **__: Any) -> None:
            raise CrashError

        patch.setattr("napari_histolatent.patches._extract.finish_dataset", crash)
        with pytest.raises(CrashError):
            extract(cohort, out, recipe=ZSTD)
    assert (tmp_path / "ds.part" / "pixels.zarr.kept").is_dir()
    report = extract(cohort, out, recipe=ZSTD)
    assert report.failed == ()
    extract(cohort, tmp_path / "direct", recipe=ZSTD)
    assert content(out) == content(tmp_path / "direct")
    PatchDataset(out).verify()


def test_what_a_split_keeps_together_is_told_as_it_is_after_slides_failed(
    cohort: Sequence[SlideSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, split=SplitSpec(block_patches=2))
    extract(cohort, tmp_path / "all", recipe=recipe)
    assert PatchDataset(tmp_path / "all").settings["split_by"] == "patient"
    without(monkeypatch, "1.tiff", "2.tiff", "3.tiff")
    extract(cohort, tmp_path / "one", recipe=recipe)
    dataset = PatchDataset(tmp_path / "one")
    assert len(dataset.settings["slides"]) == 1
    assert dataset.settings["split_by"] == "block"
    assert len(set(dataset.columns["split"])) > 1


@pytest.mark.usefixtures("small_shards")
def test_a_worker_of_an_extraction_that_was_replaced_writes_nothing(
    source: SlideSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # BUG: a Dask worker ended its shard in the working folder of the next extraction.
    out, other = tmp_path / "ds", ZSTD.changed(grid={"origin_px": (2.0, 2.0)})
    late: list[Any] = []
    original = pkgutil.resolve_name("napari_histolatent.patches._extract._task")

    def noted(*arguments: Any) -> Any:
        late.append(original(*arguments))
        return late[-1]

    with monkeypatch.context() as patch:
        patch.setattr("napari_histolatent.patches._extract._task", noted)
        stopped_half_way(source, out)
    assert cut_shard(late[-1]).shard == late[-1].shard  # of the same request it is welcome

    def meanwhile(done: int, _: int) -> None:
        if done == 0:
            for task in late[:3]:
                with pytest.raises(DatasetError, match=r"ds\.part belongs to another extraction by now"):
                    cut_shard(task)

    extract([source], out, recipe=other, overwrite=True, on_progress=meanwhile)
    PatchDataset(out).verify()
    assert_pixels_are_those_of([source], PatchDataset(out), every=5)


@pytest.mark.usefixtures("small_shards")
def test_a_shard_that_is_gone_is_cut_again(source: SlideSource, tmp_path: Path) -> None:
    stopped_half_way(source, tmp_path / "ds")
    (tmp_path / "ds.part" / "pixels.zarr" / "c" / "0" / "0" / "0" / "0").unlink()
    extract([source], tmp_path / "ds", recipe=ZSTD)
    PatchDataset(tmp_path / "ds").verify()


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("damage", ["junk", "missing"])
def test_what_is_cut_is_not_removed_because_its_plan_cannot_be_read(
    source: SlideSource, tmp_path: Path, damage: str
) -> None:
    stopped_half_way(source, tmp_path / "ds")
    part = tmp_path / "ds.part"
    shards = {file: file.read_bytes() for file in (part / "pixels.zarr").rglob("0") if file.is_file()}
    assert shards
    if damage == "missing":
        (part / "plan.json").unlink()
        with pytest.raises(ExtractionStoppedError):
            extract([source], tmp_path / "ds", recipe=ZSTD, should_stop=lambda: True)
    else:
        plan = (part / "plan.json").read_bytes()
        (part / "plan.json").write_bytes(b"{")
        with pytest.raises(DatasetError, match=r"The plan in .*ds\.part cannot be read"):
            extract([source], tmp_path / "ds", recipe=ZSTD)
        (part / "plan.json").write_bytes(plan)
    assert {file: file.read_bytes() for file in shards} == shards
    assert extract([source], tmp_path / "ds", recipe=ZSTD).taken_up > 0


def test_limits_that_leave_too_little_are_loosened_without_cutting_again(
    source: SlideSource, tmp_path: Path
) -> None:
    # BUG: it was found after everything was cut, and other limits were another request.
    out, loose = tmp_path / "ds", RECIPE.changed(quality={"min_focus": 0.5})
    with pytest.raises(
        DatasetError,
        match=r"patches do not pass the quality limits.*'epithelium' has no.*loosen the limits and give",
    ):
        extract([source], out, recipe=RECIPE.changed(quality={"min_focus": 1e9}))
    report = extract([source], out, recipe=loose)
    extract([source], tmp_path / "direct", recipe=loose)
    assert content(out) == content(tmp_path / "direct")
    assert report.taken_up == len(PatchDataset(out).table)
    assert PatchDataset(out).settings["recipe"]["quality"]["min_focus"] == 0.5


def test_a_finished_index_is_not_taken_for_that_of_other_limits(
    source: SlideSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr("napari_histolatent.patches._extract._clean", crash)
        with pytest.raises(CrashError):
            extract([source], tmp_path / "ds", recipe=RECIPE)
    with pytest.raises(
        DatasetError, match="holds an unfinished dataset of other slides, regions or settings"
    ):
        extract([source], tmp_path / "ds", recipe=RECIPE.changed(quality={"min_focus": 0.5}))
    extract([source], tmp_path / "ds", recipe=RECIPE)
    assert PatchDataset(tmp_path / "ds").settings["recipe"]["quality"]["min_focus"] is None
