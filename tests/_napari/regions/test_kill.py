"""kill -9 six seconds after a polygon was drawn: it is back when the slide is opened again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.gui

ROOT = Path(__file__).parents[3]
WAIT_S = 60.0


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that end with the test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for child in started:
        if child.poll() is None:
            child.kill()
        child.wait(20)


def start(
    children: list[subprocess.Popen[bytes]], what: str, slide: Path, folder: Path
) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "HISTOLATENT_DATA_DIR": str(folder / "data"),
        "NAPARI_CONFIG": str(folder / "napari.yaml"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests._napari.regions.kill_child"]
    with (folder / f"{what}.log").open("wb") as log:
        child = subprocess.Popen(
            [*command, what, str(slide), str(folder / f"{what}.json")],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
    children.append(child)
    return child


def told(child: subprocess.Popen[bytes], folder: Path, what: str) -> dict[str, Any]:
    until = time.monotonic() + WAIT_S
    out = folder / f"{what}.json"
    while not out.exists():
        assert child.poll() in (None, 0), (folder / f"{what}.log").read_text()
        assert time.monotonic() < until, (folder / f"{what}.log").read_text()
        time.sleep(0.02)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def kill_and_come_back(
    children: list[subprocess.Popen[bytes]], slide: Path, folder: Path, *, after_s: float
) -> None:
    drawing = start(children, "draw", slide, folder)
    drawn = told(drawing, folder, "draw")
    assert len(drawn["regions"]) == 1
    time.sleep(after_s)
    drawing.send_signal(signal.SIGKILL)
    assert drawing.wait(20) == -signal.SIGKILL
    looking = start(children, "look", slide, folder)
    seen = told(looking, folder, "look")
    assert looking.wait(30) == 0, (folder / "look.log").read_text()
    assert seen["regions"] == drawn["regions"], "every vertex, to the last bit"
    assert any("ended unexpectedly" in text for text in seen["notices"])
    assert any(name.startswith("regions of") for name in seen["layers"])
    assert not any("ended unexpectedly" in text for text in drawn["notices"])


def test_a_polygon_outlives_a_napari_that_is_killed(
    children: list[subprocess.Popen[bytes]], tiny_slide: Path, tmp_path: Path, qapp: Any
) -> None:
    kill_and_come_back(children, tiny_slide, tmp_path, after_s=6.0)


@pytest.mark.long
@pytest.mark.parametrize("turn", range(10))
def test_ten_polygons_outlive_ten_kills(
    children: list[subprocess.Popen[bytes]], tiny_slide: Path, tmp_path: Path, qapp: Any, turn: int
) -> None:
    kill_and_come_back(children, tiny_slide, tmp_path, after_s=6.0)
