"""Annotation files in and out: parse, repair, report; write whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_histolatent._files import replacing
from napari_histolatent.annotations._placement import AS_IS
from napari_histolatent.annotations._repair import regions_of
from napari_histolatent.annotations.formats import WriteOptions, format_for, read_file
from napari_histolatent.errors import AnnotationError, writing_to

if TYPE_CHECKING:
    from collections.abc import Iterable

    from napari_histolatent.annotations._mapping import ClassMapping
    from napari_histolatent.annotations._placement import Placement
    from napari_histolatent.annotations._region import Annotations
    from napari_histolatent.annotations.formats import Format
    from napari_histolatent.slides import SlideInfo


def read_annotations(
    path: str | Path,
    *,
    slide: SlideInfo | None = None,
    mapping: ClassMapping | None = None,
    placement: Placement = AS_IS,
) -> Annotations:
    """Read the regions of an annotation file, repaired, with a report of what that took.

    Parameters
    ----------
    path
        ASAP XML, QuPath GeoJSON, Aperio ImageScope XML, HALO annotations, Hamamatsu NDPA, NCRF or Darwin JSON, a
        label mask TIFF, or a CSV of points; which of them, its content says.
    slide
        The slide they belong to: NDPA cannot be read without it.
    mapping
        Classes of the file's groups; see `find_mapping`. By default as named.
    placement
        How to get from the file's coordinates to level-0 pixels.

    Raises
    ------
    AnnotationError
        If the file is missing, too large, damaged, of no known format, or needs a slide that was not given. An
        element that cannot be understood is dropped with a message; the others are kept.
    """
    path = Path(path)
    return regions_of(read_file(path, slide), file_name=path.name, mapping=mapping, placement=placement)


def write_annotations(
    path: str | Path,
    annotations: Annotations,
    *,
    format_name: str | None = None,
    options: WriteOptions | None = None,
    imported_from: Iterable[Path] = (),
) -> Format:
    """Write regions in the format of the file's suffix (or the named one), whole or not at all; return the format.

    Parameters
    ----------
    path
        The file; one that exists is replaced.
    annotations
        The regions.
    format_name
        As `annotations check` reports it, such as `imagescope-xml`: tells apart the formats with one suffix.
    options
        The slide, and which rings are written.
    imported_from
        Files that are never written to.

    Raises
    ------
    UserError
        If the format cannot be written, cannot hold the regions, or the file is one of `imported_from`, or cannot
        be replaced.
    """
    path = Path(path)
    chosen = format_for(path, format_name)
    if any(_is_same(path, source) for source in imported_from):
        msg = f"{path.name} is the file the regions were imported from, and stays as it is; choose another name."
        raise AnnotationError(msg)
    assert chosen.write is not None
    with writing_to(path.parent), replacing(path) as temporary:
        chosen.write(temporary, annotations, options or WriteOptions())
    return chosen


def _is_same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return path.absolute() == other.absolute()
