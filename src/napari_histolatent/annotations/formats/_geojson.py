"""QuPath GeoJSON in and out.

Structure as written by QuPath 0.2 to 0.6: a FeatureCollection, a bare array, one Feature or a bare geometry;
`properties.classification` an object with name or names, or a bare string; hierarchies in `childObjects`.
"""

from __future__ import annotations

import re
import uuid
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import shapely

from napari_histolatent.annotations._chunks import collecting_later
from napari_histolatent.annotations._marks import Mark, SourceFile, hex_color, number_of
from napari_histolatent.annotations._region import UNCLASSIFIED
from napari_histolatent.annotations.formats._format import Format, WriteOptions
from napari_histolatent.annotations.formats._json import parse_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histolatent.annotations._marks import RGB
    from napari_histolatent.annotations._region import Annotations, Region, SourceRing
    from napari_histolatent.slides import SlideInfo

_GEOMETRIES = frozenset(
    ["Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString", "MultiLineString", "GeometryCollection"]
)
_NAMESPACE = uuid.UUID("5b0a3c5e-2d0e-4d55-9f0a-6d0f1c8c7a41")
"""Of the ids that QuPath gets for regions whose own id is not a UUID."""
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_FEATURES_PER_WRITE = 1000
_OBJECTS = {"detection": "detection", "cell": "cell", "tile": "tile"} | {
    f"Path{kind}Object": kind.lower() for kind in ("Detection", "Cell", "Tile")
}
"""QuPath's kinds of objects that are no annotations: since 0.3 as a property, in 0.2 as the id of the feature."""

Rings = tuple["NDArray[np.float64]", ...]


def recognises_geojson(document: Any) -> bool:
    """Whether a JSON value is one of the forms of GeoJSON; an array needs one entry that is."""
    if isinstance(document, list):
        return not document or any(_is_element(item) for item in document)
    if isinstance(document, dict) and document.get("type") == "FeatureCollection":
        return isinstance(document.get("features"), list)
    return _is_element(document)


def read_geojson(document: Any, slide: SlideInfo | None = None) -> SourceFile:
    """Return what a GeoJSON document says; a feature that cannot be understood is dropped with a sentence."""
    del slide  # its coordinates are pixels already
    return _read_features(_features(document), before=0)


def read_geojson_share(data: bytes, file_name: str, share: tuple[int, int]) -> SourceFile | None:
    """Return what one share of a file says, such as (0, 2), the first half; None if it has to be read as a whole."""
    found = parse_share(data, file_name, share)
    return None if found is None else _read_features(found[0], before=found[1])


def _read_features(features: Iterable[Any], *, before: int) -> SourceFile:
    reading = _Reading()
    with collecting_later():
        for number, feature in enumerate(features, start=before + 1):
            reading.add(feature, str(number))
    return SourceFile(
        format="qupath-geojson",
        marks=tuple(reading.marks),
        colors=reading.colors,
        dropped=tuple(reading.dropped),
        messages=tuple(reading.messages()),
    )


def write_geojson(path: Path, annotations: Annotations, options: WriteOptions) -> None:
    """Write the regions as a FeatureCollection that QuPath opens."""
    with path.open("wb") as file:
        file.write(b'{"type":"FeatureCollection","features":[\n')
        features = _written_features(annotations, options)
        separator = b""
        while chunk := list(islice(features, _FEATURES_PER_WRITE)):
            file.write(separator + b",\n".join(chunk))
            separator = b",\n"
        file.write(b"\n]}\n")


# --- reading


@dataclass
class _Reading:
    """What was read of a document so far."""

    marks: list[Mark] = field(default_factory=list)
    colors: dict[str, RGB] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    nuclei: int = 0
    not_areas: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    """Of each kind that is no annotation."""
    measured: int = 0
    locked: int = 0

    def add(self, feature: Any, number: str) -> None:
        properties: Any = {}
        identity = ""
        kind_of_object: Any = None
        geometry = feature
        if isinstance(feature, dict) and not _is_geometry(feature):
            geometry = feature.get("geometry")
            properties = feature.get("properties")
            if not isinstance(properties, dict):
                properties = {}
            identity = _text(feature.get("id"))
            kind_of_object = properties.get("objectType") or properties.get("object_type")
            if identity.startswith("Path") and identity.endswith("Object"):
                kind_of_object, identity = identity, ""  # QuPath 0.2 wrote the object's type there
        name = _text(properties.get("name"))
        where = f'feature {number} "{name}"' if name else f"feature {number}"
        class_name, class_color = _classification(properties.get("classification"))
        try:
            kind, shapes, lost = _shapes(geometry)
        except _Unreadable as error:
            if properties.get("objectType") != "root":  # the root of a hierarchy has no shape of its own
                self.dropped.append(f"{where} dropped: {error}")
        else:
            self.not_areas += lost
            if isinstance(kind_of_object, str) and kind_of_object in _OBJECTS:
                self.objects[_OBJECTS[kind_of_object]] += 1
            self.measured += bool(properties.get("measurements"))
            self.locked += properties.get("isLocked") is True
            if class_color is not None:
                self.colors.setdefault(class_name, class_color)
            color = None if properties.get("color") is None else _color(properties["color"])
            region = f"feature {number}" if len(shapes) > 1 else ""
            for rings in shapes:
                # By position: 200,000 times, names cost a tenth of a second.
                self.marks.append(
                    Mark(where, kind, rings, class_name, name, identity, color, "", False, region)
                )
        if isinstance(feature, dict):
            self.nuclei += isinstance(feature.get("nucleusGeometry"), dict)
            for owner in (feature, properties):
                children = owner.get("childObjects")
                if children:
                    for index, child in enumerate(_features(children)):
                        self.add(child, f"{number}.{index + 1}")

    def messages(self) -> Iterator[str]:
        if self.nuclei:
            yield f"{self.nuclei:,} cells have a nucleus of their own, which was left out: the outline of the cell is the region."
        if self.not_areas:
            yield f"{self.not_areas:,} points and lines inside geometry collections were left out: only their areas are read."
        said = []
        if self.objects:
            kinds = " and ".join(_counted(n, kind) for kind, n in self.objects.items())
            are_many = self.objects.total() > 1
            said.append(f"{kinds} {'come in as annotations' if are_many else 'comes in as an annotation'}")
        if self.measured:
            said.append(f"measurements of {_counted(self.measured, 'object')} are left out")
        if self.locked:
            said.append(
                f"{_counted(self.locked, 'locked object')} {'are' if self.locked > 1 else 'is'} unlocked"
            )
        if said:
            yield "; ".join(said)


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n > 1)}"


class _Unreadable(ValueError):
    """Why an element is dropped."""


def _is_geometry(value: Any) -> bool:
    kind = value.get("type") if isinstance(value, dict) else None
    return isinstance(kind, str) and kind in _GEOMETRIES


def _is_element(value: Any) -> bool:
    return _is_geometry(value) or (isinstance(value, dict) and value.get("type") == "Feature")


def _features(document: Any) -> list[Any]:
    if isinstance(document, list):
        return document
    if isinstance(document, dict) and isinstance(document.get("features"), list):
        return list(document["features"])
    return [document]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None or isinstance(value, (dict, list)) else str(value)


def _shapes(geometry: Any) -> tuple[Any, list[Rings], int]:
    """Return the kind, the rings of each part, and how many members of a collection are no areas."""
    if not isinstance(geometry, dict):
        msg = "it has no geometry"
        raise _Unreadable(msg)
    kind = geometry.get("type")
    coordinates = geometry.get("coordinates")
    if kind == "Polygon":
        return "area", [_polygon(coordinates)], 0
    if kind == "MultiPolygon":
        return "area", [_polygon(part) for part in _list(coordinates, "its coordinates are")], 0
    if kind == "Point":
        return "points", [(_ring([coordinates] if coordinates else coordinates),)], 0
    if kind == "MultiPoint":
        return "points", [(_ring(coordinates),)], 0
    if kind == "LineString":
        return "line", [(_ring(coordinates),)], 0
    if kind == "MultiLineString":
        return "line", [tuple(_ring(part) for part in _list(coordinates, "its coordinates are"))], 0
    if kind == "GeometryCollection":
        return _areas_of(geometry)
    what = (
        f'its geometry is of the unknown type "{kind}"'
        if isinstance(kind, str)
        else "its geometry has no type"
    )
    raise _Unreadable(what)


def _areas_of(collection: Any) -> tuple[Any, list[Rings], int]:
    shapes: list[Rings] = []
    lost = 0
    for member in _list(collection.get("geometries"), "its geometry collection is"):
        kind, parts, lost_inside = _shapes(member)
        lost += lost_inside
        if kind == "area":
            shapes += parts
        else:
            lost += 1
    if not shapes:
        msg = "its geometry collection holds no area"
        raise _Unreadable(msg)
    return "area", shapes, lost


def _polygon(coordinates: Any) -> Rings:
    outline, *holes = _list(coordinates, "its outline is")
    # A hole of no points takes nothing away.
    return (_ring(outline), *(_ring(hole) for hole in holes if not (isinstance(hole, list) and not hole)))


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        msg = f"{what} missing or not a list"
        raise _Unreadable(msg)
    if not value:
        msg = f"{what} empty"
        raise _Unreadable(msg)
    return value


def _ring(points: Any) -> NDArray[np.float64]:
    try:
        ring = np.asarray(points, np.float64)
    except (ValueError, TypeError, OverflowError):
        return _ring_by_hand(points)
    if ring.ndim == 2 and ring.shape[1] == 2:
        return ring
    if ring.ndim == 2 and ring.shape[1] > 2:
        return ring[:, :2].copy()  # beyond x and y: z
    return _ring_by_hand(points)


def _ring_by_hand(points: Any) -> NDArray[np.float64]:
    """Return a ring of texts, of numbers too large, or of points of different length."""
    points = _list(points, "its outline is")
    for index, point in enumerate(points):
        if not isinstance(point, list) or len(point) < 2:
            msg = f"point {index + 1} of its outline is not a pair of numbers"
            raise _Unreadable(msg)
    return np.array([[number_of(x), number_of(y)] for x, y, *_ in points], np.float64)


def _classification(value: Any) -> tuple[str, RGB | None]:
    if not isinstance(value, dict):
        return (value if isinstance(value, str) else ""), None
    names = value.get("names")
    name = ": ".join(map(str, names)) if isinstance(names, list) and names else _text(value.get("name"))
    if value.get("parentClass") is not None:  # QuPath before 0.2 nested derived classes
        parent, _ = _classification(value["parentClass"])
        if not name or not parent:
            name = name or parent
        elif not name.startswith(f"{parent}: "):
            name = f"{parent}: {name}"
    color = value.get("color")
    return name, _color(value.get("colorRGB") if color is None else color)


def _color(value: Any) -> RGB | None:
    if isinstance(value, list) and len(value) >= 3:
        red, green, blue = value[:3]
        if type(red) is int and type(green) is int and type(blue) is int:
            return red & 255, green & 255, blue & 255
    if type(value) is int:  # QuPath before 0.4: a signed 0xAARRGGBB
        return value >> 16 & 255, value >> 8 & 255, value & 255
    return hex_color(value) if isinstance(value, str) else None


# --- writing


def _written_features(annotations: Annotations, options: WriteOptions) -> Iterator[bytes]:
    names = dict.fromkeys(region.class_name for region in annotations.regions)
    # QuPath refuses a classification without a colour.
    classes = {
        name: {"name": name, "color": list(annotations.color_of(name))}
        for name in names
        if name and name != UNCLASSIFIED
    }
    used: set[str] = set()
    for region in annotations.regions:
        properties: dict[str, Any] = {"objectType": "annotation", "isLocked": False}
        if region.name:
            properties["name"] = region.name
        if region.class_name in classes:
            properties["classification"] = classes[region.class_name]
        yield orjson.dumps(
            {
                "type": "Feature",
                "id": _unused_uuid(region.id, used),
                "geometry": _written_geometry(region, options),
                "properties": properties,
            }
        )


def _unused_uuid(identity: str, used: set[str]) -> str:
    """Return the id as the UUID that QuPath wants: the region's own, or one that the same id gives again."""
    result = identity if _UUID.fullmatch(identity) else str(uuid.uuid5(_NAMESPACE, identity))
    count = 1
    while result in used:
        count += 1
        result = str(uuid.uuid5(_NAMESPACE, f"{identity}#{count}"))
    used.add(result)
    return result


def _written_geometry(region: Region, options: WriteOptions) -> dict[str, Any]:
    if options.rings == "source" and region.source:
        polygons = _source_polygons(region.source)
        if polygons:
            return _polygonal(polygons, options.offset_xy)
    if region.is_area:
        return _polygonal(
            [
                [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
                for polygon in region.polygons
                if not polygon.is_empty
            ],
            options.offset_xy,
        )
    kind = region.geometry.geom_type
    parts = [
        _numbers(shapely.get_coordinates(part), options.offset_xy)
        for part in shapely.get_parts(region.geometry)
    ]
    coordinates: list[Any] = parts
    if kind in ("Point", "LineString"):
        coordinates = parts[0]
    if kind in ("Point", "MultiPoint"):
        coordinates = parts[0][0] if kind == "Point" else [part[0] for part in parts]
    return {"type": kind, "coordinates": coordinates}


def _polygonal(polygons: list[list[NDArray[np.float64]]], offset_xy: tuple[float, float]) -> dict[str, Any]:
    written = [[_numbers(ring, offset_xy) for ring in rings] for rings in polygons]
    # TissUUmaps and others stumble over a MultiPolygon of one part.
    if len(written) == 1:
        return {"type": "Polygon", "coordinates": written[0]}
    return {"type": "MultiPolygon", "coordinates": written}


def _numbers(xy: NDArray[np.float64], offset_xy: tuple[float, float]) -> list[list[float]]:
    """Return coordinates that are written in full: whole numbers as integers, the others as their repr."""
    if offset_xy != (0.0, 0.0):
        xy = xy + offset_xy
    is_whole = (xy == np.floor(xy)) & (np.abs(xy) < 2**53)
    if is_whole.all():
        return list(xy.astype(np.int64).tolist())
    if is_whole.any():
        return [[int(v) if v.is_integer() else v for v in point] for point in xy.tolist()]
    return list(xy.tolist())


def _source_polygons(source: Iterable[SourceRing]) -> list[list[NDArray[np.float64]]]:
    """Return the rings as their file had them: each outline with the holes that lie within its bounds."""
    outlines: list[list[NDArray[np.float64]]] = []
    holes: list[NDArray[np.float64]] = []
    for ring in source:
        xy = ring.xy[np.isfinite(ring.xy).all(axis=1)]  # JSON has no NaN
        if len(xy) < 3:
            continue  # QuPath refuses a ring of fewer points
        closed = xy if (xy[0] == xy[-1]).all() else np.vstack([xy, xy[:1]])
        if ring.is_hole:
            holes.append(closed)
        else:
            outlines.append([closed])
    for hole in holes:
        owner = next((rings for rings in outlines if _bounds_hold(rings[0], hole)), None)
        if owner is None and outlines:
            owner = outlines[0]
        if owner is not None:
            owner.append(hole)
    return outlines


def _bounds_hold(outer: NDArray[np.float64], inner: NDArray[np.float64]) -> bool:
    return bool(
        (outer.min(axis=0) <= inner.min(axis=0)).all() and (outer.max(axis=0) >= inner.max(axis=0)).all()
    )


GEOJSON = Format(
    name="qupath-geojson",
    title="QuPath GeoJSON",
    suffixes=(".geojson", ".json"),
    container="json",
    recognises=recognises_geojson,
    read=read_geojson,
    write=write_geojson,
)
