from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QFileDialog

from napari_histolatent._napari.widgets.library_binding import LibraryBinding, own_library, said_synthetic
from napari_histolatent._napari.widgets.library_panel import LibraryPanel
from napari_histolatent.jobs import companions, edits
from napari_histolatent.latent.library import Library
from napari_histolatent.latent.tuned import TunedWeights
from tests._napari.editing.untrained import untrained_generator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.training.load import LoadedGenerator

LEFT = Qt.MouseButton.LeftButton


class Dock:
    """What the dock around the panel has and does."""

    def __init__(self, generator: LoadedGenerator, tiles: list[Tile]) -> None:
        self.generator: LoadedGenerator | None = generator
        self.tiles = tiles
        self.current: Tile | None = tiles[0]
        self.shown: list[Tile] = []
        self.dataset: Path | None = None
        self.tray: list[Tile] = []


@pytest.fixture(scope="module")
def generator() -> LoadedGenerator:
    return untrained_generator()


@pytest.fixture(autouse=True)
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The generator lies in no folder beside which an encoder could be."""
    monkeypatch.setattr(companions, "encoder_of", lambda _: (None, None))


@pytest.fixture
def dock(generator: LoadedGenerator) -> Dock:
    return Dock(generator, edits.sample_tiles(generator, 4, label=None, seed=1))


@pytest.fixture
def panel(qtbot: Any) -> LibraryPanel:
    widget = LibraryPanel()
    qtbot.addWidget(widget)
    widget.resize(340, 700)
    widget.show()
    return widget


@pytest.fixture
def binding(qtbot: Any, panel: LibraryPanel, dock: Dock) -> Iterator[LibraryBinding]:
    made = LibraryBinding(
        panel,
        generator=lambda: dock.generator,
        current=lambda: dock.current,
        show=dock.shown.append,
        dataset=lambda: dock.dataset,
        tray=lambda: dock.tray,
    )
    idle(qtbot, made)
    yield made
    made.close()


def idle(qtbot: Any, binding: LibraryBinding) -> None:
    qtbot.waitUntil(lambda: not binding.is_busy, timeout=20_000)


def listed(panel: LibraryPanel) -> list[str]:
    return [panel.list.item(i).text() for i in range(panel.list.count())]


def fill(qtbot: Any, binding: LibraryBinding, dock: Dock) -> None:
    """Put three points into the library: two own ones, of two tags, and one of another generator."""
    library = binding.library
    edits.add_to_library(library, dock.tiles[0], name="first", tags=["healthy"])
    edits.add_to_library(library, dock.tiles[1], name="second", tags=["tumour", "gland"])
    other = edits.sample_tiles(untrained_generator(digest="e" * 64), 1, label=None, seed=2)[0]
    edits.add_to_library(library, other, name="strange", tags=["tumour"])
    binding.generator_changed()
    idle(qtbot, binding)


def select(panel: LibraryPanel, *names: str) -> None:
    for i in range(panel.list.count()):
        panel.list.item(i).setSelected(panel.list.item(i).text() in names)


def test_the_library_lies_in_the_data_folder_and_is_made_when_something_is_kept(
    qtbot: Any, own_data_dir: Path, binding: LibraryBinding, panel: LibraryPanel, dock: Dock
) -> None:
    assert binding.library.folder == own_library() == own_data_dir / "library"
    assert not binding.library.exists
    panel.name_edit.setText("  my  tile ")
    panel.tags_edit.setText("gland, tumour")
    told: list[None] = []
    binding.changed.connect(lambda: told.append(None))
    qtbot.mouseClick(panel.add_button, LEFT)
    idle(qtbot, binding)
    (entry,) = binding.library.entries()
    assert (entry.name, entry.tags, entry.point) == ("my tile", ("gland", "tumour"), dock.tiles[0].point)
    assert listed(panel) == ["my tile"]
    assert panel.message.text() == "my tile is in the library."
    assert not panel.list.item(0).icon().isNull()
    assert len(told) == 1
    assert panel.name_edit.text() == ""


def test_a_tile_without_a_point_or_a_name_is_not_kept(
    qtbot: Any, binding: LibraryBinding, panel: LibraryPanel, dock: Dock
) -> None:
    panel.name_edit.clear()
    qtbot.mouseClick(panel.add_button, LEFT)
    assert panel.message.text() == "Give it a name first."
    dock.current = replace(dock.tiles[0], point=None)
    binding.tile_changed()
    assert not panel.add_button.isEnabled()
    panel.add_requested.emit()
    assert "press Reverse search first" in panel.message.text()
    assert not binding.library.exists


def test_a_name_that_is_taken_is_refused_in_a_sentence(
    qtbot: Any, binding: LibraryBinding, panel: LibraryPanel, dock: Dock, errors: list[str]
) -> None:
    fill(qtbot, binding, dock)
    panel.name_edit.setText("first")
    qtbot.mouseClick(panel.add_button, LEFT)
    idle(qtbot, binding)
    assert len(errors) == 1
    assert "has a point named 'first' already" in errors[0]
    assert panel.name_edit.text() == "first"


def test_searching_shows_what_has_all_words_and_the_tag(
    qtbot: Any, binding: LibraryBinding, panel: LibraryPanel, dock: Dock
) -> None:
    fill(qtbot, binding, dock)
    assert listed(panel) == ["first", "second", "strange"]
    qtbot.keyClicks(panel.search_edit, "tumour gl")
    idle(qtbot, binding)
    assert listed(panel) == ["second"]
    panel.search_edit.clear()
    panel.tag_box.setCurrentIndex(panel.tag_box.findData("tumour"))
    panel.tag_box.activated.emit(0)
    idle(qtbot, binding)
    assert listed(panel) == ["second", "strange"]


def test_a_tag_that_nothing_has_any_more_is_asked_for_no_longer(
    qtbot: Any, binding: LibraryBinding, panel: LibraryPanel, dock: Dock
) -> None:
    fill(qtbot, binding, dock)
    panel.tag_box.setCurrentIndex(panel.tag_box.findData("gland"))
    panel.tag_box.activated.emit(0)
    idle(qtbot, binding)
    select(panel, "second")
    panel.own_tags_edit.setText("tumour")
    qtbot.keyClick(panel.own_tags_edit, Qt.Key.Key_Return)
    idle(qtbot, binding)
    assert binding.library.entry("second").tags == ("tumour",)
    assert (panel.tag, listed(panel)) == (None, ["first", "second", "strange"])


def test_a_double_click_draws_the_point_anew_into_the_dock(
    qtbot: Any, binding: LibraryBinding, panel: LibraryPanel, dock: Dock, errors: list[str]
) -> None:
    fill(qtbot, binding, dock)
    panel.list.itemDoubleClicked.emit(panel.list.item(1))
    idle(qtbot, binding)
    (tile,) = dock.shown
    assert (tile.name, tile.point, tile.synthetic) == ("second", dock.tiles[1].point, True)
    np.testing.assert_allclose(tile.pixels.astype(int), dock.tiles[1].pixels, atol=1)
    panel.list.itemDoubleClicked.emit(panel.list.item(2))
    idle(qtbot, binding)
    assert len(dock.shown) == 1
    assert "'strange' belongs to the generator eeeeeeeeeeee" in errors[0]
    dock.generator = None
    panel.opened.emit(binding.library.entry("first").id)
    assert "Choose a generator" in panel.message.text()


def test_points_are_renamed(
    qtbot: Any, binding: LibraryBinding, panel: LibraryPanel, dock: Dock, errors: list[str]
) -> None:
    fill(qtbot, binding, dock)
    panel.list.item(0).setText("premier")
    idle(qtbot, binding)
    assert listed(panel) == ["premier", "second", "strange"]
    panel.list.item(0).setText("second")
    idle(qtbot, binding)
    assert "has a point named 'second' already" in errors[0]
    assert listed(panel) == ["premier", "second", "strange"]


def test_what_was_removed_can_be_put_back_with_its_tuned_weights(
    qtbot: Any, binding: LibraryBinding, panel: LibraryPanel, dock: Dock
) -> None:
    generator = dock.generator
    assert generator is not None
    state = {name: value.detach().numpy() for name, value in generator.network.named_parameters()}
    tuned = TunedWeights.of(state, checkpoint_digest=generator.checkpoint.digest)
    point = replace(dock.tiles[0].point, tuned_digest=tuned.digest)  # type: ignore[type-var]
    dock.tiles[0] = replace(dock.tiles[0], point=point, tuned=tuned, slide_digest="5d", centre=(3.0, 4.0))
    fill(qtbot, binding, dock)
    before = binding.library.entry("first")
    select(panel, "first", "strange")
    qtbot.mouseClick(panel.remove_button, LEFT)
    idle(qtbot, binding)
    assert listed(panel) == ["second"]
    assert panel.undo_button.isEnabled()
    assert "2 points" in panel.undo_button.toolTip()
    qtbot.mouseClick(panel.undo_button, LEFT)
    idle(qtbot, binding)
    after = binding.library.entry("first")
    assert replace(after, id=before.id, added=before.added) == before
    found = binding.library.tuned(after)
    assert found is not None
    assert found.digest == tuned.digest
    assert binding.library.entry("strange").tags == ("tumour",)
    assert not panel.undo_button.isEnabled()


def test_a_point_with_damaged_files_can_be_removed_but_not_put_back(
    qtbot: Any, binding: LibraryBinding, panel: LibraryPanel, dock: Dock
) -> None:
    fill(qtbot, binding, dock)
    entry = binding.library.entry("first")
    shutil.rmtree(binding.library.folder / "points" / entry.id)
    select(panel, "first")
    qtbot.mouseClick(panel.remove_button, LEFT)
    idle(qtbot, binding)
    assert listed(panel) == ["second", "strange"]
    assert "cannot be put back" in panel.message.text()
    assert not panel.undo_button.isEnabled()


def test_another_folder_is_another_library(
    qtbot: Any, tmp_path: Path, binding: LibraryBinding, panel: LibraryPanel, dock: Dock
) -> None:
    fill(qtbot, binding, dock)
    edits.add_to_library(Library(tmp_path / "theirs"), dock.tiles[2], name="theirs")
    panel.folder_chosen.emit(str(tmp_path / "theirs"))
    idle(qtbot, binding)
    assert listed(panel) == ["theirs"]
    assert panel.folder_note.text() == "Library: theirs"
    assert str(tmp_path / "theirs") in panel.folder_note.toolTip()
    qtbot.mouseClick(panel.own_button, LEFT)
    idle(qtbot, binding)
    assert listed(panel) == ["first", "second", "strange"]


def test_a_damaged_library_is_said_in_a_sentence(
    qtbot: Any, tmp_path: Path, binding: LibraryBinding, panel: LibraryPanel, errors: list[str]
) -> None:
    (tmp_path / "index.json").write_text("[]")
    panel.folder_chosen.emit(str(tmp_path))
    idle(qtbot, binding)
    assert len(errors) == 1
    assert "cannot be read" in errors[0]


def test_the_tray_is_searched_and_kept_by_class(
    qtbot: Any, binding: LibraryBinding, panel: LibraryPanel, dock: Dock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str | None, str, list[str]]] = []
    point = dock.tiles[0].point

    def quick(_: Any, tiles: list[Tile], *, label: str | None, method: str, **__: Any) -> list[Any]:
        asked.append((label, method, [tile.name for tile in tiles]))
        return [
            SimpleNamespace(tile=tile, reconstruction=replace(tile, point=point, synthetic=True))
            for tile in tiles
        ]

    monkeypatch.setattr(edits, "reverse_search", quick)
    plain = [replace(tile, point=None, synthetic=False) for tile in dock.tiles]
    dock.tray = [
        replace(plain[0], name="a", label="healthy"),
        replace(plain[1], name="b", label="tumour"),
        replace(plain[2], name="c", label="fat"),
        replace(dock.tiles[3], name="d", label="tumour"),
        replace(plain[0], name="first"),
    ]
    fill(qtbot, binding, dock)
    binding.tray_changed()
    assert panel.tray_button.text() == "Add the tray (5)"
    panel.tags_edit.setText("case 7")
    qtbot.mouseClick(panel.tray_button, LEFT)
    assert panel.cancel_button.isVisible()
    idle(qtbot, binding)
    assert asked == [("healthy", "fast", ["a"]), ("tumour", "fast", ["b"]), (None, "fast", ["c"])]
    assert {name: binding.library.entry(name).tags for name in "abcd"} == {
        "a": ("case 7", "healthy"),
        "b": ("case 7", "tumour"),
        "c": ("case 7", "fat"),
        "d": ("case 7", "tumour"),
    }
    assert binding.library.entry("d").point == dock.tiles[3].point
    assert "4 tiles of the tray are in the library; 1 had the name" in panel.message.text()
    assert not panel.cancel_button.isVisible()


def test_adding_the_tray_can_be_stopped(
    qtbot: Any,
    binding: LibraryBinding,
    panel: LibraryPanel,
    dock: Dock,
    endless: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edits, "reverse_search", lambda *_, should_stop, **__: endless.wait(should_stop))
    dock.tray = [replace(dock.tiles[0], point=None)]
    binding.tray_changed()
    qtbot.mouseClick(panel.tray_button, LEFT)
    qtbot.waitUntil(endless.entered.is_set, timeout=20_000)
    qtbot.mouseClick(panel.cancel_button, LEFT)
    idle(qtbot, binding)
    assert endless.stopped.is_set()
    assert not binding.library.exists
    assert not panel.cancel_button.isVisible()


def test_the_nearest_real_patches_are_shown_and_the_dataset_is_looked_through_once(
    qtbot: Any, tiny_dataset: Path, panel: LibraryPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_histolatent.jobs import neighbours

    generator = untrained_generator(size_px=32)
    checkpoint = replace(generator.checkpoint, classes=("epithelium", "stroma"))
    dock = Dock(
        replace(generator, checkpoint=checkpoint), edits.sample_tiles(generator, 1, label=None, seed=1)
    )
    dock.dataset = tiny_dataset
    made: list[Any] = []
    real = neighbours.known_to
    monkeypatch.setattr(neighbours, "known_to", lambda *a, **k: made.append(a) or real(*a, most=20, **k))
    binding = LibraryBinding(
        panel,
        generator=lambda: dock.generator,
        current=lambda: dock.current,
        show=dock.shown.append,
        dataset=lambda: dock.dataset,
    )
    edits.add_to_library(binding.library, dock.tiles[0], name="first")
    edits.add_to_library(binding.library, dock.tiles[0], name="second")
    binding.generator_changed()
    idle(qtbot, binding)
    for name in ("first", "second"):
        select(panel, name)
        assert not panel.neighbours_note.isVisible()
        qtbot.mouseClick(panel.neighbours_button, LEFT)
        idle(qtbot, binding)
        assert f"most alike to {name}, among 20" in panel.neighbours_note.text()
        captions = [caption.text() for picture, caption in panel._neighbours if picture.isVisible()]
        assert len(captions) == 6
        assert all(text.startswith(("real, epithelium", "real, stroma")) for text in captions)
    assert len(made) == 1
    binding.close()


def test_without_a_dataset_one_is_asked_for_and_one_that_does_not_fit_is_forgotten(
    qtbot: Any,
    binding: LibraryBinding,
    panel: LibraryPanel,
    dock: Dock,
    errors: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(qtbot, binding, dock)
    select(panel, "first")
    assert panel.neighbours_button.text().endswith("…")
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path / "nothing"))
    qtbot.mouseClick(panel.neighbours_button, LEFT)
    idle(qtbot, binding)
    assert [panel.neighbours_note.text()] == errors, "it stays to be read"
    assert not panel.cancel_button.isVisible()
    assert panel.neighbours_button.text().endswith("…"), "it asks again"
    select(panel, "second")
    assert not panel.neighbours_note.isVisible()


def test_a_dataset_that_is_there_needs_no_asking(
    qtbot: Any, tiny_dataset: Path, panel: LibraryPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = untrained_generator(size_px=32)
    checkpoint = replace(generator.checkpoint, classes=("epithelium", "stroma"))
    tiles = edits.sample_tiles(generator, 1, label=None, seed=1)
    dock = Dock(replace(generator, checkpoint=checkpoint), tiles)
    binding = LibraryBinding(
        panel,
        generator=lambda: dock.generator,
        current=lambda: None,
        show=dock.shown.append,
        dataset=lambda: dock.dataset,
    )
    idle(qtbot, binding)
    assert panel.neighbours_button.text().endswith("…")
    dock.dataset = tiny_dataset
    binding.dataset_changed()
    idle(qtbot, binding)
    assert panel.neighbours_button.text() == "Nearest real patches"
    assert "need not be what this generator learnt from" in panel.neighbours_button.toolTip()
    binding.close()


def test_a_picture_of_the_library_says_that_it_is_synthetic() -> None:
    pixels = np.full((16, 16, 3), 200, np.uint8)
    shown = said_synthetic(pixels)
    assert shown.shape == (96, 96, 3)
    assert (shown[:40] == 200).all()
    assert (shown[-12:, :40] != 200).any()


def test_a_closed_dock_lets_go_and_what_is_being_written_is_written(
    qtbot: Any, binding: LibraryBinding, panel: LibraryPanel, dock: Dock
) -> None:
    panel.name_edit.setText("last")
    qtbot.mouseClick(panel.add_button, LEFT)
    binding.close()
    idle(qtbot, binding)
    assert [entry.name for entry in Library(binding.library.folder).entries()] == ["last"]
    assert panel.message.text() == ""
