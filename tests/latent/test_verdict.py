from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent.errors import CheckpointError
from napari_histolatent.latent import Inversion, LatentPoint
from napari_histolatent.latent.verdict import (
    CALIBRATION_FILE,
    NO_CALIBRATION,
    Bounds,
    Calibration,
    FamiliarTissue,
    Measures,
    bounds_of,
    verdict_of,
)

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = "d" * 64


def tissue(n: int = 100, d: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    # Most of what varies lies along a few directions.
    mixing = np.random.default_rng(99).normal(size=(8, d))
    return (rng.normal(size=(n, 8)) @ mixing + 0.1 * rng.normal(size=(n, d))).astype(np.float32)


def calibration(**changes: Any) -> Calibration:
    bounds = {name: Bounds(1.0, 2.0) for name in ("rmse", "perceptual", "z_ratio", "feature_distance")}
    return replace(
        Calibration(DIGEST, "e" * 64, 100, bounds, "p", "f", FamiliarTissue.of(tissue())), **changes
    )


def inversion(**changes: Any) -> Inversion:
    figures: dict[str, Any] = {"rmse": 0.5, "perceptual": 0.5, "z_ratio": 0.5}
    return Inversion(
        point=LatentPoint((1.0,), (1.0,), DIGEST), psnr_db=0, ssim=0, seconds=0, **(figures | changes)
    )


GOOD = Measures(0.5, "stroma", "stroma")


def test_figures_like_those_of_most_held_out_tiles_are_trusted() -> None:
    verdict, reasons = verdict_of(inversion(), GOOD, calibration())
    assert verdict == "trust"
    assert reasons == (
        "Everything measured is as good as in nine of ten of 100 real tiles that the model was tested on.",
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rmse", "The error of its reconstruction"),
        ("perceptual", "The perceptual distance of its reconstruction"),
        ("z_ratio", "The length of its latent vector"),
        ("feature_distance", "Its distance to the tissue that the model learnt from"),
    ],
)
def test_each_measure_counts(name: str, words: str) -> None:
    def verdict(value: float) -> tuple[Any, tuple[str, ...]]:
        if name == "feature_distance":
            return verdict_of(inversion(), replace(GOOD, feature_distance=value), calibration())
        return verdict_of(inversion(**{name: value}), GOOD, calibration())

    assert verdict(1.0)[0] == "trust"
    assert verdict(1.5) == ("caution", (f"{words} (1.5) is beyond that of 90 % of held-out tiles (1).",))
    assert verdict(2.0)[0] == "caution"
    assert verdict(2.5) == ("outside", (f"{words} (2.5) is beyond that of 99 % of held-out tiles (2).",))
    assert verdict(float("nan"))[0] == "outside"


def test_another_class_in_the_reconstruction_calls_for_caution() -> None:
    verdict, reasons = verdict_of(inversion(), Measures(0.5, "stroma", "fat"), calibration())
    assert verdict == "caution"
    assert reasons == ("The classifier sees stroma in the tile and fat in its reconstruction.",)
    worse = verdict_of(inversion(rmse=3.0), Measures(0.5, "stroma", "fat"), calibration())
    assert (worse[0], len(worse[1])) == ("outside", 2)


def test_a_class_that_often_differs_is_told_and_does_not_count() -> None:
    other = Measures(0.5, "stroma", "fat", classifier_digest="c")
    often = calibration(classifier_digest="c", class_agreement=0.66)
    verdict, reasons = verdict_of(inversion(), other, often)
    assert verdict == "trust"
    assert reasons[1:] == (
        "The classifier sees stroma in the tile and fat in its reconstruction; that is so in 34 % of held-out tiles and does not count.",
    )
    assert verdict_of(inversion(), replace(other, classifier_digest="another"), often)[0] == "caution"
    assert verdict_of(inversion(), other, replace(often, class_agreement=0.95))[0] == "caution"


def test_what_was_not_measured_is_passed_over() -> None:
    assert verdict_of(inversion(perceptual=None), Measures(), calibration())[0] == "trust"


def test_a_tuned_copy_is_judged_by_z_alone() -> None:
    tuned = inversion(rmse=0.01, perceptual=0.01, rmse_at_z=3.0, perceptual_at_z=0.5)
    assert verdict_of(tuned, GOOD, calibration())[0] == "outside"
    tuned = inversion(rmse=0.01, perceptual=0.01, rmse_at_z=0.5, perceptual_at_z=1.5)
    assert verdict_of(tuned, GOOD, calibration())[0] == "caution"


@pytest.mark.parametrize("found", [None, calibration(checkpoint_digest="f" * 64)])
def test_without_a_calibration_of_the_generator_there_is_no_verdict(found: Calibration | None) -> None:
    assert verdict_of(inversion(), GOOD, found) == (None, (NO_CALIBRATION,))
    assert "histolatent calibrate" in NO_CALIBRATION


def test_bounds_are_those_that_a_further_tile_keeps_to() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1, 200)).tolist()
    assert Bounds.of(values) == Bounds(180, 198)
    assert Bounds.of(list(range(1, 65))) == Bounds(59, 64), "the largest where there are too few"
    assert Bounds.of([5.0]) == Bounds(5, 5)
    rng = np.random.default_rng(1)
    kept = [float(rng.normal()) <= Bounds.of(rng.normal(size=64).tolist()).trusted for _ in range(2000)]
    assert 0.88 < np.mean(kept) < 0.93


def test_a_search_that_ends_on_the_shell_is_not_doubted_for_a_hair() -> None:
    measured = {"rmse": [0.1], "perceptual": [0.1], "feature_distance": [1.0], "z_ratio": [1.0]}
    bounds = bounds_of(measured)
    assert bounds["z_ratio"] == Bounds(1.2, 1.5)
    assert bounds["rmse"] == Bounds(0.1, 0.1)


def test_known_tissue_is_near_and_other_tissue_far() -> None:
    familiar, rng = FamiliarTissue.of(tissue()), np.random.default_rng(3)
    held_out = familiar.distances(tissue(seed=1))
    strange = familiar.distances(rng.normal(size=(20, 40)).astype(np.float32) * 12)
    assert strange.min() > 2 * np.quantile(held_out, 0.99)
    # Beside all directions in which the known tiles vary.
    assert len(familiar.axes) == 32
    rest = np.linalg.svd(familiar.axes)[2][-1]
    odd = tissue(n=5, seed=1) + 20 * (rest * familiar.deviation).astype(np.float32)
    assert familiar.distances(odd).min() > 1.5 * held_out.max()


def test_the_distance_is_that_of_the_nearest_five() -> None:
    known = tissue(n=60, d=10)
    familiar = FamiliarTissue.of(known)
    query = tissue(n=3, d=10, seed=5)
    scaled, scaled_known = ((x - familiar.mean) / familiar.deviation for x in (query, known))
    every = np.sort(np.linalg.norm(scaled[:, None] - scaled_known[None], axis=2), axis=1)
    np.testing.assert_allclose(familiar.distances(query), every[:, :5].mean(1), rtol=0.02)
    assert familiar.distances(known).min() < 0.9 * familiar.distances(known, own=True).min()


def test_to_a_file_and_back(tmp_path: Path) -> None:
    before = calibration(class_agreement=0.9, encoder_digest="x")
    path = before.save(tmp_path)
    assert path == tmp_path / CALIBRATION_FILE
    assert path.stat().st_size < 200_000
    after = Calibration.load(tmp_path, checkpoint_digest=DIGEST)
    assert after is not None
    assert after.to_json() == before.to_json()
    query = tissue(n=4, seed=7)
    np.testing.assert_allclose(after.familiar.distances(query), before.familiar.distances(query), rtol=1e-5)


def test_no_file_or_one_of_another_generator(tmp_path: Path) -> None:
    assert Calibration.load(tmp_path, checkpoint_digest=DIGEST) is None
    calibration().save(tmp_path)
    assert Calibration.load(tmp_path, checkpoint_digest="a" * 64) is None


def damaged(change: Any) -> dict[str, Any]:
    values = json.loads(json.dumps(calibration().to_json()))
    change(values)
    return values  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda v: v.pop("bounds"), "'bounds'"),
        (lambda v: v["bounds"].pop("rmse"), "'rmse'"),
        (lambda v: v["bounds"]["rmse"].update(q90="1"), "'q90'"),
        (lambda v: v.update(format_version=9), "'format_version'"),
        (lambda v: v.update(n=0), "'n'"),
        (lambda v: v["familiar"].pop("axes"), "'axes'"),
        (lambda v: v["familiar"]["tiles"].update(shape=[10**9, 10**9]), "'tiles'"),
        (lambda v: v["familiar"]["mean"].update(base64="AAAA"), "'mean'"),
        (lambda v: v["familiar"]["mean"].update(base64="!"), "."),
        (lambda v: v["familiar"]["axes"].update(v["familiar"]["tiles"]), "'familiar'"),
    ],
)
def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path, change: Any, named: str) -> None:
    (tmp_path / CALIBRATION_FILE).write_text(json.dumps(damaged(change)))
    with pytest.raises(
        CheckpointError, match=f"lacks or garbles .*{named}.*make it again with `histolatent calibrate`"
    ):
        Calibration.load(tmp_path, checkpoint_digest=DIGEST)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / CALIBRATION_FILE).write_text("{")
    with pytest.raises(CheckpointError, match="cannot be parsed; make it again"):
        Calibration.load(tmp_path, checkpoint_digest=DIGEST)
