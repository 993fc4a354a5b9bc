"""Draw the picture panels of docs/editing.md: held-out real tiles, what reverse search makes of them, flips, Grad-CAM.

    python tests/editing_figures.py --run shipped --dataset DS --colour-judge CLF --robust-judge CLF
                                    --out docs/images/editing_panels.png [--rows 4] [--json FILE]

A row is a tile of the split val, searched in its own class; the tiles of each class lie evenly over the split, the first
of them drawn from one seed: none was chosen. Both judges say how probable the class flipped to is; Grad-CAM is that of
the robust one, for the class that it sees in each picture, one scale a row. Under its pictures: IoU is that of the
top 20 % of the map with those of the map of the real tile.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import ImageDraw

    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.load import LoadedClassifier, LoadedEncoder, LoadedGenerator

LEAST_SIDE_PX = 128
_COARSE_PARTS = 8
"""Of a tile's side: what is coarser than one is no outline of a nucleus."""
HEADERS = (
    ("real tile", "held out", False),
    ("reverse search", "as in the paper (s1)", True),
    ("reverse search", "fast", True),
    ("reverse search", "faithful", True),
    ("faithful, flipped", "to the other class", True),
    ("flip, what cannot", "be drawn is kept", True),
    ("Grad-CAM", "on the real tile", False),
    ("Grad-CAM on the", "reconstruction", True),
    ("Grad-CAM on", "the flip", True),
)
"""Two lines above each column, and whether its pictures are synthetic."""
_HEAD_PX, _GAP_PX, _TOP_PX, _CAPTION_PX = 128, 8, 58, 34
_INK, _GREY, _RED = "black", "dimgray", "darkred"


@dataclass(frozen=True)
class Models:
    """What draws, and who judges."""

    generator: LoadedGenerator
    encoder: LoadedEncoder | None
    colour: LoadedClassifier
    robust: LoadedClassifier


@dataclass(frozen=True)
class Panel:
    """A row: its head, and pictures with what is written under them."""

    head: tuple[str, ...]
    pictures: tuple[NDArray[np.uint8], ...]
    captions: tuple[tuple[str, str], ...]
    figures: Mapping[str, Any]


def rows_of(dataset: PatchDataset, n: int, *, seed: int = 0) -> list[int]:
    """Return n held-out rows of each class, evenly over the split from a first one that a seed draws."""
    held_out = dataset.rows_of("val")
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for i in range(len(dataset.classes)):
        own = held_out[dataset.labels[held_out] == i]
        chosen += own[((np.arange(n) + rng.random()) * len(own) / n).astype(int)].tolist()
    return chosen


def panel_of(models: Models, tile: Tile) -> Panel:
    """Search, flip and map a tile."""
    from napari_histolatent.explain import overlaid
    from napari_histolatent.explain.consistency import iou_of_top
    from napari_histolatent.explain.heatmap import shared_maximum
    from napari_histolatent.jobs import edits
    from napari_histolatent.jobs.calibration import calibration_of, judged
    from napari_histolatent.latent.perceptual import PerceptualDistance

    generator, classes = models.generator, models.generator.checkpoint.classes
    assert tile.label is not None
    to = classes[(classes.index(tile.label) + 1) % len(classes)]
    found = {
        method: edits.reverse_search(
            generator,
            [tile],
            label=tile.label,
            method=method,
            encoder=models.encoder,
            perceptual=PerceptualDistance(),
        )[0]
        for method in ("s1", "fast", "faithful")
    }
    faithful = found["faithful"]
    (verdict,) = judged(
        generator,
        tile.pixels[None],
        [faithful.inversion],
        calibration=calibration_of(generator.checkpoint),
        classifier=models.robust,
    )
    flip = edits.flip(generator, faithful.reconstruction, to=to, real=tile)
    residual = edits.flip(generator, faithful.reconstruction, to=to, real=tile, residual=True)
    shown = [tile, *(item.reconstruction for item in found.values()), flip.after, residual.after]
    mapped = [tile, faithful.reconstruction, flip.after]
    maps = edits.heatmaps_of(models.robust, mapped)
    brightest = shared_maximum(maps)
    chances = [edits.probabilities_of(judge, shown) for judge in (models.colour, models.robust)]
    by_colour, by_structure = ([row[to] for row in rows] for rows in chances)
    errors = {method: item.inversion.rmse for method, item in found.items()}
    changes = [
        _rmse(flip.after.pixels, faithful.reconstruction.pixels),
        _rmse(residual.after.pixels, tile.pixels),
    ]
    alike = [iou_of_top(maps[0].values, item.values) for item in maps]
    first = ["", *(f"RMSE {value:.3f}" for value in errors.values())]
    kept = [structure_kept(tile.pixels, item.after.pixels) for item in (flip, residual)]
    first += [f"changed {change:.2f}, kept {share:.2f}" for change, share in zip(changes, kept, strict=True)]
    captions = [
        (line, f"p {colour:.2f}, {structure:.2f}")
        for line, colour, structure in zip(first, by_colour, by_structure, strict=True)
    ]
    captions += [
        (f"for {item.target}", f"p {item.probability:.2f}" + (f", IoU {iou:.2f}" if i else ""))
        for i, (item, iou) in enumerate(zip(maps, alike, strict=True))
    ]
    overlays = [
        overlaid(seen.pixels, item, maximum=brightest) for seen, item in zip(mapped, maps, strict=True)
    ]
    figures = {
        "tile": tile.name,
        "label": tile.label,
        "to": to,
        "verdict": verdict.verdict,
        "reasons": verdict.reasons,
        "rmse": errors,
        "changed_by": changes,
        "structure_kept": kept,
        "p_by_colour": by_colour,
        "p_by_structure": by_structure,
        "mapped_class": [item.target for item in maps],
        "iou_with_real": alike,
    }
    return Panel(
        head=(tile.label, f"to {to}", f"verdict: {verdict.verdict or 'none'}"),
        pictures=tuple([item.pixels for item in shown] + overlays),
        captions=tuple(captions),
        figures=figures,
    )


def structure_kept(real: NDArray[np.uint8], edited: NDArray[np.uint8]) -> float:
    """Return how like an edit is to the tile whatever its stain: correlation of brightness, its coarse part taken out.

    1: the same outlines and nuclei; 0: another picture.
    """
    from scipy import ndimage

    fine = []
    for pixels in (real, edited):
        brightness = pixels.astype(np.float32).mean(axis=-1)
        fine.append(brightness - ndimage.gaussian_filter(brightness, len(brightness) / _COARSE_PARTS))
    return float(np.corrcoef(fine[0].ravel(), fine[1].ravel())[0, 1])


def _rmse(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the difference of pixels in [-1, 1]."""
    return float(np.sqrt(np.square((a.astype(np.float32) - b) / 127.5).mean()))


def sheet_of(panels: Sequence[Panel], footer: Sequence[str]) -> NDArray[np.uint8]:
    """Return all panels on one page."""
    from PIL import Image, ImageDraw, ImageFont

    from napari_histolatent._pictures import enlarged

    factor = -(-LEAST_SIDE_PX // panels[0].pictures[0].shape[0])
    side = factor * panels[0].pictures[0].shape[0]
    pitch, height = side + _GAP_PX, side + _CAPTION_PX
    size = (
        _HEAD_PX + len(HEADERS) * pitch,
        _TOP_PX + len(panels) * height + 6 + 16 * len(footer),
    )
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    small, normal = ImageFont.load_default(size=11), ImageFont.load_default(size=13)
    for i, (first, second, is_synthetic) in enumerate(HEADERS):
        colors = (_INK, _INK, _RED if is_synthetic else _GREY)
        for line, text in enumerate((first, second, "SYNTHETIC" if is_synthetic else "real")):
            draw.text((_HEAD_PX + i * pitch, 4 + 17 * line), text, fill=colors[line], font=normal)
    for r, panel in enumerate(panels):
        top = _TOP_PX + r * height
        _lines(draw, (4, top + side // 2 - 26), panel.head, small, pitch=16)
        for i, (pixels, said) in enumerate(zip(panel.pictures, panel.captions, strict=True)):
            left = _HEAD_PX + i * pitch
            page.paste(Image.fromarray(enlarged(pixels, factor)), (left, top))
            _lines(draw, (left, top + side + 1), [text for text in said if text], small, pitch=13)
    _lines(draw, (4, _TOP_PX + len(panels) * height + 2), footer, small, pitch=16)
    return np.asarray(page)


def _lines(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], lines: Sequence[str], font: Any, *, pitch: int
) -> None:
    for i, text in enumerate(lines):
        draw.text((corner[0], corner[1] + pitch * i), text, fill=_INK, font=font)


def main(arguments: list[str] | None = None) -> None:
    """Draw the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", default="shipped", help="a generator with classes")
    parser.add_argument("--dataset", type=Path, required=True, help="whose held-out tiles are shown")
    parser.add_argument("--colour-judge", required=True, help="classifier that judges by stain too")
    parser.add_argument("--robust-judge", required=True, help="classifier that judges by structure")
    parser.add_argument("--out", type=Path, required=True, help="the PNG")
    parser.add_argument("--rows", type=int, default=4, help="tiles of each class")
    parser.add_argument("--seed", type=int, default=0, help="of which tiles are shown")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures of each row here")
    options = parser.parse_args(arguments)

    import torch

    from napari_histolatent._pictures import save_picture
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.load import load_classifier, load_encoder, load_generator

    torch.set_num_threads(options.threads)
    generator = load_generator(options.run, device="cpu")
    digest = generator.checkpoint.digest
    models = Models(
        generator,
        load_encoder(generator.checkpoint.path, generator_digest=digest, device="cpu"),
        load_classifier(options.colour_judge, device="cpu"),
        load_classifier(options.robust_judge, device="cpu"),
    )
    dataset = PatchDataset(options.dataset)
    rows = rows_of(dataset, options.rows, seed=options.seed)
    blank = Tile(name="", pixels=np.empty((0, 0, 3), np.uint8), mpp=generator.checkpoint.mpp)
    panels = []
    for row, pixels in zip(rows, dataset.read(np.array(rows)), strict=True):
        name = str(dataset.columns["slide"][row])
        tile = replace(blank, name=name, pixels=pixels, label=dataset.classes[dataset.labels[row]])
        panels.append(panel_of(models, tile))
        sys.stderr.write(f"{len(panels)} of {len(rows)}: {json.dumps(panels[-1].figures)}\n")
    footer = (
        "Under a picture: RMSE to the real tile (pixels from -1 to 1), of flips that of the change; kept: how much of the tile's own "
        "outlines is left (correlation; 1 is all). p: probability of the class flipped to,",
        "by the judge that sees colour, then by the one that sees structure.",
        "Grad-CAM: the brighter, the more it speaks for the class named, to the judge that sees structure; one scale a "
        f"row. IoU: overlap with the map on the real tile, brightest fifth. Generator {digest[:12]}, dataset {dataset.digest[:12]}.",
    )
    provenance = {
        "synthetic": True,
        "model_digest": digest,
        "dataset_digest": dataset.digest,
        "tiles": [panel.figures["tile"] for panel in panels],
        "seed": options.seed,
    }
    path = save_picture(options.out, sheet_of(panels, footer), provenance)
    if options.json:
        options.json.write_text(json.dumps([panel.figures for panel in panels], indent=1), encoding="utf-8")
    sys.stdout.write(f"{path}: {path.stat().st_size / 1e6:.2f} MB\n")


if __name__ == "__main__":
    main()
