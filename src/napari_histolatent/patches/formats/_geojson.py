"""Export to QuPath: each slide's patches as tile objects with their class and measurements."""

from __future__ import annotations

import math
import uuid
from typing import TYPE_CHECKING, Any

import orjson

from napari_histolatent.annotations._region import PALETTE
from napari_histolatent.patches.formats._export import (
    Names,
    Progress,
    Rows,
    export_folder,
    report_of,
    stem_on_disk,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari_histolatent.patches._dataset import PatchDataset

_NAMESPACE = uuid.UUID("8f1d0a9e-0c57-4b83-9a5e-3c2b7b6f4d10")
"""Of the tiles' ids: the same patch has the same id in every export."""
_MEASURED = ("tissue", "annotated", "focus", "saturation", "white", "pen")
_FEATURES_PER_WRITE = 1000


def export_geojson(
    dataset: PatchDataset,
    out: Path,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Write `out/SLIDE.geojson`: a FeatureCollection of tiles in level-0 pixels, as QuPath 0.4 to 0.6 writes it.

    The measurements bear the names of the index: tissue, annotated, coverage_CLASS, focus, saturation, white,
    pen; a value that is not known is left out (JSON has no NaN). The split is in the metadata, which QuPath
    shows since 0.5.

    Parameters
    ----------
    dataset
        The dataset.
    out
        Folder to make, whole or not at all.
    on_progress
        Called with (patches written, patches in all).
    should_stop
        Asked now and then; when it says so, nothing is left behind.

    Returns
    -------
    dict
        format, path, patches, files, classes {name: n}, splits {name: n}, messages.

    Raises
    ------
    DatasetError
        If `out` exists, there are no patches, they lie on no slide, or stopping was asked for.
    UserError
        If the folder cannot be written.
    """
    rows = Rows.of(dataset)
    rows.require_places(dataset, "GeoJSON tiles")
    classes = _classifications(dataset)
    measured = {
        name: [float(v) for v in dataset.columns[name]]
        for name in dataset.columns
        if name in _MEASURED or name.startswith("coverage_")
    }
    of_slide: dict[str, list[int]] = {}
    for row, slide in enumerate(rows.slide):
        of_slide.setdefault(slide, []).append(row)
    progress = Progress(len(dataset), on_progress, should_stop)
    names = Names()
    done = 0
    with export_folder(dataset, out) as folder:
        for numbers in of_slide.values():
            name = names.unused(stem_on_disk(rows.slide_name(numbers[0])))
            with (folder / f"{name}.geojson").open("wb") as file:
                file.write(b'{"type":"FeatureCollection","features":[\n')
                for start in range(0, len(numbers), _FEATURES_PER_WRITE):
                    part = numbers[start : start + _FEATURES_PER_WRITE]
                    file.write(b",\n" if start else b"")
                    file.write(b",\n".join(_features(rows, part, classes, measured)))
                    done += len(part)
                    progress.tell(done)
                file.write(b"\n]}\n")
    return report_of(dataset, out, "geojson", len(of_slide))


def _classifications(dataset: PatchDataset) -> dict[str, dict[str, Any]]:
    # QuPath refuses a classification without a colour.
    colors = dataset.settings.get("colors") or {}
    return {
        name: {"name": name, "color": [int(v) for v in colors.get(name) or PALETTE[i % len(PALETTE)]]}
        for i, name in enumerate(dataset.classes)
    }


def _features(
    rows: Rows, numbers: list[int], classes: dict[str, dict[str, Any]], measured: dict[str, list[float]]
) -> Iterator[bytes]:
    for row in numbers:
        left, top = rows.x[row], rows.y[row]
        right, bottom = _number(left + rows.width[row]), _number(top + rows.height[row])
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        properties: dict[str, Any] = {"objectType": "tile"}
        if rows.label[row] in classes:
            properties["classification"] = classes[rows.label[row]]
        properties["measurements"] = {
            name: values[row] for name, values in measured.items() if math.isfinite(values[row])
        }
        if rows.split[row]:
            properties["metadata"] = {"split": rows.split[row]}
        where = f"{rows.slide[row]} {left} {top} {right} {bottom}"
        yield orjson.dumps(
            {
                "type": "Feature",
                "id": str(uuid.uuid5(_NAMESPACE, where)),
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": properties,
            }
        )


def _number(value: float) -> float:
    return int(value) if value.is_integer() else value
