from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.explain.gradcam import grad_cam
from napari_histolatent.explain.region import CELLS, reduced
from napari_histolatent.jobs import region_heatmap
from napari_histolatent.jobs.kinds import KINDS
from napari_histolatent.jobs.region_heatmap import (
    HEATMAP,
    RegionHeatmapConfig,
    map_region,
    new_region_heatmap,
    open_region_heatmap,
)
from napari_histolatent.jobs.tiles import cut_tile
from napari_histolatent.models.images import to_tensor
from napari_histolatent.runs import Run
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_histolatent.slides import Slide
    from napari_histolatent.training.load import LoadedClassifier

BOX = (100.0, 120.0, 420.0, 500.0)
"""5 x 6 tiles of 64 level-0 px (32 px of 1 um, on a slide of 0.5)."""
EPITHELIUM = RegionHeatmapConfig(target="epithelium", overlap=1, min_tissue=0)


@pytest.fixture
def slide(tiny_slide: Path) -> Iterator[Slide]:
    with open_slide(tiny_slide) as opened:
        yield opened


def finest(found: Any) -> np.ndarray:
    return np.asarray(found.levels[0][:])


def test_a_tile_of_the_region_is_mapped_as_it_is_alone(
    slide: Slide, classifier: LoadedClassifier, tmp_path: Path
) -> None:
    found = map_region(slide, classifier, BOX, EPITHELIUM, folder=tmp_path)
    assert found is not None
    values = finest(found)
    assert values.shape == (6 * CELLS, 5 * CELLS)
    assert found.probability.shape == (6, 5)
    assert found.level0_box == (100, 120, 420, 504)
    for row, column in [(0, 0), (2, 3), (5, 4)]:
        centre = (100 + 64 * column + 32.0, 120 + 64 * row + 32.0)
        tile = cut_tile(slide, centre, size_px=32, mpp=1.0)
        (alone,) = grad_cam(classifier.network, to_tensor(tile.pixels[None]), ["epithelium"])
        own = values[row * CELLS : (row + 1) * CELLS, column * CELLS : (column + 1) * CELLS]
        np.testing.assert_allclose(own, reduced(alone.values), atol=1e-5)
        assert found.probability[row, column] == pytest.approx(alone.probability, abs=1e-5)
    assert found.maximum == pytest.approx(values.max())
    assert 0 < found.bright <= found.maximum
    assert (found.target, found.layer) == ("epithelium", alone.layer)
    assert (found.slide, found.slide_digest) == (slide.info.path.name, slide.info.digest)
    assert found.classifier_digest == classifier.checkpoint.digest


def test_the_file_says_where_it_lies(slide: Slide, classifier: LoadedClassifier, tmp_path: Path) -> None:
    found = map_region(slide, classifier, (0, 0, 768, 640), EPITHELIUM, folder=tmp_path)
    assert found is not None
    ome = json.loads((found.path / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (image,) = ome["multiscales"]
    assert [axis["unit"] for axis in image["axes"]] == ["micrometer"] * 2
    scale, translation = image["datasets"][0]["coordinateTransformations"]
    # A pixel of the heatmap is 4 of the slide's, of 0.5 um; its middle is 1.5 of them from the first one's.
    assert scale["scale"] == pytest.approx([2.0, 2.0])
    assert translation["translation"] == pytest.approx([0.75, 0.75])


def test_coarser_levels_until_it_is_small(
    slide: Slide, classifier: LoadedClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(region_heatmap, "_SMALLEST_PX", 30)
    found = map_region(slide, classifier, BOX, EPITHELIUM, folder=tmp_path)
    assert found is not None
    assert [level.shape for level in found.levels] == [(96, 80), (48, 40), (24, 20)]
    expected = finest(found).reshape(24, 4, 20, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(found.levels[2][:], expected, atol=1e-6)


def test_glass_is_left_out(slide: Slide, classifier: LoadedClassifier, tmp_path: Path) -> None:
    config = RegionHeatmapConfig(target="stroma", overlap=1, min_tissue=0.5)
    found = map_region(slide, classifier, (0, 0, 768, 640), config, folder=tmp_path)
    assert found is not None
    seen = ~np.isnan(found.probability)
    assert not seen[0, 0], "the corner is glass"
    assert seen[5, 6], "the middle is tissue"
    by_tile = np.isnan(finest(found)).reshape(10, CELLS, 12, CELLS)
    np.testing.assert_array_equal(by_tile.all(axis=(1, 3)), ~seen)
    np.testing.assert_array_equal(by_tile.any(axis=(1, 3)), ~seen)


@pytest.fixture
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_heatmap, "_BAND_PX", 2 * CELLS)
    monkeypatch.setattr(region_heatmap, "_AT_ONCE", 4)


@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("overlap", [1, 2])
def test_a_stopped_region_goes_on_where_it_was(
    slide: Slide, classifier: LoadedClassifier, tmp_path: Path, overlap: int
) -> None:
    config = RegionHeatmapConfig(target="epithelium", min_tissue=0, overlap=overlap)
    told: list[tuple[int, int]] = []

    def run(folder: str, *, most: int) -> Any:
        told.clear()
        return map_region(
            slide,
            classifier,
            BOX,
            config,
            folder=tmp_path / folder,
            on_progress=lambda done, total: told.append((done, total)),
            should_stop=lambda: len(told) >= most,
        )

    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = run("whole", most=999)
    total = 30 if overlap == 1 else 99
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    calls = len(told)
    assert run("parts", most=calls // 2 + 1) is None
    with pytest.raises(UserError, match="no finished heatmap"):
        open_region_heatmap(tmp_path / "parts")
    parts = run("parts", most=999)
    assert len(told) < calls, "what was done is not done again"
    np.testing.assert_allclose(finest(parts), finest(whole), atol=1e-6)
    np.testing.assert_allclose(parts.probability, whole.probability, atol=1e-6)


@pytest.mark.usefixtures("small_bands")
def test_what_was_begun_with_something_else_is_not_gone_on_with(
    slide: Slide, classifier: LoadedClassifier, tmp_path: Path
) -> None:
    assert map_region(slide, classifier, BOX, EPITHELIUM, folder=tmp_path, should_stop=lambda: True) is None
    other = RegionHeatmapConfig(target="stroma", overlap=1, min_tissue=0)
    with pytest.raises(UserError, match=r"begun with another target \(epithelium, now stroma\); map"):
        map_region(slide, classifier, BOX, other, folder=tmp_path)
    (tmp_path / "heatmap_state.json").write_text("{")
    with pytest.raises(UserError, match="is garbled"):
        map_region(slide, classifier, BOX, EPITHELIUM, folder=tmp_path)


def test_the_run(tiny_slide: Path, classifier: LoadedClassifier, tmp_path: Path) -> None:
    run = new_region_heatmap(
        tiny_slide, classifier.checkpoint.path, (-50, -50, 130, 130), EPITHELIUM, out=tmp_path / "run"
    )
    assert run.kind == HEATMAP
    KINDS[run.kind](Run(run.path))
    status = run.status()
    assert status.state == "finished"
    assert status.data["report"]["tiles"] == status.step == status.steps == 9
    found = open_region_heatmap(run.path)
    assert found.level0_box == (0, 0, 192, 192)
    run.request_stop()
    KINDS[run.kind](run)
    assert run.status().state == "finished", "all of it was done already"


def test_a_stopped_run_says_so(tiny_slide: Path, classifier: LoadedClassifier, tmp_path: Path) -> None:
    run = new_region_heatmap(tiny_slide, classifier.checkpoint.path, BOX, EPITHELIUM, out=tmp_path / "run")
    run.request_stop()
    KINDS[run.kind](run)
    assert run.status().state == "stopped"


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        ((10, 10, 10, 20), "has no area"),
        ((0, 0, float("nan"), 20), "has no area"),
        ((768, 0, 900, 100), r"lies off tiny.tiff \(768 x 640 px\); choose one on the slide"),
    ],
)
def test_a_region_that_is_none_is_refused(
    tiny_slide: Path, tmp_path: Path, box: tuple[float, float, float, float], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        new_region_heatmap(tiny_slide, "classifier", box, EPITHELIUM, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"target": "bone"}, r"no class 'bone'; its classes are epithelium, stroma\."),
        ({"layer": "nowhere"}, "no layer 'nowhere'; choose one of features.2"),
        ({"min_tissue": 1.0, "target": "stroma"}, "No tile of the region of .* has 100 % of tissue; choose"),
    ],
)
def test_what_cannot_be_mapped_is_said(
    slide: Slide, classifier: LoadedClassifier, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    config = RegionHeatmapConfig(**{"target": "stroma", **changes})
    with pytest.raises(UserError, match=sentence):
        map_region(slide, classifier, (0, 0, 64, 64), config, folder=tmp_path)


def test_pixels_that_are_too_large_are_refused(
    tiny_slide: Path, classifier: LoadedClassifier, tmp_path: Path
) -> None:
    sentence = "5 times as large as those that the classifier learnt from"
    with open_slide(tiny_slide, mpp=5.0) as coarse, pytest.raises(UserError, match=sentence):
        map_region(coarse, classifier, BOX, EPITHELIUM, folder=tmp_path)


@pytest.mark.parametrize("changes", [{"overlap": 3}, {"min_tissue": 1.5}, {"min_tissue": float("nan")}])
def test_settings_that_are_not_possible_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"; give 2 |between 0 and 1"):
        RegionHeatmapConfig(target="stroma", **changes)


def test_a_garbled_run_is_refused(tiny_slide: Path, classifier: LoadedClassifier, tmp_path: Path) -> None:
    run = new_region_heatmap(tiny_slide, classifier.checkpoint.path, BOX, EPITHELIUM, out=tmp_path / "run")
    description = json.loads((run.path / "run.json").read_text())
    description["spec"]["box"] = [1, 2, 3]
    (run.path / "run.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="lacks or garbles"):
        KINDS[HEATMAP](Run(run.path))


@pytest.mark.parametrize("damage", ["gone", "no array", "no facts"])
def test_a_damaged_file_is_refused(
    slide: Slide, classifier: LoadedClassifier, tmp_path: Path, damage: str
) -> None:
    import shutil

    found = map_region(slide, classifier, (0, 0, 64, 64), EPITHELIUM, folder=tmp_path)
    assert found is not None
    if damage == "gone":
        shutil.rmtree(found.path)
    elif damage == "no array":
        shutil.rmtree(found.path / "0")
    else:
        (found.path / "zarr.json").write_text("{}")
    with pytest.raises(UserError, match="is no finished heatmap of a region"):
        open_region_heatmap(found.path)


def test_computing_leaves_no_gradients(slide: Slide, classifier: LoadedClassifier, tmp_path: Path) -> None:
    map_region(slide, classifier, (0, 0, 64, 64), EPITHELIUM, folder=tmp_path)
    assert isinstance(classifier.network, torch.nn.Module)
    assert all(parameter.grad is None for parameter in classifier.network.parameters())
