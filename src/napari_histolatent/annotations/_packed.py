"""Annotations as flat arrays in a folder, so that another process can hand over 200,000 regions.

Read back in small steps: one long call of C code would hold up every other thread, the window's among them.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from napari_histolatent.annotations._chunks import CHUNK, collecting_later
from napari_histolatent.annotations._region import Annotations, Region, Repair, SourceRing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_REST_SECONDS = 0.0005


def pack(annotations: Annotations, folder: Path) -> None:
    """Write annotations into a folder that `unpack` reads; it is made."""
    regions = annotations.regions
    texts = [
        json.dumps([[r.id, r.class_name, r.name] for r in regions[i : i + CHUNK]]).encode()
        for i in range(0, len(regions), CHUNK)
    ]
    rings = [(k, ring) for k, region in enumerate(regions) for ring in region.source]
    head = {
        "format": annotations.format,
        "colors": annotations.colors,
        "elements": annotations.elements,
        "repairs": [asdict(repair) for repair in annotations.repairs],
        "tidied": annotations.tidied,
        "dropped": annotations.dropped,
        "messages": annotations.messages,
        "groups": annotations.groups,
        "hole_class": annotations.hole_class,
    }
    folder.mkdir()
    _put(folder, "wkb", list(shapely.to_wkb(np.array([region.geometry for region in regions], object))))
    _put(folder, "texts", texts)
    np.save(folder / "source_of", np.array([k for k, _ in rings], np.int64))
    np.save(folder / "source_is_hole", np.array([ring.is_hole for _, ring in rings], bool))
    np.save(folder / "source_ends", np.cumsum([len(ring.xy) for _, ring in rings], dtype=np.int64))
    np.save(folder / "source_xy", np.vstack([ring.xy for _, ring in rings]) if rings else np.zeros((0, 2)))
    # Last: a folder without it was not finished.
    (folder / "head.json").write_text(json.dumps(head), encoding="utf-8")


def unpack(folder: Path, *, should_stop: Callable[[], bool] = lambda: False) -> Annotations | None:
    """Return what `pack` wrote, or None if told to stop."""
    head: dict[str, Any] = json.loads((folder / "head.json").read_text(encoding="utf-8"))
    sources = _sources(folder)
    wkb = _parts(folder, "wkb")
    regions: list[Region] = []
    # A collection walks over everything there is, and 200,000 new objects would call for several.
    with collecting_later():
        for text in _parts(folder, "texts"):
            if should_stop():
                return None
            rows = json.loads(text)
            geometries = shapely.from_wkb([next(wkb) for _ in rows])
            for (own, class_name, name), geometry in zip(rows, geometries, strict=True):
                regions.append(Region(own, class_name, geometry, name, sources.get(len(regions), ())))
            time.sleep(_REST_SECONDS)
    return Annotations(
        regions=tuple(regions),
        format=head["format"],
        colors={name: (r, g, b) for name, (r, g, b) in head["colors"].items()},
        elements=head["elements"],
        repairs=tuple(Repair(**repair) for repair in head["repairs"]),
        tidied=head["tidied"],
        dropped=head["dropped"],
        messages=tuple(head["messages"]),
        groups=head["groups"],
        hole_class=head["hole_class"],
    )


def _sources(folder: Path) -> dict[int, tuple[SourceRing, ...]]:
    """Return the source rings of the regions that have some, by the region's number."""
    of, is_hole, ends = (_array(folder, f"source_{name}").tolist() for name in ("of", "is_hole", "ends"))
    # Copied: the file goes, the rings stay.
    xy = np.array(_array(folder, "source_xy"))
    sources: dict[int, list[SourceRing]] = {}
    start = 0
    for k, hole, end in zip(of, is_hole, ends, strict=True):
        sources.setdefault(k, []).append(SourceRing(xy[start:end], hole))
        start = end
    return {k: tuple(rings) for k, rings in sources.items()}


def _put(folder: Path, name: str, texts: list[bytes]) -> None:
    np.save(folder / name, np.frombuffer(b"".join(texts), np.uint8))
    np.save(folder / f"{name}_ends", np.cumsum([len(text) for text in texts], dtype=np.int64))


def _array(folder: Path, name: str) -> NDArray[Any]:
    path = folder / f"{name}.npy"
    loaded: NDArray[Any] = np.load(path, allow_pickle=False)
    return loaded


def _parts(folder: Path, name: str) -> Iterator[bytes]:
    """Yield the texts of `_put`, read as they are needed."""
    ends = _array(folder, f"{name}_ends").tolist()
    with (folder / f"{name}.npy").open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        start = 0
        for end in ends:
            yield file.read(end - start)
            start = end
