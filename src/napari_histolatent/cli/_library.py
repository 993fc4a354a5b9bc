"""Libraries of latent points: `library add`, `library list`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_histolatent.cli._options import (
    DeviceOption,
    JsonOption,
    SeedOption,
    SlideMppOption,
    write_report,
)
from napari_histolatent.cli._tiles import ImagesArgument, MethodOption, open_tiles, with_points
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.latent.library import LibraryEntry

library_app = typer.Typer(no_args_is_help=True, help="Named, tagged latent points: what `arithmetic` reads.")
LibraryArgument = Annotated[Path, typer.Argument(help="The library's folder.", metavar="LIB")]


@library_app.command()
def add(
    library: LibraryArgument,
    images: ImagesArgument,
    name: Annotated[str | None, typer.Option(help="Name of the point; default: the file's.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Group it belongs to; may be repeated.")
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", help="The generator, for images that have no latent point yet.")
    ] = None,
    method: MethodOption = "fast",
    slide_mpp: SlideMppOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Add the latent points of images to a library; it is made if there is none yet.

    Example: histolatent library add lib found/tile_reconstruction.png --name "first tumour" --tag tumour
    """
    from napari_histolatent.jobs import edits
    from napari_histolatent.latent.library import Library

    if name is not None and len(images) > 1:
        msg = f"One name ({name!r}) cannot do for {len(images)} images; add them one by one, or leave --name out."
        raise UserError(msg)
    tiles = _tiles(images, run, method, slide_mpp, seed, device)
    opened = Library(library)
    taken = {entry.name for entry in opened.entries()}
    for tile in tiles:  # all or none
        if (name or tile.name) in taken:
            msg = (
                f"The library {library} has a point named {name or tile.name!r} already; choose another name."
            )
            raise UserError(msg)
    added = [edits.add_to_library(opened, tile, name=name or tile.name, tags=tag or ()) for tile in tiles]
    lines = [f"{entry.name} ({', '.join(entry.tags) or 'no tags'})" for entry in added]
    write_report({"library": str(library), "added": [_facts(entry) for entry in added]}, as_json, lines)


def _tiles(
    images: Sequence[str], run: str | None, method: str, slide_mpp: float | None, seed: int, device: str
) -> list[Tile]:
    if run is None:
        return [_pointed(image) for image in images]
    from napari_histolatent.jobs.companions import encoder_of
    from napari_histolatent.training.load import load_generator

    generator = load_generator(run, device=device)
    tiles, _ = open_tiles(generator.checkpoint, images, slide_mpp, all_needed=True)
    encoder, _ = encoder_of(generator)
    ready = with_points(generator, tiles, seed=seed, method=method, encoder=encoder)
    return [item.drawn for item in ready]


def _pointed(image: str) -> Tile:
    """Return the tile of a picture that knows its latent point."""
    from napari_histolatent._pictures import open_picture
    from napari_histolatent.jobs.tiles import open_tile

    pixels, _ = open_picture(Path(image))
    tile = open_tile(image, size_px=pixels.shape[0], mpp=None)
    if tile.point is None:
        why = tile.remarks[0] if tile.remarks else f"{image} has no latent point."
        msg = f"{why.rstrip('.')}; give the generator with --run to search it."
        raise UserError(msg)
    return tile


@library_app.command(name="list")
def list_points(
    library: LibraryArgument,
    text: Annotated[str, typer.Option("--search", help="Words that name, tags and source hold.")] = "",
    tag: Annotated[str | None, typer.Option("--tag", help="Only points of this tag.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the points and directions of a library.

    Example: histolatent library list lib --tag tumour
    """
    from napari_histolatent.latent.library import Library

    opened = Library(library)
    if not opened.exists:
        msg = f"{library} is no library yet; make one with `histolatent library add`."
        raise UserError(msg)
    entries, directions = opened.search(text, tag=tag), opened.directions()
    lines = [f"{entry.name} ({', '.join(entry.tags) or 'no tags'}): {entry.source}" for entry in entries]
    lines += [f"direction {item.name} ({item.kind})" for item in directions]
    report = {
        "library": str(library),
        "points": [_facts(entry) for entry in entries],
        "tags": opened.tags(),
        "directions": [{"name": v.name, "kind": v.kind, "facts": dict(v.facts)} for v in directions],
    }
    write_report(report, as_json, lines or ["The library holds no such points."])


def _facts(entry: LibraryEntry) -> dict[str, Any]:
    """Return what is reported of a point: all but its numbers."""
    facts = entry.to_json()
    point = facts.pop("point")
    return facts | {
        "model_digest": point["checkpoint_digest"],
        "class_weights": list(point["class_weights"]),
        "origin": point["origin"],
        "is_tuned": bool(point["tuned_digest"]),
    }
