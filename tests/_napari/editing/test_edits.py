"""What the dock computes: targets, edits, searches and their words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_histolatent._napari._editing import Models, Seen, load_models, seen_in
from napari_histolatent._napari.editing._edits import (
    EditState,
    edit_of,
    effect_words,
    flip_words,
    is_same_target,
    sample_of,
    seen_class,
    targets_of,
    tray_tile,
    why_no_flip,
    with_tile_kept,
)
from napari_histolatent._napari.editing._searching import FIGURES_TIP, Found, checked_tile, find
from napari_histolatent._napari.editing._words import in_dock
from napari_histolatent.errors import UserError
from napari_histolatent.jobs import edits
from napari_histolatent.jobs.calibration import Judged
from napari_histolatent.jobs.tiles import Tile, cut_tile
from napari_histolatent.latent.blend import EditEffect, residual_edit
from napari_histolatent.latent.search_options import OWN_STEPS, SearchOptions

if TYPE_CHECKING:
    from napari_histolatent.slides import Slide
    from tests._napari.conftest import Trained

QUICK = SearchOptions(steps=2)


@pytest.fixture(autouse=True)
def quick_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OWN_STEPS, "fast", 2)


@pytest.fixture(scope="module")
def models(trained: Trained) -> Models:
    return load_models(str(trained.generator), str(trained.classifier))


@pytest.fixture
def tile(slide: Slide) -> Tile:
    return replace(cut_tile(slide, (200, 300), size_px=32, mpp=1.0), label="epithelium")


@pytest.fixture
def sample(models: Models) -> Tile:
    return sample_of(models, label="epithelium", seed=3)


def test_models_come_with_what_a_search_needs(models: Models) -> None:
    assert models.stain is not None or models.stain is None  # samples of two steps may hold no tissue
    assert models.calibration is None
    assert models.encoder is None
    assert models.layers
    assert models.remarks == ()


def test_a_damaged_calibration_is_a_remark(trained: Trained, tmp_path: object) -> None:
    import shutil
    from pathlib import Path

    run = Path(str(tmp_path)) / "run"
    shutil.copytree(trained.generator, run)
    (checkpoint,) = (run / "checkpoints").iterdir()
    (checkpoint / "calibration.json").write_text("{")
    models = load_models(str(run), None)
    assert models.calibration is None
    assert "calibration.json" in models.remarks[0]


def test_a_sample_is_synthetic_and_repeats_with_its_seed(models: Models, sample: Tile) -> None:
    assert sample.synthetic
    assert sample.level0_box is None
    assert sample.name == "sample of epithelium, seed 3"
    again = sample_of(models, label="epithelium", seed=3)
    assert np.array_equal(again.pixels, sample.pixels)
    assert not np.array_equal(sample_of(models, label="epithelium", seed=4).pixels, sample.pixels)


def test_an_edit_goes_towards_the_other_classes(models: Models, sample: Tile) -> None:
    assert targets_of(models, EditState(base=sample)) == ("stroma",)
    assert targets_of(models, EditState()) == ()


def test_the_edit_towards_a_class_is_its_flip(models: Models, sample: Tile) -> None:
    edit = edit_of(models, EditState(base=sample), "stroma", evidence_for="stroma")
    flip = edits.flip_tile(models.generator, sample, to="stroma")
    assert np.array_equal(edit.end.pixels, flip.pixels)
    assert edit.end.point.values == sample.point.values, "z is fixed"
    assert edit.effect.error_rmse == 0, "what was drawn has no error"
    assert edit.tile_seen.heatmap is None
    assert edit.start_seen.heatmap.target == "stroma"
    assert edit.end_seen.probabilities is not None
    assert edit.start_seen.heatmap.level0_box == (0, 0, 32, 32), "a tile without a place: in its own pixels"


def test_a_search_knows_its_figures_and_that_nobody_calibrated(models: Models, tile: Tile) -> None:
    found = find(models, tile, method="fast", options=QUICK)
    assert found.label == "epithelium"
    assert found.search.inversion.perceptual is not None
    assert found.judged.verdict is None
    assert "calibrat" in found.judged.reasons[0]
    meaning, figures = found.words.splitlines()
    assert meaning.endswith("Searched as epithelium.")
    assert not any(mark in meaning for mark in ("RMSE", "PSNR", "SSIM"))
    assert figures.startswith("Found by fast in ")
    for figure in ("RMSE", "PSNR", "SSIM", "perceptual distance", "% of those"):
        assert figure in figures
    for figure in ("RMSE", "PSNR", "SSIM"):
        assert f"{figure}:" in FIGURES_TIP


def test_a_search_that_was_stopped_is_not_judged(models: Models, tile: Tile) -> None:
    found = find(models, tile, method="fast", options=QUICK, should_stop=lambda: True)
    assert found.judged == Judged(None, ())


def test_an_edit_knows_what_the_search_missed(models: Models, tile: Tile) -> None:
    found = find(models, tile, method="fast", options=QUICK)
    state = EditState(tile=tile, found=found, base=found.search.reconstruction)
    edit = edit_of(models, state, "stroma", evidence_for=None)
    assert edit.effect.error_rmse > 0
    assert edit.tile_seen.heatmap.level0_box == tile.level0_box


def test_a_tile_without_a_point_is_searched_on_the_way(models: Models, sample: Tile, tile: Tile) -> None:
    edit = edit_of(models, EditState(base=sample), tile, evidence_for=None)
    assert edit.end.point.checkpoint_digest == models.generator.checkpoint.digest
    assert edit.end.synthetic


def test_a_tile_with_a_point_is_not_searched(
    models: Models, sample: Tile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edits, "reverse_search", lambda *_, **__: pytest.fail("searched again"))
    other = sample_of(models, label="stroma", seed=8)
    assert edit_of(models, EditState(base=sample), other, evidence_for=None).end is other


def test_without_a_classifier_nothing_is_seen(models: Models, sample: Tile) -> None:
    alone = replace(models, classifier=None)
    edit = edit_of(alone, EditState(base=sample), "stroma", evidence_for=None)
    assert edit.start_seen.heatmap is None
    assert edit.start_seen.probabilities is None


def test_a_patch_of_a_closed_slide_is_refused(models: Models, tile: Tile) -> None:
    with pytest.raises(UserError, match="slide that is not open"):
        tray_tile(models, None, None, tile)


def test_a_patch_is_cut_again_at_the_generators_size(models: Models, slide: Slide) -> None:
    patch = replace(cut_tile(slide, (200, 300), size_px=64, mpp=0.5), label="fat")
    cut = tray_tile(models, slide, None, patch)
    assert cut.pixels.shape == (32, 32, 3)
    assert cut.label == "fat"


@pytest.mark.parametrize(
    ("classes", "said"), [((), "has no classes"), (("a",), "only the class a"), (("a", "b"), "")]
)
def test_why_a_generator_cannot_flip(classes: tuple[str, ...], said: str) -> None:
    why = why_no_flip(classes)
    assert said in why
    assert bool(why) == bool(said)


def test_targets_are_told_apart_without_looking_at_pixels(sample: Tile) -> None:
    assert is_same_target("a", "a")
    assert not is_same_target("a", "b")
    assert is_same_target(sample, sample)
    assert not is_same_target(sample, replace(sample))
    assert not is_same_target(sample, "a")
    assert not is_same_target(None, "a")
    assert is_same_target(None, None)


def test_the_words_of_an_edit_say_what_stands_against_it() -> None:
    weak = effect_words(EditEffect(change_rmse=0.02, error_rmse=0.1, share_by_mean_colour=0.97))
    meaning, figures = weak.splitlines()
    assert meaning.startswith("Do not rely on this edit: it changes less than the search missed")
    assert "changes the stain alone" in meaning
    assert figures == "Change 0.020, missed 0.100; shift of colour 97% of the change."
    strong = effect_words(EditEffect(change_rmse=0.2, error_rmse=0.1, share_by_mean_colour=0.1))
    assert strong.startswith("The edit changes 2.0 times as much as the search missed")
    assert "Most of it is structure" in strong
    assert "RMSE" not in strong
    most = effect_words(EditEffect(change_rmse=0.6, error_rmse=0.0, share_by_mean_colour=0.88))
    assert "Most of it is one shift of colour" in most
    assert "88%" in most
    assert "missed" not in most
    assert "changes nothing" in effect_words(EditEffect(0.0, 0.1, 0.0))


def test_a_start_that_was_steered_is_no_error_of_the_search(models: Models, tile: Tile) -> None:
    found = find(models, tile, method="fast", options=QUICK)
    steered = replace(found.search.reconstruction, pixels=255 - found.search.reconstruction.pixels)
    missed = [
        edit_of(
            models, EditState(tile=tile, found=found, base=base), "stroma", evidence_for=None
        ).effect.error_rmse
        for base in (found.search.reconstruction, steered)
    ]
    assert missed[0] == missed[1] > 0


def test_heatmaps_that_are_compared_are_of_the_class_the_tile_is_seen_as(models: Models, tile: Tile) -> None:
    found = find(models, tile, method="fast", options=QUICK)
    state = EditState(tile=tile, found=found, base=found.search.reconstruction)
    for named, expected in ((None, seen_class(seen_in(models, [tile], None)[0])), ("stroma", "stroma")):
        edit = edit_of(models, state, "stroma", evidence_for=named, compares=True)
        seen = (edit.tile_seen, edit.start_seen, edit.end_seen)
        assert {item.heatmap.target for item in seen} == {expected} == {edit.evidence_for}
    assert edit_of(models, state, "stroma", evidence_for=None).evidence_for is None


def test_a_flip_to_what_the_tile_is_already_is_said_to_be_none(models: Models, tile: Tile) -> None:
    found = find(models, tile, method="fast", options=QUICK, label="stroma")
    assert found.label == "stroma"
    state = EditState(tile=tile, found=found, base=found.search.reconstruction, towards="epithelium")
    edit = edit_of(models, state, "epithelium", evidence_for=None)
    assert "annotated as epithelium already" in flip_words(state, edit)
    blank = replace(state, tile=replace(tile, label=None))
    as_one, as_other = (
        Seen(probabilities={"epithelium": chance, "stroma": 1 - chance}) for chance in (0.75, 0.25)
    )
    already = flip_words(blank, replace(edit, tile_seen=as_one))
    assert "sees the tile as epithelium already" in already
    assert flip_words(blank, replace(edit, tile_seen=as_other, end_seen=as_one)) == ""
    in_vain = flip_words(blank, replace(edit, tile_seen=as_other, end_seen=as_other))
    assert "it sees stroma (0.75), not epithelium (0.25)" in in_vain
    assert flip_words(replace(blank, towards=tile), edit) == ""


def test_what_is_kept_of_a_tile_is_put_below_what_was_steered(models: Models, tile: Tile) -> None:
    found = find(models, tile, method="fast", options=QUICK)
    before = found.search.reconstruction
    steered = replace(before, pixels=(before.pixels // 2))
    state = EditState(tile=tile, found=found, base=steered, keeps_residual=True)
    expected = residual_edit(tile.pixels, before.pixels, steered.pixels)
    assert np.array_equal(with_tile_kept(state, steered).pixels, expected)
    plain = replace(state, keeps_residual=False)
    assert with_tile_kept(plain, steered) is steered
    seen = [
        edit_of(models, item, "stroma", evidence_for=None).end_seen.probabilities for item in (state, plain)
    ]
    assert seen[0] != seen[1], "what is seen is that which is shown"


def test_no_remark_of_the_dock_names_an_option_of_the_command_line(models: Models, tile: Tile) -> None:
    odd = replace(tile, pixels=(255 - tile.pixels))
    known = replace(models, stain=_stain_of(tile))
    remarks = checked_tile(known, odd, normalises=False).remarks
    assert "Normalise the stain" in remarks[-1]
    assert "--" not in " ".join(remarks)
    assert "`" not in in_dock("search it first with `histolatent invert`.")


def _stain_of(tile: Tile) -> object:
    from napari_histolatent.jobs.stains import known_stain

    chance = np.random.default_rng(0)
    images = np.clip(tile.pixels[None].astype(int) + chance.integers(-3, 4, (16, 1, 1, 3)), 0, 255)
    found = known_stain(images.astype(np.uint8))
    assert found is not None
    return found


def test_normalising_gives_a_tile_the_known_colours(models: Models, tile: Tile) -> None:
    known = replace(models, stain=_stain_of(tile))
    odd = replace(tile, pixels=tile.pixels[..., ::-1].copy())
    done = checked_tile(known, odd, normalises=True)
    assert done.pixels is not odd.pixels
    assert checked_tile(known, tile, normalises=True).pixels is tile.pixels, "it is stained so already"
    with pytest.raises(UserError, match="too little tissue"):
        checked_tile(replace(models, stain=None), odd, normalises=True)


def test_words_without_a_class_or_percentile(models: Models, tile: Tile) -> None:
    found = find(models, tile, method="s1", options=SearchOptions(steps=2, starts=2))
    assert "spread over the starts" in found.words
    unknown = replace(found.search.inversion, prior_percentile=float("nan"))
    bare = Found(replace(found.search, inversion=unknown), found.judged, None)
    assert "%" not in bare.words
    assert "Searched as" not in bare.words
