from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from napari_histolatent._napari._editing import Models, Seen
from napari_histolatent._napari.editing import _agreement as agreement
from napari_histolatent._napari.widgets.agreement_note import AgreementNote
from napari_histolatent._napari.widgets.edit_agreement import EditAgreement
from napari_histolatent.explain import Heatmap
from tests._napari.editing.untrained import untrained_generator


@pytest.fixture
def note(qtbot: Any) -> AgreementNote:
    widget = AgreementNote()
    qtbot.addWidget(widget)
    return widget


def seen(seed: int, target: str = "tumour") -> Seen:
    values = np.random.default_rng(seed).random((16, 16)).astype(np.float32)
    return Seen(Heatmap(values, target, "layer", 0.5), {target: 0.5})


def models() -> Models:
    generator: Any = untrained_generator()
    return Models(generator, generator)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number for each call that computes heatmaps of unrelated tiles."""
    calls: list[int] = []

    def heatmaps_of(_: Any, tiles: Any, **__: Any) -> list[Heatmap]:
        calls.append(len(tiles))
        return [item.heatmap for item in map(seen, range(50, 50 + len(tiles))) if item.heatmap]

    monkeypatch.setattr("napari_histolatent.jobs.edits.heatmaps_of", heatmaps_of)
    return calls


def test_chance_is_computed_when_nothing_urgent_is(
    qtbot: Any, note: AgreementNote, computed: list[int]
) -> None:
    urgent = threading.Event()
    urgent.set()
    said = EditAgreement(note, is_urgent=urgent.is_set)
    said.show(models(), {"tile": seen(1), "reconstruction": seen(1), "edit": seen(2)})
    qtbot.waitUntil(lambda: bool(note.lines.text()))
    first = note.lines.text().splitlines()
    assert [line.split(":")[0] for line in first] == [
        "Grad-CAM of tile and reconstruction",
        "Grad-CAM of reconstruction and edit",
    ]
    assert computed == []
    assert not note.isHidden()
    urgent.clear()
    qtbot.waitUntil(lambda: "chance" in note.lines.text())
    lines = note.lines.text().splitlines()
    assert "tile and reconstruction agree: overlap of the hottest fifth 1.00 (chance" in lines[0]
    assert sum(computed) == agreement.N_UNRELATED, "once for both pairs"
    said.show(models(), {"tile": seen(3), "reconstruction": seen(4)})
    qtbot.waitUntil(lambda: len(note.lines.text().splitlines()) == 1)
    assert "chance" in note.lines.text(), "what is known is said at once"
    assert not said.worker.is_busy
    said.close()


def test_what_was_left_is_not_said(qtbot: Any, note: AgreementNote, computed: list[int]) -> None:
    urgent = threading.Event()
    urgent.set()
    said = EditAgreement(note, is_urgent=urgent.is_set)
    said.show(models(), {"tile": seen(1), "reconstruction": seen(2)})
    qtbot.waitUntil(lambda: bool(note.lines.text()))
    said.clear()
    assert note.isHidden()
    urgent.clear()
    qtbot.waitUntil(lambda: not said.worker.is_busy)
    assert (note.lines.text(), computed) == ("", [])


def test_one_heatmap_alone_is_compared_with_none(qtbot: Any, note: AgreementNote) -> None:
    said = EditAgreement(note, is_urgent=lambda: False)
    said.show(models(), {"tile": seen(1), "reconstruction": Seen()})
    assert not said.worker.is_busy
    assert note.isHidden()


def test_the_lines_go_with_the_heatmaps_and_explain_their_words(note: AgreementNote) -> None:
    note.show_lines(["One.", "Two."])
    assert note.lines.text() == "One.\nTwo."
    for word in ("hottest fifth", "Rank correlation", "Centres", "Chance"):
        assert word in note.lines.toolTip()
    note.set_wanted(False)
    assert note.isHidden()
    note.show_lines(["Three."])
    assert note.isHidden()
    note.set_wanted(True)
    assert not note.isHidden()
