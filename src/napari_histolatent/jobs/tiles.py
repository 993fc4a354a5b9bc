"""The square of tissue the user works on: a file, or a place on a slide."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histolatent._pictures import open_picture
from napari_histolatent.errors import UserError
from napari_histolatent.latent import LatentPoint
from napari_histolatent.latent.tuned import TunedWeights
from napari_histolatent.models.stain import lumen
from napari_histolatent.patches import GridSpec, patch_downsample, tile_box
from napari_histolatent.slides import area_averaged, best_level, open_slide

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_histolatent.slides import Slide

_PLACE = re.compile(r"^(?P<slide>.+)@(?P<x>-?[\d.]+),(?P<y>-?[\d.]+)$")
MAX_RESAMPLING = 4.0
"""A picture of a pixel size further apart from a model's than this is refused."""
SAME_SIZE = 0.02
"""Pixel sizes that differ by less than this share count as one."""
_BLANK_SHARE = 0.95
"""A tile with more than this unstained is called blank."""


@dataclass(frozen=True)
class Tile:
    """Pixels, and what is known of where they came from."""

    name: str
    pixels: NDArray[np.uint8]
    """Shape (size_px, size_px, 3), RGB."""
    mpp: float | None = None
    slide_digest: str | None = None
    centre: tuple[float, float] | None = None
    """Level-0 pixels, (x, y)."""
    level0_box: tuple[float, float, float, float] | None = None
    """Left, top, right, bottom in level-0 pixels."""
    point: LatentPoint | None = None
    """The latent point it was drawn from, for an image of ours."""
    synthetic: bool = False
    label: str | None = None
    source: str = ""
    """The place or file it first came from; for an edit, that of the tile it was made from."""
    opened_as: str = ""
    """What the user named it as: a file, or SLIDE@X,Y."""
    seed: int | None = None
    """Of what was left to chance in making it."""
    tuned: TunedWeights | None = None
    """The copy of the generator that draws the point, where that is not the checkpoint itself."""
    residual: float | None = None
    """Strength of a residual edit: the pixels are a tile's own and a difference, and the point alone does not draw
    them. None: they are no such edit."""
    remarks: tuple[str, ...] = ()
    """What the user has to know of it: that it was resampled, is blank, lies partly off the slide."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What a picture file of this tile says of itself."""
        return {
            "synthetic": self.synthetic,
            "name": self.name,
            "label": self.label,
            "source": self.source,
            "seed": self.seed,
            "mpp": self.mpp,
            "slide_digest": self.slide_digest,
            "x": self.centre[0] if self.centre else None,
            "y": self.centre[1] if self.centre else None,
            "level0_box": list(self.level0_box) if self.level0_box else None,
            "model_digest": self.point.checkpoint_digest if self.point else None,
            "latent_point": self.point.to_json() if self.point else None,
        } | ({} if self.residual is None else {"residual": self.residual})

    def redrawn(
        self,
        pixels: NDArray[np.uint8],
        point: LatentPoint,
        suffix: str,
        *,
        seed: int | None = None,
        tuned: TunedWeights | None = None,
    ) -> Tile:
        """Return a generator's version of this tile, at the same place, marked as synthetic.

        `tuned` is what draws the point; None: the checkpoint itself.
        """
        return replace(
            self,
            name=f"{self.name}_{suffix}",
            pixels=pixels,
            point=point,
            synthetic=True,
            label=None,
            seed=self.seed if seed is None else seed,
            tuned=tuned,
            residual=None,
            remarks=(),
        )


def is_too_far(ratio: float) -> bool:
    """Return whether pixel sizes of this ratio are too far apart to resample from one to the other."""
    limit = MAX_RESAMPLING * (1 + SAME_SIZE)  # a scan at 0.499 µm counts as one at 0.5
    return not 1 / limit <= ratio <= limit


def tuned_path(folder: Path, digest: str) -> Path:
    """Return where the tuned weights of a digest lie beside the pictures that are drawn with them."""
    return folder / f"tuned_{digest[:12]}.safetensors"


def save_tuned(folder: Path, tile: Tile) -> Path | None:
    """Write what draws a tile beside its picture, once for all tiles it draws; return the file, None if there is none.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    if tile.tuned is None:
        return None
    path = tuned_path(folder, tile.tuned.digest)
    if not path.exists():
        tile.tuned.save(path)
    return path


def cut_tile(
    slide: Slide,
    centre: tuple[float, float],
    *,
    size_px: int,
    mpp: float | None,
    mpp_is_assumed: bool = False,
) -> Tile:
    """Cut the tile around a level-0 point, at the pixel size a model learnt from.

    The slide's level next finer than that is read and, where it has another pixel size, resampled, which the
    tile's remarks say.

    Parameters
    ----------
    slide
        Where to cut.
    centre
        Level-0 pixels, (x, y).
    size_px
        Side of the tile.
    mpp
        Micrometres per tile pixel; None cuts level 0, for models or slides whose pixel size is not known.
    mpp_is_assumed
        Whether the model's data did not state it; said where the tile is resampled to it.

    Raises
    ------
    UserError
        If the point lies off the slide, or the slide states no pixel size, or its finest is more than 4 times as
        coarse.
    """
    x, y = centre
    if not (0 <= x < slide.info.width_px and 0 <= y < slide.info.height_px):
        msg = (
            f"The point x={x:g}, y={y:g} lies off {slide.info.path.name} "
            f"({slide.info.width_px} x {slide.info.height_px} px); pick a place on the slide."
        )
        raise UserError(msg)
    spec = GridSpec(size_px=size_px, mpp=mpp, level=0 if mpp is None else None)
    downsample = patch_downsample(slide, spec)
    own = slide.info.mpp_x
    if mpp is not None and own is not None and is_too_far(min(1.0, mpp / own)):
        msg = f"{slide.info.path.name} has {own:g} µm per px at its finest, the model takes {mpp:g}, more than 4 times finer; choose a slide that was scanned finer, or another model."
        raise UserError(msg)
    box = tile_box(centre, size_px, downsample)
    pixels = slide.read_downsampled(box[:2], size_px=(size_px, size_px), downsamples=downsample)
    inside = _share_inside(box, slide.info.width_px, slide.info.height_px)
    remarks = []
    if inside < 0.999:
        remarks.append(
            f"{1 - inside:.0%} of the tile at x={x:g}, y={y:g} lies off {slide.info.path.name} and is background."
        )
    if mpp is None and own is not None:
        remarks.append(
            f"The model does not say from what pixel size it learnt; the tile is cut at level 0, {own:g} µm per px."
        )
    elif mpp is None:
        remarks.append(
            f"{slide.info.path.name} does not state its pixel size; the tile is cut at level 0 and taken to show as much tissue as the model's own."
        )
    elif own is not None:
        levels = [level.downsample for level in slide.info.levels]
        read = levels[best_level(levels, min(downsample))]
        if abs(min(downsample) / read - 1) > SAME_SIZE:
            remarks.append(
                f"The tile was resampled from {own * read:.3g} to {_models_own(mpp, mpp_is_assumed)}."
            )
    return Tile(
        remarks=(*remarks, *_blankness(pixels)),
        name=f"{slide.info.path.stem}_x{x:.0f}_y{y:.0f}",
        source=f"{slide.info.path.name}@{x:g},{y:g}",
        pixels=pixels,
        mpp=None if own is None else own * downsample[0],
        slide_digest=slide.info.digest,
        centre=centre,
        level0_box=box,
    )


def _models_own(mpp: float, is_assumed: bool) -> str:
    return f"the model's {mpp:g} µm per px{', which its card assumes' if is_assumed else ''}"


def _share_inside(box: tuple[float, float, float, float], width: int, height: int) -> float:
    left, top, right, bottom = box
    across = max(0.0, min(right, width) - max(left, 0.0)) / (right - left)
    return across * max(0.0, min(bottom, height) - max(top, 0.0)) / (bottom - top)


def _blankness(pixels: NDArray[np.uint8]) -> tuple[str, ...]:
    share = float(lumen(pixels).mean())
    if share <= _BLANK_SHARE:
        return ()
    return (f"The tile is blank: {share:.0%} of it is unstained, so there is little to find.",)


def open_tile(
    image: str,
    *,
    size_px: int,
    mpp: float | None,
    mpp_is_assumed: bool = False,
    slide_mpp: float | None = None,
) -> Tile:
    """Open the tile that a command line names: a file, or SLIDE@X,Y (level-0 centre).

    A picture of another pixel size is resampled if the two are at most 4 times apart. Where one of them is not
    known, the whole picture is taken to show as much tissue as one of the model's tiles. The remarks say either.

    Parameters
    ----------
    image
        What the user named.
    size_px, mpp
        The model's: side of its tiles, and micrometres per pixel, None where it is not known.
    mpp_is_assumed
        Whether the model's data did not state it.
    slide_mpp
        Micrometres per level-0 pixel, for a slide that does not state it.

    Raises
    ------
    UserError
        If there is no such file, place or slide, the picture is no square or shows more or less than a tile, or
        the pixel sizes are more than 4 times apart.
    """
    named = _PLACE.match(image)
    if named and not Path(image).exists():
        with open_slide(named["slide"], mpp=slide_mpp) as slide:
            tile = cut_tile(slide, _point_of(named), size_px=size_px, mpp=mpp, mpp_is_assumed=mpp_is_assumed)
            return replace(tile, opened_as=image)
    pixels, provenance = open_picture(Path(image))
    own = provenance.get("mpp")
    try:
        own = None if own is None else float(own)
        place = None if provenance.get("x") is None else (float(provenance["x"]), float(provenance["y"]))
        box = provenance.get("level0_box")
        level0_box = None if box is None else tuple(float(v) for v in box)
        point = LatentPoint.from_json(provenance["latent_point"]) if provenance.get("latent_point") else None
        if level0_box is not None and len(level0_box) != 4:
            raise ValueError(box)
    except (KeyError, TypeError, ValueError) as error:
        msg = f"What {image} says of its origin is garbled ({error!r}); save it again with `histolatent region`, or as a plain PNG."
        raise UserError(msg) from error
    remarks: list[str] = []
    if own and mpp:
        if not abs(own / mpp - 1) <= SAME_SIZE:
            remarks.append(f"{image} was resampled from {own:g} to {_models_own(mpp, mpp_is_assumed)}.")
            pixels, own = _resampled(pixels, own, mpp, size_px, image), mpp
        _require_size(pixels, size_px, image)
    else:
        given = pixels.shape[0]
        pixels = _as_one_tile(pixels, size_px, image)
        # What a model drew it drew at its own pixel size.
        if given != size_px or (mpp and not provenance.get("synthetic")):
            remarks.append(_said_of_unknown(image, given, size_px, mpp, own, mpp_is_assumed=mpp_is_assumed))
        own = own and own * given / size_px
    tuned = None
    if provenance.get("residual") is not None:
        # The point draws the edit, but not what was kept of the tile.
        point = None
    if point is not None and point.tuned_digest:
        tuned, sentence = _tuned_beside(Path(image), point)
        # Without the weights the point draws something else: the picture alone is left of it.
        point = point if tuned else None
        remarks += [sentence] if sentence else []
    return Tile(
        remarks=(*remarks, *_blankness(pixels)),
        tuned=tuned,
        name=Path(image).stem,
        source=str(provenance.get("source") or image),
        opened_as=image,
        pixels=pixels,
        mpp=own,
        slide_digest=str(provenance["slide_digest"]) if provenance.get("slide_digest") else None,
        centre=place,
        level0_box=level0_box,
        point=point,
        synthetic=bool(provenance.get("synthetic")),
        label=provenance.get("label"),
    )


def _tuned_beside(image: Path, point: LatentPoint) -> tuple[TunedWeights | None, str]:
    """Return the weights that draw the point of a picture, which lie beside it, or None and why not."""
    path = tuned_path(image.parent, point.tuned_digest)
    if not path.is_file():
        return (
            None,
            f"The tuned weights of {image.name} ({path.name}) are not beside it, so it is searched again.",
        )
    try:
        tuned = TunedWeights.load(path, checkpoint_digest=point.checkpoint_digest)
    except UserError as error:
        return None, str(error)
    if tuned.digest != point.tuned_digest:
        return (
            None,
            f"{path.name} holds other weights than {image.name} was drawn with, so it is searched again.",
        )
    return tuned, ""


def _point_of(named: re.Match[str]) -> tuple[float, float]:
    try:
        return float(named["x"]), float(named["y"])
    except ValueError as error:
        msg = f"{named['x']},{named['y']} is not a place on a slide; give two numbers of level-0 pixels, as SLIDE@1200,1900."
        raise UserError(msg) from error


def _require_size(pixels: NDArray[np.uint8], size_px: int, name: str) -> None:
    height, width = pixels.shape[:2]
    if (height, width) != (size_px, size_px):
        msg = f"{name} is {width} x {height} px, the model takes {size_px} x {size_px} px; cut it to that size, or name a place as SLIDE@X,Y."
        raise UserError(msg)


def _resampled(
    pixels: NDArray[np.uint8], own: float, mpp: float, size_px: int, name: str
) -> NDArray[np.uint8]:
    """Return the picture at the model's pixel size; a wrong size is refused before anything is enlarged."""
    factor = own / mpp
    if is_too_far(factor):
        msg = f"{name} has {own:g} µm per px, the model takes {mpp:g}, more than 4 times apart; cut it from the slide at the model's own (histolatent region --mpp {mpp:g})."
        raise UserError(msg)
    height, width = pixels.shape[:2]
    wanted = (round(width * factor), round(height * factor))
    if wanted != (size_px, size_px):
        msg = f"{name} covers {wanted[0]} x {wanted[1]} px at the model's pixel size, the model takes {size_px} x {size_px} px; cut it to that size, or name a place as SLIDE@X,Y."
        raise UserError(msg)
    return area_averaged(pixels, (0.0, 0.0), (float(width), float(height)), wanted)


def _as_one_tile(pixels: NDArray[np.uint8], size_px: int, name: str) -> NDArray[np.uint8]:
    """Return a whole picture of unknown pixel size at the model's size in px."""
    height, width = pixels.shape[:2]
    if height != width:
        msg = f"{name} is {width} x {height} px, the model takes a square; cut it to one, or name a place as SLIDE@X,Y."
        raise UserError(msg)
    if width == size_px:
        return pixels
    if is_too_far(width / size_px):
        msg = f"{name} is {width} x {height} px of unknown pixel size, the model takes {size_px} x {size_px} px, more than 4 times apart; scale it to that size if it shows as much tissue as the model's tiles."
        raise UserError(msg)
    return area_averaged(pixels, (0.0, 0.0), (float(width), float(height)), (size_px, size_px))


def _said_of_unknown(
    name: str, given: int, size_px: int, mpp: float | None, own: float | None, *, mpp_is_assumed: bool
) -> str:
    """Return what is supposed of a picture where its own pixel size or the model's is not known."""
    unknown = (
        "The model does not say from what pixel size it learnt"
        if own
        else f"{name} does not state its pixel size"
    )
    across = (
        f" ({size_px * mpp:g} µm across{', as its card assumes' if mpp_is_assumed else ''})" if mpp else ""
    )
    resampled = f", resampled from {given} to {size_px} px" if given != size_px else ""
    return f"{unknown}, so {'all of ' + name if own else 'all of it'} is taken to show as much tissue as one of the model's tiles{across}{resampled}."
