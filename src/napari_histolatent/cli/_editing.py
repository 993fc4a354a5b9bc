"""Tiles in latent space and what a classifier sees: `invert`, `flip`, `interpolate`, `gradcam`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_histolatent._files import file_name_of, replacing
from napari_histolatent.cli._options import (
    DeviceOption,
    GeneratorArgument,
    JsonOption,
    OutOption,
    SeedOption,
    SlideMppOption,
    messages,
    progress_bar,
    save_tile,
    unlike,
    write_report,
)
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent.jobs.tiles import Tile

app = typer.Typer()

ImagesArgument = Annotated[
    list[str],
    typer.Argument(help="Image files, or SLIDE@X,Y: the tile around a level-0 point.", metavar="IMAGE..."),
]
MethodOption = Annotated[str, typer.Option("--method", help="Reverse search: s1.")]
ClassifierOption = Annotated[
    str | None, typer.Option("--classifier", help="A classifier's run folder, for probabilities.")
]


@app.command()
def invert(
    run: GeneratorArgument,
    images: ImagesArgument,
    out: OutOption,
    label: Annotated[
        str | None, typer.Option(help="Class of the tiles; default: the one that fits best.")
    ] = None,
    method: MethodOption = "s1",
    steps: Annotated[int, typer.Option(help="Gradient steps.", min=1)] = 500,
    classifier: ClassifierOption = None,
    slide_mpp: SlideMppOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find the latent point of tiles (reverse search).

    Example: histolatent invert run slide.svs@1200,1900 --label epithelium --out found
    """
    from napari_histolatent.jobs import edits
    from napari_histolatent.training.load import load_classifier, load_generator

    generator = load_generator(run, device=device)
    judge = load_classifier(classifier, device=device) if classifier else None
    if judge:
        edits.require_same_classes(generator, judge)
    tiles, failed = _open_tiles(generator.checkpoint, images, slide_mpp)
    with progress_bar() as progress:
        bar = progress.add_task("reverse search", total=steps)
        searches = edits.reverse_search(
            generator,
            tiles,
            label=label,
            method=method,
            steps=steps,
            seed=seed,
            on_step=lambda done, _: progress.update(bar, completed=done),
        )
    reports = []
    for search in searches:
        found, point = search.inversion, search.inversion.point
        real, drawn = (
            edits.probabilities_of(judge, [search.tile, search.reconstruction]) if judge else (None, None)
        )
        reports.append(
            {
                "image": search.tile.opened_as,
                "label": generator.checkpoint.classes[
                    max(range(len(point.class_weights)), key=point.class_weights.__getitem__)
                ],
                "rmse": found.rmse,
                "psnr_db": found.psnr_db,
                "ssim": found.ssim,
                "perceptual": None,
                "seconds": found.seconds,
                "probability_real": real,
                "probability_reconstruction": drawn,
                "verdict": None,
                "files": [
                    save_tile(out, replace(search.tile, name=f"{search.tile.name}_tile"), images),
                    save_tile(out, search.reconstruction, images),
                ],
            }
        )
    lines = [
        f"{v['image']}: RMSE {v['rmse']:.3f}, PSNR {v['psnr_db']:.1f} dB, as {v['label']}" for v in reports
    ]
    write_report(
        {"images": reports, "failed": failed, "model_digest": generator.checkpoint.digest}, as_json, lines
    )
    if failed:
        raise typer.Exit(3)


@app.command()
def flip(
    run: GeneratorArgument,
    images: ImagesArgument,
    to: Annotated[str, typer.Option("--to", help="Class to flip to.")],
    out: OutOption,
    method: MethodOption = "s1",
    classifier: ClassifierOption = None,
    slide_mpp: SlideMppOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Draw tiles in another class, their latent vector kept; a tile without one is searched first.

    Example: histolatent flip run found/tile_reconstruction.png --to stroma --out flipped
    """
    from napari_histolatent.jobs import edits
    from napari_histolatent.latent import class_vector
    from napari_histolatent.training.load import load_classifier, load_generator

    generator = load_generator(run, device=device)
    judge = load_classifier(classifier, device=device) if classifier else None
    class_vector(generator.checkpoint.classes, to)  # a wrong name is told before any search
    if judge:
        edits.require_same_classes(generator, judge)
    tiles, failed = _open_tiles(generator.checkpoint, images, slide_mpp)
    reports = []
    for tile in _with_points(generator, tiles, seed, method):
        flipped = edits.flip_tile(generator, tile, to=to)
        chances = edits.probabilities_of(judge, [tile, flipped]) if judge else [None, None]
        reports.append(
            {
                "image": tile.opened_as,
                "file": save_tile(out, flipped, images),
                "probability_before": chances[0],
                "probability_after": chances[1],
            }
        )
    lines = [f"{v['image']} as {to}: {v['file']} (SYNTHETIC)" for v in reports]
    files = [v["file"] for v in reports]
    write_report({"files": files, "images": reports, "to": to, "failed": failed}, as_json, lines)
    if failed:
        raise typer.Exit(3)


@app.command()
def interpolate(
    run: GeneratorArgument,
    a: Annotated[str, typer.Argument(help="First tile: a file or SLIDE@X,Y.")],
    b: Annotated[str, typer.Argument(help="Last tile: a file or SLIDE@X,Y.")],
    out: OutOption,
    frames: Annotated[int, typer.Option(help="How many images, both ends included.", min=2)] = 9,
    classifier: ClassifierOption = None,
    slide_mpp: SlideMppOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Draw what lies between two tiles; a tile without a latent point is searched first.

    Example: histolatent interpolate run a_reconstruction.png b_reconstruction.png --frames 9 --out between
    """
    from napari_histolatent._pictures import marked, save_picture, strip
    from napari_histolatent.jobs import edits
    from napari_histolatent.training.load import load_classifier, load_generator

    generator = load_generator(run, device=device)
    judge = load_classifier(classifier, device=device) if classifier else None
    if judge:
        edits.require_same_classes(generator, judge)
    tiles, _ = _open_tiles(generator.checkpoint, [a, b], slide_mpp, all_needed=True)
    first, last = _with_points(generator, tiles, seed)
    drawn = edits.interpolate_tiles(generator, first, last, frames=frames)
    files = [save_tile(out, tile, [a, b]) for tile in drawn]
    provenance = drawn[0].provenance | {"from": first.name, "to": last.name}
    figure = marked(strip([tile.pixels for tile in drawn]))
    all_in_one = save_picture(out / f"{file_name_of(first.name)}_strip.png", figure, provenance)
    chances = edits.probabilities_of(judge, drawn) if judge else None
    write_report(
        {"files": files, "strip": str(all_in_one), "probabilities": chances},
        as_json,
        [f"{frames} SYNTHETIC frames in {out}"],
    )


@app.command()
def gradcam(
    classifier: Annotated[str, typer.Argument(help="A classifier's run folder.", metavar="CLF")],
    images: ImagesArgument,
    out: OutOption,
    target: Annotated[
        str | None, typer.Option(help="Class to explain; default: the one the classifier sees.")
    ] = None,
    slide_mpp: SlideMppOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write where the classifier looks: the raw map as TIFF, and the tile with the map over it as PNG.

    Example: histolatent gradcam classifier tile.png --target stroma --out maps
    """
    import tifffile

    from napari_histolatent._pictures import marked, save_picture
    from napari_histolatent.errors import writing_to
    from napari_histolatent.explain import overlaid
    from napari_histolatent.jobs import edits
    from napari_histolatent.training.load import load_classifier

    judge = load_classifier(classifier, device=device)
    tiles, failed = _open_tiles(judge.checkpoint, images, slide_mpp)
    reports = []
    for tile, heatmap in zip(tiles, edits.heatmaps_of(judge, tiles, target=target), strict=True):
        facts = edits.heatmap_report(judge, tile, heatmap)
        overlay = unlike(out / f"{file_name_of(tile.name)}_gradcam.png", images)
        figure = overlaid(tile.pixels, heatmap)
        provenance = tile.provenance | {"heatmap": facts}
        save_picture(overlay, marked(figure) if tile.synthetic else figure, provenance)
        raw = out / f"{file_name_of(tile.name)}_gradcam.tif"
        with writing_to(out), replacing(raw) as temporary:
            tifffile.imwrite(temporary, heatmap.values, description=json.dumps(provenance))
        reports.append(facts | {"files": [str(overlay), str(raw)]})
    lines = [f"{v['image']}: {v['target']} {v['probability']:.2f}, layer {v['layer']}" for v in reports]
    write_report({"images": reports, "failed": failed}, as_json, lines)
    if failed:
        raise typer.Exit(3)


def _open_tiles(
    checkpoint: Any, images: Sequence[str], slide_mpp: float | None, *, all_needed: bool = False
) -> tuple[list[Tile], list[str]]:
    """Return the tiles that could be opened, and a sentence for each that could not; none at all is an error."""
    from napari_histolatent.jobs.tiles import open_tile

    tiles: list[Tile] = []
    failed: list[str] = []
    for image in images:
        try:
            tile = open_tile(image, size_px=checkpoint.size_px, mpp=checkpoint.mpp, slide_mpp=slide_mpp)
        except UserError as error:
            if all_needed:
                raise
            failed.append(str(error))
            continue
        # Files are named after their tile: two pictures of one name must not become one.
        same = sum(other.name.rpartition("~")[0] == tile.name or other.name == tile.name for other in tiles)
        tiles.append(replace(tile, name=f"{tile.name}~{same + 1}") if same else tile)
    if not tiles:
        raise UserError(failed[0])
    for sentence in failed:
        messages.print(f"Left out: {sentence}", style="yellow", markup=False, soft_wrap=True)
    return tiles, failed


def _with_points(generator: Any, tiles: Sequence[Tile], seed: int, method: str = "s1") -> list[Tile]:
    """Return the tiles as their generator draws them: a tile without a point of this generator is searched."""
    from napari_histolatent.jobs import edits

    ready = []
    for tile in tiles:
        if edits.has_point_of(generator, tile):
            ready.append(tile)
        else:
            (search,) = edits.reverse_search(generator, [tile], seed=seed, method=method)
            messages.print(f"{tile.name}: searched, RMSE {search.inversion.rmse:.3f}", markup=False)
            ready.append(search.reconstruction)
    return ready
