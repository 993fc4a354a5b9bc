"""A slide drawn by a generator: its samples side by side, as a pyramid that opens as any slide does. Not tissue."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage, special
from shapely import union_all
from shapely.geometry import box

from napari_histolatent._files import replacing
from napari_histolatent.annotations import Annotations, Region, write_annotations
from napari_histolatent.errors import UserError, writing_to
from napari_histolatent.latent.draw import draw
from napari_histolatent.latent.points import LatentPoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histolatent.training.load import LoadedGenerator

    Pixels = NDArray[np.uint8]

GLASS_RGB = (243, 242, 244)
ASSUMED_MPP = 2.0
"""Micrometres per pixel of a model whose data do not state it."""
_TILE_PX, _QUALITY = 256, 90
_SMALLEST_LEVEL_PX = 512
_BLEND_SHARE = 1 / 4
"""Of a tile's side: so far it fades into its neighbour."""
_FIELD_SIGMA = 5.0
"""Tiles: how far a class region reaches."""
_BORDER_SHARPNESS = 4.0
_LATENT_SIGMA, _LATENT_SHARE = 2.0, 0.6
"""Neighbours share this part of the variance of their latent vectors, so that the slide changes its hue slowly."""
_EDGE_STEEPNESS = 0.3
"""Tissue fades into glass over about three pixels."""
_PURE = 0.9
"""Least weight of a class where its regions are outlined: the border, where classes blend, belongs to none."""


@dataclass(frozen=True)
class Layout:
    """What lies where, on a grid of tiles of which neighbours overlap."""

    class_weights: NDArray[np.float64]
    """Shape (rows, columns, classes); sums to 1."""
    edge: NDArray[np.float64]
    """Shape (rows, columns): above 0 at the tiles whose middle is tissue; the outline runs where it would be 0."""
    tile_px: int
    overlap_px: int
    size_px: int
    """Side of the slide; the grid reaches as far or beyond."""

    @property
    def pitch_px(self) -> int:
        """From one tile to the next."""
        return self.tile_px - self.overlap_px

    @property
    def drawn(self) -> NDArray[np.bool_]:
        """Shape (rows, columns): the tiles that hold any tissue."""
        return np.asarray(ndimage.binary_dilation(self.edge > 0, np.ones((3, 3), bool)))

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Shape (rows, columns): the tiles that hold nothing but tissue."""
        return np.asarray(ndimage.binary_erosion(self.edge > 0, np.ones((3, 3), bool)))


def layout_of(
    *, size_px: int, tile_px: int, n_classes: int, overlap_px: int = 0, seed: int = 0, sharp: bool = False
) -> Layout:
    """Return a round piece of tissue on glass, with smooth regions of each class.

    Parameters
    ----------
    size_px
        Side of the slide.
    tile_px, overlap_px
        Side of a tile, and how much of it lies on the next one.
    n_classes
        Classes; each gets about the same area.
    seed
        Of where they lie.
    sharp
        Whether every tile is of one class alone; else classes blend at their borders.
    """
    pitch = tile_px - overlap_px
    n = max(1, -(-(size_px - overlap_px) // pitch))
    rng = np.random.default_rng(seed)
    sigma = min(_FIELD_SIGMA, n / 4)

    def field() -> NDArray[np.float64]:
        smooth = ndimage.gaussian_filter(rng.standard_normal((n, n)), sigma, mode="wrap")
        return np.asarray((smooth - smooth.mean()) / (smooth.std() or 1))

    if n_classes:
        fields = np.stack([field() for _ in range(n_classes)], axis=-1)
        weights = np.exp(_BORDER_SHARPNESS * (fields - fields.max(axis=-1, keepdims=True)))
        weights /= weights.sum(axis=-1, keepdims=True)
        if sharp:
            weights = np.eye(n_classes)[weights.argmax(axis=-1)]
    else:
        weights = np.zeros((n, n, 0))
    middle = (np.arange(n) + 0.5) * pitch / size_px - 0.5
    radius_squared = middle[:, None] ** 2 + middle[None] ** 2
    return Layout(
        class_weights=weights,
        edge=0.19 + 0.012 * field() - radius_squared,
        tile_px=tile_px,
        overlap_px=overlap_px,
        size_px=size_px,
    )


def write_generated_slide(
    path: Path,
    generator: LoadedGenerator,
    *,
    size_px: int = 4096,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a slide of a generator's samples, and their regions beside it (PATH with the ending .geojson).

    Parameters
    ----------
    path
        The TIFF to write, replaced whole; its name should say SYNTHETIC.
    generator
        Whose samples are shown.
    size_px
        Side of the slide.
    seed
        Of the samples and of where the classes lie.
    on_progress
        Called with (rows of tiles drawn, rows in all).

    Raises
    ------
    UserError
        If the slide would be smaller than a tile, or the folder cannot be written.
    """
    network, checkpoint = generator.network, generator.checkpoint
    if size_px < network.size_px:
        msg = f"A slide of {size_px} px does not hold a tile of {network.size_px} px; make it larger."
        raise UserError(msg)
    layout = layout_of(
        size_px=size_px,
        tile_px=network.size_px,
        overlap_px=round(network.size_px * _BLEND_SHARE),
        n_classes=len(network.classes),
        seed=seed,
    )

    # Neighbours of like latents would show the same things at the same places: each is turned or mirrored.
    turns = np.random.default_rng([seed, 2]).integers(0, 8, layout.edge.shape)
    latents = latent_field(len(layout.edge), network.z_dim, prior=network.prior, seed=seed)

    def draw_row(row: int, columns: NDArray[np.int64]) -> Pixels:
        points = [
            LatentPoint(
                values=tuple(map(float, latents[row, column])),
                class_weights=tuple(map(float, layout.class_weights[row, column])),
                checkpoint_digest=checkpoint.digest,
            )
            for column in columns
        ]
        tiles = draw(network, points, device=generator.device)
        return np.stack([_turned(v, int(turn)) for v, turn in zip(tiles, turns[row, columns], strict=True)])

    facts = {
        "synthetic": True,
        "model_digest": checkpoint.digest,
        "weights": "trained" if checkpoint.step else "random",
        "classes": list(network.classes),
        "seed": seed,
        "tile_px": network.size_px,
        "mpp_is_assumed": checkpoint.mpp is None or bool(checkpoint.metrics.get("mpp_is_assumed")),
    }
    write_mosaic(
        path,
        layout,
        draw_row,
        class_names=network.classes,
        mpp=checkpoint.mpp or ASSUMED_MPP,
        title="SYNTHETIC: drawn by a generative model, not tissue that was scanned",
        facts=facts,
        on_progress=on_progress,
    )


def latent_field(n: int, z_dim: int, *, prior: str, seed: int) -> NDArray[np.float64]:
    """Return a latent vector for each of n x n tiles, shape (n, n, z_dim): each of the prior, neighbours alike.

    Gaussian noise, smoothed and put back to a variance of 1, plus fresh noise; for the uniform prior each entry goes
    through the normal distribution function.
    """
    rng = np.random.default_rng([seed, 1])
    sigma = min(_LATENT_SIGMA, n / 4)
    noise = rng.standard_normal((2, n, n, z_dim))
    smooth = ndimage.gaussian_filter(noise[0], (sigma, sigma, 0), mode="wrap")
    impulse = np.zeros((n, n))
    impulse[0, 0] = 1
    spread = np.sqrt(np.square(ndimage.gaussian_filter(impulse, sigma, mode="wrap")).sum())
    z = np.sqrt(_LATENT_SHARE) * smooth / spread + np.sqrt(1 - _LATENT_SHARE) * noise[1]
    return np.asarray(2 * special.ndtr(z) - 1 if prior == "uniform" else z)


def write_mosaic(
    path: Path,
    layout: Layout,
    draw_row: Callable[[int, NDArray[np.int64]], Pixels],
    *,
    class_names: Sequence[str],
    mpp: float,
    title: str,
    facts: dict[str, Any],
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a pyramidal tiled TIFF of tiles laid out, and its class regions beside it as GeoJSON.

    Parameters
    ----------
    path
        The TIFF, replaced whole. The regions are written first: a slide that is there has its regions.
    layout
        What lies where.
    draw_row
        Called with a row of the grid and the columns that hold tissue; returns that many tiles, uint8, shape
        (n, tile_px, tile_px, 3).
    class_names
        Of the layout's classes.
    mpp
        Micrometres per pixel, stored as TIFF resolution.
    title, facts
        Kept as the image description: a sentence, a blank line, JSON.
    on_progress
        Called with (rows done, rows in all).
    """
    pixels = np.empty((layout.size_px, layout.size_px, 3), np.uint8)
    filled, n = 0, len(layout.edge)
    for done, band in enumerate(_bands(layout, draw_row), start=1):
        part = band[: layout.size_px - filled, : layout.size_px]
        pixels[filled : filled + len(part)] = part
        filled += len(part)
        if on_progress:
            on_progress(done, n)
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_annotations(path.with_suffix(".geojson"), regions_of(layout, class_names))
        with replacing(path) as temporary, tifffile.TiffWriter(temporary) as writer:
            for level, image in enumerate(_pyramid(pixels)):
                dots_per_cm = 10_000 / (mpp * 2**level)
                writer.write(
                    image,
                    tile=(_TILE_PX, _TILE_PX),
                    photometric="rgb",
                    compression="jpeg",
                    compressionargs={"level": _QUALITY},
                    resolution=(dots_per_cm, dots_per_cm),
                    resolutionunit="CENTIMETER",
                    subfiletype=1 if level else 0,
                    description=None if level else f"{title}\n\n{json.dumps({**facts, 'mpp': mpp})}",
                    metadata=None,
                    software=False,
                )


def regions_of(layout: Layout, class_names: Sequence[str]) -> Annotations:
    """Return the outlines of where each class is drawn and blends with no other."""
    pitch = layout.pitch_px
    regions = []
    for i, name in enumerate(class_names):
        cells = np.argwhere(layout.inside & (layout.class_weights[..., i] >= _PURE))
        area = union_all([box(c * pitch, r * pitch, (c + 1) * pitch, (r + 1) * pitch) for r, c in cells])
        area = area.intersection(box(0, 0, layout.size_px, layout.size_px))
        parts = [part for part in getattr(area, "geoms", [area]) if not part.is_empty]
        parts.sort(key=lambda part: part.area, reverse=True)
        regions += [Region(f"{name}-{k}", name, part, f"{name} {k}") for k, part in enumerate(parts, start=1)]
    return Annotations(regions=tuple(regions), format="drawn")


def _bands(
    layout: Layout, draw_row: Callable[[int, NDArray[np.int64]], Pixels]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the slide from top to bottom, a band for each row of tiles, neighbours faded into one another."""
    overlap, side = layout.overlap_px, layout.tile_px
    rise = ((np.arange(overlap) + 0.5) / overlap).astype(np.float32) if overlap else np.empty(0, np.float32)
    ramp = np.ones(side, np.float32)
    ramp[:overlap], ramp[side - overlap :] = rise, rise[::-1]
    tail: NDArray[np.float32] | None = None
    n, drawn, glass = len(layout.edge), layout.drawn, np.array(GLASS_RGB, np.float32)
    across = _between_middles(layout, 0, n * layout.pitch_px + overlap)
    for row in range(n):
        columns = np.flatnonzero(drawn[row])
        tiles = np.empty((n, side, side, 3), np.float32)
        tiles[:] = glass
        if len(columns):
            tiles[columns] = draw_row(row, columns)
        strip = np.zeros((side, n * layout.pitch_px + overlap, 3), np.float32)
        for column in range(n):
            weight = ramp.copy()
            if column == 0:
                weight[:overlap] = 1
            if column == n - 1:
                weight[side - overlap :] = 1
            left = column * layout.pitch_px
            strip[:, left : left + side] += tiles[column] * weight[:, None]
        if tail is not None and overlap:
            fade = rise[:, None, None]
            strip[:overlap] = tail * (1 - fade) + strip[:overlap] * fade
        end = side if row == n - 1 else layout.pitch_px
        tail = strip[layout.pitch_px :]
        edge = _between_middles(layout, row * layout.pitch_px, end) @ layout.edge @ across.T
        tissue = np.clip(0.5 + edge * layout.size_px * _EDGE_STEEPNESS, 0, 1).astype(np.float32)
        shown = glass + (strip[:end] - glass) * tissue[..., None]
        yield np.clip(np.rint(shown), 0, 255).astype(np.uint8)


def _turned(tile: Pixels, turn: int) -> Pixels:
    """Return one of the eight ways (0 to 7) to turn and mirror a square."""
    return np.rot90(tile[:, ::-1] if turn >= 4 else tile, turn % 4)


def _between_middles(layout: Layout, first_px: int, n_px: int) -> NDArray[np.float64]:
    """Return the matrix, shape (n_px, tiles), that interpolates values at tiles' middles linearly to pixels."""
    n = len(layout.edge)
    place = (first_px + np.arange(n_px) + 0.5 - layout.tile_px / 2) / layout.pitch_px
    place = np.clip(place, 0, n - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(n))))


def _pyramid(pixels: Pixels) -> Iterator[Pixels]:
    image = Image.fromarray(pixels)
    yield pixels
    while min(image.size) >= 2 * _SMALLEST_LEVEL_PX:
        image = image.reduce(2)
        yield np.asarray(image)
