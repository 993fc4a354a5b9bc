from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from napari_histolatent.errors import SlideError
from napari_histolatent.slides._file import (
    PRINT_RESOLUTION_NOTE,
    FileIdentity,
    digest_of_ends,
    is_print_resolution,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "slide.svs"
    path.write_bytes(b"pixels" * 100)
    return path


def test_a_file_that_stays_is_itself(file: Path) -> None:
    identity = FileIdentity(file)
    identity.check()
    file.read_bytes()
    identity.check()


def test_a_file_that_is_gone(file: Path) -> None:
    identity = FileIdentity(file)
    file.unlink()
    with pytest.raises(SlideError) as caught:
        identity.check()
    assert str(caught.value) == (
        f"{file} cannot be reached any more (No such file or directory); "
        "put the file back, or reconnect the disk it is on."
    )


def test_a_file_that_is_put_back_is_itself(file: Path, tmp_path: Path) -> None:
    identity = FileIdentity(file)
    file.rename(tmp_path / "aside")
    with pytest.raises(SlideError, match="cannot be reached any more"):
        identity.check()
    (tmp_path / "aside").rename(file)
    identity.check()


def test_another_file_of_the_same_size_and_time(file: Path, tmp_path: Path) -> None:
    identity = FileIdentity(file)
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes())
    seen = file.stat()
    os.utime(other, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    os.replace(other, file)
    with pytest.raises(
        SlideError, match=r"^slide\.svs was replaced by another file while it was open; close"
    ):
        identity.check()


@pytest.mark.parametrize("size", [10, 600, 700])
def test_other_content_in_the_same_file(file: Path, size: int) -> None:
    identity = FileIdentity(file)
    before = file.stat().st_mtime_ns
    file.write_bytes(b"x" * size)
    os.utime(file, ns=(before + 10**9, before + 10**9))
    with pytest.raises(SlideError, match="was replaced"):
        identity.check()


def test_a_file_that_was_never_there(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"nowhere\.svs cannot be reached any more"):
        FileIdentity(tmp_path / "nowhere.svs")


def test_a_digest_is_of_the_size_and_both_ends(tmp_path: Path) -> None:
    middle = 1 << 17

    def digest(start: bytes, count: int, end: bytes) -> str:
        path = tmp_path / "a"
        path.write_bytes(start + bytes(count) + end)
        return digest_of_ends(path)

    one = digest(b"a", middle, b"z")
    assert one == digest(b"a", middle, b"z")
    assert (
        len({one, digest(b"b", middle, b"z"), digest(b"a", middle, b"y"), digest(b"a", middle + 1, b"z")})
        == 4
    )
    # A small file, and an empty one, are read whole.
    assert digest(b"", 0, b"") != digest(b"a", 0, b"")


@pytest.mark.parametrize("dpi", [72, 96, 100, 150, 300])
def test_resolutions_of_printing(dpi: int) -> None:
    assert is_print_resolution(25_400 / dpi)
    # As dots per centimetre, with the digits that writers keep.
    assert is_print_resolution(10_000 / round(dpi / 2.54, 2))


@pytest.mark.parametrize("mpp", [0.1, 0.2281750559, 0.25, 0.499, 0.50008, 1.0, 2.0, 28.969, 100.0, 1000.0])
def test_resolutions_of_scanners(mpp: float) -> None:
    assert not is_print_resolution(mpp)


def test_the_note_names_the_resolution() -> None:
    assert PRINT_RESOLUTION_NOTE.format(dpi=71.99999).startswith("The resolution in the file (72 dpi) is")
