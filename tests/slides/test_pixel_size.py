from __future__ import annotations

import json
import pickle
import shutil
from typing import TYPE_CHECKING

import pytest

from napari_histolatent.errors import SlideError, UserError
from napari_histolatent.slides import MPP_OF_OBJECTIVE, open_slide, store_mpp
from napari_histolatent.slides._pixel_size import _sidecar, stored_mpp

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def own_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "user data"
    monkeypatch.setenv("HISTOLATENT_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def no_mpp(data_dir: Path, tmp_path: Path) -> Path:
    """A real slide that states no pixel size, alone in a folder."""
    (tmp_path / "slides").mkdir()
    copy = tmp_path / "slides" / "TCGA-CR-7395.svs"
    shutil.copyfile(data_dir / "slides" / "TCGA-CR-7395-01A-01-TS1.svs", copy)
    return copy


def digest_of(path: Path) -> str:
    with open_slide(path) as slide:
        return slide.info.digest


def test_what_was_stored_is_there_again(own_data_dir: Path) -> None:
    assert stored_mpp("abc") is None
    store_mpp("abc", 0.25)
    store_mpp("def", 1)
    assert (stored_mpp("abc"), stored_mpp("def")) == (0.25, 1.0)
    assert sorted(v.name for v in (own_data_dir / "slides").iterdir()) == ["abc.json", "def.json"]
    store_mpp("abc", 0.5)
    assert stored_mpp("abc") == 0.5
    store_mpp("abc", None)
    assert (stored_mpp("abc"), stored_mpp("def")) == (None, 1.0)
    store_mpp("abc", None)


def test_a_digest_never_leads_out_of_the_folder(own_data_dir: Path) -> None:
    for digest in ["../../escape", "/etc/passwd", "..", "", "a" * 500, "a\0b", "CON/NUL:"]:
        store_mpp(digest, 0.5)
        assert stored_mpp(digest) == 0.5
        assert _sidecar(digest).parent == own_data_dir / "slides"
    assert {v.parent for v in own_data_dir.rglob("*.json")} == {own_data_dir / "slides"}


def test_objectives() -> None:
    assert MPP_OF_OBJECTIVE == {"40x": 0.25, "20x": 0.5, "10x": 1.0}


def test_a_folder_that_cannot_be_written(own_data_dir: Path) -> None:
    own_data_dir.write_text("a file in the way")
    with pytest.raises(UserError, match=r"^Cannot write to .+slides: a file is in the way"):
        store_mpp("abc", 0.25)


# Opening


def test_a_stored_size_counts_where_the_file_has_none(no_mpp: Path) -> None:
    store_mpp(digest_of(no_mpp), 0.25)
    with open_slide(no_mpp) as slide:
        info = slide.info
        assert (info.mpp_x, info.mpp_y) == (0.25, 0.25)
        assert info.mpp_source == "set by the user for this slide"
        assert slide.read_region((0, 0), size_px=(8, 8), mpp=0.5).shape == (8, 8, 3)
    # Under another name, in another place, it is the same slide.
    moved = no_mpp.parent.parent / "elsewhere.svs"
    no_mpp.rename(moved)
    with open_slide(moved) as slide:
        assert slide.info.mpp_x == 0.25
    store_mpp(digest_of(moved), None)
    with open_slide(moved) as slide:
        assert slide.info.mpp_x is None


def test_a_stored_size_does_not_overrule_the_file(cmu_slide: Path) -> None:
    store_mpp(digest_of(cmu_slide), 0.1)
    with open_slide(cmu_slide) as slide:
        assert (slide.info.mpp_x, slide.info.mpp_source) == (0.499, "slide metadata")


def test_what_the_caller_states_overrules_all(no_mpp: Path, cmu_slide: Path) -> None:
    store_mpp(digest_of(no_mpp), 0.25)
    for path in (no_mpp, cmu_slide):
        with open_slide(path, mpp=0.3) as slide:
            assert (slide.info.mpp_x, slide.info.mpp_source) == (0.3, "stated by the user")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"0.25",
        b"{}",
        b'{"mpp": null}',
        b'{"mpp": "0.25"}',
        b'{"mpp": true}',
        b'{"mpp": [0.25]}',
        b'{"mpp": {}}',
        b'{"mpp": 0}',
        b'{"mpp": -0.25}',
        b'{"mpp": NaN}',
        b'{"mpp": Infinity}',
        b'{"mpp": -Infinity}',
        b'{"mpp": 1e999}',
        b'{"mpp": 1' + b"0" * 400 + b"}",
        b'{"mpp": 1' + b"0" * 5000 + b"}",
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b'{"mpp": 0.25',
        b"\0" * 100,
    ],
    ids=lambda v: v[:20].decode("ascii", "replace"),
)
def test_what_is_no_pixel_size_is_ignored(no_mpp: Path, content: bytes) -> None:
    path = _sidecar(digest_of(no_mpp))
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with open_slide(no_mpp) as slide:
        assert (slide.info.mpp_x, slide.info.mpp_source) == (None, None)
    # And can be put right.
    store_mpp(slide.info.digest, 0.5)
    assert json.loads(path.read_text()) == {"mpp": 0.5}


def test_a_folder_in_place_of_the_sidecar_is_ignored(no_mpp: Path) -> None:
    _sidecar(digest_of(no_mpp)).mkdir(parents=True)
    with open_slide(no_mpp) as slide:
        assert slide.info.mpp_x is None


def test_nothing_is_written_beside_the_slide(no_mpp: Path) -> None:
    before = no_mpp.read_bytes(), no_mpp.stat().st_mtime_ns
    with open_slide(no_mpp) as slide:
        slide.state_mpp(0.25)
        store_mpp(slide.info.digest, 0.25)
        slide.thumbnail(longest_px=32)
        pickle.loads(pickle.dumps(slide)).close()
    with open_slide(no_mpp) as slide:
        slide.forget_mpp()
        store_mpp(slide.info.digest, None)
    assert list(no_mpp.parent.iterdir()) == [no_mpp]
    assert (no_mpp.read_bytes(), no_mpp.stat().st_mtime_ns) == before


# A slide that is open


def test_stating_and_forgetting(no_mpp: Path) -> None:
    with open_slide(no_mpp) as slide:
        slide.state_mpp(0.25)
        assert (slide.info.mpp_x, slide.info.mpp_y, slide.info.mpp_source) == (
            0.25,
            0.25,
            "stated by the user",
        )
        slide.state_mpp(0.5, is_stored=True)
        assert (slide.info.mpp_x, slide.info.mpp_source) == (0.5, "set by the user for this slide")
        slide.forget_mpp()
        assert (slide.info.mpp_x, slide.info.mpp_source) == (None, None)
        with pytest.raises(SlideError, match=r"TCGA-CR-7395\.svs does not state its pixel size"):
            slide.info.require_mpp()


def test_forgetting_goes_back_to_the_file(cmu_slide: Path) -> None:
    with open_slide(cmu_slide, mpp=0.25) as slide:
        slide.forget_mpp()
        assert (slide.info.mpp_x, slide.info.mpp_source) == (0.499, "slide metadata")
        assert pickle.loads(pickle.dumps(slide)).info == slide.info


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_size_changes_nothing(no_mpp: Path, mpp: float) -> None:
    with open_slide(no_mpp, mpp=0.25) as slide:
        before = slide.info
        with pytest.raises(SlideError, match=r"µm per pixel is not possible; give a number above 0"):
            slide.state_mpp(mpp)
        assert slide.info is before
        assert pickle.loads(pickle.dumps(slide)).info == before


@pytest.mark.parametrize("is_stored", [False, True])
def test_pickling_keeps_the_size_and_where_it_comes_from(no_mpp: Path, is_stored: bool) -> None:
    with open_slide(no_mpp) as slide:
        slide.state_mpp(0.25, is_stored=is_stored)
        with pickle.loads(pickle.dumps(slide)) as copy:
            assert copy.info == slide.info
            with pickle.loads(pickle.dumps(copy)) as second:
                assert second.info == slide.info


def test_a_pickled_slide_keeps_a_stored_size_where_nothing_is_stored(
    no_mpp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_mpp(digest_of(no_mpp), 0.25)
    with open_slide(no_mpp) as slide:
        pickled = pickle.dumps(slide)
    monkeypatch.setenv("HISTOLATENT_DATA_DIR", str(tmp_path / "another"))
    with pickle.loads(pickled) as copy:
        assert copy.info == slide.info
