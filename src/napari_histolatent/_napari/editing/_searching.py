"""Reverse search of one tile as the dock does it, and what is said of the result: no Qt and no napari."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent._napari.editing._words import in_dock

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_histolatent._napari._editing import Models
    from napari_histolatent.jobs.calibration import Judged
    from napari_histolatent.jobs.edits import ReverseSearch
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.latent.search_options import SearchOptions

_NEARER_THAN_ITS_VECTOR = ("faithful", "layers")
"""Methods whose image is nearer to the tile than the latent vector's own."""
OWN_CLASS = ""
"""Search a tile in its own class, where the model knows it, else in each in turn."""
_NEARLY_SAME_SSIM, _CLOSE_SSIM, _UNLIKE_RMSE = 0.9, 0.5, 0.4
"""Medians are, of what the generator drew itself .98, of held-out tiles .86 (faithful) and .22 (fast) (docs/editing.md)."""
FIGURES_TIP = (
    "RMSE: root of the mean squared difference of pixels from -1 to 1; 0 is the same picture, 0.1 about 13 of 255 levels "
    "of brightness. PSNR: the same in decibels; 20 is a rough likeness, 30 a close one. SSIM: how alike structures are, 1 "
    "is the same. Perceptual distance: how unlike texture is to a network that was not trained on tissue; 0 is the same. "
    "Spread: how far the results of several starts lie apart. Length of the latent vector: near 100 % it is one that the "
    "generator hardly ever draws from, and edits of it may look odd."
)
"""What the figures of `Found.words` are."""
_BY_VECTOR = "This is said of what the latent vector alone draws; the reconstruction that is shown was fitted to the tile."


@dataclass(frozen=True, eq=False)
class Found:
    """What a reverse search found, and how far to believe it."""

    search: ReverseSearch
    judged: Judged
    label: str | None
    """The class it was searched in; None: the model has no classes."""

    @property
    def words(self) -> str:
        """What the result means, and below it the figures."""
        found = self.search.inversion
        meaning = _likeness(found.rmse, found.ssim)
        if self.label:
            meaning += f" Searched as {self.label}."
        said = [
            f"RMSE {found.rmse:.3f} (pixels from -1 to 1)",
            f"PSNR {found.psnr_db:.1f} dB",
            f"SSIM {found.ssim:.2f}",
        ]
        if found.perceptual is not None:
            said.append(f"perceptual distance {found.perceptual:.3g}")
        if found.spread is not None:
            said.append(f"spread over the starts {found.spread:.3f}")
        if not math.isnan(found.prior_percentile):
            said.append(f"a latent vector longer than {found.prior_percentile:.0f} % of those that are drawn")
        return f"{meaning}\nFound by {found.method} in {found.seconds:.1f} s: {', '.join(said)}."


def _likeness(rmse: float, ssim: float) -> str:
    if rmse > _UNLIKE_RMSE:
        return "The reconstruction is unlike the tile: an edit of it is no edit of this tile."
    if ssim >= _NEARLY_SAME_SSIM:
        return "The reconstruction is nearly the same as the tile."
    if ssim >= _CLOSE_SSIM:
        return "The reconstruction is close to the tile: its colours and most of its structures came back."
    return "Colours and coarse structure of the tile came back, single nuclei did not."


def at_most_every(seconds: float, tell: Callable[[int, NDArray[np.uint8]], None]) -> Callable[..., None]:
    """Return a function that passes on what it is told, but nothing that comes sooner than so many seconds after the last."""
    told = -math.inf

    def tell_seldom(step: int, drawn: NDArray[np.uint8]) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= seconds:
            told = now
            tell(step, drawn)

    return tell_seldom


def checked_tile(models: Models, tile: Tile, *, normalises: bool) -> Tile:
    """Return a tile with a remark where it is of another stain, or brought to the generator's where that is asked for.

    Raises
    ------
    UserError
        If it is to be brought to a stain that is not known.
    """
    from napari_histolatent.jobs import stains

    (done,) = stains.checked([tile], models.stain, normalises=normalises)
    # The dock names the tile in the line above; its long name says nothing new.
    said = (in_dock(sentence).replace(f"{tile.name} is ", "It is ", 1) for sentence in done.remarks)
    return replace(done, remarks=tuple(said))


def find(
    models: Models,
    tile: Tile,
    *,
    method: str,
    options: SearchOptions,
    label: str | None = OWN_CLASS,
    on_step: Callable[[int, NDArray[np.uint8]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Found:
    """Search the latent point of a tile, and judge the result.

    Parameters
    ----------
    models
        Whose generator, encoder and calibration are used.
    tile
        Of the generator's size.
    method, options
        See `latent.invert`.
    label
        The class to search in; None: each in turn, and the nearest image is kept; `OWN_CLASS`: the tile's own.
    on_step
        Called now and then with (steps done, the image so far, uint8).
    should_stop
        Asked each step; what was stopped is not judged.

    Raises
    ------
    UserError
        As `jobs.edits.reverse_search`.
    """
    from napari_histolatent.jobs import edits
    from napari_histolatent.jobs.calibration import Judged
    from napari_histolatent.latent.perceptual import PerceptualDistance

    generator = models.generator
    classes = generator.checkpoint.classes
    if label == OWN_CLASS:
        label = tile.label if tile.label in classes else None
    (search,) = edits.reverse_search(
        generator,
        [tile],
        label=label,
        method=method,
        encoder=models.encoder,
        perceptual=PerceptualDistance(),
        options=options,
        on_step=(lambda step, drawn: on_step(step, drawn[0])) if on_step else None,
        should_stop=should_stop,
    )
    if should_stop is not None and should_stop():
        return Found(search, Judged(None, ()), None)
    weights = search.inversion.point.class_weights
    found_as = classes[int(np.argmax(weights))] if weights else None
    return Found(search, _judged(models, tile, search), found_as)


def judged_anew(models: Models, tile: Tile, found: Found) -> Found:
    """Return what was found, judged by the calibration that there is now."""
    return replace(found, judged=_judged(models, tile, found.search))


def _judged(models: Models, tile: Tile, search: ReverseSearch) -> Judged:
    """Return how far to believe a search, in the dock's words."""
    from napari_histolatent.jobs.calibration import judged

    generator, judge = models.generator, models.classifier
    # It is shown the tiles as they are: one of another size cannot compare the classes.
    fits = judge is not None and judge.checkpoint.size_px == generator.checkpoint.size_px
    (verdict,) = judged(
        generator,
        tile.pixels[None],
        [search.inversion],
        calibration=models.calibration,
        classifier=judge if fits else None,
    )
    reasons = tuple(in_dock(sentence) for sentence in verdict.reasons)
    if search.inversion.method in _NEARER_THAN_ITS_VECTOR and any(
        "its reconstruction" in said for said in reasons
    ):
        reasons += (_BY_VECTOR,)
    return replace(verdict, reasons=reasons)
