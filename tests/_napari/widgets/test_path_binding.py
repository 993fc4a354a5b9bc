from __future__ import annotations

import csv
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_histolatent._napari._editing import Seen
from napari_histolatent._napari.editing._path import FRAMES, Frame, PathRequest
from napari_histolatent._napari.widgets import path_binding
from napari_histolatent._napari.widgets.path_binding import PathBinding
from napari_histolatent._napari.widgets.path_panel import EXPORTS, PathPanel
from napari_histolatent.errors import UserError
from napari_histolatent.jobs.tiles import Tile
from napari_histolatent.latent import LatentPoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEFT = Qt.MouseButton.LeftButton
CLASSES = ("normal", "tumour")


def tile(name: str, shade: int = 0, *, digest: str = "g", source: str = "slide.svs@200,300") -> Tile:
    return Tile(
        name=name,
        pixels=np.full((16, 16, 3), shade, np.uint8),
        point=LatentPoint((0.5, 0.25), (1.0, 0.0), digest),
        synthetic=True,
        source=source,
    )


class Drawer:
    """In place of the real one: frames of which each shade of grey is the index."""

    made: ClassVar[list[Drawer]] = []
    fault: ClassVar[Exception | None] = None

    def __init__(
        self, request: PathRequest, n_frames: int, *, should_stop: Any, before: Drawer | None
    ) -> None:
        self.request, self.n_frames, self.should_stop, self.before = request, n_frames, should_stop, before
        Drawer.made.append(self)

    def __call__(self, indices: list[int]) -> list[Frame]:
        if Drawer.fault:
            raise Drawer.fault
        frames = []
        for index in indices:
            t = index / (self.n_frames - 1)
            seen = Seen(None, dict(zip(CLASSES, (1 - t, t), strict=True)))
            seen = seen if self.request.classifier else Seen()
            drawn = replace(self.request.keys[0], pixels=np.full((16, 16, 3), index, np.uint8))
            frames.append(Frame(drawn, seen, index, t))
        return frames


class Owner:
    """What the dock gives: a path, and a place to show a frame in."""

    def __init__(self) -> None:
        classifier: Any = SimpleNamespace(checkpoint=SimpleNamespace(digest="c"))
        generator: Any = SimpleNamespace(checkpoint=SimpleNamespace(digest="g"))
        self.path: PathRequest | None = PathRequest(
            generator, (tile("reconstruction"), tile("flip")), classifier=classifier
        )
        self.shown: list[Frame] = []

    def current_path(self) -> PathRequest | None:
        return self.path


@pytest.fixture(autouse=True)
def drawers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Drawer]]:
    monkeypatch.setattr(path_binding, "PathDrawer", Drawer)
    Drawer.made, Drawer.fault = [], None
    yield Drawer.made
    Drawer.made, Drawer.fault = [], None


@pytest.fixture
def panel(qtbot: Any) -> PathPanel:
    widget = PathPanel()
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
def binding(panel: PathPanel, owner: Owner) -> Iterator[PathBinding]:
    made = PathBinding(panel, current_path=owner.current_path, show=owner.shown.append)
    yield made
    made.close()


def idle(qtbot: Any, binding: PathBinding) -> None:
    qtbot.waitUntil(
        lambda: not (binding.player.is_busy or binding.exporter.is_busy or binding._curve_timer.isActive()),
        timeout=20_000,
    )


@pytest.fixture
def ready(qtbot: Any, binding: PathBinding) -> PathBinding:
    """A binding whose path is ready."""
    binding.path_changed()
    idle(qtbot, binding)
    return binding


def test_a_path_is_drawn_ahead_and_shown(panel: PathPanel, owner: Owner, ready: PathBinding) -> None:
    assert [frame.index for frame in owner.shown] == [0]
    assert ready.frame is owner.shown[0]
    assert panel.marks.ready == frozenset(range(FRAMES))
    assert panel.export_button.isEnabled()
    assert panel.step_note.text() == "Step 0 of 32: normal 1.00, tumour 0.00"
    assert set(panel.curve.points) == set(CLASSES)
    steps, chances = panel.curve.points["tumour"]
    assert steps == list(range(FRAMES))
    assert chances[-1] == 1


def test_the_handle_moves_without_waiting(panel: PathPanel, owner: Owner, ready: PathBinding) -> None:
    for index in (5, 31, 2):
        panel.slider.setValue(index)
        assert owner.shown[-1].index == index
        assert panel.curve.handle.value() == index
    ready.go_to(1.0)
    assert owner.shown[-1].index == FRAMES - 1
    assert panel.slider.value() == FRAMES - 1
    ready.go_to(0.5)
    assert owner.shown[-1].t == 0.5


def test_a_path_begins_where_the_handle_is(
    qtbot: Any, panel: PathPanel, owner: Owner, binding: PathBinding
) -> None:
    binding.go_to(1.0)
    binding.path_changed()
    idle(qtbot, binding)
    assert [frame.index for frame in owner.shown] == [FRAMES - 1]


def test_the_same_path_is_drawn_once_and_another_one_anew(
    qtbot: Any, owner: Owner, ready: PathBinding, drawers: list[Drawer]
) -> None:
    owner.path = replace(owner.path)
    ready.path_changed()
    assert len(drawers) == 1
    owner.path = replace(owner.path, evidence_for="tumour")
    ready.path_changed()
    idle(qtbot, ready)
    assert [drawer.request.evidence_for for drawer in drawers] == [None, "tumour"]
    assert drawers[0].should_stop()
    assert not drawers[1].should_stop()
    assert drawers[1].before is drawers[0], "what it has drawn can be taken over"


def test_no_path_clears_the_panel(panel: PathPanel, owner: Owner, ready: PathBinding) -> None:
    owner.path = None
    ready.path_changed()
    assert not panel.slider.isEnabled()
    assert ready.frame is None
    assert ready.player.frames == ()
    assert panel.step_note.text() == ""


def test_the_timing_is_the_panels(
    qtbot: Any, panel: PathPanel, owner: Owner, ready: PathBinding, drawers: list[Drawer]
) -> None:
    panel.timing_box.setCurrentIndex(panel.timing_box.findData("probability"))
    panel.timing_box.activated.emit(panel.timing_box.currentIndex())
    idle(qtbot, ready)
    assert drawers[-1].request.timing == "probability"
    owner.path = replace(owner.path, classifier=None)
    ready.path_changed()
    idle(qtbot, ready)
    assert drawers[-1].request.timing == "pixels", "there is no probability without a classifier"
    assert panel.timing == "pixels"
    assert panel.step_note.text() == "Step 0 of 32"
    assert panel.curve.isHidden()


def test_a_fault_is_told_and_the_path_can_be_asked_for_again(
    qtbot: Any, panel: PathPanel, owner: Owner, binding: PathBinding, errors: list[str]
) -> None:
    Drawer.fault = UserError("flip is drawn by a tuned copy; search it again with `histolatent invert`.")
    binding.path_changed()
    idle(qtbot, binding)
    (said,) = errors
    assert "histolatent" not in said
    assert panel.note.text() == said
    assert not panel.slider.isEnabled()
    Drawer.fault = None
    binding.path_changed()
    idle(qtbot, binding)
    assert panel.export_button.isEnabled()
    assert len(errors) == 1


def test_it_plays_to_and_fro(qtbot: Any, panel: PathPanel, owner: Owner, ready: PathBinding) -> None:
    ready._timer.setInterval(0)
    panel.slider.setValue(FRAMES - 2)
    owner.shown.clear()
    qtbot.mouseClick(panel.play_button, LEFT)
    qtbot.waitUntil(lambda: len(owner.shown) > 5)
    qtbot.mouseClick(panel.play_button, LEFT)
    assert [frame.index for frame in owner.shown[:5]] == [32, 31, 30, 29, 28]
    n = len(owner.shown)
    qtbot.wait(20)
    assert len(owner.shown) == n


def test_a_path_goes_through_the_images_that_were_added(
    qtbot: Any, panel: PathPanel, owner: Owner, ready: PathBinding, drawers: list[Drawer]
) -> None:
    own = owner.path.keys
    qtbot.mouseClick(panel.add_key_button, LEFT)
    assert drawers[-1].request.keys == own, "one image is no path"
    panel.slider.setValue(8)
    qtbot.mouseClick(panel.add_key_button, LEFT)
    idle(qtbot, ready)
    through = drawers[-1].request.keys
    assert [key.pixels[0, 0, 0] for key in through] == [0, 8]
    assert panel.keys_list.item(1).text() == "2. step 8 of slide.svs@200,300"
    qtbot.mouseClick(panel.up_button, LEFT)
    idle(qtbot, ready)
    assert drawers[-1].request.keys == through[::-1]
    assert panel.keys_list.currentRow() == 0
    qtbot.mouseClick(panel.remove_key_button, LEFT)
    idle(qtbot, ready)
    assert drawers[-1].request.keys == own
    qtbot.mouseClick(panel.clear_keys_button, LEFT)
    assert panel.keys_list.count() == 0


def test_images_of_another_generator_are_left_out(
    qtbot: Any, panel: PathPanel, owner: Owner, ready: PathBinding, drawers: list[Drawer]
) -> None:
    for _ in range(2):
        qtbot.mouseClick(panel.add_key_button, LEFT)
    idle(qtbot, ready)
    other: Any = SimpleNamespace(checkpoint=SimpleNamespace(digest="other"))
    keys = (tile("a", digest="other"), tile("b", digest="other"))
    owner.path = replace(owner.path, generator=other, keys=keys)
    ready.path_changed()
    idle(qtbot, ready)
    assert drawers[-1].request.keys == keys
    assert panel.keys_list.count() == 0


@pytest.mark.parametrize(("source", "is_kept"), [("slide.svs@200,300", True), ("other.svs@1,2", False)])
def test_what_is_kept_of_a_tile_stays_with_that_tile(
    qtbot: Any, panel: PathPanel, owner: Owner, binding: PathBinding, source: str, is_kept: bool
) -> None:
    real = replace(tile("real", source=source), point=None, synthetic=False)
    owner.path = replace(owner.path, residual_on=real)
    binding.path_changed()
    idle(qtbot, binding)
    assert binding.request.residual_on is real
    for _ in range(2):
        qtbot.mouseClick(panel.add_key_button, LEFT)
    idle(qtbot, binding)
    assert (binding.request.residual_on is real) is is_kept


def test_all_formats_are_written_and_say_synthetic(
    qtbot: Any, panel: PathPanel, ready: PathBinding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    panel.export_button.menu().actions()[-1].trigger()
    assert panel.note.text() == "Writing…"
    idle(qtbot, ready)
    names = {f"slide.svs_200_300_path_1{end}" for end in (".mp4", ".gif", "_strip.png", ".csv")}
    found = {path.name for path in tmp_path.iterdir()}
    assert len(found) == 4
    assert {name.rpartition("path_1")[2] for name in found} == {n.rpartition("path_1")[2] for n in names}
    assert all(name in panel.note.text() for name in found)
    (table,) = tmp_path.glob("*.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == FRAMES
    assert {row["synthetic"] for row in rows} == {"SYNTHETIC"}
    assert float(rows[16]["probability_tumour"]) == 0.5
    (strip,) = tmp_path.glob("*_strip.png")
    with Image.open(strip) as picture:
        said = str(picture.info)
    for word in ("synthetic", '"timing": "pixels"', '"classifier_digest": "c"'):
        assert word in said


def test_a_second_export_takes_another_name(
    qtbot: Any, panel: PathPanel, ready: PathBinding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    for _ in range(2):
        panel.export_requested.emit(("csv",))
        idle(qtbot, ready)
    assert sorted(path.name.rpartition("_path_")[2] for path in tmp_path.iterdir()) == ["1.csv", "2.csv"]


def test_no_folder_or_an_incomplete_path_writes_nothing(
    qtbot: Any, panel: PathPanel, binding: PathBinding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: pytest.fail("asked too early"))
    panel.export_requested.emit(("csv",))
    binding.path_changed()
    idle(qtbot, binding)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: "")
    panel.export_requested.emit(next(iter(EXPORTS)))
    assert not binding.exporter.is_busy
    assert panel.note.text() == ""


def test_a_folder_that_cannot_be_written_is_one_sentence(
    qtbot: Any,
    panel: PathPanel,
    ready: PathBinding,
    tmp_path: Path,
    errors: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "file"))
    panel.export_requested.emit(("csv",))
    idle(qtbot, ready)
    assert len(errors) == 1
    assert panel.note.text() == errors[0]


def test_closed_it_shows_nothing_more(
    qtbot: Any, panel: PathPanel, owner: Owner, binding: PathBinding
) -> None:
    binding.path_changed()
    panel.play_button.setChecked(True)
    binding.close()
    qtbot.waitUntil(lambda: not binding.player.is_busy, timeout=20_000)
    qtbot.wait(5)
    assert owner.shown == []
    assert not binding._timer.isActive()
