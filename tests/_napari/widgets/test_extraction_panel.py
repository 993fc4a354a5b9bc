from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari.widgets.extraction_panel import (
    IDLE,
    PAUSED,
    PREPARING,
    RUNNING,
    STOPPING,
    ExtractionPanel,
)
from napari_histolatent.patches.formats import EXPORTS

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture
def panel(qtbot: Any) -> ExtractionPanel:
    widget = ExtractionPanel()
    qtbot.addWidget(widget)
    widget.show()
    return widget


@pytest.mark.parametrize(
    ("state", "enabled", "captions", "has_bar"),
    [
        (IDLE, {"extract", "batch"}, ("Pause", "Cancel"), False),
        (PREPARING, set(), ("Pause", "Cancel"), True),
        (RUNNING, {"pause", "cancel"}, ("Pause", "Cancel"), True),
        (STOPPING, set(), ("Pause", "Cancel"), True),
        (PAUSED, {"extract", "batch", "pause", "cancel"}, ("Go on", "Forget"), True),
    ],
)
def test_each_state_enables_what_has_a_meaning(
    panel: ExtractionPanel, state: str, enabled: set[str], captions: tuple[str, str], has_bar: bool
) -> None:
    panel.set_state(state, "a word")
    buttons = {name: getattr(panel, f"{name}_button") for name in ("extract", "batch", "pause", "cancel")}
    assert {name for name, button in buttons.items() if button.isEnabled()} == enabled
    assert (panel.pause_button.text(), panel.cancel_button.text()) == captions
    assert panel.progress.isVisibleTo(panel) is has_bar
    assert panel.state_note.text() == "a word"


def test_the_same_button_pauses_and_goes_on_cancels_and_forgets(panel: ExtractionPanel, qtbot: Any) -> None:
    sent: list[str] = []
    for name in ("pause", "resume", "cancel", "forget"):
        getattr(panel, f"{name}_requested").connect(lambda name=name: sent.append(name))
    for state in (RUNNING, PAUSED):
        panel.set_state(state)
        qtbot.mouseClick(panel.pause_button, LEFT)
        qtbot.mouseClick(panel.cancel_button, LEFT)
    assert sent == ["pause", "cancel", "resume", "forget"]


def test_progress_is_told_in_patches_also_beyond_32_bits(panel: ExtractionPanel) -> None:
    panel.set_state(RUNNING)
    panel.set_progress(3_000_000_000, 6_000_000_000)
    assert panel.progress.text() == "3,000,000,000 of 6,000,000,000 patches"
    assert panel.progress.value() / panel.progress.maximum() == 0.5
    panel.set_progress(0, 0)
    assert (panel.progress.minimum(), panel.progress.maximum()) == (0, 0), "busy: the total is not known"


def test_a_batch_is_a_folder_with_annotations_or_a_table(panel: ExtractionPanel) -> None:
    panel.slides_picker.set_path(Path("slides"))
    panel.annotations_picker.set_path(Path("regions"))
    panel.table_picker.set_path(Path("slides.csv"))
    assert panel.batch == (Path("slides"), Path("regions"))
    shown = [
        picker.isVisibleTo(picker.parentWidget())
        for picker in (panel.slides_picker, panel.annotations_picker, panel.table_picker)
    ]
    assert shown == [True, True, False]
    panel.batch_kind.setCurrentIndex(1)
    assert panel.batch == (Path("slides.csv"), None)


def test_every_export_format_can_be_chosen_and_says_what_it_writes(panel: ExtractionPanel) -> None:
    assert [panel.export_box.itemText(i) for i in range(panel.export_box.count())] == list(EXPORTS)
    for i, (name, known) in enumerate(EXPORTS.items()):
        panel.export_box.setCurrentIndex(i)
        assert panel.export == (name, None)
        assert known.what.lower() in panel.export_format_note.text().lower()


def test_what_needs_a_dataset_waits_for_one(panel: ExtractionPanel, qtbot: Any) -> None:
    assert not panel.open_button.isEnabled()
    assert not panel.export_button.isEnabled()
    panel.set_dataset(Path("folder") / "patches")
    assert (panel.open_button.text(), panel.open_button.isEnabled()) == ("Open patches as stack", True)
    with qtbot.waitSignal(panel.export_requested):
        panel.export_button.click()
    panel.set_exporting(True)
    with qtbot.waitSignal(panel.export_cancelled):
        panel.export_button.click()
    panel.set_exporting(False, "done")
    assert (panel.export_button.text(), panel.export_note.text()) == ("Export", "done")
