from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._napari._editing import load_models
from napari_histolatent._napari.editing._path import FRAMES, PathDrawer, PathRequest
from napari_histolatent.errors import UserError
from napari_histolatent.explain.gradcam import layers_of
from napari_histolatent.jobs import edits
from napari_histolatent.latent.blend import residual_edit

if TYPE_CHECKING:
    from napari_histolatent._napari._editing import Models
    from napari_histolatent.jobs.tiles import Tile
    from tests._napari.conftest import Trained


@pytest.fixture
def models(trained: Trained) -> Models:
    return load_models(str(trained.generator), str(trained.classifier))


@pytest.fixture
def keys(models: Models) -> tuple[Tile, Tile]:
    (start,) = edits.sample_tiles(models.generator, 1, label="epithelium", seed=1)
    return start, edits.flip_tile(models.generator, start, to="stroma")


@pytest.fixture
def request_(models: Models, keys: tuple[Tile, Tile]) -> PathRequest:
    return PathRequest(models.generator, keys, classifier=models.classifier)


@pytest.mark.parametrize("timing", ["pixels", "probability", "even"])
def test_the_frames_are_those_of_the_path_whatever_the_order(
    models: Models, keys: tuple[Tile, Tile], request_: PathRequest, timing: str
) -> None:
    expected = edits.path_tiles(models.generator, keys, frames=5, timing=timing, classifier=models.classifier)
    draw = PathDrawer(replace(request_, timing=timing), 5)
    drawn = [*draw([3]), *draw([4, 0]), *draw([1, 2])]
    assert [frame.index for frame in drawn] == [3, 4, 0, 1, 2]
    for frame in drawn:
        same = expected[frame.index]
        assert np.abs(frame.tile.pixels.astype(int) - same.pixels).max() <= 1
        assert frame.tile.point.values == pytest.approx(same.point.values)
        assert frame.tile.point.class_weights == pytest.approx((1 - frame.t, frame.t))
        assert frame.tile.synthetic
        assert frame.tile.name == f"{keys[0].name}_frame_{frame.index:03d}"
    ts = [frame.t for frame in sorted(drawn, key=lambda frame: frame.index)]
    assert ts[0] == 0
    assert ts[-1] == 1
    assert ts == sorted(ts)


def test_the_ends_are_there_before_the_path_was_looked_at(
    request_: PathRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    real = edits.path_times
    monkeypatch.setattr(edits, "path_times", lambda *a, **k: looked.append(1) or real(*a, **k))
    draw = PathDrawer(request_)
    first, last = draw([0, FRAMES - 1])
    assert (first.t, last.t, looked) == (0.0, 1.0, [])
    draw([4])
    draw([7, 0])
    assert looked == [1], "once"


def test_every_frame_is_looked_at(models: Models, request_: PathRequest) -> None:
    layer = layers_of(models.classifier.network)[0]
    request = replace(request_, evidence_for="stroma", layer=layer)
    for frame in PathDrawer(request, 3)([1, 2]):
        assert frame.seen.heatmap.target == "stroma"
        assert frame.seen.heatmap.layer == layer
        assert frame.seen.heatmap.probability == pytest.approx(frame.seen.probabilities["stroma"])
    blind = PathDrawer(replace(request, classifier=None), 3)([1])
    assert blind[0].seen.heatmap is None
    assert blind[0].seen.probabilities is None


def test_changes_are_put_onto_a_real_tile(request_: PathRequest, keys: tuple[Tile, Tile]) -> None:
    rng = np.random.default_rng(0)
    real = replace(
        keys[0],
        pixels=rng.integers(90, 160, keys[0].pixels.shape, np.uint8),
        point=None,
        synthetic=False,
    )
    plain, kept = (PathDrawer(replace(request_, residual_on=on), 3) for on in (None, real))
    assert np.array_equal(kept([0])[0].tile.pixels, real.pixels)
    (edited,) = kept([1])
    (drawn,) = plain([1])
    expected = residual_edit(real.pixels, plain([0])[0].tile.pixels, drawn.tile.pixels)
    assert np.array_equal(edited.tile.pixels, expected)
    assert edited.tile.residual == 1.0
    assert edited.tile.synthetic


def test_what_was_steered_before_the_path_is_put_onto_the_tile_too(
    request_: PathRequest, keys: tuple[Tile, Tile]
) -> None:
    rng = np.random.default_rng(0)
    real, before = (
        replace(keys[0], pixels=rng.integers(90, 160, keys[0].pixels.shape, np.uint8)) for _ in "ab"
    )
    kept = PathDrawer(replace(request_, residual_on=real, residual_from=before), 3)
    start = PathDrawer(request_, 3)([0])[0].tile
    assert np.array_equal(kept([0])[0].tile.pixels, residual_edit(real.pixels, before.pixels, start.pixels))
    own = PathDrawer(replace(request_, residual_on=real, residual_from=keys[0]), 3)
    assert np.array_equal(own([0])[0].tile.pixels, real.pixels), "an unsteered start: the tile itself"


def test_a_drawer_that_is_stopped_returns_no_frames(request_: PathRequest) -> None:
    assert PathDrawer(request_, 5, should_stop=lambda: True)([2]) == []


def test_what_is_no_path_is_refused(request_: PathRequest, keys: tuple[Tile, Tile]) -> None:
    for request, said in (
        (replace(request_, keys=keys[:1]), "at least 2"),
        (replace(request_, keys=(keys[0], replace(keys[1], point=None))), "no latent point"),
        (replace(request_, timing="probability", classifier=None), "needs a classifier"),
        (replace(request_, layer="nowhere"), "no layer 'nowhere'"),
    ):
        with pytest.raises(UserError, match=said):
            PathDrawer(request, 5)([1])


@pytest.mark.parametrize(
    "change", [{"timing": "even"}, {"kind": "linear"}, {"evidence_for": "stroma"}, {"classifier": None}]
)
def test_requests_are_told_apart_without_looking_at_pixels(
    request_: PathRequest, keys: tuple[Tile, Tile], change: dict[str, Any]
) -> None:
    assert request_.is_same_as(replace(request_))
    assert not request_.is_same_as(replace(request_, **change))
    assert not request_.is_same_as(replace(request_, keys=(keys[0], replace(keys[1]))))
    assert not request_.is_same_as(None)


@pytest.mark.parametrize("keeps_tile", [False, True])
def test_other_evidence_is_looked_for_in_the_same_images(
    models: Models, request_: PathRequest, monkeypatch: pytest.MonkeyPatch, keeps_tile: bool
) -> None:
    request = replace(request_, residual_on=request_.keys[1] if keeps_tile else None)
    before = PathDrawer(request, 5)
    frames = before([1, 4])
    drawn: list[list[float]] = []
    real, looked = edits.drawn_tiles, edits.path_times
    monkeypatch.setattr(
        edits, "drawn_tiles", lambda g, keys, ts, **k: drawn.append(list(ts)) or real(g, keys, ts, **k)
    )
    monkeypatch.setattr(edits, "path_times", lambda *a, **k: pytest.fail("the places are known"))
    again = PathDrawer(replace(request, evidence_for="stroma"), 5, before=before)([4, 2, 1])
    assert [len(ts) for ts in drawn if ts] == [1], "the one that was not there yet"
    assert again[2].tile is frames[0].tile
    assert again[0].tile is frames[1].tile
    assert [frame.seen.heatmap.target for frame in again] == ["stroma"] * 3
    assert [again[2].t, again[0].t] == [frame.t for frame in frames]
    monkeypatch.setattr(edits, "path_times", looked)
    drawn.clear()
    PathDrawer(replace(request, timing="even"), 5, before=before)([1, 4])
    assert sum(map(len, drawn)) >= 2, "other images are drawn"


def test_a_path_even_in_probability_is_another_for_another_classifier(request_: PathRequest) -> None:
    request = replace(request_, timing="probability")
    assert request.has_images_of(replace(request, evidence_for="stroma", layer="any"))
    assert not request.has_images_of(replace(request, classifier=None))
    assert request_.has_images_of(replace(request_, classifier=None))
    assert not request_.has_images_of(None)
