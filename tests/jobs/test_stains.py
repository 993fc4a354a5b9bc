from __future__ import annotations

import numpy as np
import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.jobs.stains import checked, known_stain, normalised, remark_on, stacked
from napari_histolatent.jobs.tiles import Tile
from napari_histolatent.patches import fit_stain

PINK, BROWN = (205, 130, 175), (150, 120, 60)


def tissue(colour: tuple[int, int, int], seed: int, side: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tint = rng.normal(0, 3, 3)
    return np.clip(np.array(colour) + tint + rng.normal(0, 18, (side, side, 3)), 1, 235).astype(np.uint8)


def tile(pixels: np.ndarray, *, synthetic: bool = False) -> Tile:
    return Tile("a", pixels, synthetic=synthetic)


KNOWN = known_stain(np.stack([tissue(PINK, i) for i in range(12)]))


def test_a_tile_of_the_same_stain_passes_and_another_is_remarked_on() -> None:
    assert KNOWN is not None
    assert remark_on(tile(tissue(PINK, 100)), KNOWN) is None
    said = remark_on(tile(tissue(BROWN, 100)), KNOWN)
    assert said is not None
    assert said.startswith("a is stained unlike what the generator draws (")
    assert "--normalise-stain" in said


def test_on_request_a_tile_gets_the_known_colours() -> None:
    assert KNOWN is not None
    brown = tile(tissue(BROWN, 100))
    done = normalised(brown, KNOWN)
    fit = fit_stain(done.pixels, method="reinhard")
    np.testing.assert_allclose(fit.values[0], KNOWN.fit.values[0], atol=0.02)
    assert remark_on(done, KNOWN) is None
    assert done.remarks == ("a was given the colours that the generator draws.",)


def test_tiles_are_checked_and_only_those_that_need_it_are_changed() -> None:
    pink, brown, drawn = (
        tile(tissue(PINK, 100)),
        tile(tissue(BROWN, 101)),
        tile(tissue(BROWN, 102), synthetic=True),
    )
    warned = checked([pink, brown, drawn], KNOWN, normalises=False)
    assert [len(item.remarks) for item in warned] == [0, 1, 0]
    np.testing.assert_array_equal(stacked(warned), stacked([pink, brown, drawn]))
    changed = checked([pink, brown, drawn], KNOWN, normalises=True)
    assert changed[0] is pink
    assert (changed[1].pixels != brown.pixels).any()
    assert changed[2] is drawn


def test_where_there_is_no_tissue_nothing_is_said() -> None:
    assert KNOWN is not None
    white = tile(np.full((32, 32, 3), 250, np.uint8))
    assert remark_on(white, KNOWN) is None
    left = normalised(white, KNOWN)
    assert left.pixels is white.pixels
    assert "too little tissue" in left.remarks[0]
    assert known_stain(np.full((12, 32, 32, 3), 250, np.uint8)) is None
    assert known_stain(np.stack([tissue(PINK, i) for i in range(3)])) is None
    assert checked([white], None, normalises=False) == [white]
    with pytest.raises(UserError, match="leave --normalise-stain out"):
        checked([white], None, normalises=True)
