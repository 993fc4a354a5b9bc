"""Reverse search of one tile as the dock does it, and what is said of the result: no Qt and no napari."""

from __future__ import annotations

import math
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
        """The figures, in sentences."""
        found = self.search.inversion
        said = [
            f"RMSE {found.rmse:.3f} (pixels from -1 to 1)",
            f"PSNR {found.psnr_db:.1f} dB",
            f"SSIM {found.ssim:.2f}",
        ]
        if found.perceptual is not None:
            said.append(f"perceptual distance {found.perceptual:.3g}")
        if found.spread is not None:
            said.append(f"spread over the starts {found.spread:.3f}")
        first = f"Found by {found.method} in {found.seconds:.1f} s: {', '.join(said)}."
        as_class = f" Searched as {self.label}." if self.label else ""
        if math.isnan(found.prior_percentile):
            return first + as_class
        longer = f" Its latent vector is longer than {found.prior_percentile:.0f} % of those that are drawn."
        return first + as_class + longer


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
    on_step: Callable[[int, NDArray[np.uint8]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Found:
    """Search the latent point of a tile, in its own class where that is known, and judge the result.

    Parameters
    ----------
    models
        Whose generator, encoder and calibration are used.
    tile
        Of the generator's size.
    method, options
        See `latent.invert`.
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
    from napari_histolatent.jobs.calibration import Judged, judged
    from napari_histolatent.latent.perceptual import PerceptualDistance

    generator, judge = models.generator, models.classifier
    classes = generator.checkpoint.classes
    (search,) = edits.reverse_search(
        generator,
        [tile],
        label=tile.label if tile.label in classes else None,
        method=method,
        encoder=models.encoder,
        perceptual=PerceptualDistance(),
        options=options,
        on_step=(lambda step, drawn: on_step(step, drawn[0])) if on_step else None,
        should_stop=should_stop,
    )
    if should_stop is not None and should_stop():
        return Found(search, Judged(None, ()), None)
    # It is shown the tiles as they are: one of another size cannot compare the classes.
    fits = judge is not None and judge.checkpoint.size_px == generator.checkpoint.size_px
    (verdict,) = judged(
        generator,
        tile.pixels[None],
        [search.inversion],
        calibration=models.calibration,
        classifier=judge if fits else None,
    )
    weights = search.inversion.point.class_weights
    label = classes[int(np.argmax(weights))] if weights else None
    reasons = tuple(in_dock(sentence) for sentence in verdict.reasons)
    if method in _NEARER_THAN_ITS_VECTOR and any("its reconstruction" in said for said in reasons):
        reasons += (_BY_VECTOR,)
    verdict = replace(verdict, reasons=reasons)
    return Found(search, verdict, label)
