from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari.widgets.directions_binding import DirectionsBinding
from napari_histolatent._napari.widgets.directions_panel import BOUNDARY, COMPONENTS, MEASURE, DirectionsPanel
from napari_histolatent._napari.widgets.library_binding import LibraryBinding
from napari_histolatent._napari.widgets.library_panel import LibraryPanel
from napari_histolatent.jobs import edits, steering
from napari_histolatent.latent.directions import Direction, apply
from tests._napari.editing.untrained import untrained_generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.training.load import LoadedGenerator

LEFT = Qt.MouseButton.LeftButton
UP = Direction("up", (1.0, 0.0, 0.0, 0.0), "measured", "d" * 64, {"n": 512, "feature": "haematoxylin"})
ACROSS = replace(UP, name="across", vector=(0.0, 0.6, 0.8, 0.0))


class Dock:
    """What the dock around the panel has and does: what is shown becomes what is worked on."""

    def __init__(self, generator: LoadedGenerator, tile: Tile) -> None:
        self.generator: LoadedGenerator | None = generator
        self.current: Tile | None = tile
        self.shown: list[Tile] = []

    def show(self, tile: Tile) -> None:
        self.shown.append(tile)
        self.current = tile


@pytest.fixture(scope="module")
def generator() -> LoadedGenerator:
    return untrained_generator()


@pytest.fixture(autouse=True)
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks this small draw no nuclei: brightness stands for what is measured."""

    def measured(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.asarray(images.mean(axis=(1, 2, 3)), np.float64)

    monkeypatch.setattr(steering, "function_named", lambda _: measured)


@pytest.fixture
def dock(generator: LoadedGenerator) -> Dock:
    return Dock(generator, edits.sample_tiles(generator, 1, label="tumour", seed=1)[0])


@pytest.fixture
def library(qtbot: Any, dock: Dock) -> Iterator[LibraryBinding]:
    panel = LibraryPanel()
    qtbot.addWidget(panel)
    made = LibraryBinding(panel, generator=lambda: dock.generator, current=lambda: None, show=lambda _: None)
    yield made
    made.close()
    qtbot.waitUntil(lambda: not made.is_busy, timeout=20_000)


@pytest.fixture
def panel(qtbot: Any) -> DirectionsPanel:
    widget = DirectionsPanel()
    qtbot.addWidget(widget)
    widget.resize(340, 700)
    widget.show()
    return widget


@pytest.fixture
def binding(
    qtbot: Any, panel: DirectionsPanel, library: LibraryBinding, dock: Dock
) -> Iterator[DirectionsBinding]:
    made = DirectionsBinding(
        panel,
        generator=lambda: dock.generator,
        current=lambda: dock.current,
        show=dock.show,
        library=library,
    )
    idle(qtbot, made)
    yield made
    made.close()


def idle(qtbot: Any, binding: DirectionsBinding) -> None:
    qtbot.waitUntil(lambda: not binding.is_busy, timeout=20_000)


def kept(qtbot: Any, binding: DirectionsBinding, library: LibraryBinding, *directions: Direction) -> None:
    for direction in directions:
        library.library.add_direction(direction)
    library.changed.emit()
    idle(qtbot, binding)


def names(panel: DirectionsPanel) -> list[str]:
    return [panel.chosen_box.itemText(i) for i in range(panel.chosen_box.count())]


def choose(panel: DirectionsPanel, way: str) -> None:
    panel.way_box.setCurrentIndex(panel.way_box.findData(way))
    panel.way_box.activated.emit(panel.way_box.currentIndex())


def test_a_direction_is_made_from_two_tags_and_kept(
    qtbot: Any,
    binding: DirectionsBinding,
    panel: DirectionsPanel,
    library: LibraryBinding,
    generator: LoadedGenerator,
) -> None:
    tiles = edits.sample_tiles(generator, 6, label="tumour", seed=3)
    for i, tile in enumerate(tiles):
        edits.add_to_library(library.library, tile, name=str(i), tags=["gland" if i < 3 else "lumen"])
    library.changed.emit()
    idle(qtbot, binding)
    qtbot.mouseClick(panel.make_button, LEFT)
    idle(qtbot, binding)
    assert names(panel) == ["gland to lumen *"]
    assert panel.message.text() == "From gland to lumen, from 3 and 3 points."
    choose(panel, BOUNDARY)
    qtbot.mouseClick(panel.make_button, LEFT)
    idle(qtbot, binding)
    assert names(panel) == ["gland to lumen *", "gland to lumen (2) *"]
    assert "too few to say" in panel.message.text()
    panel.name_edit.setText("the border")
    qtbot.mouseClick(panel.save_button, LEFT)
    idle(qtbot, binding)
    (saved,) = library.library.directions()
    assert (saved.name, saved.kind, saved.facts["from"]) == ("the border", "boundary", "gland")
    assert names(panel) == ["the border", "gland to lumen *"]
    values = np.array([tile.point.values for tile in tiles if tile.point])
    expected = values[3:].mean(0) - values[:3].mean(0)
    (new,) = binding._new.values()
    np.testing.assert_allclose(new.vector, expected / np.linalg.norm(expected))


def test_measured_and_main_directions_are_made(
    qtbot: Any, binding: DirectionsBinding, panel: DirectionsPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = steering.main_directions
    monkeypatch.setattr(steering, "main_directions", lambda *a, **options: real(*a, samples=40, **options))
    choose(panel, MEASURE)
    panel.feature_box.setCurrentText("lumen fraction")
    qtbot.mouseClick(panel.make_button, LEFT)
    assert panel.cancel_button.isVisible()
    idle(qtbot, binding)
    assert names(panel) == ["lumen fraction *"]
    assert "the lumen fraction grows; it explains" in panel.message.text()
    choose(panel, COMPONENTS)
    panel.number_box.setValue(2)
    panel.name_edit.setText("way")
    qtbot.mouseClick(panel.make_button, LEFT)
    idle(qtbot, binding)
    assert names(panel) == ["lumen fraction *", "way 1 *", "way 2 *"]
    assert panel.message.text() == "2 directions were found."
    assert not panel.cancel_button.isVisible()


@pytest.mark.parametrize("way", [MEASURE, COMPONENTS])
def test_the_making_of_a_direction_can_be_stopped(
    qtbot: Any,
    binding: DirectionsBinding,
    panel: DirectionsPanel,
    endless: Any,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    name = {MEASURE: "direction_of_measure", COMPONENTS: "main_directions"}[way]
    monkeypatch.setattr(steering, name, lambda *_, should_stop, **__: endless.wait(should_stop) or [])
    choose(panel, way)
    qtbot.mouseClick(panel.make_button, LEFT)
    qtbot.waitUntil(endless.entered.is_set, timeout=20_000)
    qtbot.mouseClick(panel.cancel_button, LEFT)
    idle(qtbot, binding)
    assert endless.stopped.is_set()
    assert names(panel) == []
    assert panel.make_button.isEnabled()


def test_groups_that_do_not_differ_are_refused(
    qtbot: Any,
    binding: DirectionsBinding,
    panel: DirectionsPanel,
    library: LibraryBinding,
    dock: Dock,
    errors: list[str],
) -> None:
    assert dock.current is not None
    edits.add_to_library(library.library, dock.current, name="a", tags=["x", "y"])
    library.changed.emit()
    idle(qtbot, binding)
    qtbot.mouseClick(panel.make_button, LEFT)
    idle(qtbot, binding)
    assert "has no length: its groups do not differ" in errors[0]
    assert names(panel) == []
    assert panel.make_button.isEnabled()


def test_sliders_move_the_tile_from_where_it_was(
    qtbot: Any,
    binding: DirectionsBinding,
    panel: DirectionsPanel,
    library: LibraryBinding,
    dock: Dock,
    generator: LoadedGenerator,
) -> None:
    kept(qtbot, binding, library, UP, ACROSS)
    binding.tile_changed()
    base = dock.current
    assert base is not None
    assert base.point is not None
    panel._sliders["kept up"].setValue(20)
    idle(qtbot, binding)
    binding.tile_changed()  # as the dock says after it showed the tile: that is no other tile
    panel._sliders["kept across"].setValue(-10)
    idle(qtbot, binding)
    expected = apply(apply(base.point, UP, 2.0), ACROSS, -1.0)
    moved = dock.shown[-1]
    assert moved.point is not None
    assert moved.point.values == pytest.approx(expected.values)
    assert moved.synthetic
    assert moved.point.origin.endswith("up +2, across -1")
    np.testing.assert_array_equal(
        moved.pixels, steering.steered(generator, replace(base, point=expected), UP, [0.0])[0].pixels
    )
    qtbot.mouseClick(panel.reset_button, LEFT)
    idle(qtbot, binding)
    assert dock.current is base
    assert set(panel.strengths.values()) == {0.0}


def test_another_tile_begins_at_0(
    qtbot: Any,
    binding: DirectionsBinding,
    panel: DirectionsPanel,
    library: LibraryBinding,
    dock: Dock,
    generator: LoadedGenerator,
) -> None:
    kept(qtbot, binding, library, UP)
    binding.tile_changed()
    panel._sliders["kept up"].setValue(20)
    idle(qtbot, binding)
    other = edits.sample_tiles(generator, 1, label="healthy", seed=8)[0]
    assert other.point is not None
    dock.current = other
    binding.tile_changed()
    assert panel.strengths == {"kept up": 0.0}
    panel._sliders["kept up"].setValue(-10)
    idle(qtbot, binding)
    assert dock.current.point is not None
    assert dock.current.point.values == pytest.approx(apply(other.point, UP, -1.0).values)
    dock.current = replace(other, point=None)
    binding.tile_changed()
    assert not panel._sliders["kept up"].isEnabled()


def test_a_hand_that_never_rests_sees_the_tile_change(
    qtbot: Any,
    binding: DirectionsBinding,
    panel: DirectionsPanel,
    library: LibraryBinding,
    dock: Dock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept(qtbot, binding, library, UP)
    binding.tile_changed()
    entered, go = threading.Event(), threading.Event()
    asked: list[float] = []
    real = steering.steered

    def slow(generator: Any, tile: Any, direction: Any, strengths: Any) -> Any:
        asked.extend(strengths)
        entered.set()
        assert go.wait(20)
        return real(generator, tile, direction, strengths)

    monkeypatch.setattr(steering, "steered", slow)
    slider = panel._sliders["kept up"]
    slider.setValue(1)
    assert entered.wait(20)
    for place in (2, 3, 4):
        slider.setValue(place)
    go.set()
    idle(qtbot, binding)
    assert asked == pytest.approx([0.1, 0.4])
    assert len(dock.shown) == 2


def test_another_tile_while_one_is_drawn_is_not_overwritten(
    qtbot: Any,
    binding: DirectionsBinding,
    panel: DirectionsPanel,
    library: LibraryBinding,
    dock: Dock,
    generator: LoadedGenerator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept(qtbot, binding, library, UP)
    binding.tile_changed()
    entered, go = threading.Event(), threading.Event()
    real = steering.steered

    def slow(*arguments: Any) -> Any:
        entered.set()
        assert go.wait(20)
        return real(*arguments)

    monkeypatch.setattr(steering, "steered", slow)
    panel._sliders["kept up"].setValue(10)
    assert entered.wait(20)
    dock.current = edits.sample_tiles(generator, 1, label="healthy", seed=8)[0]
    binding.tile_changed()
    panel._sliders["kept up"].setValue(5)  # of the new tile, while the old one is still being drawn
    go.set()
    idle(qtbot, binding)
    (tile,) = dock.shown
    assert tile.name.startswith("sample")
    assert tile.point is not None
    assert tile.point.class_weights == (1.0, 0.0)


def test_a_trial_fills_the_table(
    qtbot: Any, binding: DirectionsBinding, panel: DirectionsPanel, library: LibraryBinding
) -> None:
    choose(panel, MEASURE)
    qtbot.mouseClick(panel.make_button, LEFT)
    idle(qtbot, binding)
    qtbot.mouseClick(panel.test_button, LEFT)
    idle(qtbot, binding)
    assert panel.table.rowCount() == 3
    median = float(panel.table.item(0, 1).text())
    assert median > 0.5
    assert "tried on 64 points: the nuclear area fraction" in panel.table_note.text()
    assert "grows with the slider" in panel.table_note.text()
    assert not panel.cancel_button.isVisible()


def test_a_trial_can_be_stopped(
    qtbot: Any,
    binding: DirectionsBinding,
    panel: DirectionsPanel,
    library: LibraryBinding,
    endless: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept(qtbot, binding, library, UP)
    monkeypatch.setattr(steering, "tried_on", lambda *_, should_stop, **__: endless.wait(should_stop))
    qtbot.mouseClick(panel.test_button, LEFT)
    qtbot.waitUntil(endless.entered.is_set, timeout=20_000)
    qtbot.mouseClick(panel.cancel_button, LEFT)
    idle(qtbot, binding)
    assert endless.stopped.is_set()
    assert not panel.table.isVisible()
    assert panel.test_button.isEnabled()


def test_what_was_removed_can_be_kept_again(
    qtbot: Any, binding: DirectionsBinding, panel: DirectionsPanel, library: LibraryBinding
) -> None:
    kept(qtbot, binding, library, UP)
    qtbot.mouseClick(panel.remove_button, LEFT)
    idle(qtbot, binding)
    assert library.library.directions() == ()
    assert names(panel) == ["up *"]
    assert "press Keep to put it back" in panel.message.text()
    qtbot.mouseClick(panel.save_button, LEFT)
    idle(qtbot, binding)
    assert library.library.directions() == (UP,)
    panel.remove_requested.emit("kept up")
    idle(qtbot, binding)
    qtbot.mouseClick(panel.remove_button, LEFT)
    assert names(panel) == []


def test_another_generator_has_other_directions(
    qtbot: Any, binding: DirectionsBinding, panel: DirectionsPanel, library: LibraryBinding, dock: Dock
) -> None:
    kept(qtbot, binding, library, UP, replace(UP, name="down", checkpoint_digest="e" * 64))
    assert names(panel) == ["up"]
    dock.generator = untrained_generator(digest="e" * 64)
    binding.generator_changed()
    idle(qtbot, binding)
    assert names(panel) == ["down"]
    dock.generator = None
    binding.generator_changed()
    idle(qtbot, binding)
    assert names(panel) == []
    assert not panel.make_button.isEnabled()


def test_a_closed_dock_hears_of_nothing_more(
    qtbot: Any, binding: DirectionsBinding, panel: DirectionsPanel, library: LibraryBinding
) -> None:
    binding.close()
    library.changed.emit()
    assert not binding.is_busy
