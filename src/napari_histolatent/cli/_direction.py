"""Directions in latent space: `direction add`, `direction list`, `direction test`, `direction apply`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_histolatent.cli._options import (
    DeviceOption,
    GeneratorArgument,
    JsonOption,
    OutOption,
    SeedOption,
    SlideMppOption,
    progress_bar,
    save_tile,
    write_report,
)
from napari_histolatent.cli._tiles import (
    ClassifierOption,
    ImagesArgument,
    MethodOption,
    NormaliseOption,
    open_tiles,
    say,
    with_points,
)
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent.latent import LatentPoint
    from napari_histolatent.latent.directions import Direction
    from napari_histolatent.latent.library import Library
    from napari_histolatent.training.load import LoadedGenerator

LibraryOption = Annotated[
    Path | None,
    typer.Option("--library", help="Folder of the library; default: the one that the Edit dock keeps."),
]
NameOption = Annotated[str, typer.Option("--direction", help="Name of the direction in the library.")]
LabelOption = Annotated[
    str | None, typer.Option(help="Class of the images that are drawn; default: the classes take turns.")
]

direction_app = typer.Typer(
    no_args_is_help=True, help="Directions in latent space along which something changes."
)


@direction_app.command()
def add(
    run: GeneratorArgument,
    library: LibraryOption = None,
    name: Annotated[
        str | None, typer.Option(help="Of the direction; default: after what it is made from.")
    ] = None,
    from_tag: Annotated[
        str | None, typer.Option("--from", help="Tag of the library's points that it leads away from.")
    ] = None,
    to_tag: Annotated[str | None, typer.Option("--to", help="Tag of the points that it leads to.")] = None,
    boundary: Annotated[
        bool,
        typer.Option(
            "--boundary",
            help="With --from and --to: across the plane that parts them, not from mean to mean.",
        ),
    ] = False,
    components: Annotated[
        int | None,
        typer.Option(
            "--components", help="Instead: so many ways in which the generator's images differ most.", min=1
        ),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            "--measure",
            help="Instead: along which this grows: nuclear area fraction, haematoxylin or lumen fraction.",
        ),
    ] = None,
    label: LabelOption = None,
    samples: Annotated[
        int, typer.Option(help="Images that are drawn for --components and --measure.", min=10)
    ] = 512,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Make a direction of a generator from two groups of points, from its images' main changes, or from a measure.

    Example: histolatent direction add run --library lib --from stroma --to tumour --boundary --name "to tumour"
    """
    from napari_histolatent.jobs.steering import direction_of_measure, main_directions
    from napari_histolatent.training.load import load_generator

    by_groups = from_tag is not None or to_tag is not None
    ways = [by_groups, components is not None, measure is not None]
    if sum(ways) != 1 or (by_groups and (from_tag is None or to_tag is None)):
        msg = "Give --from and --to, --components or --measure, one of the three."
        raise UserError(msg)
    if boundary and not by_groups:
        msg = "--boundary parts two groups; give --from and --to with it."
        raise UserError(msg)
    kept = _library(library)
    generator = load_generator(run, device=device)
    drawing: dict[str, Any] = {"label": label, "seed": seed}
    with progress_bar() as progress:
        bar = progress.add_task("images", total=None, visible=not by_groups)
        drawing["on_progress"] = lambda done, total: progress.update(bar, completed=done, total=total)
        if components is not None:
            found = main_directions(generator, components, name=name or "change", samples=samples, **drawing)
        elif measure is not None:
            found = [direction_of_measure(generator, measure, name=name or "", n=samples, **drawing)]
        else:
            found = [_between(kept, generator, str(from_tag), str(to_tag), name, is_boundary=boundary)]
    taken = {item.name for item in kept.directions()}
    for item in found:  # all or none
        if item.name in taken:
            msg = f"The library {kept.folder} has a direction named {item.name!r} already; choose another --name."
            raise UserError(msg)
    for item in found:
        kept.add_direction(item)
    report = {"library": str(kept.folder), "added": [_facts(item) for item in found]}
    write_report(report, as_json, [_line(item) for item in found])


@direction_app.command(name="list")
def list_directions(
    library: LibraryOption = None,
    run: Annotated[
        str | None, typer.Option("--run", help="Only the directions of this generator.", metavar="RUN")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the directions of a library.

    Example: histolatent direction list --library lib
    """
    kept = _library(library, must_exist=True)
    found = kept.directions()
    if run is not None:
        from napari_histolatent.training.load import find_checkpoint

        digest = find_checkpoint(run).digest
        found = tuple(item for item in found if item.checkpoint_digest == digest)
    report = {"library": str(kept.folder), "directions": [_facts(item) for item in found]}
    write_report(report, as_json, [_line(item) for item in found] or ["The library holds no directions."])


@direction_app.command(name="test")
def try_direction(
    run: GeneratorArgument,
    direction: NameOption,
    library: LibraryOption = None,
    feature: Annotated[
        list[str] | None,
        typer.Option(
            "--feature",
            help="What is measured, may be repeated: nuclear area fraction, haematoxylin, lumen fraction; default: all.",
        ),
    ] = None,
    points: Annotated[int, typer.Option(help="Random points that are moved along it.", min=1)] = 64,
    label: LabelOption = None,
    seed: SeedOption = 1,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say whether what can be measured moves one way along a direction: Spearman's correlation over random points.

    Example: histolatent direction test run --library lib --direction "to tumour"
    """
    from napari_histolatent.jobs.steering import STRENGTHS, tried_on
    from napari_histolatent.latent.measured import FEATURES
    from napari_histolatent.training.load import load_generator

    wanted = _library(library, must_exist=True).direction(direction)
    generator = load_generator(run, device=device)
    with progress_bar() as progress:
        bar = progress.add_task("strengths", total=len(STRENGTHS))
        found = tried_on(
            generator,
            wanted,
            feature or FEATURES,
            n=points,
            label=label,
            seed=seed,
            on_progress=lambda done, _: progress.update(bar, completed=done),
        )
    lines = [
        f"{name}: median Spearman {item.median:+.2f} over {len(item.correlations)} points, "
        f"{item.share_monotone:.0%} of them at least 0.9"
        for name, item in found.items()
    ]
    report = {
        "direction": _facts(wanted),
        "strengths": list(STRENGTHS),
        "features": {name: item.to_json() for name, item in found.items()},
    }
    write_report(report, as_json, lines)


@direction_app.command()
def apply(
    run: GeneratorArgument,
    images: ImagesArgument,
    direction: NameOption,
    out: OutOption,
    strength: Annotated[
        list[float],
        typer.Option(
            "--strength", help="How far, in units of the latent vector; may be repeated, below 0 goes back."
        ),
    ],
    library: LibraryOption = None,
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
    """Draw tiles moved along a direction; a tile without a latent point is searched first.

    Example: histolatent direction apply run tile_reconstruction.png --library lib --direction "to tumour" --strength 2 --out moved
    """
    from napari_histolatent.jobs import edits, seeing
    from napari_histolatent.jobs.companions import classifier_for, encoder_of
    from napari_histolatent.jobs.steering import steered
    from napari_histolatent.jobs.tiles import save_tuned
    from napari_histolatent.training.load import load_generator

    wanted = _library(library, must_exist=True).direction(direction)
    generator = load_generator(run, device=device)
    _require_own(wanted, generator)  # told before any search
    judge, which = classifier_for(generator, classifier, device=device)
    encoder, why = encoder_of(generator)
    say(*(sentence for sentence in (which, why) if sentence))
    tiles, failed = open_tiles(generator.checkpoint, images, slide_mpp)
    ready = with_points(
        generator,
        tiles,
        seed=seed,
        method=method,
        label=label,
        encoder=encoder,
        normalises=normalise_stain,
    )
    if judge:
        say(*seeing.remarks_on(judge, [item.drawn for item in ready]))
    reports = []
    for item in ready:
        moved = steered(generator, item.drawn, wanted, strength)
        chances: Sequence[Any] = (
            edits.probabilities_of(judge, [item.drawn, *moved]) if judge else [None] * (1 + len(moved))
        )
        files = [save_tile(out, tile, images) for tile in moved]
        weights = save_tuned(out, moved[0])
        reports.append(
            {
                "image": item.opened_as,
                "files": files,
                "strengths": list(strength),
                "probability_before": chances[0],
                "probabilities": list(chances[1:]),
                "remarks": list(item.remarks),
                "tuned_weights": str(weights) if weights else None,
            }
        )
    lines = [
        f"{v['image']} {s:+g} along {wanted.name}: {file} (SYNTHETIC)"
        for v in reports
        for s, file in zip(v["strengths"], v["files"], strict=True)
    ]
    report = {
        "files": [file for v in reports for file in v["files"]],
        "images": reports,
        "direction": _facts(wanted),
        "failed": failed,
    }
    write_report(report, as_json, lines)
    if failed:
        raise typer.Exit(3)


def _library(folder: Path | None, *, must_exist: bool = False) -> Library:
    from napari_histolatent._files import data_folder
    from napari_histolatent.latent.library import Library

    opened = Library(folder or data_folder() / "library")
    if must_exist and not opened.exists:
        msg = f"{opened.folder} is no library yet; make a direction with `histolatent direction add`."
        raise UserError(msg)
    return opened


def _between(
    library: Library,
    generator: LoadedGenerator,
    from_tag: str,
    to_tag: str,
    name: str | None,
    *,
    is_boundary: bool,
) -> Direction:
    """Return the direction from the points of one tag to those of another; other generators' do not count."""
    from napari_histolatent.latent.directions import boundary, mean_difference

    first, second = (_group(library, generator, tag) for tag in (from_tag, to_tag))
    make = boundary if is_boundary else mean_difference
    found = make(name or f"{from_tag} to {to_tag}", first, second)
    return replace(found, facts={**found.facts, "from": from_tag, "to": to_tag})


def _group(library: Library, generator: LoadedGenerator, tag: str) -> list[LatentPoint]:
    digest = generator.checkpoint.digest
    own = [item for item in library.entries() if item.point.checkpoint_digest == digest]
    group = [item.point for item in own if tag in item.tags]
    if not group:
        known = ", ".join(sorted({name for item in own for name in item.tags})) or "none"
        msg = f"The library {library.folder} has no point of this generator with the tag {tag!r}; its tags are {known}."
        raise UserError(msg)
    return group


def _require_own(direction: Direction, generator: LoadedGenerator) -> None:
    if direction.checkpoint_digest != generator.checkpoint.digest:
        msg = (
            f"The direction {direction.name!r} belongs to the generator {direction.checkpoint_digest[:12]}, this is "
            f"{generator.checkpoint.digest[:12]}; make the direction again with `histolatent direction add`."
        )
        raise UserError(msg)


def _facts(direction: Direction) -> dict[str, Any]:
    """Return what is reported of a direction: all but its numbers."""
    return {
        "name": direction.name,
        "kind": direction.kind,
        "model_digest": direction.checkpoint_digest,
        "facts": dict(direction.facts),
    }


def _line(direction: Direction) -> str:
    facts, said = direction.facts, [direction.kind]
    if "from" in facts:
        said.append(f"from {facts['from']} to {facts['to']}")
    if "feature" in facts:
        said.append(str(facts["feature"]))
    for name, words in (
        ("variance_explained", "of how the images differ"),
        ("accuracy_left_out", "of points left out on their side"),
        ("r2_left_out", "of the differences in images left out explained"),
    ):
        value = facts.get(name)
        if isinstance(value, float):
            said.append(f"{max(0.0, value):.0%} {words}")
    return f"{direction.name} ({', '.join(said)})"
