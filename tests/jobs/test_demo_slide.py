from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import pooch
import pytest
import requests

from napari_histolatent.annotations import check_annotations, read_annotations
from napari_histolatent.errors import SlideError, UserError
from napari_histolatent.jobs import demo_slide
from napari_histolatent.jobs.demo_slide import demo_input, shipped_regions
from napari_histolatent.slides import open_slide, write_synthetic_slide

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route"),
        requests.ConnectionError("no such host"),
        requests.Timeout("too slow"),
        ValueError("SHA256 hash of downloaded file does not match"),
    ],
)
def test_without_the_network_a_slide_is_drawn_and_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    asked: list[str] = []

    def retrieve(url: str, **_: Any) -> None:
        asked.append(url)
        raise error

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    monkeypatch.setattr(
        demo_slide, "write_synthetic_slide", partial(write_synthetic_slide, size_px=(600, 480))
    )
    source = demo_input(None, None, tmp_path / "out")
    assert asked == ["https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/CMU-1-Small-Region.svs"]
    assert "SYNTHETIC" in source.description
    assert "not tissue" in source.description
    assert type(error).__name__ in source.description
    assert "SYNTHETIC" in source.slide.name
    assert source.slide.parent == tmp_path / "out"
    with open_slide(source.slide) as slide:
        checked = check_annotations(read_annotations(source.annotations), slide.info)
        assert slide.info.mpp_x == pytest.approx(0.5)
    assert checked.classes == {"epithelium": 1, "stroma": 1}
    assert (checked.outside, checked.messages) == (0, ())


def test_a_download_is_checked_and_used_with_the_shipped_regions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def retrieve(_: str, *, known_hash: str, fname: str, path: Path, **__: Any) -> str:
        assert known_hash.startswith("sha256:")
        assert len(known_hash) == 71
        return str(path / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    source = demo_input(None, None, tmp_path)
    assert source.slide.name == "CMU-1-Small-Region.svs"
    assert source.annotations == shipped_regions()
    assert "SYNTHETIC" not in source.description
    assert list(tmp_path.iterdir()) == []


def test_the_real_slide_is_known_by_its_content(cmu_slide: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "mine.svs"
    shutil.copyfile(cmu_slide, renamed)
    source = demo_input(renamed, None, tmp_path)
    assert source.annotations == shipped_regions()
    assert source.description == "the real slide mine.svs with the regions shipped for it"


def test_a_slide_and_its_regions_are_taken_as_they_are(
    tiny_slide: Path, tiny_regions: Path, tmp_path: Path
) -> None:
    source = demo_input(tiny_slide, tiny_regions, tmp_path)
    assert (source.slide, source.annotations) == (tiny_slide, tiny_regions)
    assert "your slide tiny.tiff with your regions tiny.geojson" in source.description


def test_a_slide_without_regions_is_refused(tiny_slide: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tiny\.tiff comes without annotations.*add --annotations"):
        demo_input(tiny_slide, None, tmp_path)


def test_regions_without_a_slide_are_refused(tiny_regions: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tiny\.geojson\) without their slide; add --slide"):
        demo_input(None, tiny_regions, tmp_path)


def test_a_slide_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="does not exist"):
        demo_input(tmp_path / "nowhere.svs", None, tmp_path)
