"""Reading in a process of its own: the same regions, the same refusals, and an end when told to stop."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
import tifffile

from napari_histolatent.annotations import (
    HOLE,
    ClassMapping,
    Placement,
    Target,
    read_annotations,
    read_beside,
)
from napari_histolatent.errors import AnnotationError
from tests.annotations.test_packed import assert_same
from tests.annotations.texts import SLIDE, SQUARE, geojson, ndpa

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that are started meanwhile."""
    found: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[call-overload]
            found.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return found


def test_a_real_file_over_a_megabyte(data_dir: Path, started: list[subprocess.Popen[bytes]]) -> None:
    path = data_dir / "annotations/asap/camelyon16_tumor_039.xml"
    mapping = ClassMapping("mine", {"METASTASIS": Target("Läsion"), "negative": HOLE})
    placement = Placement(0.5, (10.0, -20.0))
    found = read_beside(path, mapping=mapping, placement=placement)
    assert len(started) == 1
    assert_same(found, read_annotations(path, mapping=mapping, placement=placement))
    assert_same(read_beside(path), read_annotations(path))


def test_a_small_file_starts_no_process(data_dir: Path, started: list[subprocess.Popen[bytes]]) -> None:
    path = data_dir / "annotations/asap/qc_tumor_001.xml"
    assert_same(read_beside(str(path)), read_annotations(path))
    assert started == []


def test_the_slide_reaches_the_child(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    """A mask is scaled to it, a table in micrometres divided by its pixel size, and NDPA means nothing without it."""
    mask = np.zeros((SLIDE.height_px // 20, SLIDE.width_px // 20), np.uint8)
    mask[10:20, 30:50] = 1
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric="minisblack")
    (tmp_path / "a.csv").write_text(
        "x_um,y_um\n" + "1.50000000000000000000000,2.50000000000000000000000\n" * 21_000
    )
    (tmp_path / "a.ndpa").write_text(ndpa(*[SQUARE] * 3000))
    for name in ("a.tif", "a.csv", "a.ndpa"):
        path = tmp_path / name
        assert path.stat().st_size > 1 << 20
        assert_same(read_beside(path, slide=SLIDE), read_annotations(path, slide=SLIDE))
    assert len(started) == 3
    with pytest.raises(AnnotationError, match="mean nothing without their slide"):
        read_beside(tmp_path / "a.ndpa")


def test_a_refusal_comes_through_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(geojson(*[SQUARE] * 10_000)[:-1])
    with pytest.raises(AnnotationError) as ours:
        read_annotations(path)
    with pytest.raises(AnnotationError) as theirs:
        read_beside(path)
    assert str(theirs.value) == str(ours.value)
    with pytest.raises(AnnotationError, match="does not exist"):
        read_beside(tmp_path / "nowhere.xml")


def test_stopping_ends_the_child(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(geojson(*[SQUARE] * 40_000))
    began = time.monotonic()
    assert read_beside(path, should_stop=lambda: True) is None
    assert time.monotonic() - began < 5
    (child,) = started
    assert child.returncode is not None
    assert not psutil.pid_exists(child.pid)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with -9 and said 'nothing'"),
        ("import sys; sys.exit('no memory')", "ended with 1 and said 'no memory'"),
        ("pass", "ended with 0 and said 'nothing'"),
        # More than a pipe holds: a child must not wait for a reader.
        (
            "import sys; sys.stderr.write('x' * 300_000 + '\\nlast'); sys.exit(3)",
            "ended with 3 and said 'last'",
        ),
    ],
)
def test_a_child_that_dies_is_told(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    real = subprocess.Popen

    def other(command: list[str], **options: object) -> object:
        assert command[1:3] == ["-m", "napari_histolatent.annotations"]
        return real([sys.executable, "-c", code], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", other)
    with pytest.raises(AnnotationError) as caught:
        read_beside(data_dir / "annotations/asap/camelyon16_tumor_039.xml")
    text = str(caught.value)
    assert text.startswith("camelyon16_tumor_039.xml could not be read: the process that read it ended with")
    assert said in text
    assert text.endswith("free some memory, or split the file.")
