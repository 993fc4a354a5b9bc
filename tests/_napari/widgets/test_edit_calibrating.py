from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari._editing import Models
from napari_histolatent._napari.widgets import edit_calibrating
from napari_histolatent._napari.widgets.calibration_offer import CalibrationOffer
from napari_histolatent._napari.widgets.edit_calibrating import EditCalibrating
from napari_histolatent.errors import CheckpointError, DatasetError, UserError
from napari_histolatent.jobs import calibration
from napari_histolatent.runs import Run, RunEvent
from tests._napari.editing.untrained import untrained_generator

if TYPE_CHECKING:
    from collections.abc import Iterator

LEFT = Qt.MouseButton.LeftButton
CALIBRATION: Any = object()


class Dock:
    """The part under test, with a run that the test itself does the work of."""

    def __init__(self, offer: CalibrationOffer, run: Run) -> None:
        self.offer, self.run = offer, run
        self.opened: Path | None = Path("patches")
        self.got: list[Any] = []
        self.binding = EditCalibrating(
            offer, dataset=lambda: self.opened, on_calibrated=lambda found: self.got.append(found)
        )

    def models(self, **more: Any) -> Models:
        return Models(untrained_generator(**more), None)


@pytest.fixture
def dock(qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dock]:
    offer = CalibrationOffer()
    qtbot.addWidget(offer)
    run = Run.create(tmp_path / "run", kind="calibrate", spec={})
    made = Dock(offer, run)

    def needed(_: Any, opened: Path | None) -> Path:
        if opened is None:
            raise DatasetError("Its patches are not known; name it with --dataset.")
        return opened

    def calibration_of(_: Any) -> Any:
        return CALIBRATION if run.status().state == "finished" else None

    monkeypatch.setattr(edit_calibrating, "dataset_to_calibrate_on", needed)
    monkeypatch.setattr(edit_calibrating, "start_calibration", lambda *_: run)
    monkeypatch.setattr(calibration, "calibration_of", calibration_of)
    with run.exclusively():
        yield made
        made.binding.close()


def begin(qtbot: Any, dock: Dock) -> None:
    dock.binding.show(dock.models())
    qtbot.waitUntil(lambda: dock.offer.button.isEnabled() and not dock.offer.isHidden())
    qtbot.mouseClick(dock.offer.button, LEFT)
    assert dock.offer.button.isHidden()


def test_without_a_dataset_the_button_is_off_and_says_why(qtbot: Any, dock: Dock) -> None:
    dock.opened = None
    dock.binding.show(dock.models())
    qtbot.waitUntil(lambda: not dock.offer.isHidden())
    assert not dock.offer.button.isEnabled()
    assert dock.offer.button.toolTip() == "Its patches are not known; choose it in the Train dock."
    assert dock.offer.button.toolTip() in dock.offer.note.text()
    dock.opened = Path("patches")
    dock.binding.dataset_changed()
    qtbot.waitUntil(dock.offer.button.isEnabled)


def test_a_generator_that_is_calibrated_is_offered_nothing(dock: Dock) -> None:
    from dataclasses import replace

    dock.binding.show(replace(dock.models(), calibration=CALIBRATION))
    assert not dock.binding.finder.is_busy
    assert dock.offer.isHidden()
    dock.binding.show(None)
    assert dock.offer.isHidden()


def test_a_calibration_is_followed_and_its_end_is_taken(qtbot: Any, dock: Dock) -> None:
    begin(qtbot, dock)
    dock.run.append(RunEvent("progress", 64, 256))
    qtbot.waitUntil(lambda: (dock.offer.progress.value(), dock.offer.progress.maximum()) == (64, 256))
    dock.binding.dataset_changed()
    assert dock.offer.button.isHidden(), "it goes on"
    dock.run.append(RunEvent("finished", 256, 256))
    qtbot.waitUntil(lambda: dock.got == [CALIBRATION])
    assert dock.offer.isHidden()
    dock.binding.dataset_changed()
    dock.binding.runs_changed()
    assert not dock.binding.finder.is_busy, "there is one now, and it is not offered again"


def test_one_that_was_begun_elsewhere_is_followed(qtbot: Any, dock: Dock, tmp_path: Path) -> None:
    models = dock.models()
    spec = {"run": str(models.generator.checkpoint.path)}
    elsewhere = Run.create(tmp_path / "elsewhere", kind="calibrate", spec=spec)
    with elsewhere.exclusively():
        elsewhere.append(RunEvent("progress", 3, 9))
        dock.binding.show(models)
        qtbot.waitUntil(lambda: (dock.offer.progress.value(), dock.offer.progress.maximum()) == (3, 9))
        assert dock.offer.button.isHidden(), "no second one"
        dock.run.append(RunEvent("finished"))  # now there is a calibration
        elsewhere.append(RunEvent("finished", 9, 9))
        qtbot.waitUntil(lambda: dock.got == [CALIBRATION])


def test_one_that_was_made_elsewhere_is_taken(qtbot: Any, dock: Dock) -> None:
    dock.binding.show(dock.models())
    qtbot.waitUntil(lambda: not dock.offer.isHidden())
    dock.run.append(RunEvent("finished"))
    dock.binding.runs_changed()
    qtbot.waitUntil(lambda: dock.got == [CALIBRATION])
    assert dock.offer.isHidden()


def test_a_result_that_cannot_be_read_is_told_once(
    qtbot: Any, dock: Dock, errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(_: Any) -> Any:
        raise CheckpointError("calibration.json is damaged; make it again.")

    monkeypatch.setattr(calibration, "calibration_of", damaged)
    begin(qtbot, dock)
    dock.run.append(RunEvent("finished", 4, 4))
    for _ in range(2):
        qtbot.waitUntil(lambda: not dock.offer.button.isHidden())
        dock.binding.dataset_changed()
        qtbot.waitUntil(lambda: not (dock.binding.finder.is_busy or dock.binding.follower.is_busy))
    assert errors == ["calibration.json is damaged; make it again."]
    assert dock.offer.button.isEnabled(), "another one may be made"


def test_one_that_cannot_be_followed_is_let_go(
    qtbot: Any, dock: Dock, tmp_path: Path, errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise UserError("Its disk is away.")

    monkeypatch.setattr(edit_calibrating, "followed", away)
    spec = {"run": str(dock.models().generator.checkpoint.path)}
    with Run.create(tmp_path / "elsewhere", kind="calibrate", spec=spec).exclusively():
        dock.binding.show(dock.models())
        qtbot.waitUntil(lambda: not dock.offer.isHidden() and not dock.offer.button.isHidden())
    assert errors == ["Its disk is away."]


def test_a_calibration_can_be_cancelled(qtbot: Any, dock: Dock) -> None:
    begin(qtbot, dock)
    qtbot.mouseClick(dock.offer.cancel_button, LEFT)  # before it was even started
    assert not dock.offer.cancel_button.isEnabled()
    qtbot.waitUntil(lambda: dock.run.stop_requested)
    dock.run.append(RunEvent("stopped", message="Nothing is kept."))
    dock.run.append(RunEvent("failed", message="It has ended."))
    (dock.run.path / "owner.json").unlink()  # its process is gone
    qtbot.waitUntil(lambda: not dock.offer.button.isHidden())
    assert dock.offer.note.text().startswith("The verdict could not be calibrated: It has ended.")
    assert dock.got == []


def test_what_was_stopped_may_be_begun_again(qtbot: Any, dock: Dock) -> None:
    begin(qtbot, dock)
    dock.run.append(RunEvent("stopped", message="Nothing is kept."))
    (dock.run.path / "owner.json").unlink()
    qtbot.waitUntil(lambda: not dock.offer.button.isHidden())
    assert dock.offer.note.text().startswith("The calibration was cancelled; nothing is kept of it.")
    assert dock.offer.button.isEnabled()


def test_another_generator_is_offered_its_own_and_the_first_is_found_again(qtbot: Any, dock: Dock) -> None:
    begin(qtbot, dock)
    dock.run.append(RunEvent("progress", 1, 4))
    qtbot.waitUntil(lambda: dock.offer.progress.maximum() == 4)
    dock.binding.show(dock.models(digest="e" * 64))
    qtbot.waitUntil(lambda: not dock.offer.button.isHidden())
    dock.run.append(RunEvent("finished", 4, 4))
    qtbot.wait(20)
    assert dock.got == []
    dock.binding.show(dock.models())
    qtbot.waitUntil(lambda: dock.got == [CALIBRATION])
