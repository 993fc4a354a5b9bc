"""What several rooms of the command line share: arguments and options, and how a command reports."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from napari_histolatent._files import file_name_of, without_nan
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_histolatent.jobs.tiles import Tile

messages = Console(stderr=True)

SlideArgument = Annotated[
    str,
    typer.Argument(
        help="A slide file, a folder (DICOM, OME-Zarr) or the URL of an OME-Zarr.", metavar="SLIDE"
    ),
]
GeneratorArgument = Annotated[
    str, typer.Argument(help="A run folder, an exported folder, or 'shipped'.", metavar="RUN")
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for what is made.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything left to chance.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
LevelOption = Annotated[int | None, typer.Option("--level", help="Pyramid level, read as it is stored.")]
MppOption = Annotated[float | None, typer.Option("--mpp", help="Micrometres per pixel of the result.")]
MagOption = Annotated[
    float | None, typer.Option("--mag", help="Magnification instead: 20 is 0.5 µm per px, 40 is 0.25.")
]
SlideMppOption = Annotated[
    float | None,
    typer.Option("--slide-mpp", help="Pixel size of level 0 in µm, where the slide does not state it."),
]


def resolution(level: int | None, mpp: float | None, mag: float | None) -> tuple[int | None, float | None]:
    """Return (level, mpp), one of them None; a magnification is 10 / mag µm per px, as scanners have it."""
    given = [
        name for name, value in (("--level", level), ("--mpp", mpp), ("--mag", mag)) if value is not None
    ]
    if len(given) != 1:
        msg = f"Give one of --mpp, --level or --mag, not {' and '.join(given) or 'none'}; for example --mpp 0.5."
        raise UserError(msg)
    if mag is not None:
        if not mag > 0:
            msg = f"A magnification of {mag:g} is not possible; give a number above 0, such as 20."
            raise UserError(msg)
        return None, 10 / mag
    return level, mpp


def save_tile(folder: Path, tile: Tile, inputs: Sequence[str] = ()) -> str:
    """Write a tile as PNG, over none of the `inputs`; return the file's path."""
    from napari_histolatent._pictures import save_picture

    path = unlike(folder / f"{file_name_of(tile.name)}.png", inputs)
    return str(save_picture(path, tile.pixels, tile.provenance))


def unlike(path: Path, inputs: Sequence[str]) -> Path:
    """Return the path, unless it is one of the files that were given: those are never written over."""
    if any(Path(name).exists() and Path(name).resolve() == path.resolve() for name in inputs):
        msg = f"{path} is one of the images given, and would be written over; choose another --out."
        raise UserError(msg)
    return path


def write_report(facts: dict[str, Any], as_json: bool, lines: Sequence[str]) -> None:
    """Write what a command found to stdout: one JSON object, or lines for people."""
    if as_json:
        write_line(json.dumps(without_nan(facts), default=_plain))
    else:
        for line in lines:
            write_line(line)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else asdict(value)


def write_line(line: str) -> None:
    """Write one line to stdout at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show progress on stderr while the block runs."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Where nobody watches, a bar is only noise in the log.
    with Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal) as progress:
        yield progress
