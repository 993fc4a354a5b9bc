"""NCRF JSON: the CAMELYON16 lesions as `{"positive": [{name, vertices}], "negative": [...]}`; read only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_histolatent.annotations._marks import Mark, SourceFile, ring_of
from napari_histolatent.annotations.formats._format import Format

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from napari_histolatent.slides import SlideInfo

_GROUPS = ("positive", "negative")


def recognises_ncrf(document: Any) -> bool:
    """Whether a JSON value has the lists `positive` and `negative`, at least one of them, and no GeoJSON type."""
    if not isinstance(document, dict) or "type" in document:
        return False
    present = [document[group] for group in _GROUPS if group in document]
    return bool(present) and all(isinstance(entries, list) for entries in present)


def read_ncrf(document: Any, slide: SlideInfo | None = None) -> SourceFile:
    """Return the outlines of a document; the group is the class, since a group may stand for holes."""
    del slide  # its coordinates are pixels already
    marks: list[Mark] = []
    dropped: list[str] = []
    for group in _GROUPS:
        for index, entry in enumerate(document.get(group, [])):
            name = str(entry.get("name") or "") if isinstance(entry, dict) else ""
            where = f'{group} {index + 1} "{name}"' if name else f"{group} {index + 1}"
            ring = _ring(entry)
            if ring is None:
                dropped.append(f"{where} dropped: its vertices are not a list of x, y pairs")
            else:
                marks.append(Mark(where=where, kind="area", rings=(ring,), class_name=group, name=name))
    return SourceFile(
        format="ncrf-json", marks=tuple(marks), dropped=tuple(dropped), groups_can_be_holes=True
    )


def _ring(entry: Any) -> NDArray[np.float64] | None:
    vertices = entry.get("vertices") if isinstance(entry, dict) else None
    if not isinstance(vertices, list) or not vertices:
        return None
    if not all(isinstance(point, list) and len(point) >= 2 for point in vertices):
        return None
    return ring_of(point[:2] for point in vertices)


NCRF = Format(
    name="ncrf-json",
    title="NCRF JSON",
    suffixes=(".json",),
    container="json",
    recognises=recognises_ncrf,
    read=read_ncrf,
)
