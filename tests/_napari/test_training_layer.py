from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._napari import _training_layer
from napari_histolatent._napari._training_layer import SampleLayer, read_stack, thinned
from napari_histolatent._napari._training_news import Frame, frames_of, neighbours_of, news_of, shown_picture
from napari_histolatent._pictures import save_picture
from napari_histolatent.runs import Run, RunEvent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "mine", kind="train", spec={})


@pytest.fixture
def frames(run: Run) -> list[Frame]:
    """Pictures after 10, 20 and 30 steps, each of one grey."""
    made = []
    for step in (10, 20, 30):
        path = run.path / "samples" / f"step-{step:08d}.png"
        provenance = {"synthetic": True, "model_digest": f"d{step}", "seed": 3}
        save_picture(path, np.full((8, 16, 3), step, np.uint8), provenance)
        made.append(Frame(step, path))
    return made


class Ears:
    def __init__(self, viewer: Any) -> None:
        self.moved: list[int] = []
        self.removed = 0
        self.layer = SampleLayer(
            viewer, on_moved=lambda frame: self.moved.append(frame.step), on_removed=self.remove
        )

    def remove(self) -> None:
        self.removed += 1


def test_the_pictures_are_a_layer_that_says_what_it_is(viewer: Any, run: Run, frames: list[Frame]) -> None:
    ears = Ears(viewer)
    stack = read_stack(run.path, frames)
    assert stack is not None
    ears.layer.show(stack)
    (layer,) = viewer.layers
    assert layer.name == "SYNTHETIC samples mine"
    assert layer.data.shape == (3, 8, 16, 3)
    ours = layer.metadata["histolatent"]
    assert (ours["synthetic"], ours["role"]) == (True, "samples")
    assert ours["frames"][1] == {"step": 20, "synthetic": True, "model_digest": "d20", "seed": 3}
    assert viewer.dims.current_step[0] == 2, "the newest is shown"
    assert ears.moved == []
    viewer.dims.set_current_step(0, 1)
    assert ears.moved[-1] == 20


def test_the_newest_is_followed_unless_the_user_went_back(viewer: Any, run: Run, frames: list[Frame]) -> None:
    ears = Ears(viewer)
    ears.layer.show(read_stack(run.path, frames[:1]))
    ears.layer.show(read_stack(run.path, frames[:2], ears.layer.stack))
    assert viewer.dims.current_step[0] == 1
    viewer.dims.set_current_step(0, 0)
    ears.layer.show(read_stack(run.path, frames, ears.layer.stack))
    assert viewer.dims.current_step[0] == 0
    assert viewer.layers[0].data[2, 0, 0, 0] == 30
    assert len(viewer.layers) == 1
    ears.moved.clear()
    ears.layer.go_to(Frame(25, run.path))
    assert viewer.dims.current_step[0] == 1, "the last one before it"
    assert ears.moved == []


def test_a_layer_that_is_taken_away_is_gone(viewer: Any, run: Run, frames: list[Frame]) -> None:
    ears = Ears(viewer)
    ears.layer.show(read_stack(run.path, frames))
    viewer.layers.clear()
    assert ears.removed == 1
    assert ears.layer.stack is None
    ears.layer.show(read_stack(run.path, frames))
    ears.layer.remove()
    assert (len(viewer.layers), ears.removed) == (0, 1)
    before = len(viewer.dims.events.current_step.callbacks)
    ears.layer.close()
    assert len(viewer.dims.events.current_step.callbacks) == before - 1


def test_it_lies_beside_what_is_there_and_moves_nothing(viewer: Any, run: Run, frames: list[Frame]) -> None:
    other = viewer.add_image(np.zeros((100, 200)), scale=(0.5, 0.5), units=("um", "um"))
    ears = Ears(viewer)
    ears.layer.show(read_stack(run.path, frames))
    added = viewer.layers[1]
    assert added.extent.world[1][-1] < other.extent.world[0][-1]
    assert str(added.units[-1]) == str(other.units[-1])


def test_a_slider_that_another_layer_uses_is_the_users(viewer: Any, run: Run, frames: list[Frame]) -> None:
    ears = Ears(viewer)
    ears.layer.show(read_stack(run.path, frames[:2]))
    viewer.add_image(np.zeros((40, 8, 8)))
    viewer.dims.set_point(0, 30)
    ears.layer.show(read_stack(run.path, frames, ears.layer.stack))
    assert viewer.dims.point[0] == 30
    viewer.dims.set_point(0, 2)
    ears.layer.go_to(frames[0])
    assert viewer.dims.point[0] == 2


def test_another_runs_pictures_take_the_layers_place_but_no_name_of_the_users(
    viewer: Any, run: Run, frames: list[Frame], tmp_path: Path
) -> None:
    ears = Ears(viewer)
    ears.layer.show(read_stack(run.path, frames))
    layer = viewer.layers[0]
    ears.layer.show(read_stack(tmp_path / "second", frames[:2]))
    assert list(viewer.layers) == [layer]
    assert (layer.name, layer.data.shape[0]) == ("SYNTHETIC samples second", 2)
    assert viewer.dims.current_step[0] == 1, "the newest of the other run"
    layer.name = "my look"
    ears.layer.show(read_stack(run.path, frames))
    assert (layer.name, layer.data.shape[0]) == ("my look", 3)
    assert ears.removed == 0


def test_units_are_read_in_the_thread_that_reads_the_pictures(
    run: Run, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pint

    asked = []

    class Registry:
        Unit = staticmethod(asked.append)

    monkeypatch.setattr(pint, "get_application_registry", Registry)
    assert read_stack(run.path, frames) is not None
    assert asked == ["pixel", "micrometer"]


def test_known_pictures_are_not_read_again(run: Run, frames: list[Frame]) -> None:
    known = read_stack(run.path, frames[:2])
    assert known is not None
    for frame in frames[:2]:
        frame.path.unlink()
    stack = read_stack(run.path, frames, known)
    assert stack is not None
    assert stack.pixels[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert read_stack(run.path, frames[:2]) is None


def test_a_long_run_keeps_within_its_memory(
    run: Run, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_training_layer, "_MAX_BYTES", 2 * 8 * 16 * 3)
    stack = read_stack(run.path, frames)
    assert stack is not None
    assert len(stack.frames) <= 3
    assert stack.frames[-1] == frames[-1]
    assert [f.step for f in thinned([Frame(i, run.path) for i in range(101)], 3)] == [0, 50, 100]


def test_what_is_new_is_read_once(run: Run, frames: list[Frame]) -> None:
    for kind, step, data in (
        ("started", 0, {"device": "cpu"}),
        ("metrics", 10, {"metrics": {"kid": 0.5, "warnings": ["One."]}}),
        ("sample", 10, {"sample": "samples/step-00000010.png"}),
        ("sample", 11, {"sample": "samples/gone.png"}),
        ("checkpoint", 10, {"metrics": {"pixel_sd": 0.25}}),
    ):
        run.append(RunEvent(kind, step, 30, data=data, message="Batch halved." if kind == "metrics" else ""))
    news = next(news_of(run, poll_seconds=0))
    assert news is not None
    assert len(news.events) == 5
    assert (news.status.state, news.status.step) == ("interrupted", 10), "no process works on it"
    assert [frame.step for frame in news.frames] == [10]
    assert news.metrics == {"kid": 0.5, "warnings": ["One."], "pixel_sd": 0.25}
    assert news.message == "Batch halved."
    assert frames_of(run, [RunEvent("progress", 1, 2)]) == []


def test_a_run_that_ended_is_looked_at_again(run: Run) -> None:
    run.append(RunEvent("stopped", 10, 30))
    news = news_of(run, poll_seconds=0)
    assert [n.status.state if n else None for n in (next(news), next(news), next(news))] == [
        "stopped",
        None,
        None,
    ]
    run.claim()
    run.append(RunEvent("started", 10, 30))
    later = next(n for n in news if n is not None)
    assert (later.status.state, [event.kind for event in later.events]) == ("running", ["started"])


def _away(run: Run, offset: int = 0) -> Any:
    raise OSError(errno.EIO, "the disk is away")


def test_a_disk_that_is_away_for_a_moment_ends_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.claim()
    run.append(RunEvent("started", 0, 30))
    news = news_of(run, poll_seconds=0)
    assert next(news).status.state == "running"  # type: ignore[union-attr]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "events", _away)
        away = next(news)
    assert away is not None
    assert away.status.state == "running", "as it was last"
    assert "cannot be read" in away.message
    run.append(RunEvent("progress", 5, 30))
    back = next(news)
    assert back is not None
    assert (back.status.step, back.message) == (5, "")


def test_neighbours_lie_beside_the_samples(frames: list[Frame]) -> None:
    assert neighbours_of(frames[0]).name == "neighbours-00000010.png"


def test_a_picture_that_is_cut_off_is_none(frames: list[Frame], noise: Callable[..., np.ndarray]) -> None:
    frames[0].path.write_bytes(frames[0].path.read_bytes()[:40])
    assert shown_picture(frames[0].path, side_px=64, synthetic=True) is None
    real = shown_picture(frames[1].path, side_px=64, synthetic=False)
    assert real is not None
    assert real.shape == (32, 64, 3)
    assert (real == 20).all(), "real patches bear no SYNTHETIC"
