"""The tiles that a command line names: opened, searched where they have no latent point, and what is to be said of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_histolatent.cli._options import messages
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.training.load import LoadedEncoder, LoadedGenerator

ImagesArgument = Annotated[
    list[str],
    typer.Argument(help="Image files, or SLIDE@X,Y: the tile around a level-0 point.", metavar="IMAGE..."),
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        help="Reverse search: s1 (the paper's), fast, layers, or faithful (tunes a copy of the generator).",
    ),
]
ClassifierOption = Annotated[
    str | None,
    typer.Option(
        "--classifier",
        help="A classifier's run folder, for probabilities; default: the one its training names, else 'shipped'.",
    ),
]
NormaliseOption = Annotated[
    bool, typer.Option("--normalise-stain", help="Bring tiles of another stain to the generator's first.")
]
_STAIN_SAMPLES = 24


@dataclass(frozen=True)
class PointedTile:
    """A tile whose latent point is known."""

    drawn: Tile
    """As the generator draws it."""
    real: Tile | None
    """The tile that was searched; None where the image had its point already."""
    opened_as: str
    remarks: tuple[str, ...]


def say(*sentences: str) -> None:
    """Print sentences to stderr, none of them an error."""
    for sentence in sentences:
        messages.print(sentence, style="yellow", markup=False, soft_wrap=True)


def open_tiles(
    checkpoint: Any, images: Sequence[str], slide_mpp: float | None, *, all_needed: bool = False
) -> tuple[list[Tile], list[str]]:
    """Return the tiles that could be opened, and a sentence for each that could not; none at all is an error."""
    from napari_histolatent.jobs.tiles import open_tile

    tiles: list[Tile] = []
    failed: list[str] = []
    for image in images:
        try:
            tile = open_tile(
                image,
                size_px=checkpoint.size_px,
                mpp=checkpoint.mpp,
                mpp_is_assumed=bool(checkpoint.metrics.get("mpp_is_assumed")),
                slide_mpp=slide_mpp,
            )
        except UserError as error:
            if all_needed:
                raise
            failed.append(str(error))
            continue
        tiles.append(_named_unlike(tile, tiles))
    if not tiles:
        raise UserError(failed[0])
    remarks = dict.fromkeys(said for tile in tiles for said in tile.remarks)
    say(*(f"Left out: {sentence}" for sentence in failed), *remarks)
    return tiles, failed


def _named_unlike(tile: Tile, others: Sequence[Tile]) -> Tile:
    """Return a tile named unlike the others: files are named after tiles, and two must not become one."""
    same = sum(other.name.rpartition("~")[0] == tile.name or other.name == tile.name for other in others)
    return replace(tile, name=f"{tile.name}~{same + 1}") if same else tile


def with_stain_checked(generator: LoadedGenerator, tiles: Sequence[Tile], *, normalises: bool) -> list[Tile]:
    """Return tiles with a remark on those stained unlike what the generator draws, or brought to it on request."""
    from napari_histolatent.jobs import edits, stains

    if not normalises and all(tile.synthetic for tile in tiles):
        return list(tiles)
    samples = edits.sample_tiles(generator, _STAIN_SAMPLES, label=None, seed=0)
    known = stains.known_stain(stains.stacked(samples))
    checked = stains.checked(tiles, known, normalises=normalises)
    say(*(said for old, new in zip(tiles, checked, strict=True) for said in new.remarks[len(old.remarks) :]))
    return checked


def with_points(
    generator: LoadedGenerator,
    tiles: Sequence[Tile],
    *,
    seed: int,
    method: str,
    label: str | None = None,
    encoder: LoadedEncoder | None = None,
    normalises: bool = False,
) -> list[PointedTile]:
    """Return the tiles as their generator draws them: those without a point of this generator are searched."""
    from napari_histolatent.jobs import edits

    has_point = [edits.has_point_of(generator, tile) for tile in tiles]
    wanting = [tile for tile, has in zip(tiles, has_point, strict=True) if not has]
    if wanting:
        wanting = with_stain_checked(generator, wanting, normalises=normalises)
    searches = iter(
        edits.reverse_search(generator, wanting, label=label, seed=seed, method=method, encoder=encoder)
    )
    ready: list[PointedTile] = []
    for tile, has in zip(tiles, has_point, strict=True):
        others = [item.drawn for item in ready]
        if has:
            ready.append(PointedTile(_named_unlike(tile, others), None, tile.opened_as, tile.remarks))
            continue
        search = next(searches)
        messages.print(f"{tile.name}: searched, RMSE {search.inversion.rmse:.3f}", markup=False)
        drawn = _named_unlike(search.reconstruction, others)
        ready.append(PointedTile(drawn, search.tile, tile.opened_as, search.tile.remarks))
    return ready
