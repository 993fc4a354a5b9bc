"""Tiles in latent space and what a classifier sees: `invert`, `flip`, `interpolate`, `arithmetic`, `gradcam`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_histolatent._files import file_name_of, replacing
from napari_histolatent.cli import _library
from napari_histolatent.cli._options import (
    DeviceOption,
    GeneratorArgument,
    JsonOption,
    OutOption,
    SeedOption,
    SlideMppOption,
    progress_bar,
    save_tile,
    unlike,
    write_report,
)
from napari_histolatent.cli._tiles import (
    ClassifierOption,
    ImagesArgument,
    MethodOption,
    NormaliseOption,
    PointedTile,
    open_tiles,
    say,
    with_points,
    with_stain_checked,
)
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent.jobs.edits import ReverseSearch
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.training.load import LoadedClassifier, LoadedEncoder, LoadedGenerator

DatasetOption = Annotated[
    Path | None,
    typer.Option(
        "--dataset",
        help="invert: a dataset instead of images, all its patches as a table of points in --out. "
        "calibrate: what the generator learnt from; default: the one its run names.",
    ),
]
LibraryOption = Annotated[Path, typer.Option("--library", help="The library that the names are from.")]

app = typer.Typer()
app.add_typer(_library.library_app, name="library")


@dataclass(frozen=True)
class _Models:
    generator: LoadedGenerator
    judge: LoadedClassifier | None
    encoder: LoadedEncoder | None


def _models(run: str, classifier: str | None, device: str) -> _Models:
    """Load a generator and what goes with it; say what could not be used."""
    from napari_histolatent.jobs.companions import classifier_for, encoder_of
    from napari_histolatent.training.load import load_generator

    generator = load_generator(run, device=device)
    judge, which = classifier_for(generator, classifier, device=device)
    encoder, why = encoder_of(generator)
    say(*(sentence for sentence in (which, why) if sentence))
    return _Models(generator, judge, encoder)


@app.command()
def invert(
    run: GeneratorArgument,
    out: OutOption,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Image files, or SLIDE@X,Y: the tile around a level-0 point.", metavar="IMAGE..."
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Class of the tiles; default: the one that fits best.")
    ] = None,
    method: MethodOption = "faithful",
    steps: Annotated[
        int | None, typer.Option(help="Gradient steps; default: the method's own number.", min=1)
    ] = None,
    starts: Annotated[int, typer.Option(help="Searches of each tile; the nearest wins.", min=1)] = 1,
    polish: Annotated[int, typer.Option(help="Steps of L-BFGS after those of fast.", min=0)] = 0,
    dataset: DatasetOption = None,
    split: Annotated[str | None, typer.Option(help="Of the dataset: train, val or test alone.")] = None,
    classifier: ClassifierOption = None,
    normalise_stain: NormaliseOption = False,
    slide_mpp: SlideMppOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find the latent point of tiles (reverse search), and say how far to believe it.

    Example: histolatent invert run slide.svs@1200,1900 --label epithelium --out found
    """
    from napari_histolatent.latent.search_options import METHODS, SearchOptions, steps_in_all

    if method not in METHODS:
        msg = f"There is no reverse search named {method!r}; choose one of {', '.join(METHODS)}."
        raise UserError(msg)
    options = SearchOptions(steps=steps, seed=seed, starts=starts, polish_steps=polish)
    if (dataset is None) == (not images):
        msg = "Give images (files, or SLIDE@X,Y) or --dataset, one of the two."
        raise UserError(msg)
    if dataset is not None:
        _invert_dataset(run, dataset, out, method, split, classifier, options, device, as_json)
        return
    from napari_histolatent.jobs import edits, seeing
    from napari_histolatent.latent.perceptual import PerceptualDistance

    named = images or []
    models = _models(run, classifier, device)
    checkpoint = models.generator.checkpoint
    tiles, failed = open_tiles(checkpoint, named, slide_mpp)
    tiles = with_stain_checked(models.generator, tiles, normalises=normalise_stain)
    if models.judge:  # before the search: what it cannot be shown is refused here
        say(*seeing.remarks_on(models.judge, tiles))
    with progress_bar() as progress:
        bar = progress.add_task("reverse search", total=steps_in_all(method, options))
        searches = edits.reverse_search(
            models.generator,
            tiles,
            label=label,
            method=method,
            options=options,
            seed=seed,
            encoder=models.encoder,
            perceptual=PerceptualDistance(),
            on_step=lambda done, _: progress.update(bar, completed=done),
        )
    verdicts = _verdicts(models, searches)
    reports = [
        _search_report(models, search, verdict, reasons, out, named)
        for search, (verdict, reasons) in zip(searches, verdicts, strict=True)
    ]
    lines = [
        f"{v['image']}: RMSE {v['rmse']:.3f}, PSNR {v['psnr_db']:.1f} dB"
        + (f", as {v['label']}" if v["label"] else "")
        + (f"; verdict: {v['verdict']}" if v["verdict"] else "")
        + "".join(f"\n  {sentence}" for sentence in v["reasons"])
        for v in reports
    ]
    write_report({"images": reports, "failed": failed, "model_digest": checkpoint.digest}, as_json, lines)
    if failed:
        raise typer.Exit(3)


def _verdicts(models: _Models, searches: Sequence[ReverseSearch]) -> list[tuple[str | None, tuple[str, ...]]]:
    import numpy as np

    from napari_histolatent.jobs import seeing
    from napari_histolatent.jobs.calibration import calibration_of, judged

    generator, judge = models.generator, models.judge
    # It is shown the tiles as they are: one of another size or pixel size cannot compare the classes.
    fits = judge is not None and not seeing.remarks_on(judge, [search.tile for search in searches])
    found = judged(
        generator,
        np.stack([search.tile.pixels for search in searches]),
        [search.inversion for search in searches],
        calibration=calibration_of(generator.checkpoint),
        classifier=judge if fits else None,
    )
    return [(item.verdict, item.reasons) for item in found]


def _search_report(
    models: _Models,
    search: ReverseSearch,
    verdict: str | None,
    reasons: tuple[str, ...],
    out: Path,
    inputs: Sequence[str],
) -> dict[str, Any]:
    from napari_histolatent.jobs import edits
    from napari_histolatent.jobs.tiles import save_tuned

    found, point = search.inversion, search.inversion.point
    judge, classes = models.judge, models.generator.checkpoint.classes
    real, drawn = (
        edits.probabilities_of(judge, [search.tile, search.reconstruction]) if judge else (None, None)
    )
    files = [
        save_tile(out, replace(search.tile, name=f"{search.tile.name}_tile"), inputs),
        save_tile(out, search.reconstruction, inputs),
    ]
    weights = save_tuned(out, search.reconstruction)
    return {
        "image": search.tile.opened_as,
        "label": classes[max(range(len(classes)), key=point.class_weights.__getitem__)] if classes else None,
        "method": found.method,
        "steps": found.steps,
        "rmse": found.rmse,
        "psnr_db": found.psnr_db,
        "ssim": found.ssim,
        "perceptual": found.perceptual,
        "rmse_at_z": found.rmse_at_z,
        "spread": found.spread,
        "prior_percentile": found.prior_percentile,
        "z_ratio": found.z_ratio,
        "seconds": found.seconds,
        "probability_real": real,
        "probability_reconstruction": drawn,
        "verdict": verdict,
        "reasons": list(reasons),
        "remarks": list(search.tile.remarks),
        "files": files,
        "tuned_weights": str(weights) if weights else None,
    }


def _invert_dataset(
    run: str,
    dataset: Path,
    out: Path,
    method: str,
    split: str | None,
    classifier: str | None,
    options: Any,
    device: str,
    as_json: bool,
) -> None:
    from napari_histolatent.jobs.inversions import invert_dataset

    with progress_bar() as progress:
        bar = progress.add_task("reverse search", total=None)
        report = invert_dataset(
            run,
            dataset,
            out,
            method=method,
            split=split,
            classifier=classifier,
            options=options,
            device=device,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    line = f"{report.done} of {report.total} patches, median RMSE {report.median_rmse:.3f}: {report.table}"
    write_report(report.to_json(), as_json, [line])


@app.command()
def flip(
    run: GeneratorArgument,
    images: ImagesArgument,
    to: Annotated[str, typer.Option("--to", help="Class to flip to.")],
    out: OutOption,
    residual: Annotated[
        bool,
        typer.Option("--residual", help="Put the change onto the tile itself: what cannot be drawn is kept."),
    ] = False,
    strength: Annotated[float, typer.Option(help="Of a residual edit; 0 changes nothing.")] = 1.0,
    method: MethodOption = "faithful",
    label: Annotated[
        str | None, typer.Option(help="Class of the tiles; default: the one that fits best.")
    ] = None,
    classifier: ClassifierOption = None,
    normalise_stain: NormaliseOption = False,
    slide_mpp: SlideMppOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Draw tiles in another class, their latent vector kept; a tile without one is searched first.

    Example: histolatent flip run found/tile_reconstruction.png --to stroma --out flipped
    """
    from napari_histolatent.jobs import edits, seeing
    from napari_histolatent.jobs.tiles import save_tuned
    from napari_histolatent.latent import class_vector
    from napari_histolatent.latent.blend import require_classes

    models = _models(run, classifier, device)
    generator, judge = models.generator, models.judge
    require_classes(generator.checkpoint.classes)
    class_vector(generator.checkpoint.classes, to)  # a wrong name is told before any search
    tiles, failed = open_tiles(generator.checkpoint, images, slide_mpp)
    _require_change(generator, tiles, label, to)
    ready = with_points(
        generator,
        tiles,
        seed=seed,
        method=method,
        label=label,
        encoder=models.encoder,
        normalises=normalise_stain,
    )
    ready, alike = _of_other_class(generator, ready, to)
    failed += alike
    if judge:
        say(*seeing.remarks_on(judge, [item.drawn for item in ready]))
    reports = []
    for item in ready:
        done = edits.flip(generator, item.drawn, to=to, real=item.real, residual=residual, strength=strength)
        seen = [item.real or done.before, done.before, done.after]
        chances: Sequence[Any] = edits.probabilities_of(judge, seen) if judge else [None] * 3
        file = save_tile(out, done.after, images)
        weights = save_tuned(out, done.after)
        said = [*done.effect.sentences, *_seen_as_already(chances[0] if item.real else None, to)]
        say(*(f"{done.after.name}: {sentence}" for sentence in said))
        reports.append(
            {
                "image": item.opened_as,
                "file": file,
                "probability_real": chances[0],
                "probability_before": chances[1],
                "probability_after": chances[2],
                "effect": done.effect.to_json(),
                "remarks": [*item.remarks, *said],
                "tuned_weights": str(weights) if weights else None,
            }
        )
    lines = [f"{v['image']} as {to}: {v['file']} (SYNTHETIC)" for v in reports]
    files = [v["file"] for v in reports]
    write_report(
        {"files": files, "images": reports, "to": to, "residual": residual, "failed": failed}, as_json, lines
    )
    if failed:
        raise typer.Exit(3)


def _seen_as_already(chances: dict[str, float] | None, to: str) -> tuple[str, ...]:
    """Return a sentence where the classifier sees a real tile as the class it is flipped to."""
    if not chances or max(chances, key=chances.__getitem__) != to:
        return ()
    return (
        f"To the classifier this is no flip: it sees the tile as {to} already (probability {chances[to]:.2f}).",
    )


def _require_change(generator: LoadedGenerator, tiles: Sequence[Tile], label: str | None, to: str) -> None:
    """Refuse, before any search, a flip of tiles to the very class they are searched in."""
    from napari_histolatent.jobs import edits

    if label == to and not any(edits.has_point_of(generator, tile) for tile in tiles):
        msg = f"A tile of the class {to} flipped to {to} would stay as it is; give another class with --to, or another --label."
        raise UserError(msg)


def _of_other_class(
    generator: LoadedGenerator, ready: Sequence[PointedTile], to: str
) -> tuple[list[PointedTile], list[str]]:
    """Return the tiles that a flip changes, and a sentence for each that is of the class already; all is an error."""
    from napari_histolatent.jobs import edits

    changed, alike = [], []
    for item in ready:
        try:
            edits.require_other_class(generator, item.drawn, to=to)
        except UserError as error:
            alike.append(str(error))
        else:
            changed.append(item)
    if not changed:
        raise UserError(alike[0])
    say(*(f"Left out: {sentence}" for sentence in alike))
    return changed, alike


@app.command()
def interpolate(
    run: GeneratorArgument,
    images: Annotated[
        list[str],
        typer.Argument(help="Two tiles or more, in their order: files or SLIDE@X,Y.", metavar="A B..."),
    ],
    out: OutOption,
    frames: Annotated[int, typer.Option(help="How many images, both ends included.", min=2)] = 9,
    to: Annotated[
        str | None, typer.Option("--to", help="Class: go from one tile to its flip instead.")
    ] = None,
    residual: Annotated[
        bool, typer.Option("--residual", help="With --to: put each change onto the tile itself.")
    ] = False,
    path: Annotated[
        str | None, typer.Option(help="spherical or linear; default: what suits the generator's prior.")
    ] = None,
    timing: Annotated[
        str | None,
        typer.Option(
            help="What changes evenly: pixels, perceptual, probability or even (the weight itself); "
            "default: pixels with --to, else even."
        ),
    ] = None,
    export: Annotated[
        str, typer.Option(help="Besides the frames, separated by commas: strip, gif, mp4, csv.")
    ] = "strip",
    fps: Annotated[float, typer.Option(help="Frames a second of a film.")] = 15.0,
    method: MethodOption = "faithful",
    label: Annotated[
        str | None, typer.Option(help="Class of the tiles; default: the one that fits best.")
    ] = None,
    classifier: ClassifierOption = None,
    normalise_stain: NormaliseOption = False,
    slide_mpp: SlideMppOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Draw what lies between tiles, or between a tile and its flip; one without a latent point is searched first.

    Example: histolatent interpolate run a_reconstruction.png b_reconstruction.png --frames 9 --out between
    """
    from napari_histolatent.jobs import edits, seeing
    from napari_histolatent.jobs.exporting import FORMATS
    from napari_histolatent.latent import class_vector
    from napari_histolatent.latent.blend import require_classes

    formats = [word for word in (part.strip() for part in export.split(",")) if word]
    for word in formats:
        if word not in FORMATS:
            msg = f"There is no export format {word!r}; choose from {', '.join(FORMATS)}."
            raise UserError(msg)
    if (to is None and len(images) < 2) or (to is not None and len(images) != 1):
        msg = f"A path goes through two tiles or more, or from one tile to a class (--to); {len(images)} are given{' with --to' if to else ''}."
        raise UserError(msg)
    if residual and to is None:
        msg = "A residual edit puts the change towards a class onto a tile, and needs that class; give it with --to."
        raise UserError(msg)
    models = _models(run, classifier, device)
    generator, judge = models.generator, models.judge
    if to is not None:
        require_classes(generator.checkpoint.classes)
        class_vector(generator.checkpoint.classes, to)
    tiles, _ = open_tiles(generator.checkpoint, images, slide_mpp, all_needed=True)
    if to is not None:
        _require_change(generator, tiles, label, to)
    ready = with_points(
        generator,
        tiles,
        seed=seed,
        method=method,
        label=label,
        encoder=models.encoder,
        normalises=normalise_stain,
    )
    keys = [item.drawn for item in ready]
    if to is not None:
        keys.append(edits.flip_tile(generator, keys[0], to=to))
    drawn = edits.path_tiles(
        generator,
        keys,
        frames=frames,
        kind=path,
        timing=timing or ("even" if to is None else "pixels"),
        classifier=judge,
        residual_on=(ready[0].real or keys[0]) if residual else None,
    )
    chances = None
    if judge:
        say(*seeing.remarks_on(judge, drawn))
        chances = edits.probabilities_of(judge, drawn)
    report = _save_path(out, drawn, keys, chances, formats, fps, images) | {
        "probabilities": chances,
        "timing": timing or ("even" if to is None else "pixels"),
        "remarks": [sentence for item in ready for sentence in item.remarks],
    }
    write_report(
        report,
        as_json,
        [f"{frames} SYNTHETIC frames in {out}"],
    )


def _save_path(
    out: Path,
    drawn: Sequence[Tile],
    keys: Sequence[Tile],
    chances: Sequence[dict[str, float]] | None,
    formats: Sequence[str],
    fps: float,
    inputs: Sequence[str],
) -> dict[str, Any]:
    from napari_histolatent.jobs.exporting import export_frames
    from napari_histolatent.jobs.tiles import save_tuned

    files = [save_tile(out, tile, inputs) for tile in drawn]
    # Of blends between two copies only the ends are kept: the rest can be made of them.
    found = {tile.tuned.digest for tile in keys if tile.tuned}
    for tile in drawn:
        if tile.tuned and tile.tuned.digest in found:
            save_tuned(out, tile)
    exported = export_frames(
        out,
        keys[0].name,
        drawn,
        formats=formats,
        probabilities=chances,
        provenance={"from": keys[0].name, "to": keys[-1].name},
        fps=fps,
    )
    named = {name: str(path) for name, path in exported.items()}
    return {"files": files, "strip": named.get("strip"), "exports": named}


@app.command()
def arithmetic(
    run: GeneratorArgument,
    expression: Annotated[
        str,
        typer.Argument(
            help="Names of points and mean(tag) with + - * / and numbers; names with signs in quotes.",
            metavar="EXPR",
        ),
    ],
    library: LibraryOption,
    out: OutOption,
    label: Annotated[
        str | None, typer.Option(help="Class to draw in; default: the nearest to what the expression gives.")
    ] = None,
    classifier: ClassifierOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Draw what an expression of a library's points comes to.

    Example: histolatent arithmetic run "mean(tumour with lumen) - mean(tumour) + mean(healthy)" --library lib --out sum
    """
    from napari_histolatent.jobs import edits, seeing
    from napari_histolatent.latent.library import Library

    models = _models(run, classifier, device)
    opened = Library(library)
    if not opened.exists:
        msg = f"{library} is no library yet; make one with `histolatent library add`."
        raise UserError(msg)
    tile, combination = edits.arithmetic_tile(models.generator, expression, opened, label=label)
    tile = replace(tile, name=f"arithmetic_{file_name_of(expression)[:60]}")
    if models.judge:
        say(*seeing.remarks_on(models.judge, [tile]))
    chances = edits.probabilities_of(models.judge, [tile]) if models.judge else [None]
    file = save_tile(out, tile)
    classes = models.generator.checkpoint.classes
    weights = combination.point.class_weights
    report = {
        "files": [file],
        "expression": expression,
        "names": list(combination.names),
        "norm_before": combination.norm_before,
        "norm_after": combination.norm_after,
        "label": classes[weights.index(1.0)] if classes else None,
        "probabilities": chances,
    }
    line = (
        f"{file} (SYNTHETIC): length {combination.norm_before:.2f}, brought to {combination.norm_after:.2f}"
    )
    write_report(report, as_json, [line])


@app.command()
def gradcam(
    classifier: Annotated[str, typer.Argument(help="A classifier's run folder.", metavar="CLF")],
    images: ImagesArgument,
    out: OutOption,
    target: Annotated[
        str | None, typer.Option(help="Class to explain; default: the one the classifier sees.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer whose maps are weighed; default: the last with an extent.")
    ] = None,
    colormap: Annotated[str, typer.Option(help="ember or jet.")] = "ember",
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
    from napari_histolatent.explain.heatmap import lookup_table
    from napari_histolatent.jobs import edits
    from napari_histolatent.jobs.places import compared_places
    from napari_histolatent.training.load import load_classifier

    lookup_table(colormap)  # a wrong name is told before anything is opened
    judge = load_classifier(classifier, device=device)
    tiles, failed = open_tiles(judge.checkpoint, images, slide_mpp)
    reports: list[dict[str, Any]] = []
    heatmaps = edits.heatmaps_of(judge, tiles, target=target, layer=layer)
    for tile, heatmap in zip(tiles, heatmaps, strict=True):
        facts = edits.heatmap_report(judge, tile, heatmap)
        overlay = unlike(out / f"{file_name_of(tile.name)}_gradcam.png", images)
        figure = overlaid(tile.pixels, heatmap, colormap=colormap)
        provenance = tile.provenance | {"heatmap": facts}
        save_picture(overlay, marked(figure) if tile.synthetic else figure, provenance)
        raw = out / f"{file_name_of(tile.name)}_gradcam.tif"
        with writing_to(out), replacing(raw) as temporary:
            tifffile.imwrite(temporary, heatmap.values, description=json.dumps(provenance))
        reports.append(facts | {"files": [str(overlay), str(raw)], "remarks": list(tile.remarks)})
    compared = compared_places(tiles, heatmaps)
    lines = [f"{v['image']}: {v['target']} {v['probability']:.2f}, layer {v['layer']}" for v in reports]
    lines += [item.words for item in compared]
    report = {"images": reports, "consistency": [item.to_json() for item in compared], "failed": failed}
    write_report(report, as_json, lines)
    if failed:
        raise typer.Exit(3)
