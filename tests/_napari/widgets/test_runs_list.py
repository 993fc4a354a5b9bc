from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari.widgets.runs_list import RunRow, RunsList, age, row_of
from napari_histolatent.runs import Run, RunStatus

LEFT = Qt.MouseButton.LeftButton


def line(name: str, *, state: str = "running", step: int = 10, age_seconds: float = 60.0) -> RunRow:
    return RunRow(Path(f"/runs/{name}"), "generator", "modern", "lung", state, step, 40, age_seconds)


@pytest.fixture
def runs(qtbot: Any) -> RunsList:
    widget = RunsList()
    qtbot.addWidget(widget)
    widget.resize(330, widget.height())
    widget.show()
    qtbot.waitExposed(widget)
    return widget


def click(qtbot: Any, runs: RunsList, index: int, modifier: Any = Qt.KeyboardModifier.NoModifier) -> None:
    place = runs.visualItemRect(runs.topLevelItem(index)).center()
    qtbot.mouseClick(runs.viewport(), LEFT, modifier, place)


def test_a_line_says_what_a_run_is_and_where_it_stands(runs: RunsList) -> None:
    runs.set_rows([line("new"), line("old", state="interrupted", step=40, age_seconds=7200)], None)
    new, old = (runs.topLevelItem(i) for i in range(2))
    assert new.text(0) == "new\nlung, modern"
    assert new.text(1).endswith("running\n25%")
    assert new.text(2) == "1 min"
    assert old.text(1).endswith("interrupted\n100%")
    assert old.text(2) == "2 h"
    assert "step 10 of 40" in new.toolTip(0)


def test_a_run_of_any_kind_and_maker_is_a_line(tmp_path: Path) -> None:
    spec = {"dataset": "/data/lung64/", "config": {"preset": "s1", "steps": 50}}
    run = Run.create(tmp_path / "mine", kind="train", spec=spec)
    row = row_of(run, RunStatus("new"), now=run.created + 5)
    assert row == RunRow(tmp_path / "mine", "generator", "s1", "lung64", "new", 0, 50, 5.0)
    assert row.share == 0.0
    other = Run.create(tmp_path / "other", kind="something", spec={"dataset": "C:\\data\\set"})
    row = row_of(other, RunStatus("running", 3, 12), now=other.created - 5)
    assert (row.kind, row.preset, row.dataset, row.share) == ("something", "", "set", 0.25)
    assert row.age_seconds == 0.0, "clocks of two machines differ"
    assert row_of(other, RunStatus("new"), now=0).share is None


def test_a_click_chooses_a_run_and_the_program_none(qtbot: Any, runs: RunsList) -> None:
    with qtbot.assertNotEmitted(runs.run_selected):
        runs.set_rows([line("a"), line("b")], "/runs/b")
    assert runs.selected == ["/runs/b"]
    with qtbot.waitSignal(runs.run_selected) as chosen:
        click(qtbot, runs, 0)
    assert chosen.args == ["/runs/a"]


def test_two_that_are_selected_stay_so_while_runs_go_on(qtbot: Any, runs: RunsList) -> None:
    pairs: list[bool] = []
    runs.pair_selected.connect(pairs.append)
    runs.set_rows([line("a"), line("b")], "/runs/a")
    with qtbot.assertNotEmitted(runs.run_selected):
        click(qtbot, runs, 1, Qt.KeyboardModifier.ControlModifier)
    assert pairs[-1]
    runs.set_rows([line("c"), line("a", step=20), line("b")], "/runs/a")
    assert runs.selected == ["/runs/a", "/runs/b"]
    assert pairs[-1]
    runs.set_rows([line("c"), line("a")], "/runs/a")
    assert runs.selected == ["/runs/a"]
    assert not pairs[-1]
    runs.set_rows([], None)
    assert runs.selected == []


def test_an_age_in_words() -> None:
    assert [age(s) for s in (0, 59, 60, 3599, 7200, 86400 * 3)] == [
        "0 s",
        "59 s",
        "1 min",
        "60 min",
        "2 h",
        "3 d",
    ]
