from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from napari_histolatent.patches import SlideSource
from napari_histolatent.slides import write_synthetic_slide
from tests.patches.drawn import SHARD_BYTES

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def source(tiny_slide: Path, tiny_regions: Path) -> SlideSource:
    """The drawn slide with its two classes."""
    return SlideSource(tiny_slide, tiny_regions)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory, tiny_regions: Path) -> list[SlideSource]:
    """Four slides of two patients, with the regions of the drawn slide at half its size."""
    folder = tmp_path_factory.mktemp("cohort")
    document = json.loads(tiny_regions.read_text())
    for feature in document["features"]:
        rings = feature["geometry"]["coordinates"]
        feature["geometry"]["coordinates"] = [[[x / 2, y / 2] for x, y in ring] for ring in rings]
    (folder / "regions.geojson").write_text(json.dumps(document))
    for seed in range(4):
        write_synthetic_slide(folder / f"{seed}.tiff", size_px=(384, 320), seed=seed)
    return [
        SlideSource(folder / f"{seed}.tiff", folder / "regions.geojson", patient=f"p{seed // 2}")
        for seed in range(4)
    ]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen patches of 32 px a shard, so that a few hundred patches are many files."""
    monkeypatch.setattr("napari_histolatent.patches._store._SHARD_BYTES", SHARD_BYTES)
