from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._pictures import save_picture
from napari_histolatent.errors import UserError
from napari_histolatent.runs import RunEvent
from napari_histolatent.training._tensorboard import TensorBoard

if TYPE_CHECKING:
    from pathlib import Path

EVENTS = [
    RunEvent("started", 15, 100, data={"device": "cpu"}, time=1.0),
    RunEvent("progress", 20, 100, {"generator": 0.5}, {"images_per_second": 3.5}, time=2.0),
    RunEvent("metrics", 30, 100, {}, {"metrics": {"kid": 0.25, "kid_features": "abc", "warnings": ["Beware."]}}, time=3.0),
    RunEvent("sample", 30, 100, {}, {"sample": "samples/a.png"}, time=4.0),
    RunEvent("finished", 100, 100, time=5.0),
]  # fmt: skip


class Recorder:
    """Takes the calls that torch's writer would."""

    made: list[Recorder]

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.calls, self.closed = (
            folder,
            purge_step,
            list[tuple[Any, ...]](),
            False,
        )
        Recorder.made.append(self)

    def __getattr__(self, name: str) -> Any:
        return lambda tag, value, step, time, **_: self.calls.append((name, tag, value, step, time))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    module: Any = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Recorder
    Recorder.made = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return Recorder


@pytest.fixture
def picture(tmp_path: Path) -> np.ndarray:
    pixels = np.arange(8 * 4 * 3, dtype=np.uint8).reshape(8, 4, 3)
    save_picture(tmp_path / "samples" / "a.png", pixels, {"synthetic": True})
    return pixels


def test_numbers_pictures_and_warnings_are_written(
    tmp_path: Path, recorder: type[Recorder], picture: np.ndarray
) -> None:
    board = TensorBoard(tmp_path)
    for event in EVENTS:
        board.write(event)
    board.close()
    (writer,) = recorder.made
    assert (writer.folder, writer.purge_step, writer.closed) == (str(tmp_path / "tensorboard"), 16, True)
    image = next(call for call in writer.calls if call[0] == "add_image")
    assert image[1].startswith("SYNTHETIC")
    np.testing.assert_array_equal(image[2], picture)
    assert [call for call in writer.calls if call is not image] == [
        ("add_scalar", "loss/generator", 0.5, 20, 2.0),
        ("add_scalar", "speed/images_per_second", 3.5, 20, 2.0),
        ("add_scalar", "metrics/kid", 0.25, 30, 3.0),
        ("add_text", "warnings", "Beware.", 30, 3.0),
    ]


def test_without_the_package_a_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        UserError, match=r"need the package tensorboard .*install napari-histolatent\[tensorboard\]"
    ):
        TensorBoard(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_reads_what_was_written(tmp_path: Path, picture: np.ndarray) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoard(tmp_path)
    for event in EVENTS:
        board.write(event)
    board.close()
    read = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(s.step, s.value) for s in read.Scalars("metrics/kid")] == [(30, 0.25)]
    assert [(i.width, i.height) for i in read.Images("SYNTHETIC samples")] == [(4, 8)]
