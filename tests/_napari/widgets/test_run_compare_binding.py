from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtWidgets import QWidget

from napari_histolatent._napari.widgets import run_compare_binding
from napari_histolatent._napari.widgets.run_compare_binding import PairReader, RunCompareBinding
from napari_histolatent.errors import RunError
from napari_histolatent.runs import Run, RunEvent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_histolatent._napari.widgets.run_compare_view import RunCompareView


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_compare_binding, "_RENEW_SECONDS", 0.01)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[list[Run]]:
    """Two runs that go on: this process works on both."""
    config = {"steps": 100, "batch_size": 8}
    made = [
        Run.create(tmp_path / name, kind="train", spec={"dataset_digest": "d", "config": config})
        for name in "ab"
    ]
    for run in made:
        run.claim()
        run.append(progress(10, 1.0))
    yield made
    for run in made:
        (run.path / "owner.json").unlink(missing_ok=True)


@pytest.fixture
def binding(qtbot: Any) -> Iterator[RunCompareBinding]:
    parent = QWidget()
    qtbot.addWidget(parent)
    made = RunCompareBinding(parent)
    yield made
    made.close()


def progress(step: int, loss: float) -> RunEvent:
    return RunEvent("progress", step, 100, {"generator": loss})


def measured(step: int, **metrics: float) -> RunEvent:
    return RunEvent("metrics", step, 100, data={"metrics": metrics})


def opened(qtbot: Any, binding: RunCompareBinding, runs: list[Run]) -> RunCompareView:
    binding.compare([str(run.path) for run in runs])
    qtbot.waitUntil(lambda: binding.view is not None and binding.view.isVisible())
    assert binding.view is not None
    return binding.view


def stands(view: RunCompareView) -> dict[str, tuple[str, str]]:
    group = view.table.topLevelItem(1)
    items = [group.child(i) for i in range(group.childCount())]
    return {item.text(0): (item.text(1), item.text(2)) for item in items}


def test_what_is_new_of_two_runs_is_shown_while_they_go_on(
    qtbot: Any, binding: RunCompareBinding, runs: list[Run]
) -> None:
    view = opened(qtbot, binding, runs)
    assert stands(view)["Steps done"] == ("10 of 100 (10%)",) * 2
    runs[0].append(progress(20, 0.5))
    runs[1].append(measured(30, kid=0.5, kid_random=0.25))
    qtbot.waitUntil(lambda: stands(view)["Steps done"] == ("20 of 100 (20%)", "30 of 100 (30%)"))
    assert stands(view)["Loss, generator"] == ("0.5", "1")
    assert stands(view)["KID, judge's features"] == ("–", "0.5")
    assert view.plots.losses.points == {"a": ([10, 20], [1.0, 0.5]), "b": ([10], [1.0])}
    assert view.plots.kid.points["b"] == ([30], [0.25])
    runs[0].append(RunEvent("finished", 100, 100))
    qtbot.waitUntil(lambda: stands(view)["State"] == ("Finished", "Running"))


def test_a_window_that_is_closed_looks_no_more(
    qtbot: Any, binding: RunCompareBinding, runs: list[Run]
) -> None:
    view = opened(qtbot, binding, runs)
    assert binding.is_renewing
    view.close()
    assert not binding.is_renewing
    qtbot.waitUntil(lambda: not binding.worker.is_busy)
    assert opened(qtbot, binding, runs[::-1]) is view, "it is opened again"
    assert [view.table.headerItem().text(i) for i in (1, 2)] == ["b", "a"]
    assert view.plots.losses.points["a"] == ([10], [1.0]), "from the first event on, once"
    binding.close()
    assert not binding.is_renewing
    assert binding.view is None


def test_runs_that_are_gone_or_none_are_said(
    qtbot: Any, binding: RunCompareBinding, runs: list[Run], tmp_path: Path, errors: list[str]
) -> None:
    view = opened(qtbot, binding, runs)
    (runs[0].path / "run.json").unlink()
    (runs[0].path / "owner.json").unlink()
    qtbot.waitUntil(lambda: stands(view)["State"] == ("Folder is gone", "Running"))
    assert errors == []
    binding.compare([str(runs[1].path), str(tmp_path)])
    qtbot.waitUntil(lambda: bool(errors))
    assert "is not a run folder" in errors[0]


def test_a_disk_that_does_not_answer_loses_no_event(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    pair = PairReader([str(run.path) for run in runs])
    with monkeypatch.context() as broken:
        broken.setattr(Run, "events", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        assert pair.read() is None
    news = pair.read()
    assert news is not None
    assert [len(points) for points in news.points] == [1, 1]
    again = pair.read()
    assert again is not None
    assert [len(points) for points in again.points] == [0, 0]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        PairReader([str(tmp_path), str(tmp_path)])
