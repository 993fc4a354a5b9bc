from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from napari_histolatent._napari.widgets.fork_dialog import ForkChoice, ForkDialog
from napari_histolatent._napari.widgets.run_compare_view import RunCompareView, names_of, setting_text
from napari_histolatent.runs import RunStatus
from napari_histolatent.training.compare import compared


@pytest.fixture
def view(qtbot: Any) -> RunCompareView:
    widget = RunCompareView()
    qtbot.addWidget(widget)
    return widget


def lines_of(view: RunCompareView) -> dict[str, list[str]]:
    """Return name -> values of all lines."""
    groups = [view.table.topLevelItem(i) for i in range(view.table.topLevelItemCount())]
    items = [group.child(i) for group in groups for i in range(group.childCount())]
    return {item.text(0): [item.text(1), item.text(2)] for item in items}


def test_what_differs_and_where_they_stand_is_a_table(view: RunCompareView) -> None:
    config = {"steps": 400, "augment": True, "z_dim": 64, "r1_every": 16}
    spec = {"dataset_digest": "d", "config": config}
    forked = {
        "forked_from": {"run": "/runs/a", "step": 100},
        "config": {**config, "augment": False, "z_dim": 0, "r1_every": 8},
    }
    a = ("/runs/a", spec, RunStatus("finished", 400, 400))
    b = ("/runs/b", {**spec, **forked}, RunStatus("running", 200, 400))
    standing = (
        {"State": "Finished", "KID, random features": "0.12"},
        {"State": "Running", "Time left": "1 min"},
    )
    view.begin(["/runs/a", "/runs/b"])
    view.set_comparison(compared(a, b), standing)
    lines = lines_of(view)
    assert lines["Augment what D sees"] == ["on", "off"]
    assert lines["R1 every"] == ["16 steps", "8 steps"]
    assert lines["Latent length"] == ["64", "auto"]
    assert lines["Forked from"] == ["–", "a, step 100"]
    assert "Steps" not in lines, "they are alike in it"
    assert lines["State"] == ["Finished", "Running"]
    assert lines["KID, random features"] == ["0.12", "–"]
    assert lines["Time left"] == ["–", "1 min"]
    assert "same dataset" in view.data_note.text()
    assert [view.table.headerItem().text(i) for i in (1, 2)] == ["a", "b"]
    other = compared(a, ("/runs/c", {**spec, "dataset_digest": "e"}, RunStatus("new")))
    view.set_comparison(other, standing)
    assert "cannot be compared" in view.data_note.text()
    assert "none" in lines_of(view), "no line of digests, which say nothing to a reader"


def test_what_is_new_is_written_into_the_lines_there_are(view: RunCompareView) -> None:
    runs = [(f"/runs/{name}", {"dataset_digest": "d"}, RunStatus("running")) for name in "ab"]
    view.begin(["/runs/a", "/runs/b"])
    view.set_comparison(compared(*runs), ({"Steps done": "1 of 9"}, {"Steps done": "2 of 9"}))
    item = view.table.topLevelItem(1).child(0)
    view.set_comparison(compared(*runs), ({"Steps done": "3 of 9"}, {"Steps done": "2 of 9"}))
    assert view.table.topLevelItem(1).child(0) is item, "the table stays where it was scrolled to"
    assert item.text(1) == "3 of 9"
    view.set_comparison(compared(*runs), ({"Steps done": "4 of 9", "State": "Running"}, {}))
    assert lines_of(view)["State"] == ["Running", "–"]


def test_their_curves_have_the_same_colours_in_both_plots(view: RunCompareView) -> None:
    view.begin(["/runs/a", "/runs/b"])
    view.add_points("a", [(10, {"generator": 1.0, "discriminator": 2.0}, {}), (20, {"generator": 0.5}, {})])
    view.add_points("b", [(10, {"generator": 3.0}, {"kid": 0.5, "kid_random": 0.25}), (20, {}, {"kid": 0.5})])
    view.redraw()
    assert view.plots.losses.points == {"a": ([10, 20], [1.0, 0.5]), "b": ([10], [3.0])}
    assert view.plots.kid.points["b"] == ([10], [0.25]), "in features that are the same in each run"
    colors = [
        [plot._lines[n].opts["pen"].color().name() for n in "ab"]
        for plot in (view.plots.losses, view.plots.kid)
    ]
    assert colors[0] == colors[1]
    assert colors[0][0] != colors[0][1]


def test_runs_of_one_name_are_told_apart() -> None:
    assert names_of(Path("/x/a"), Path("/x/b")) == ("a", "b")
    assert names_of(Path("/x/1/gan"), Path("/x/2/gan")) == ("1/gan", "2/gan")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("learning_rate", 0.00123456, "0.00123456"),
        ("batch_size", 1234, "1,234 patches"),
        ("augment", True, "on"),
        ("judge", "", "none"),
        ("z_dim", 0, "auto"),
        ("steps", None, "–"),
        ("forked_from", {"run": "/runs/a", "step": 5}, "a, step 5"),
    ],
)
def test_settings_have_units(name: str, value: Any, text: str) -> None:
    assert setting_text(name, value) == text


def test_a_fork_is_of_a_checkpoint_with_other_settings(qtbot: Any, tmp_path: Path) -> None:
    dialog = ForkDialog()
    qtbot.addWidget(dialog)
    choices = [ForkChoice(1500), ForkChoice(1000, is_best=True)]
    dialog.set_choices(choices, {"steps": 2000, "learning_rate": 0.0002}, tmp_path / "fork")
    assert [dialog.checkpoint_box.itemText(i) for i in range(2)] == ["step 1,500", "step 1,000 (lowest KID)"]
    assert (dialog.step, dialog.changes) == (1500, {"steps": 3000, "learning_rate": 0.0002})
    dialog.checkpoint_box.setCurrentIndex(1)
    assert (dialog.step, dialog.changes["steps"]) == (1000, 2000), "as many as its run, or as many again"
    dialog.steps_spin.setValue(3)
    assert dialog.changes["steps"] == 1001, "with fewer it would end where it begins"
    dialog.steps_spin.setValue(3500)
    dialog.checkpoint_box.setCurrentIndex(0)
    assert dialog.changes["steps"] == 3500, "what was entered stays"
    assert dialog.out_picker.path == tmp_path / "fork"


def test_a_fork_into_a_folder_in_use_is_said_in_the_dialog(qtbot: Any, tmp_path: Path) -> None:
    dialog = ForkDialog()
    qtbot.addWidget(dialog)
    dialog.set_choices([ForkChoice(10)], {"steps": 20}, tmp_path / "fork")
    dialog.show()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.docx").write_text("years of work")
    dialog.out_picker.edit.setText(str(tmp_path / "used"))
    dialog.rate_spin.setValue(0.5)
    dialog.accept()
    assert dialog.isVisible()
    assert "used is not empty" in dialog.fault_note.text()
    assert dialog.changes["learning_rate"] == 0.5
    dialog.out_picker.edit.setText(str(tmp_path / "free"))
    dialog.accept()
    assert dialog.result() == ForkDialog.DialogCode.Accepted
