"""Files that are damaged, change under the reader, or are no files: a sentence each, and never the end of napari."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from napari_histolatent.errors import SlideError
from napari_histolatent.slides import open_slide, write_synthetic_slide
from napari_histolatent.slides._file import reason_of
from tests.slides.test_every_file import NAMES, READABLE, REFUSED, SLIDES, is_one_sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

CHILD = Path(__file__).with_name("fuzz_child.py")
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture(params=READABLE)
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a slide that may be spoilt, with the rest of its series."""
    path = SLIDES / request.param
    copies = (
        [v for v in path.parent.iterdir() if v.name.startswith("boxes_")] if "boxes_" in path.name else [path]
    )
    for each in copies:
        shutil.copyfile(each, tmp_path / each.name)
    return tmp_path / path.name


def sentence_of(act: Callable[[], object]) -> str:
    with pytest.raises(SlideError) as caught:
        act()
    text = str(caught.value)
    assert is_one_sentence(text), text
    return text


# Cut, deleted, replaced


def test_a_file_that_was_cut_in_half(copy: Path) -> None:
    data = copy.read_bytes()
    copy.write_bytes(data[: len(data) // 2])
    said: list[str] = []
    try:
        with open_slide(copy) as slide:
            said += slide.info.notes
            for i, level in enumerate(slide.info.levels):
                for y in range(0, level.height_px, 512):
                    xy = 0, round(y * level.downsample)
                    slide.read_region(xy, size_px=(level.width_px, 512), level=i)
    except SlideError as error:
        said.append(str(error))
    assert all(is_one_sentence(v) for v in said)
    reasons = (
        "as a plain TIFF: it ends before its first directory); check that the file is complete, or convert",
        "The file is damaged after page 1 (it ends before its next one): what follows is left out.",
        "cannot be read (it ends at byte ",
        "end of filehandle",
        "the file is damaged: copy it again from the scanner or archive.",
    )
    assert any(reason in v for reason in reasons for v in said), said


def test_deleted_while_open(copy: Path) -> None:
    with open_slide(copy) as slide:
        slide.read_region((0, 0), size_px=(8, 8), level=0)
        copy.unlink()
        for act in [
            lambda: slide.read_region((0, 0), size_px=(8, 8), level=0),
            lambda: slide.thumbnail(longest_px=16),
            *(lambda name=name: slide.read_associated(name) for name in slide.info.associated),
        ]:
            text = sentence_of(act)
            assert text.startswith(f"{copy} cannot be reached any more (No such file or directory); put ")
        slide.close()
        sentence_of(lambda: slide.read_region((0, 0), size_px=(8, 8), level=0))


def test_put_back_after_it_was_deleted(copy: Path, tmp_path: Path) -> None:
    with open_slide(copy) as slide:
        before = slide.read_region((0, 0), size_px=(8, 8), level=0)
        aside = copy.rename(tmp_path / "aside")
        sentence_of(lambda: slide.read_region((0, 0), size_px=(8, 8), level=0))
        aside.rename(copy)
        np.testing.assert_array_equal(slide.read_region((0, 0), size_px=(8, 8), level=0), before)


@pytest.mark.parametrize("in_place", [False, True])
def test_replaced_while_open(copy: Path, tmp_path: Path, in_place: bool) -> None:
    other = tmp_path / "other.tif"
    write_synthetic_slide(other, size_px=(256, 256))
    with open_slide(copy) as slide:
        if in_place:
            copy.write_bytes(other.read_bytes())
        else:
            os.replace(other, copy)
        for act in [
            lambda: slide.read_region((0, 0), size_px=(8, 8), level=0),
            *(lambda name=name: slide.read_associated(name) for name in slide.info.associated),
        ]:
            assert sentence_of(act) == (
                f"{copy.name} was replaced by another file while it was open; "
                "close its layer and open the slide again."
            )


# No files


def test_a_folder_named_like_a_slide(tmp_path: Path) -> None:
    (tmp_path / "slide.svs").mkdir()
    text = sentence_of(lambda: open_slide(tmp_path / "slide.svs"))
    assert text.startswith(f"{tmp_path / 'slide.svs'} is a folder without a slide in it")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name are of Unix")
def test_a_pipe_is_no_slide_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slide.svs")
    text = sentence_of(lambda: open_slide(tmp_path / "slide.svs"))
    assert text == f"{tmp_path / 'slide.svs'} is not a file; give the path of a slide file such as slide.svs."
    # Nor by the folder it is in.
    assert "is a folder without a slide in it" in sentence_of(lambda: open_slide(tmp_path))


@pytest.mark.skipif(IS_ROOT or os.name == "nt", reason="the superuser may read everything")
@pytest.mark.parametrize("is_folder", [False, True])
def test_what_may_not_be_read(tmp_path: Path, is_folder: bool) -> None:
    path = tmp_path / "slide.svs"
    path.mkdir() if is_folder else path.write_bytes(b"II*\0")
    path.chmod(0)
    try:
        assert sentence_of(lambda: open_slide(path)) == (
            f"{path} cannot be read (Permission denied); check the disk and that you may read it."
        )
    finally:
        path.chmod(0o700)


def test_a_link_to_nowhere(tmp_path: Path) -> None:
    (tmp_path / "slide.svs").symlink_to(tmp_path / "gone.svs")
    assert "slide.svs does not exist; give" in sentence_of(lambda: open_slide(tmp_path / "slide.svs"))


def test_a_name_longer_than_names_can_be(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"File name too long|does not exist"):
        open_slide(tmp_path / f"{'a' * 300}.svs")


# What only a damaged file does


def test_a_colour_profile_of_junk(tmp_path: Path) -> None:
    data = (SLIDES / "fixtures" / "boxes.tiff").read_bytes()
    at = data.index(b"acsp")
    (tmp_path / "a.tiff").write_bytes(data[:at] + b"spca" + data[at + 4 :])
    with open_slide(tmp_path / "a.tiff") as slide:
        assert slide.info.has_icc_profile
        text = sentence_of(slide.icc_profile)
        assert text.startswith("The ICC profile of a.tiff cannot be used (")
        assert slide.read_region((0, 0), size_px=(8, 8), level=0).shape == (8, 8, 3)


def with_sizes(path: Path, page: int, tags: tuple[int, int], size: int) -> None:
    """Have a page of a little-endian TIFF state another width and height (or those of its tiles)."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        for tag in tags:
            found = tiff.pages[page].tags[tag]
            struct.pack_into("<H" if found.dtype == 3 else "<I", data, found.valueoffset, size)
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["CMU-1-Small-Region.svs", "fixtures/boxes.tiff", "fixtures/test_orient3.tif"]
)
def test_tiles_that_would_take_the_memory(tmp_path: Path, name: str) -> None:
    """OpenSlide ends the process where it cannot have the memory for one tile."""
    path = tmp_path / Path(name).name
    shutil.copyfile(SLIDES / name, path)
    with_sizes(path, 0, (322, 323), 60_000)
    text = sentence_of(lambda: open_slide(path))
    assert (
        "it states what cannot be" in text
        or "states tiles of 60000 x 60000 px" in text
        or "too large" in text
    )


def test_a_label_that_would_take_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    shutil.copyfile(SLIDES / "CMU-1-Small-Region.svs", path)
    with_sizes(path, 2, (256, 257), 60_000)
    with open_slide(path) as slide:
        text = sentence_of(lambda: slide.read_associated("label"))
        assert text == (
            "The label image of a.svs cannot be read (it states a size of 60000 x 60000 px); "
            "the slide itself may still be whole."
        )
        assert slide.read_associated("macro").shape == (431, 1280, 3)


def test_an_orientation_that_is_no_number(tmp_path: Path) -> None:
    tags = [(274, "H", 2, (3, 3), True)]
    pixels = np.zeros((64, 64, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=tags, metadata=None)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.info.backend == "tifffile"
        assert slide.info.notes == ()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Reading /data/a b/x.dcm: no.", "Reading x.dcm: no"),
        ("line\none\ttwo  three", "line one two three"),
        ("a VR '\x01\x7f' found", "a VR ' ' found"),
        ("It is ambiguous. Use a.any() or a.all()", "It is ambiguous"),
        ("", "ValueError"),
        ("long " * 100, ("long " * 100)[:200]),
    ],
)
def test_what_a_library_says_becomes_part_of_a_sentence(said: str, reason: str) -> None:
    assert reason_of(ValueError(said), Path("/data/a b/x.dcm")) == reason


# Damage by chance


def fuzzed(path: Path, seeds: range) -> list[dict[str, Any]]:
    """Return a line for each damaged copy; one with `end` where it ended the process that read it."""
    lines: list[dict[str, Any]] = []
    while len(lines) < len(seeds):
        first = seeds[len(lines)]
        command = [sys.executable, str(CHILD), str(path), str(first), str(seeds.stop - first)]
        child = subprocess.run(command, capture_output=True, check=False)
        lines += [json.loads(v) for v in child.stdout.splitlines()]
        stderr = child.stderr.decode(errors="replace")
        if child.returncode:
            end = "a hang" if "Timeout (" in stderr else f"a crash (return code {child.returncode})"
            lines.append({"seed": seeds[len(lines)], "end": f"{end}: {stderr[-2000:]}"})
        else:
            assert "Traceback" not in stderr
    return lines


def check_fuzzed(name: str, lines: Sequence[dict[str, Any]]) -> None:
    ends = {v["seed"]: v["end"] for v in lines if "end" in v}
    assert not ends, f"{name}: seeds that ended the process: {ends}"
    faults = {v["seed"]: v["fault"] for v in lines if v["fault"]}
    assert not faults, f"{name}: seeds that raised another error than SlideError: {faults}"
    for line in lines:
        for sentence in line["sentences"]:
            assert is_one_sentence(sentence), f"{name}, seed {line['seed']}: {sentence}"
            assert Path(name).name in sentence or "ICC profile" in sentence
    assert name in REFUSED or len({v["outcome"] for v in lines}) > 1


@pytest.mark.parametrize("name", NAMES)
def test_damaged_copies_give_pixels_or_a_sentence(name: str) -> None:
    check_fuzzed(name, fuzzed(SLIDES / name, range(10)))


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_many_damaged_copies_give_pixels_or_a_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = fuzzed(SLIDES / name, range(10_000, 10_200))
    check_fuzzed(name, lines)
    ok = sum(v["outcome"] == "ok" for v in lines)
    slowest = max(v["seconds"] for v in lines)
    with capsys.disabled():
        said = f"{ok} read whole, {len(lines) - ok} with a sentence, {slowest} s at most"
        sys.stdout.write(f"\n{name}: {len(lines)} copies, {said}\n")
