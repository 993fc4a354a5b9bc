from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import PatchDataset, Recipe, SlideSource, SplitSpec, extract, relabel
from tests.patches.drawn import RECIPE, content

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INDEX_ONLY: Any = {"index_only": True}


def both(sources: Sequence[SlideSource], folder: Path, recipe: Recipe) -> tuple[PatchDataset, PatchDataset]:
    extract(sources, folder / "stored", recipe=recipe)
    extract(sources, folder / "index", recipe=recipe.changed(store=INDEX_ONLY))
    return PatchDataset(folder / "stored"), PatchDataset(folder / "index")


@pytest.mark.parametrize(
    "grid",
    [
        {},
        {"mpp": 0.7},
        {"mpp": None, "downsamples": (1.0, 2.0, 3.0)},
        {"edge": "pad", "size_px": 45},
    ],
)
def test_the_pixels_are_those_of_a_stored_dataset(
    source: SlideSource, tmp_path: Path, grid: dict[str, Any]
) -> None:
    stored, index = both([source], tmp_path, RECIPE.changed(grid=grid))
    rows = list(range(0, len(stored), 7))
    np.testing.assert_array_equal(index.read(rows), stored.read(rows))
    np.testing.assert_array_equal(index[-1][0], stored[-1][0])
    assert index.labels.tolist() == stored.labels.tolist()
    assert index.columns["split"].tolist() == stored.columns["split"].tolist()
    assert np.isnan(index.columns["focus"]).all()
    assert sorted(content(tmp_path / "index")) == ["dataset.json", "index.parquet"]
    report = index.report()
    assert (report["codec"], report["pixels"]) == (None, None)
    assert index.pixels_folder is None


@pytest.mark.parametrize("method", ["reinhard", "macenko"])
def test_the_stain_is_normalised_as_it_would_have_been_when_cut(
    source: SlideSource, tmp_path: Path, method: str
) -> None:
    stored, index = both([source], tmp_path, RECIPE.changed(stain={"method": method}))
    rows = list(range(0, len(stored), 11))
    np.testing.assert_array_equal(index.read(rows), stored.read(rows))
    extract([source], tmp_path / "plain", recipe=RECIPE)
    assert (PatchDataset(tmp_path / "plain").read(rows) != stored.read(rows)).mean() > 0.5


def test_it_is_the_same_each_time(source: SlideSource, tmp_path: Path) -> None:
    for name in ("a", "b"):
        extract([source], tmp_path / name, recipe=RECIPE.changed(store=INDEX_ONLY))
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_many_slides_are_read_by_many_threads(
    cohort: Sequence[SlideSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_histolatent.patches._cutting._MAX_OPEN_SLIDES", 2)
    stored, index = both(cohort, tmp_path, replace(RECIPE, split=SplitSpec()))
    rows = np.random.default_rng(0).permutation(len(stored))[:80].reshape(16, 5)
    with ThreadPoolExecutor(4) as pool:
        for wanted, found in zip(rows, pool.map(index.read, rows), strict=True):
            np.testing.assert_array_equal(found, stored.read(wanted))


def test_slides_that_moved_along_with_the_dataset_are_found(
    cohort: Sequence[SlideSource], tmp_path: Path
) -> None:
    slide = tmp_path / "slide.tiff"
    shutil.copy(cohort[0].slide, slide)
    extract([replace(cohort[0], slide=slide)], tmp_path / "ds", recipe=RECIPE.changed(store=INDEX_ONLY))
    before = PatchDataset(tmp_path / "ds")[0][0]
    slide.rename(tmp_path / "ds" / "slide.tiff")
    np.testing.assert_array_equal(PatchDataset(tmp_path / "ds")[0][0], before)


def test_a_view_of_an_index_reads_the_slides_too(source: SlideSource, tmp_path: Path) -> None:
    recipe = RECIPE.changed(store={"index_only": True, "keep": "tissue"})
    extract([source], tmp_path / "ds", recipe=recipe)
    changed = recipe.changed(labels={"rule": "centre"}, quality={"min_focus": 50.0})  # not measured: all pass
    relabel(PatchDataset(tmp_path / "ds"), tmp_path / "view", recipe=changed)
    extract([source], tmp_path / "fresh", recipe=RECIPE.changed(labels={"rule": "centre"}))
    view, fresh = PatchDataset(tmp_path / "view"), PatchDataset(tmp_path / "fresh")
    assert len(view) == len(fresh)
    np.testing.assert_array_equal(view.read([0, 9, -1]), fresh.read([0, 9, -1]))


def test_an_index_that_names_a_slide_that_the_settings_do_not(source: SlideSource, tmp_path: Path) -> None:
    extract([source], tmp_path / "ds", recipe=RECIPE.changed(store=INDEX_ONLY))
    file = tmp_path / "ds" / "dataset.json"
    digest = PatchDataset(tmp_path / "ds").columns["slide"][0]
    file.write_text(file.read_text().replace(digest, "0" * 64))
    with pytest.raises(
        DatasetError, match=rf"The index names the slide '{digest}', dataset\.json does not; cut"
    ):
        PatchDataset(tmp_path / "ds")[0]
