"""Whether a tile is stained as what a generator learnt from, and bringing it there on request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.errors import UserError
from napari_histolatent.patches import StainFit, fit_stain, normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.jobs.tiles import Tile

_METHOD = "reinhard"
_LEAST_FITTED = 8
_MOST_DEVIATIONS = 4.0
"""A tile whose mean colour is further off than this many standard deviations of the samples' is of another stain."""
_LEAST_DEVIATION = 0.005
"""Of a mean colour: a generator whose samples are all alike calls no scanner's noise another stain."""


@dataclass(frozen=True)
class KnownStain:
    """The colours a generator draws, as it learnt them."""

    fit: StainFit
    """Of all its samples together."""
    means: NDArray[np.float64]
    """Mean colour of each sample in Reinhard's l, α, β, shape (n, 3)."""


def known_stain(images: NDArray[np.uint8]) -> KnownStain | None:
    """Return the colours of a generator's samples, uint8, shape (n, H, W, 3), or None where they hold no tissue.

    Reinhard et al. 2001: mean and spread in l, α, β, over pixels that are tissue.
    """
    fits = [fit for image in images if (fit := _fit_of(image)) is not None]
    whole = _fit_of(images)
    if whole is None or len(fits) < _LEAST_FITTED:
        return None
    return KnownStain(whole, np.array([fit.values[0] for fit in fits]))


def remark_on(tile: Tile, known: KnownStain) -> str | None:
    """Return a sentence where a tile is of another stain than a generator draws, else None."""
    fit = _fit_of(tile.pixels)
    if fit is None:
        return None
    spread = np.maximum(known.means.std(axis=0), _LEAST_DEVIATION)
    off = float(np.abs((np.array(fit.values[0]) - known.means.mean(axis=0)) / spread).max())
    if off <= _MOST_DEVIATIONS:
        return None
    return f"{tile.name} is stained unlike what the generator draws ({off:.0f} standard deviations off), so its edits may show that; give --normalise-stain to bring it there first."


def normalised(tile: Tile, known: KnownStain) -> Tile:
    """Return a tile with the colours that a generator draws (Reinhard et al. 2001); one without tissue as it is."""
    fit = _fit_of(tile.pixels)
    if fit is None:
        said = f"{tile.name} has too little tissue to see how it is stained, so its colours were left as they are."
        return replace(tile, remarks=(*tile.remarks, said))
    said = f"{tile.name} was given the colours that the generator draws."
    pixels = normalise(tile.pixels, source=fit, target=known.fit)
    return replace(tile, pixels=pixels, remarks=(*tile.remarks, said))


def checked(tiles: Sequence[Tile], known: KnownStain | None, *, normalises: bool) -> list[Tile]:
    """Return tiles with a remark on each of another stain, or brought to the known one where that was asked for.

    Raises
    ------
    UserError
        If they are to be brought to a stain that is not known.
    """
    if known is None:
        if normalises:
            msg = "What the generator draws holds too little tissue to see how it is stained; leave --normalise-stain out."
            raise UserError(msg)
        return list(tiles)
    done = []
    for tile in tiles:
        sentence = None if tile.synthetic else remark_on(tile, known)
        if sentence is None:
            done.append(tile)
        elif normalises:
            done.append(normalised(tile, known))
        else:
            done.append(replace(tile, remarks=(*tile.remarks, sentence)))
    return done


def _fit_of(pixels: NDArray[np.uint8]) -> StainFit | None:
    try:
        return fit_stain(pixels, method=_METHOD)
    except UserError:
        return None


def stacked(tiles: Sequence[Tile]) -> NDArray[np.uint8]:
    """Return the pixels of tiles of one size, uint8, shape (n, H, W, 3)."""
    return np.stack([tile.pixels for tile in tiles])
