"""Which share of tiles gets which verdict of reverse search, on slides whose tissue the generator knows and does not?

    python tests/verdict_shares.py --dataset DS [--run shipped] [--classifier shipped] [--tiles 0] [--data FOLDER]
                                   [--work FOLDER] [--check-faithful 8] [--json FILE]

DS is the dataset that the generator learnt from. Tiles are cut and searched as the Edit dock does: of the generator's
size and pixel size, in every class, and the classifier compares tile and reconstruction.

mosaic
    `real_mosaic.py` of the held-out tiles (split val), each tile once (--tiles: so many of them, evenly; 0: all that
    the mosaic shows). Its regions are not open, so each tile is searched in every class.
mosaic, class known
    The same, each tile in its own class, as the dock does once regions are open.
mosaic, not calibrated on
    Of the first, those tiles on which the verdict was not calibrated.
CMU
    Tissue of CMU-1-Small-Region.svs, skin that the generator never saw: at least 64 tiles on a grid.
glass
    Its background.
samples
    32 tiles on a grid of the slide that the generator itself draws (File > Open Sample).

The search is `fast`: the verdict looks at the point before anything is tuned, so `faithful` is judged alike, which is
verified on --check-faithful tiles. "beyond 99 %" counts the tiles of which each measure says outside; "other class" those
of which the classifier sees another class in the reconstruction, and of how many nothing else speaks against trust.
Wanted: trust or caution for most of the mosaic, outside for most of CMU.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.jobs.edits import ReverseSearch
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.latent.verdict import Calibration
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.slides import Slide
    from napari_histolatent.training.load import LoadedClassifier, LoadedEncoder, LoadedGenerator

VERDICTS = ("trust", "caution", "outside")
CMU_TILES, GLASS_TILES, SAMPLE_TILES = 64, 16, 32
_TISSUE, _GLASS = 0.5, 0.02
"""Least share of tissue in a tile of it, and most in one of glass."""
_COARSE_PX = 8
_SAME = 4.0
"""Mean difference of grey values below which a cell of the mosaic shows a tile: JPEG changes it by about one."""
_AT_ONCE = 32


@dataclass(frozen=True)
class Models:
    """What searches, and what judges."""

    generator: LoadedGenerator
    encoder: LoadedEncoder | None
    classifier: LoadedClassifier | None
    calibration: Calibration


@dataclass(frozen=True)
class Row:
    """A tile's verdict and what it rests on."""

    name: str
    verdict: str
    values: dict[str, float]
    """By measure."""
    same_class: bool


def coarse(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what of tiles (n, side, side, 3) does not depend on turns and mirrors, (n, numbers)."""
    n, side = tiles.shape[:2]
    box = side // _COARSE_PX
    small = tiles.astype(np.float32).reshape(n, _COARSE_PX, box, _COARSE_PX, box, 3).mean(axis=(2, 4))
    turns = [np.rot90(small, k, axes=(1, 2)) for k in range(4)]
    every = [*turns, *(turn[:, :, ::-1] for turn in turns)]
    return np.asarray(np.mean(every, axis=0), np.float32).reshape(n, -1)


def mosaic_tiles(slide: Slide, dataset: PatchDataset, rows: NDArray[np.int64], mpp: float) -> dict[int, Tile]:
    """Return the first cell of the mosaic that shows each held-out tile, by the tile's row of the dataset."""
    from napari_histolatent.jobs.tiles import cut_tile

    side = dataset.size_px
    known = coarse(dataset.read(rows))
    found: dict[int, Tile] = {}
    for y in range(0, slide.info.height_px - side + 1, side):
        band = slide.read_region((0, y), size_px=(slide.info.width_px // side * side, side), level=0)
        cells = band.reshape(side, -1, side, 3).swapaxes(0, 1)
        distances = np.abs(coarse(cells)[:, None] - known[None]).mean(axis=2)
        for column, nearest in enumerate(distances.argmin(axis=1)):
            row = int(rows[nearest])
            if row not in found and distances[column, nearest] < _SAME:
                centre = ((column + 0.5) * side, y + side / 2)
                found[row] = cut_tile(slide, centre, size_px=side, mpp=mpp)
    return dict(sorted(found.items()))


def grid_tiles(slide: Slide, n: int, *, size_px: int, mpp: float, glass: bool = False) -> list[Tile]:
    """Return at least n tiles of tissue (or of glass) on the coarsest grid that holds so many.

    Neighbours overlap by halves, or more, where the slide is too small for as many side by side; of glass there may be fewer.
    """
    from napari_histolatent.jobs.tiles import cut_tile
    from napari_histolatent.patches import tissue_mask

    mask = tissue_mask(slide)
    side = size_px * mpp / (slide.info.mpp_x or mpp)
    centres = np.empty((0, 2))
    for stride in (side * 4, side * 2, side, side / 2, side / 4):
        x, y = (
            np.arange(side / 2, length - side / 2 + 1, stride)
            for length in (slide.info.width_px, slide.info.height_px)
        )
        centres = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        boxes = np.concatenate([centres - side / 2, centres + side / 2], axis=1)
        share = mask.fractions(boxes)
        centres = centres[share <= _GLASS if glass else share >= _TISSUE]
        if len(centres) >= n:
            break
    return [cut_tile(slide, (float(x), float(y)), size_px=size_px, mpp=mpp) for x, y in centres]


def spread(items: Sequence[Any], n: int) -> list[Any]:
    """Return n of the items, evenly; 0: all."""
    if not 0 < n < len(items):
        return list(items)
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, n).astype(int))]


def searched(models: Models, tiles: Sequence[Tile], method: str) -> list[ReverseSearch]:
    """Return the reverse search of each tile, in its own class where it has one, else in the nearest."""
    from napari_histolatent.jobs.edits import reverse_search
    from napari_histolatent.latent.perceptual import PerceptualDistance

    found: dict[int, ReverseSearch] = {}
    for label in {tile.label for tile in tiles}:
        own = [i for i, tile in enumerate(tiles) if tile.label == label]
        for start in range(0, len(own), _AT_ONCE):
            part = own[start : start + _AT_ONCE]
            results = reverse_search(
                models.generator,
                [tiles[i] for i in part],
                label=label,
                method=method,
                encoder=models.encoder,
                perceptual=PerceptualDistance(),
            )
            found |= dict(zip(part, results, strict=True))
            sys.stderr.write(f"\r{method}: {len(found)} of {len(tiles)} tiles")
    sys.stderr.write("\n")
    return [found[i] for i in range(len(tiles))]


def rows_of(models: Models, tiles: Sequence[Tile], *, method: str = "fast") -> list[Row]:
    """Search and judge tiles."""
    from napari_histolatent.latent.calibrating import measures_of
    from napari_histolatent.latent.verdict import verdict_of
    from napari_histolatent.models.images import to_tensor

    found = [item.inversion for item in searched(models, tiles, method)]
    measures = measures_of(
        models.generator.network,
        to_tensor(np.stack([tile.pixels for tile in tiles])),
        found,
        calibration=models.calibration,
        classifier=models.classifier.network if models.classifier else None,
    )
    rows = []
    digest = models.classifier.checkpoint.digest if models.classifier else ""
    for tile, inversion, measure in zip(tiles, found, measures, strict=True):
        measure = replace(measure, classifier_digest=digest)
        verdict, _ = verdict_of(inversion, measure, models.calibration)
        values = {
            "rmse": inversion.rmse_at_z,
            "perceptual": inversion.perceptual_at_z,
            "z_ratio": inversion.z_ratio,
            "feature_distance": measure.feature_distance,
        }
        known = {name: value for name, value in values.items() if value is not None}
        same = measure.class_of_tile == measure.class_of_reconstruction
        rows.append(Row(tile.name, str(verdict), known, same))
    return rows


def table_row(name: str, rows: Sequence[Row], calibration: Calibration) -> list[Any]:
    """Return a row of the table: shares of the verdicts, and of each measure its median and what is beyond."""
    counts = Counter(row.verdict for row in rows)
    shares = [counts[verdict] / max(1, len(rows)) for verdict in VERDICTS]
    cells = []
    for measure, bounds in calibration.bounds.items():
        values = [row.values[measure] for row in rows if measure in row.values]
        beyond = sum(not value <= bounds.known for value in values)
        cells.append(f"{np.median(values):.3g}; {beyond}" if values else "-")
    others = [row for row in rows if not row.same_class]
    alone = sum(
        all(
            row.values[name] <= bounds.trusted
            for name, bounds in calibration.bounds.items()
            if name in row.values
        )
        for row in others
    )
    return [name, len(rows), *shares, *cells, f"{len(others)}; {alone}"]


def main(arguments: list[str] | None = None) -> None:
    """Search, judge and count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", default="shipped", help="a generator")
    parser.add_argument(
        "--classifier", default="shipped", help="the dock's: the shipped one judges structure"
    )
    parser.add_argument("--dataset", type=Path, required=True, help="what the generator learnt from")
    parser.add_argument("--data", type=Path, help="folder with slides/CMU-1-Small-Region.svs")
    parser.add_argument("--work", type=Path, help="keep the slides here; else they are made and removed")
    parser.add_argument("--tiles", type=int, default=0, help="of the mosaic; 0: each held-out tile")
    parser.add_argument("--groups", nargs="+", default=["mosaic", "CMU", "glass", "samples"])
    parser.add_argument("--check-faithful", type=int, default=8, metavar="N", help="tiles; 0: none")
    parser.add_argument("--threads", type=int, default=1)
    sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
    from _stats import add_json_option

    add_json_option(parser)
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as temporary:
        measure(options, options.work or Path(temporary))


def measure(options: argparse.Namespace, work: Path) -> None:
    """Do it, with slides in a folder."""
    import torch
    from _stats import report
    from mosaic import default_data

    from napari_histolatent.jobs.calibration import calibration_of, held_out_rows
    from napari_histolatent.jobs.sample_slide import ASSUMED_MPP, write_generated_slide
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.slides import open_slide
    from napari_histolatent.training.load import load_classifier, load_encoder, load_generator
    from real_mosaic import NAME, write_real_mosaic

    torch.set_num_threads(options.threads)
    generator = load_generator(options.run, device="cpu")
    calibration = calibration_of(generator.checkpoint)
    if calibration is None:
        raise SystemExit(f"{options.run} has no calibration; make it with `histolatent calibrate`.")
    encoder = load_encoder(
        generator.checkpoint.path, generator_digest=generator.checkpoint.digest, device="cpu"
    )
    models = Models(generator, encoder, load_classifier(options.classifier, device="cpu"), calibration)
    dataset = PatchDataset(options.dataset)
    size_px, mpp = generator.checkpoint.size_px, generator.checkpoint.mpp or ASSUMED_MPP
    groups: dict[str, list[Tile]] = {}
    apart: list[bool] = []
    work.mkdir(parents=True, exist_ok=True)
    if "mosaic" in options.groups:
        path = work / f"{NAME}.tif"
        if not path.exists():
            write_real_mosaic(dataset, work)
        with open_slide(path) as slide:
            shown = spread(
                list(mosaic_tiles(slide, dataset, dataset.rows_of("val"), mpp).items()), options.tiles
            )
        calibrated = set(held_out_rows(dataset, calibration.n).tolist())
        groups["mosaic"] = [tile for _, tile in shown]
        groups["mosaic, class known"] = [
            replace(tile, label=dataset.classes[dataset.labels[row]]) for row, tile in shown
        ]
        apart = [row not in calibrated for row, _ in shown]
    with open_slide((options.data or default_data()) / "slides" / "CMU-1-Small-Region.svs") as slide:
        for name, n in (("CMU", CMU_TILES), ("glass", GLASS_TILES)):
            if name in options.groups:
                found = grid_tiles(slide, n, size_px=size_px, mpp=mpp, glass=name == "glass")
                groups[name] = found if name == "CMU" else spread(found, n)
    if "samples" in options.groups:
        path = work / "SYNTHETIC-samples.tif"
        if not path.exists():
            write_generated_slide(path, generator)
        with open_slide(path) as slide:
            groups["samples"] = spread(
                grid_tiles(slide, SAMPLE_TILES, size_px=size_px, mpp=mpp), SAMPLE_TILES
            )
    every = {name: rows_of(models, tiles) for name, tiles in groups.items() if tiles}
    if any(apart):
        every["mosaic, not calibrated on"] = [
            row for row, is_apart in zip(every["mosaic"], apart, strict=True) if is_apart
        ]
    headers = ["tiles of", "n", *VERDICTS, *(f"{m}: median; beyond 99 %" for m in calibration.bounds)]
    headers.append("other class; alone")
    bounds = ["bounds, 90 %; 99 %", "", "", "", ""]
    bounds += [f"{b.trusted:.3g}; {b.known:.3g}" for b in calibration.bounds.values()]
    table = [[*bounds, ""], *(table_row(name, rows, calibration) for name, rows in every.items())]
    raw = {
        name: [{"tile": r.name, "verdict": r.verdict, **r.values, "same_class": r.same_class} for r in rows]
        for name, rows in every.items()
    }
    report("Shares of the verdicts", headers, table, raw=raw, json_path=options.json)
    if options.check_faithful:
        _check_faithful(models, groups, every, options.check_faithful)


def _check_faithful(
    models: Models, groups: dict[str, list[Tile]], every: dict[str, list[Row]], n: int
) -> None:
    """Search some tiles of all groups by faithful too, and say whether the verdicts are those of fast."""
    pairs = [pair for name, tiles in groups.items() for pair in zip(tiles, every.get(name, []), strict=False)]
    chosen = spread(pairs, n)
    again = rows_of(models, [tile for tile, _ in chosen], method="faithful")
    same = sum(row.verdict == before.verdict for row, (_, before) in zip(again, chosen, strict=True))
    differences = [
        abs(row.values[name] - before.values[name])
        for row, (_, before) in zip(again, chosen, strict=True)
        for name in row.values
    ]
    sys.stdout.write(
        f"\nfaithful: {same} of {len(chosen)} verdicts are those of fast; measures differ by {max(differences):.2g} at most\n"
    )


if __name__ == "__main__":
    main()
