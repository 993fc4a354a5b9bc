"""QuPath GeoJSON in and out.

Structure as written by QuPath's GsonTools (0.2 to 0.6): a FeatureCollection, a bare array, one Feature or a
bare geometry; `properties.classification` an object with name or names, or a bare string.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon, mapping, shape

from napari_histolatent._files import write_text
from napari_histolatent.annotations._geometry import repaired
from napari_histolatent.annotations._region import UNCLASSIFIED, Annotations, Region
from napari_histolatent.errors import AnnotationError, writing_to

if TYPE_CHECKING:
    from pathlib import Path

    from shapely.geometry.base import BaseGeometry

_GEOMETRIES = {"Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString", "MultiLineString"}


def annotations_from_geojson(document: Any, file_name: str) -> Annotations:
    """Return the regions of a parsed GeoJSON document.

    A feature that cannot be understood is dropped with a message; the others are kept.

    Raises
    ------
    AnnotationError
        If the document is not GeoJSON at all.
    """
    regions: list[Region] = []
    colors: dict[str, tuple[int, int, int]] = {}
    messages: list[str] = []
    n_repaired = n_dropped = 0
    for index, feature in enumerate(_features(document, file_name)):
        properties = feature.get("properties") if isinstance(feature, dict) else None
        properties = properties if isinstance(properties, dict) else {}
        label = f"feature {index + 1}" + (f" ({properties['name']})" if properties.get("name") else "")
        try:
            original = _geometry(feature)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, shapely.GEOSException) as error:
            n_dropped += 1
            messages.append(f"{label} dropped: {error}")
            continue
        geometry = repaired(original)
        if geometry is None:
            n_dropped += 1
            messages.append(f"{label} dropped: its outline covers no area")
            continue
        if geometry is not original and not original.is_valid:
            n_repaired += 1
            messages.append(
                f"{label} repaired: area {original.area:,.0f} px² before, {geometry.area:,.0f} px² after"
            )
        class_name, color = _classification(properties)
        if color is not None:
            colors.setdefault(class_name, color)
        regions.append(
            Region(
                id=str(feature.get("id") or f"{file_name}#{index + 1}"),
                class_name=class_name,
                geometry=geometry,
                name=str(properties.get("name") or ""),
            )
        )
    return Annotations(
        regions=tuple(regions),
        format="qupath-geojson",
        colors=colors,
        repaired=n_repaired,
        dropped=n_dropped,
        messages=tuple(messages),
    )


def write_geojson(path: Path, annotations: Annotations) -> None:
    """Write the regions as a FeatureCollection that QuPath opens, whole or not at all."""
    # QuPath refuses a classification without a colour.
    features = [
        {
            "type": "Feature",
            "id": region.id,
            "geometry": mapping(region.geometry),
            "properties": {
                "objectType": "annotation",
                "name": region.name,
                "classification": {
                    "name": region.class_name,
                    "color": list(annotations.color_of(region.class_name)),
                },
            },
        }
        for region in annotations.regions
    ]
    with writing_to(path.parent):
        write_text(path, json.dumps({"type": "FeatureCollection", "features": features}))


def _features(document: Any, file_name: str) -> list[Any]:
    if isinstance(document, list):
        return document
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "FeatureCollection" and isinstance(document.get("features"), list):
        return list(document["features"])
    if kind == "Feature":
        return [document]
    if isinstance(kind, str) and kind in _GEOMETRIES:
        return [{"type": "Feature", "geometry": document}]
    msg = (
        f"{file_name} is JSON but not GeoJSON (its type is {kind!r}); "
        "export the annotations from QuPath with File > Export objects as GeoJSON."
    )
    raise AnnotationError(msg)


def _geometry(feature: Any) -> BaseGeometry:
    geometry = feature.get("geometry") if isinstance(feature, dict) else None
    if not isinstance(geometry, dict) or geometry.get("type") not in _GEOMETRIES:
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        msg = f"geometry of type {kind!r} is not one of {', '.join(sorted(_GEOMETRIES))}"
        raise ValueError(msg)
    with np.errstate(invalid="ignore"):
        parsed = shapely.force_2d(shape(geometry))
    if parsed.is_empty and not isinstance(parsed, (Polygon, MultiPolygon)):
        msg = "it lies nowhere"
        raise ValueError(msg)
    if not np.isfinite(shapely.get_coordinates(parsed)).all():
        msg = "a coordinate is not a finite number"
        raise ValueError(msg)
    return parsed


def _classification(properties: dict[str, Any]) -> tuple[str, tuple[int, int, int] | None]:
    value = properties.get("classification")
    if isinstance(value, str) and value:
        return value, None
    if not isinstance(value, dict):
        return UNCLASSIFIED, None
    names = value.get("names")
    name = ": ".join(map(str, names)) if isinstance(names, list) and names else value.get("name")
    return str(name or UNCLASSIFIED), _color(value)


def _color(classification: dict[str, Any]) -> tuple[int, int, int] | None:
    color = classification.get("color")
    if isinstance(color, list) and len(color) == 3 and all(isinstance(v, int) for v in color):
        return color[0] & 255, color[1] & 255, color[2] & 255
    packed = classification.get("colorRGB")  # QuPath before 0.4: a signed 0xAARRGGBB
    if isinstance(packed, int):
        return packed >> 16 & 255, packed >> 8 & 255, packed & 255
    return None
