from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.latent import LatentPoint, interpolated, random_points
from napari_histolatent.latent.paths import path_for, path_through, point_at, weights_between
from napari_histolatent.latent.tuned import TunedWeights

if TYPE_CHECKING:
    from napari_histolatent.models.protocols import Generator


def points(n: int, *, digest: str = "d", z_dim: int = 8) -> list[LatentPoint]:
    return random_points(n, z_dim=z_dim, class_weights=(1.0, 0.0), checkpoint_digest=digest, seed=3)


def test_two_points_give_the_path_that_interpolation_has() -> None:
    a, b = points(2)
    ours, theirs = path_through([a, b], 5), interpolated(a, b, 5)
    np.testing.assert_allclose([p.values for p in ours], [p.values for p in theirs])
    assert [p.origin for p in ours] == [p.origin for p in theirs]


def test_a_linear_path_is_straight() -> None:
    a, b = points(2)
    _, middle, _ = path_through([a, b], 3, kind="linear")
    np.testing.assert_allclose(middle.values, (np.array(a.values) + b.values) / 2)
    assert (path_for("normal"), path_for("uniform")) == ("spherical", "linear")


@pytest.mark.parametrize("kind", ["spherical", "linear"])
def test_a_path_passes_through_its_key_points(kind: str) -> None:
    keys = points(4)
    found = path_through(keys, 7, kind=kind)
    for i, key in enumerate(keys):
        np.testing.assert_allclose(found[2 * i].values, key.values, atol=1e-12)


def test_places_on_a_path_may_be_chosen() -> None:
    keys = points(3)
    found = path_through(keys, 3, ts=[0.0, 0.25, 1.0])
    assert found[1] == point_at(keys, 0.25)
    np.testing.assert_allclose(found[1].values, path_through(keys[:2], 3)[1].values)
    with pytest.raises(ValueError, match="need as many places"):
        path_through(keys, 3, ts=[0.0, 1.0])


def test_offsets_move_linearly_and_none_are_zeros() -> None:
    a, b = points(2)
    b = LatentPoint(b.values, (0.0, 1.0), "d", offsets=((2.0, 4.0), (0.0, -2.0)))
    middle = point_at([a, b], 0.5)
    assert middle.offsets == ((1.0, 2.0), (0.0, -1.0))
    assert middle.class_weights == (0.5, 0.5)
    assert point_at([a, b], 0).offsets == ((0.0, 0.0), (0.0, 0.0))
    other = LatentPoint(a.values, a.class_weights, "d", offsets=((1.0, 1.0),))
    with pytest.raises(UserError, match="offsets of 1 and 2 layers"):
        point_at([other, b], 0.5)


@pytest.mark.parametrize(
    ("keys", "kind", "words"),
    [
        (points(1), "spherical", "at least 2 points, not 1"),
        ([points(1)[0], points(1, digest="e")[0]], "spherical", "different generators"),
        ([points(1)[0], points(1, z_dim=4)[0]], "spherical", "8 and 4 values"),
        (points(2), "crooked", "no path named 'crooked'; choose one of: spherical, linear"),
    ],
)
def test_what_is_no_path_is_refused(keys: list[LatentPoint], kind: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        path_through(keys, 3, kind=kind)


def test_too_few_frames_and_places_beyond_the_ends_are_refused() -> None:
    with pytest.raises(UserError, match="at least 2 frames, not 1"):
        path_through(points(2), 1)
    with pytest.raises(UserError, match=r"no point at 1\.5 of a path"):
        point_at(points(2), 1.5)


def tuned(generator: Generator, by: float, digest: str = "d") -> TunedWeights:
    name, value = next(iter(generator.named_parameters()))  # type: ignore[attr-defined]
    return TunedWeights.of({name: value.detach().numpy() + by}, checkpoint_digest=digest)


def test_weights_between_two_copies_are_theirs_at_the_ends_and_blends_between(generator: Generator) -> None:
    a, b = tuned(generator, 0.5), tuned(generator, -0.25)
    assert weights_between(a, b, 0, generator) is a
    assert weights_between(a, b, 1, generator) is b
    assert weights_between(a, a, 0.5, generator) is a
    middle = weights_between(a, b, 0.5, generator)
    assert middle is not None
    assert middle.digest not in (a.digest, b.digest)
    (name,) = middle.state
    own = dict(generator.named_parameters())[name].numpy()  # type: ignore[attr-defined]
    np.testing.assert_allclose(middle.state[name], own + 0.125, atol=2e-3)


def test_between_a_copy_and_the_generator_itself_lies_half_of_the_change(generator: Generator) -> None:
    a = tuned(generator, 0.5)
    assert weights_between(a, None, 1, generator) is None
    assert weights_between(None, a, 0, generator) is None
    assert weights_between(None, None, 0.3, generator) is None
    for middle in (weights_between(a, None, 0.5, generator), weights_between(None, a, 0.5, generator)):
        assert middle is not None
        (name,) = middle.state
        own = dict(generator.named_parameters())[name].numpy()  # type: ignore[attr-defined]
        np.testing.assert_allclose(middle.state[name], own + 0.25, atol=2e-3)


def test_copies_of_two_generators_are_not_blended(generator: Generator) -> None:
    with pytest.raises(UserError, match="different generators"):
        weights_between(tuned(generator, 0.5), tuned(generator, 0.1, "e"), 0.5, generator)
