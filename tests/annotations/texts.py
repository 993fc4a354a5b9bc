"""The text of an annotation file of each format that holds given outlines, for tests that spoil it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histolatent.slides import Level, SlideInfo

if TYPE_CHECKING:
    from collections.abc import Callable

Points = Any
"""Pairs of numbers or texts."""

SLIDE = SlideInfo(
    path=Path("a.ndpi"),
    backend="test",
    vendor="hamamatsu",
    digest="0",
    levels=(Level(40_000, 30_000, 1.0), Level(10_000, 7_500, 4.0)),
    mpp_x=0.5,
    mpp_y=0.5,
    mpp_source="test",
    bounds=(0, 0, 40_000, 30_000),
    background=(255, 255, 255),
    associated=(),
    offset_from_centre_nm=(0.0, 0.0),
)
"""One nanometre of an NDPA file that `ndpa` below writes is 1 / 500 px, from the slide's middle."""

SQUARE = [(0, 0), (10, 0), (10, 10), (0, 10)]


def asap(*shapes: Points, group: str = "tumour") -> str:
    annotations = "".join(
        f'<Annotation Name="shape {i}" Type="Polygon" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>'
        + "".join(f'<Coordinate Order="{k}" X="{x}" Y="{y}" />' for k, (x, y) in enumerate(points))
        + "</Coordinates></Annotation>\n"
        for i, points in enumerate(shapes)
    )
    return (
        f'<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>{annotations}</Annotations><AnnotationGroups>'
        '<Group Name="tumour" PartOfGroup="None" Color="#00ff00"><Attributes /></Group></AnnotationGroups></ASAP_Annotations>\n'
    )


def layers(*shapes: Points, vertex: str = "Vertex", kind: str = "0") -> str:
    regions = "".join(
        f'<Region Id="{i}" Type="{kind}" NegativeROA="0"><Vertices>'
        + "".join(f'<{vertex} X="{x}" Y="{y}" />' for x, y in points)
        + "</Vertices></Region>\n"
        for i, points in enumerate(shapes)
    )
    return (
        '<?xml version="1.0"?>\n<Annotations MicronsPerPixel="0.25"><Annotation Id="1" Name="tumour" LineColor="255">'
        f"<Regions>{regions}</Regions></Annotation></Annotations>\n"
    )


def imagescope(*shapes: Points) -> str:
    return layers(*shapes)


def halo(*shapes: Points) -> str:
    return layers(*shapes, vertex="V", kind="Polygon")


def ndpa(*shapes: Points) -> str:
    """Numbers are put into nanometres, texts stay what they are."""

    def nm(value: Any, centre: int) -> str:
        if isinstance(value, str) and "," in value:
            return f"{(float(value.replace(',', '.')) - centre) * 500:.2f}".replace(".", ",")
        return value if isinstance(value, str) else repr((value - centre) * 500)

    views = "".join(
        f'<ndpviewstate id="{i}"><title>tumour</title><coordformat>nanometers</coordformat>'
        '<annotation type="freehand" color="#ff0000"><closed>1</closed><pointlist>'
        + "".join(f"<point><x>{nm(x, 20_000)}</x><y>{nm(y, 15_000)}</y></point>" for x, y in points)
        + "</pointlist></annotation></ndpviewstate>\n"
        for i, points in enumerate(shapes)
    )
    return f'<?xml version="1.0"?>\n<annotations>{views}</annotations>\n'


def geojson(*shapes: Points) -> str:
    features = [
        {
            "type": "Feature",
            "id": f"f{i}",
            "geometry": {"type": "Polygon", "coordinates": [[list(point) for point in points]]},
            "properties": {"name": f"shape {i}", "classification": {"name": "tumour", "color": [200, 0, 0]}},
        }
        for i, points in enumerate(shapes)
    ]
    return json.dumps({"type": "FeatureCollection", "features": features})


def ncrf(*shapes: Points) -> str:
    entries = [{"name": f"shape {i}", "vertices": [list(p) for p in v]} for i, v in enumerate(shapes)]
    return json.dumps({"positive": entries, "negative": []})


def darwin(*shapes: Points) -> str:
    entries = [
        {
            "id": f"d{i}",
            "name": "tumour",
            "polygon": {"paths": [[{"x": x, "y": y} for x, y in points]]},
        }
        for i, points in enumerate(shapes)
    ]
    return json.dumps({"version": "2.0", "item": {"name": "a", "slots": []}, "annotations": entries})


WRITERS: dict[str, tuple[str, Callable[..., str]]] = {
    "asap-xml": (".xml", asap),
    "imagescope-xml": (".xml", imagescope),
    "halo-annotations": (".annotations", halo),
    "ndpa": (".ndpa", ndpa),
    "qupath-geojson": (".geojson", geojson),
    "ncrf-json": (".json", ncrf),
    "darwin-json": (".json", darwin),
}
"""Of each format with outlines, its suffix and what writes it."""
JSON = ("qupath-geojson", "ncrf-json", "darwin-json")
