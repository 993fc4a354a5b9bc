"""Which format a file is, by its content; one module each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histolatent.annotations._geojson import annotations_from_geojson
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from napari_histolatent.annotations._region import Annotations

_MAX_BYTES = 1 << 29
"""Half a gigabyte of JSON takes some 10 GB to parse: beyond that a file is refused before it is read."""


def read_annotations(path: str | Path) -> Annotations:
    """Read the regions of an annotation file.

    Parameters
    ----------
    path
        A QuPath GeoJSON file: a FeatureCollection, a bare array, one Feature or a bare geometry.

    Raises
    ------
    AnnotationError
        If the file is missing, too large, or of no known format.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        msg = f"{path} {what}; give the path of a QuPath GeoJSON file."
        raise AnnotationError(msg)
    if path.stat().st_size > _MAX_BYTES:
        msg = f"{path.name} has {path.stat().st_size:,} bytes, more than the {_MAX_BYTES:,} that can be read; split it."
        raise AnnotationError(msg)
    return annotations_from_geojson(_parse_json(path), path.name)


def _parse_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        first = path.read_bytes()[:1].decode(errors="replace")
        hint = "XML annotations are not read yet" if first == "<" else "check that the file is complete"
        msg = f"{path.name} is not GeoJSON ({type(error).__name__}: {error}); {hint}, or export it from QuPath as GeoJSON."
        raise AnnotationError(msg) from error
