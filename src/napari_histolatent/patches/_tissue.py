"""Where a slide has tissue: thresholds, holes and islands, pen marks and blur, on a coarse picture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from napari_histolatent._config import option
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches._pens import OD_OF, OD_SCALE, pen_mask, require_pen_colors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_histolatent.slides import Slide, SlideInfo

METHODS = {
    "auto": "dark on a slide with a dark background, else saturation",
    "saturation": "Otsu's threshold on saturation (max - min of RGB, 0 to 255)",
    "density": "Otsu's threshold on optical density (mean over RGB, base 10): also finds grey tissue",
    "fixed": "a threshold on saturation that you give",
    "dark": "Otsu's threshold on the logarithm of brightness, for fluorescence: tissue is brighter",
    "none": "everything is tissue",
}
"""Name and meaning of each way to find tissue."""

_MASK_LONGEST_PX = 2048
_ASSUMED_MPP = 0.5
_BOXES_AT_ONCE = 1 << 14
_ASPECT_TOLERANCE = 0.02

_DARK_BELOW = 60
"""Brightness (max of RGB) that most of a fluorescence slide stays below."""
_GLASS_ABOVE = 180
_PEN_STROKE_UM = 100.0
_LEAST_STROKE_PX = 5
_SMOOTH_DARK_UM = 25.0
"""Half a window: nuclei of a fluorescence slide are lit one by one, and tissue is what lies between them too."""
_BLUR_WINDOW_PX = 15


@dataclass(frozen=True)
class _Scale:
    """What a method looks at, in whole steps; a threshold is in units."""

    name: str
    steps_per_unit: float
    least_spread: float
    """Units between the two sides below which a picture is of one kind and has nothing to separate."""
    otherwise: float
    """The threshold of such a picture."""
    floor: float = 0
    """A threshold below this cuts through the noise of the glass: the picture is of one kind too."""
    by_ratio: bool = False
    """Whether Otsu's threshold is found on the logarithm."""


_SATURATION = _Scale("saturation", 1, least_spread=8, otherwise=16, floor=8)
_DENSITY = _Scale("density", 3 * OD_SCALE, least_spread=0.04, otherwise=0.1, floor=0.04)
_BRIGHTNESS = _Scale("brightness", 1, least_spread=8, otherwise=16, by_ratio=True)


@dataclass(frozen=True)
class TissueSpec:
    """How tissue is told from glass, and how much of it a patch needs.

    Areas are in um2 on the slide; of a slide without a pixel size, level-0 pixels count as 0.5 um.
    """

    method: str = option("auto", "How tissue is found: auto, saturation, density, fixed, dark or none.")
    threshold: float | None = option(
        None,
        "Threshold in the method's unit, in place of Otsu's (saturation and brightness 0 to 255, density 0 to 2.4); fixed: 16 if none.",
    )
    fill_holes_below_um2: float | None = option(
        None, "Holes smaller than this (um2) count as tissue; None: none."
    )
    drop_islands_below_um2: float | None = option(
        None, "Pieces of tissue smaller than this (um2) are left out; None: none."
    )
    reject_pen: bool = option(True, "Leave out pen marks, of the colours given.")
    pen_colors: tuple[str, ...] = option(
        ("green", "red"),
        "Pens to leave out: green, blue, red, black. Blue and black come close to blue stains, coal dust and melanin.",
    )
    reject_blur: bool = option(False, "Leave out what is blurred even on the coarse picture.")
    blur_threshold: float = option(
        8.0, "Variance of the Laplacian of brightness around a pixel below which it is blurred."
    )
    min_tissue: float = option(0.5, "Least share of tissue in a patch, 0 to 1.")

    def __post_init__(self) -> None:
        # From JSON and from forms the colours come as a list.
        object.__setattr__(self, "pen_colors", tuple(self.pen_colors))
        if self.method not in METHODS:
            msg = f"There is no way to find tissue named {self.method!r}; choose {', '.join(METHODS)}."
            raise DatasetError(msg)
        require_pen_colors(self.pen_colors)
        if self.threshold is not None and not 0 <= self.threshold <= 255:
            msg = f"A tissue threshold of {self.threshold:g} is not possible; give a number from 0 to 255, or none for Otsu's."
            raise DatasetError(msg)
        for name in ("fill_holes_below_um2", "drop_islands_below_um2", "blur_threshold"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                msg = f"The limit {name} = {value:g} is not possible; give a number of at least 0."
                raise DatasetError(msg)
        if not 0 <= self.min_tissue <= 1:
            msg = f"The least share of tissue has to lie between 0 and 1, not at {self.min_tissue:g}."
            raise DatasetError(msg)


@dataclass(frozen=True)
class TissueMask:
    """Where there is tissue, on a coarse picture of the slide."""

    mask: NDArray[np.bool_]
    """Shape (height, width), in pixels of the coarse picture."""
    downsample: tuple[float, float]
    """Level-0 pixels per mask pixel, (x, y)."""
    threshold: float
    """Value of the method above which a pixel counts as tissue; NaN where there was none."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Every threshold that was used, by what it is on: saturation, density or brightness, and blur."""
    removed: dict[str, float] = field(default_factory=dict)
    """Share of the picture that each step took from the tissue: pens, blur, islands; holes: below 0, as they are added."""

    def __getstate__(self) -> dict[str, Any]:
        # The sums are made again where they are needed: they are four times the mask.
        return {name: value for name, value in self.__dict__.items() if name != "_summed"}

    @property
    def tissue_share(self) -> float:
        """Share of the picture that is tissue, 0 to 1."""
        return float(self.mask.mean())

    def with_mask(self, edited: NDArray[Any]) -> TissueMask:
        """Return the same with an edited mask (of a Labels layer): where it is not 0 there is tissue.

        Raises
        ------
        DatasetError
            If its shape is another.
        """
        if edited.shape != self.mask.shape:
            msg = (
                f"The edited mask is {_shape_words(edited.shape)}, the slide's {_shape_words(self.mask.shape)}; "
                "edit the layer that was made from the mask."
            )
            raise DatasetError(msg)
        return replace(self, mask=np.asarray(edited) != 0)

    @cached_property
    def _summed(self) -> NDArray[np.int32]:
        """Tissue pixels above and left of each corner, shape (height + 1, width + 1)."""
        summed = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int32)
        np.cumsum(self.mask, axis=0, dtype=np.int32, out=summed[1:, 1:])
        np.cumsum(summed[1:, 1:], axis=1, out=summed[1:, 1:])
        return summed

    def fractions(self, boxes: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the share of tissue in each box.

        Parameters
        ----------
        boxes
            Shape (n, 4): left, top, right, bottom in level-0 pixels. What lies off the slide is glass.

        Returns
        -------
        numpy.ndarray
            float32, shape (n,), 0 to 1; exact for the mask.
        """
        result = np.empty(len(boxes), np.float32)
        # In portions that stay in the processor's cache, with their eight arrays of work.
        for start in range(0, len(boxes), _BOXES_AT_ONCE):
            portion = slice(start, start + _BOXES_AT_ONCE)
            result[portion] = self._fractions_of(boxes[portion])
        return result

    def _fractions_of(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        height, width = self.mask.shape
        summed, row_length = self._summed.ravel(), width + 1
        sides = []
        for i, most in enumerate((width, height, width, height)):
            place = np.clip(boxes[:, i] / self.downsample[i % 2], 0, most)
            whole = np.minimum(place.astype(np.int64), most - 1)
            sides.append((whole, place - whole))
        left, top, right, bottom = sides

        def tissue_before(
            row: NDArray[np.int64], column: NDArray[np.int64], across: NDArray[np.float64]
        ) -> NDArray[np.float64]:
            # Linear between the corners of a mask pixel: exact, as the mask is constant within.
            corner = row * row_length + column
            before = summed[corner]
            return np.asarray(before + across * (summed[corner + 1] - before))

        inside = np.zeros(len(boxes))
        for (row, down), sign in ((bottom, 1), (top, -1)):
            upper, lower = (tissue_before(v, *right) - tissue_before(v, *left) for v in (row, row + 1))
            inside += sign * (upper + down * (lower - upper))
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return inside * (self.downsample[0] * self.downsample[1]) / area


def tissue_mask(slide: Slide, spec: TissueSpec | None = None) -> TissueMask:
    """Return where a slide has tissue, looked at on a picture of at most 2048 px; see `mask_of_picture`.

    A slide that states no pixel size is taken to have 0.5 um per level-0 pixel, which matters for the sizes
    of holes, islands and pen strokes only.

    Raises
    ------
    SlideError
        If the slide cannot be read.
    """
    spec = spec or TissueSpec()
    pixels, _ = slide.thumbnail(longest_px=_MASK_LONGEST_PX)
    downsample = _downsample_of(slide.info, pixels.shape)
    mpp_x, mpp_y = slide.info.mpp_x or _ASSUMED_MPP, slide.info.mpp_y or _ASSUMED_MPP
    um_per_px = math.sqrt(downsample[0] * mpp_x * downsample[1] * mpp_y)
    return mask_of_picture(pixels, downsample=downsample, um_per_px=um_per_px, spec=spec)


def mask_of_picture(
    pixels: NDArray[np.uint8], *, downsample: tuple[float, float], um_per_px: float, spec: TissueSpec
) -> TissueMask:
    """Return where a picture of a slide has tissue. Pure.

    Pens, threshold of what is left (Otsu, IEEE Trans Syst Man Cybern 9:62-66, 1979), blur, holes, islands. A picture
    without two sides (all glass, or all tissue) is cut at a fixed value instead: saturation 16, density 0.1,
    brightness 16. Pens are not looked for on dark slides.

    Parameters
    ----------
    pixels
        uint8, shape (height, width, 3), RGB.
    downsample
        Level-0 pixels per pixel, (x, y).
    um_per_px
        Micrometres per pixel of the picture.
    """
    method = spec.method
    if method == "auto":
        method = "dark" if is_dark(pixels) else "saturation"
    if method == "none":
        return TissueMask(np.ones(pixels.shape[:2], bool), downsample, math.nan)
    if method == "dark":
        # The smallest window is one pixel: a coarse picture has the cells averaged already.
        window = max(1, 2 * round(_SMOOTH_DARK_UM / um_per_px) + 1)
        scale, values = _BRIGHTNESS, _mean_around(pixels.max(axis=2), window)
    elif method == "density":
        total = OD_OF[pixels[..., 0]] + OD_OF[pixels[..., 1]] + OD_OF[pixels[..., 2]]
        scale, values = _DENSITY, np.asarray(total)
    else:
        scale, values = _SATURATION, pixels.max(axis=2) - pixels.min(axis=2)
    pens = np.zeros(pixels.shape[:2], bool)
    rejects_pen = bool(spec.reject_pen and spec.pen_colors and method != "dark")
    if rejects_pen:
        longest = min(pixels.shape[:2]) // 8
        stroke_px = max(_LEAST_STROKE_PX, min(round(_PEN_STROKE_UM / um_per_px), longest))
        pens = pen_mask(pixels, spec.pen_colors, stroke_px=stroke_px)
    threshold = spec.threshold
    if threshold is None:
        # Without the ink, which is far more saturated than tissue and would leave that on the side of the glass.
        threshold = scale.otherwise if method == "fixed" else _otsu(values[~pens], scale)
    mask = values > threshold * scale.steps_per_unit
    thresholds, removed = {scale.name: float(threshold)}, {}

    def keep(step: str, kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
        removed[step] = float(mask.mean() - kept.mean())
        return kept

    if rejects_pen:
        mask = keep("pens", mask & ~pens)
    if spec.reject_blur:
        thresholds["blur"] = spec.blur_threshold
        mask = keep("blur", mask & (_local_focus(pixels) >= spec.blur_threshold))
    px_of_um2 = 1 / um_per_px**2
    if spec.fill_holes_below_um2:
        mask = keep("holes", mask | _small_holes(mask, spec.fill_holes_below_um2 * px_of_um2))
    if spec.drop_islands_below_um2:
        mask = keep(
            "islands", mask & ~_small_parts(mask, spec.drop_islands_below_um2 * px_of_um2, corners=True)
        )
    return TissueMask(mask, downsample, threshold, thresholds, removed)


def mask_from_image(image: NDArray[Any] | str | Path, info: SlideInfo) -> TissueMask:
    """Return a user's own mask of a slide: where the image is not 0 there is tissue.

    Parameters
    ----------
    image
        An array of shape (height, width) or (height, width, channels: any that is not 0, a fourth being
        transparency), or the path of a PNG or TIFF. It covers the whole slide, at any resolution.
    info
        Of the slide.

    Raises
    ------
    DatasetError
        If the file cannot be read as an image, or its aspect differs from the slide's by more than 2 %.
    """
    name = "The mask" if isinstance(image, np.ndarray) else Path(image).name
    values = image if isinstance(image, np.ndarray) else _read_image(Path(image))
    if values.ndim == 3:
        colours = values[..., :-1] if values.shape[2] in (2, 4) else values
        values = colours.max(axis=2)
    if values.ndim != 2 or not values.size:
        msg = f"{name} has the shape {values.shape}; give a picture of one plane."
        raise DatasetError(msg)
    ratio = (values.shape[1] / values.shape[0]) / (info.width_px / info.height_px)
    # One pixel's rounding of a small mask is no misfit.
    slack = 1 / min(values.shape)
    if abs(math.log(ratio)) > math.log1p(_ASPECT_TOLERANCE + slack):
        msg = (
            f"{name} is {_shape_words(values.shape)} and does not have the shape of {info.path.name} "
            f"({info.width_px} x {info.height_px} px); give a mask of the whole slide."
        )
        raise DatasetError(msg)
    return TissueMask(values != 0, _downsample_of(info, values.shape), math.nan)


def is_dark(pixels: NDArray[np.uint8]) -> bool:
    """Return whether a picture has a dark background, as of fluorescence.

    At least half of it is dark, and less than a hundredth is as bright in all channels as glass: a brightfield
    slide whose unscanned part was filled with black shows some glass.
    """
    few = pixels[:: max(1, pixels.shape[0] // 512), :: max(1, pixels.shape[1] // 512)]
    dark, glass = few.max(axis=2) < _DARK_BELOW, few.min(axis=2) > _GLASS_ABOVE
    return bool(dark.mean() >= 0.5 and glass.mean() < 0.01)


def _otsu(values: NDArray[Any], scale: _Scale) -> float:
    if not values.size:
        return scale.otherwise
    low, high = np.percentile(values, (2, 98)) / scale.steps_per_unit
    if high - low < scale.least_spread:
        return scale.otherwise
    if scale.by_ratio:
        return float(np.expm1(threshold_otsu(np.log1p(values))))
    threshold = float(threshold_otsu(values)) / scale.steps_per_unit
    return threshold if threshold >= scale.floor else scale.otherwise


def _small_parts(mask: NDArray[np.bool_], below_px: float, *, corners: bool) -> NDArray[np.bool_]:
    """Return the connected parts of fewer than so many pixels; `corners`: those that touch at a corner are one."""
    parts, _ = ndimage.label(mask, np.ones((3, 3)) if corners else None)
    small = np.bincount(parts.ravel()) < below_px
    small[0] = False
    return np.asarray(small[parts])


def _small_holes(mask: NDArray[np.bool_], below_px: float) -> NDArray[np.bool_]:
    """Return the holes of fewer than so many pixels; what is open to the picture's edge is no hole."""
    ring = np.pad(~mask, 1, constant_values=True)
    # The ring joins all glass at the edges, and is never small itself.
    parts, _ = ndimage.label(ring)
    small = np.bincount(parts.ravel()) < below_px
    small[[0, parts[0, 0]]] = False
    return np.asarray(small[parts[1:-1, 1:-1]])


def _local_focus(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the variance of the Laplacian of luma around each pixel (Pech-Pacheco et al., ICPR 2000)."""
    luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    edges = ndimage.laplace(luma, mode="nearest")
    mean = _mean_around(edges, _BLUR_WINDOW_PX)
    return _mean_around(edges * edges, _BLUR_WINDOW_PX) - mean * mean


def _mean_around(values: NDArray[Any], window_px: int) -> NDArray[np.float32]:
    return np.asarray(ndimage.uniform_filter(values.astype(np.float32), window_px))


def _read_image(path: Path) -> NDArray[Any]:
    import tifffile
    from PIL import Image

    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            return np.asarray(tifffile.imread(path))
        with Image.open(path) as image:
            # A palette's numbers are no colours: 0 is the first of them, whatever it looks like.
            return np.asarray(image)
    except FileNotFoundError as error:
        msg = f"The mask {path} does not exist; choose a PNG or TIFF of the whole slide."
        raise DatasetError(msg) from error
    except (OSError, ValueError, tifffile.TiffFileError, Image.DecompressionBombError) as error:
        msg = f"{path.name} cannot be read as a mask ({error}); give a PNG or TIFF of the whole slide."
        raise DatasetError(msg) from error


def _downsample_of(info: SlideInfo, shape: tuple[int, ...]) -> tuple[float, float]:
    return info.width_px / shape[1], info.height_px / shape[0]


def _shape_words(shape: tuple[int, ...]) -> str:
    return " x ".join(str(v) for v in (*shape[1::-1], *shape[2:])) + " px"
