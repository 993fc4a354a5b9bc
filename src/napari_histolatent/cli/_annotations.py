"""Annotation files: `annotations check` and `annotations convert`."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from napari_histolatent.cli._options import JsonOption, write_report
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from napari_histolatent.annotations import AnnotationCheck, Annotations
    from napari_histolatent.slides import SlideInfo

annotations_app = typer.Typer(no_args_is_help=True, help="Look at annotation files.")

AnnotationFile = Annotated[
    Path,
    typer.Argument(
        help="ASAP XML, QuPath GeoJSON, ImageScope XML, HALO, NDPA, NCRF or Darwin JSON, label mask TIFF, CSV of points.",
        metavar="IN",
    ),
]
SlideOfRegions = Annotated[
    str | None,
    typer.Option("--slide", help="The slide they belong to: finds what lies outside it; NDPA needs it."),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="What the file's groups stand for: camelyon16, camelyon17, a table saved before, or a JSON table's path."
    ),
]
ScaleOption = Annotated[
    float, typer.Option(help="Multiply the file's coordinates by this, where they are of another level.")
]
ShiftOption = Annotated[
    tuple[float, float],
    typer.Option(help="Then add this to them, in level-0 pixels.", metavar="X Y"),
]


@annotations_app.command("check")
def annotations_check(
    path: AnnotationFile,
    slide: SlideOfRegions = None,
    preset: PresetOption = None,
    scale: ScaleOption = 1.0,
    shift: ShiftOption = (0.0, 0.0),
    as_json: JsonOption = False,
) -> None:
    """Say what an annotation file holds, and what is wrong with it.

    Example: histolatent annotations check tumor_001.xml --slide tumor_001.tif --preset camelyon16
    """
    from napari_histolatent.annotations import require_on_slide

    annotations, checked, info = _read_regions(path, slide, preset, scale, shift)
    write_report(checked.to_json(), as_json, [str(path), *checked.lines])
    if info is not None and checked.outside == checked.regions > 0:
        require_on_slide(annotations, info)


@annotations_app.command("convert")
def annotations_convert(
    path: AnnotationFile,
    out: Annotated[
        Path,
        typer.Argument(
            help="The file to write: .geojson (QuPath), .xml (ASAP), .ndpa, .tif (label mask), .csv (points).",
            metavar="OUT",
        ),
    ],
    slide: SlideOfRegions = None,
    preset: PresetOption = None,
    scale: ScaleOption = 1.0,
    shift: ShiftOption = (0.0, 0.0),
    format_name: Annotated[
        str | None,
        typer.Option("--format", help="Where the suffix leaves a choice: asap-xml or imagescope-xml."),
    ] = None,
    rings: Annotated[
        str,
        typer.Option(help="Outlines that had to be repaired: as 'repaired', or as in the 'source'."),
    ] = "repaired",
    crop: Annotated[
        bool,
        typer.Option(
            "--crop-to-bounds", help="Count from the scanned part, as QuPath does for MRXS; needs --slide."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Read regions in one format and write them in another. The file that is read stays as it is.

    Example: histolatent annotations convert tumor_001.xml tumor_001.geojson --preset camelyon16
    """
    from napari_histolatent.annotations import WriteOptions, write_annotations

    if rings not in ("repaired", "source"):
        msg = f"--rings {rings!r} is neither 'repaired' nor 'source'; choose one of them."
        raise UserError(msg)
    annotations, checked, info = _read_regions(path, slide, preset, scale, shift)
    if crop and info is None:
        msg = "--crop-to-bounds needs the slide whose bounds are meant; add --slide."
        raise UserError(msg)
    offset = (-float(info.bounds[0]), -float(info.bounds[1])) if crop and info is not None else (0.0, 0.0)
    options = WriteOptions(slide=info, rings=cast("Any", rings), offset_xy=offset)
    written = write_annotations(
        out, annotations, format_name=format_name, options=options, imported_from=[path]
    )
    facts = {**checked.to_json(), "written": str(out), "written_format": written.name}
    write_report(facts, as_json, [str(path), *checked.lines, f"written to {out} as {written.title}"])
    if checked.dropped:
        sys.stderr.write(
            f"{checked.dropped} of {checked.elements} shapes were left out; the report names them.\n"
        )
        raise typer.Exit(3)


def _read_regions(
    path: Path, slide: str | None, preset: str | None, scale: float, shift: tuple[float, float]
) -> tuple[Annotations, AnnotationCheck, SlideInfo | None]:
    from napari_histolatent.annotations import Placement, check_annotations, find_mapping, read_annotations
    from napari_histolatent.slides import open_slide

    if not (math.isfinite(scale) and scale > 0 and all(map(math.isfinite, shift))):
        msg = f"--scale {scale:g} --shift {shift[0]:g} {shift[1]:g} is not possible; give finite numbers, the scale above 0."
        raise UserError(msg)
    info = None
    if slide is not None:
        with open_slide(slide) as opened:
            info = opened.info
    annotations = read_annotations(
        path,
        slide=info,
        mapping=None if preset is None else find_mapping(preset),
        placement=Placement(scale, shift),
    )
    return annotations, check_annotations(annotations, info), info
