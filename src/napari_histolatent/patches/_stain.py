"""The colours of one laboratory for the slides of all: stain normalisation after Reinhard and after Macenko.

Written from the papers, as no library that this room may import has them: torchstain needs torch, and
`skimage.color` has CIELAB, not the decorrelated space that Reinhard used, and fixed stain vectors only.

- Reinhard, Ashikhmin, Gooch, Shirley, "Color transfer between images", IEEE CG&A 21(5), 2001.
- Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent._config import option
from napari_histolatent._pictures import open_picture
from napari_histolatent.errors import DatasetError
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_histolatent.slides import Slide

STAIN_METHODS = ("none", "reinhard", "macenko")

_RGB_TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
"""Reinhard et al. 2001, equation 4."""
_LOG_LMS_TO_LAB = np.diag([1 / math.sqrt(3), 1 / math.sqrt(6), 1 / math.sqrt(2)]) @ np.array(
    [[1, 1, 1], [1, 1, -2], [1, -1, 0]]
)
"""Reinhard et al. 2001, equation 6; its rows are orthonormal."""

_BETA = 0.15
"""Macenko et al. 2009, section 2.1: least optical density of tissue."""
_ALPHA_PERCENT = 1.0
"""Macenko et al. 2009, section 2.1: robust extremes of the angle."""
_WHITE = 255.0

_LEAST_TISSUE_PX = 500
_MOST_FITTED_PX = 1_000_000
_LEAST_SPREAD = 1e-3
_LEAST_ANGLE_DEGREES = 1.0
_CHUNK_PX = 1 << 15
_DECIMALS = 9

_SAMPLE_MPP = 1.0
_SAMPLE_DOWNSAMPLE = 2.0
"""For slides that state no pixel size."""
_SAMPLE_PX = 256
_SAMPLES = 24
_THUMBNAIL_PX = 1024
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class StainSpec:
    """Whether patches get the colours of a reference, and which."""

    method: str = option(
        "none", "none, reinhard (mean and spread of colours) or macenko (haematoxylin and eosin apart)."
    )
    target: str = option(
        "standard", "The colours to reach: standard, or the path of a picture or slide as reference."
    )

    def __post_init__(self) -> None:
        if self.method not in STAIN_METHODS:
            msg = (
                f"There is no stain normalisation {self.method!r}; choose one of: {', '.join(STAIN_METHODS)}."
            )
            raise DatasetError(msg)


@dataclass(frozen=True)
class StainFit:
    """How tissue is stained, as one method sees it."""

    method: str
    values: tuple[tuple[float, ...], ...]
    """reinhard: means and standard deviations of l, α, β (logarithms to base 10 of LMS, from RGB of 0 to 255).
    macenko: unit vectors (R, G, B of optical density, base 10, white 255) of haematoxylin and eosin, and the
    99th percentiles of their two concentrations."""

    def __post_init__(self) -> None:
        wanted = {"reinhard": [3, 3], "macenko": [3, 3, 2]}.get(self.method)
        numbers = [v for row in self.values for v in row]
        if wanted != [len(row) for row in self.values] or not all(math.isfinite(v) for v in numbers):
            msg = f"The stain fit {self.method!r} with the values {self.values} is not one; fit the slide again."
            raise DatasetError(msg)

    def to_json(self) -> dict[str, Any]:
        """Return the fit as JSON values."""
        return {"method": self.method, "values": [list(row) for row in self.values]}

    @classmethod
    def from_json(cls, saved: Any) -> StainFit:
        """Return the fit that `to_json` gave.

        Raises
        ------
        DatasetError
            If it is none.
        """
        try:
            values = tuple(tuple(float(v) for v in row) for row in saved["values"])
            return cls(str(saved["method"]), values)
        except (KeyError, TypeError, ValueError) as error:
            msg = f"{json.dumps(saved, default=str)[:200]} is no stain fit; fit the slide again."
            raise DatasetError(msg) from error


def _per_ln10(*values: float) -> tuple[float, ...]:
    return tuple(round(v / math.log(10), _DECIMALS) for v in values)


STANDARD = {
    "reinhard": StainFit(
        "reinhard",
        (_per_ln10(8.74108109, -0.12440419, 0.0444982), _per_ln10(0.6135447, 0.10989545, 0.0286032)),
    ),
    "macenko": StainFit(
        "macenko", ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581), _per_ln10(1.9705, 1.0308))
    ),
}
"""Stated targets, published with natural logarithms.

reinhard: breast slide TCGA-A2-A3XS-DX1 of Amgad et al. ("Structured crowdsourcing enables convolutional segmentation
of histology images", Bioinformatics 35, 2019), as HistomicsTK states it. macenko: the reference vectors and maxima of the
MATLAB implementation "staining-normalization" (mitkovetta), which most later ones use; found there with a white of 240.
"""


def fit_stain(pixels: NDArray[np.uint8], *, method: str) -> StainFit:
    """Return how the tissue in these pixels is stained; background does not count.

    Tissue is where the length of the optical density, -log10(RGB / 255), is at least 0.15. Of more than a million
    such pixels every k-th is looked at.

    Parameters
    ----------
    pixels
        uint8, shape (..., 3), RGB.
    method
        "reinhard" or "macenko".

    Raises
    ------
    DatasetError
        If there is too little tissue, or its colours do not vary.
    """
    if method not in STANDARD:
        msg = f"There is nothing to fit for stain normalisation {method!r}; choose one of: {', '.join(STANDARD)}."
        raise DatasetError(msg)
    flat = pixels.reshape(-1, 3)
    tissue = flat[_density_squared(flat) >= _BETA**2]
    if len(tissue) < _LEAST_TISSUE_PX:
        msg = f"Only {len(tissue):,} of {len(flat):,} pixels are tissue, too few to see how it is stained; choose a place or picture with more of it."
        raise DatasetError(msg)
    tissue = tissue[:: math.ceil(len(tissue) / _MOST_FITTED_PX)]
    fit = _fit_reinhard if method == "reinhard" else _fit_macenko
    return StainFit(method, tuple(tuple(round(float(v), _DECIMALS) for v in row) for row in fit(tissue)))


def normalise(pixels: NDArray[np.uint8], *, source: StainFit, target: StainFit) -> NDArray[np.uint8]:
    """Return the pixels as if they were stained as the target is.

    White stays white. Reinhard's formula would tint it, so pixels paler than tissue change the less the paler they
    are. Macenko's knows two stains: the part of a colour that is neither (pen, pigment, blood, a tinted background) is
    lost, also when source and target are one. To keep it was tried: it leaves tinted backgrounds and odd spots.

    Parameters
    ----------
    pixels
        uint8, shape (..., 3), RGB.
    source, target
        Fits of one method: of the slide that the pixels are from, and of the reference.

    Returns
    -------
    numpy.ndarray
        uint8, of the same shape.

    Raises
    ------
    DatasetError
        If the two fits are of different methods.
    """
    if source.method != target.method:
        msg = f"Colours fitted by {source.method!r} cannot be brought to a target fitted by {target.method!r}; fit both by one method."
        raise DatasetError(msg)
    flat = pixels.reshape(-1, 3)
    result = np.empty_like(flat)
    make = _reinhard_step if source.method == "reinhard" else _macenko_step
    step = make(source, target)
    # In chunks that stay in the processor's cache.
    for start in range(0, len(flat), _CHUNK_PX):
        chunk = slice(start, start + _CHUNK_PX)
        result[chunk] = step(np.ascontiguousarray(flat[chunk].T)).T
    return result.reshape(pixels.shape)


def fit_of_slide(
    slide: Slide, boxes: NDArray[np.float64], *, method: str, n_samples: int = _SAMPLES
) -> StainFit:
    """Return how a slide is stained, from evenly spaced patches of its tissue.

    Each is read from its middle, at most 256 px of about 1 µm (of 2 level-0 pixels where the slide states no
    pixel size).

    Parameters
    ----------
    slide
        An open slide.
    boxes
        Left, top, right, bottom in level-0 pixels, shape (m, 4), of patches with tissue.
    method
        "reinhard" or "macenko".
    n_samples
        Most patches to read.

    Raises
    ------
    DatasetError
        If there is no patch, or what they show has too little tissue.
    SlideError
        If the slide cannot be read.
    """
    name = slide.info.path.name
    if not len(boxes):
        msg = f"{name} has no patch with tissue, so how it is stained is not known; lower the least share of tissue, or leave the slide out."
        raise DatasetError(msg)
    chosen = np.unique(np.linspace(0, len(boxes) - 1, min(n_samples, len(boxes))).round().astype(np.int64))
    own = (slide.info.mpp_x, slide.info.mpp_y)
    downsamples = tuple(max(1.0, _SAMPLE_MPP / v) if v else _SAMPLE_DOWNSAMPLE for v in own)
    samples = []
    for left, top, right, bottom in np.asarray(boxes, np.float64)[chosen].tolist():
        size = [
            max(1, min(_SAMPLE_PX, round(length / downsample)))
            for length, downsample in zip((right - left, bottom - top), downsamples, strict=True)
        ]
        corner = (
            (left + right - size[0] * downsamples[0]) / 2,
            (top + bottom - size[1] * downsamples[1]) / 2,
        )
        read = slide.read_downsampled(
            (max(0.0, corner[0]), max(0.0, corner[1])),
            size_px=(size[0], size[1]),
            downsamples=(downsamples[0], downsamples[1]),
        )
        samples.append(read.reshape(-1, 3))
    try:
        return fit_stain(np.concatenate(samples), method=method)
    except DatasetError as error:
        msg = f"How {name} is stained cannot be seen: {error}"
        raise DatasetError(msg) from error


def target_fit(spec: StainSpec) -> StainFit:
    """Return the fit that a spec asks to reach: the stated one, or of its reference picture or slide.

    Raises
    ------
    UserError
        If the reference cannot be opened, or has too little tissue.
    """
    if spec.target == "standard":
        return STANDARD[spec.method]
    path = Path(spec.target)
    if path.suffix.lower() in _PICTURES:
        pixels, _ = open_picture(path)
        try:
            return fit_stain(pixels, method=spec.method)
        except DatasetError as error:
            msg = f"The reference {path.name} cannot be used: {error}"
            raise DatasetError(msg) from error
    with open_slide(path) as slide:
        return fit_of_slide(slide, _tissue_boxes(slide), method=spec.method)


def _tissue_boxes(slide: Slide) -> NDArray[np.float64]:
    """Return the boxes of a slide's thumbnail, 16 px each, that are mostly tissue, in level-0 pixels."""
    pixels, downsample = slide.thumbnail(longest_px=_THUMBNAIL_PX)
    side = 16
    rows, columns = (max(1, n // side) for n in pixels.shape[:2])
    is_tissue = (_density_squared(pixels.reshape(-1, 3)) >= _BETA**2).reshape(pixels.shape[:2])
    shares = [
        is_tissue[row * side : (row + 1) * side, column * side : (column + 1) * side].mean()
        for row in range(rows)
        for column in range(columns)
    ]
    places = np.flatnonzero(np.array(shares) >= 0.5)
    corners = np.column_stack([places % columns, places // columns]) * side * downsample
    return np.hstack([corners, corners + side * downsample])


# Black has no logarithm: 0 counts as 1.
_DENSITY = -np.log10(np.maximum(np.arange(256), 1) / _WHITE)
_DENSITY_SQUARED = (_DENSITY**2).astype(np.float32)


def _density_squared(flat: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the squared length of the optical density of pixels of shape (n, 3)."""
    red, green, blue = (_DENSITY_SQUARED[flat[:, i]] for i in range(3))
    return np.asarray(red + green + blue, np.float32)


def _lab(tissue: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return l, α, β of pixels of shape (n, 3), float64, shape (n, 3)."""
    lms = np.maximum(tissue, 1).astype(np.float64) @ _RGB_TO_LMS.T
    return np.asarray(np.log10(lms) @ _LOG_LMS_TO_LAB.T)


def _fit_reinhard(tissue: NDArray[np.uint8]) -> tuple[NDArray[np.float64], ...]:
    """Return means and standard deviations in lαβ (Reinhard et al. 2001, "Statistics and color correction")."""
    lab = _lab(tissue)
    spread = lab.std(axis=0)
    if spread.min() < _LEAST_SPREAD:
        msg = f"The tissue has one colour (spread in l, α, β: {', '.join(f'{v:.4f}' for v in spread)}), so it cannot be brought to others; choose a stained place or picture."
        raise DatasetError(msg)
    return lab.mean(axis=0), spread


def _fit_macenko(tissue: NDArray[np.uint8]) -> tuple[NDArray[np.float64], ...]:
    """Return the stain vectors of haematoxylin and eosin and their pseudo-maximal concentrations.

    Macenko et al. 2009, section 2.1, steps 3 to 8, and 2.2 (99th percentile). The singular vectors of the optical
    densities are the eigenvectors of their 3 x 3 matrix of products, which costs nothing.
    """
    density = _DENSITY[tissue]
    _, directions = np.linalg.eigh(density.T @ density)
    plane = directions[:, [2, 1]]
    # Singular vectors have no sign: the first points to where the tissue is.
    plane[:, 0] *= np.sign(plane[:, 0].sum())
    angles = np.arctan2(*(density @ plane).T[::-1])
    low, high = np.percentile(angles, [_ALPHA_PERCENT, 100 - _ALPHA_PERCENT])
    if high - low < math.radians(_LEAST_ANGLE_DEGREES):
        msg = f"The tissue has one stain (its colours differ by {math.degrees(high - low):.2f} degrees), and two are to be told apart; choose a place or picture with both."
        raise DatasetError(msg)
    one, other = (plane @ [math.cos(angle), math.sin(angle)] for angle in (low, high))
    # Haematoxylin absorbs more red than eosin does.
    stains = np.stack([one, other] if one[0] > other[0] else [other, one])
    strongest = np.percentile(density @ np.linalg.pinv(stains), 99, axis=0)
    if strongest.min() <= 0:
        msg = "The tissue lacks one of two stains; choose a place or picture with both."
        raise DatasetError(msg)
    return stains[0], stains[1], strongest


def _reinhard_step(source: StainFit, target: StainFit) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return the function that brings planes of uint8 RGB, shape (3, n), to the target.

    To lαβ, scaled about the means (Reinhard et al. 2001, equations 10 and 11), and back is one affine map of log LMS.
    """
    (mean, spread), (wanted_mean, wanted_spread) = np.array(source.values), np.array(target.values)
    scale = wanted_spread / spread
    mixed = _as_rows(_LOG_LMS_TO_LAB.T @ np.diag(scale) @ _LOG_LMS_TO_LAB)
    shift = _LOG_LMS_TO_LAB.T @ (wanted_mean - mean * scale) * math.log(10)
    to_lms, to_rgb = _as_rows(_RGB_TO_LMS), _as_rows(np.linalg.inv(_RGB_TO_LMS))
    weights = np.minimum(_DENSITY_SQUARED / _BETA**2, 1).astype(np.float32)

    def step(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        rgb = planes.astype(np.float32)
        logs = [np.log(v) for v in _mixed(to_lms, np.maximum(rgb, 1))]
        lms = [np.exp(v + np.float32(shift[i])) for i, v in enumerate(_mixed(mixed, logs))]
        weight = np.minimum(weights[planes[0]] + weights[planes[1]] + weights[planes[2]], 1)
        return np.stack(
            [_to_bytes(old + (new - old) * weight) for old, new in zip(rgb, _mixed(to_rgb, lms), strict=True)]
        )

    return step


def _macenko_step(source: StainFit, target: StainFit) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return the function that brings planes of uint8 RGB, shape (3, n), to the target.

    Concentrations in the source's stains by least squares (Macenko et al. 2009, section 2), scaled to the
    target's maxima, in the target's stains: one 3 x 3 matrix of optical densities. Each new channel is so a product of powers of the three old ones, read from tables.
    """
    scale = np.array(target.values[2]) / np.array(source.values[2])
    matrix = np.linalg.pinv(np.array(source.values[:2])) @ np.diag(scale) @ np.array(target.values[:2])
    tables = np.array([[10 ** (-_DENSITY * matrix[j, i]) for j in range(3)] for i in range(3)])
    tables[:, 0] *= _WHITE
    tables = tables.astype(np.float32)

    def step(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        where = planes.astype(np.intp)
        channels = []
        for of_red, of_green, of_blue in tables:
            channel = of_red.take(where[0])
            channel *= of_green.take(where[1])
            channel *= of_blue.take(where[2])
            channels.append(_to_bytes(channel))
        return np.stack(channels)

    return step


def _as_rows(matrix: NDArray[np.float64]) -> list[list[np.float32]]:
    return [[np.float32(v) for v in row] for row in matrix]


def _mixed(
    rows: list[list[np.float32]], planes: NDArray[np.float32] | list[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Return the product of a 3 x 3 matrix and three planes: by elements, as BLAS does not round alike everywhere."""
    return [a * planes[0] + b * planes[1] + c * planes[2] for a, b, c in rows]


def _to_bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    np.clip(values, 0, 255, out=values)
    values += np.float32(0.5)
    return values.astype(np.uint8)
