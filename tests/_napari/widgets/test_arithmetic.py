from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QPlainTextEdit, QPushButton

from napari_histolatent._napari.widgets.arithmetic_binding import EMPTY, ArithmeticBinding
from napari_histolatent._napari.widgets.arithmetic_panel import ArithmeticPanel
from napari_histolatent._napari.widgets.library_binding import LibraryBinding
from napari_histolatent._napari.widgets.library_panel import LibraryPanel
from napari_histolatent.jobs import edits
from tests._napari.editing.untrained import CLASSES, untrained_generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.training.load import LoadedGenerator

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture(scope="module")
def generator() -> LoadedGenerator:
    return untrained_generator()


@pytest.fixture
def chosen(generator: LoadedGenerator) -> list[LoadedGenerator | None]:
    """The generator that is chosen, last."""
    return [generator]


@pytest.fixture
def shown() -> list[Tile]:
    return []


@pytest.fixture
def library(qtbot: Any, chosen: list[LoadedGenerator | None]) -> Iterator[LibraryBinding]:
    panel = LibraryPanel()
    qtbot.addWidget(panel)
    made = LibraryBinding(panel, generator=lambda: chosen[-1], current=lambda: None, show=lambda _: None)
    yield made
    made.close()
    qtbot.waitUntil(lambda: not made.is_busy, timeout=20_000)


@pytest.fixture
def panel(qtbot: Any) -> ArithmeticPanel:
    widget = ArithmeticPanel()
    qtbot.addWidget(widget)
    widget.resize(340, 400)
    widget.show()
    return widget


@pytest.fixture
def binding(
    qtbot: Any,
    panel: ArithmeticPanel,
    library: LibraryBinding,
    chosen: list[LoadedGenerator | None],
    shown: list[Tile],
) -> Iterator[ArithmeticBinding]:
    made = ArithmeticBinding(panel, generator=lambda: chosen[-1], show=shown.append, library=library)
    idle(qtbot, made)
    yield made
    made.close()


def idle(qtbot: Any, binding: ArithmeticBinding) -> None:
    qtbot.waitUntil(lambda: not binding.is_busy, timeout=20_000)


def fill(qtbot: Any, binding: ArithmeticBinding, library: LibraryBinding, generator: LoadedGenerator) -> None:
    for i, tile in enumerate(edits.sample_tiles(generator, 4, label=None, seed=1)):
        edits.add_to_library(library.library, tile, name=f"tile {i}", tags=[str(tile.label)])
    library.changed.emit()
    idle(qtbot, binding)


def test_every_control_says_what_it_is_for(panel: ArithmeticPanel) -> None:
    controls = [c for kind in (QPlainTextEdit, QComboBox, QPushButton) for c in panel.findChildren(kind)]
    assert len(controls) == 3
    assert all(control.toolTip() for control in controls)


def test_an_empty_library_is_said_to_be_so(
    qtbot: Any,
    binding: ArithmeticBinding,
    panel: ArithmeticPanel,
    library: LibraryBinding,
    generator: LoadedGenerator,
) -> None:
    assert panel.state.text() == EMPTY
    fill(qtbot, binding, library, generator)
    assert panel.state.text() == ""
    assert panel.class_box.count() == 1 + len(CLASSES)


def test_names_of_this_generator_are_offered(
    qtbot: Any,
    binding: ArithmeticBinding,
    panel: ArithmeticPanel,
    library: LibraryBinding,
    generator: LoadedGenerator,
) -> None:
    other = edits.sample_tiles(untrained_generator(digest="e" * 64), 1, label=None, seed=2)[0]
    edits.add_to_library(library.library, other, name="tile of another", tags=["healthy", "other"])
    fill(qtbot, binding, library, generator)
    assert panel.field._points == tuple(f"tile {i}" for i in range(4))
    assert panel.field._groups == CLASSES
    # The other's point is in the tag, too, and does not disturb.
    panel.field.setPlainText("mean(healthy)")
    idle(qtbot, binding)
    assert "length" in panel.state.text()


def test_while_typing_it_says_what_comes_out_and_where_it_is_wrong(
    qtbot: Any,
    binding: ArithmeticBinding,
    panel: ArithmeticPanel,
    library: LibraryBinding,
    generator: LoadedGenerator,
    errors: list[str],
) -> None:
    fill(qtbot, binding, library, generator)
    panel.field.setPlainText("tile 0 + nobody")
    idle(qtbot, binding)
    assert "at column 10, there is no point or group named 'nobody'" in panel.state.text()
    assert panel.field.marked_column == 10
    panel.field.setPlainText("3 * tile 0")
    idle(qtbot, binding)
    assert panel.field.marked_column is None
    norm = 3 * sum(v * v for v in library.library.points()["tile 0"].values) ** 0.5
    assert f"came out {norm:.2f} long" in panel.state.text()
    assert " to 2.00" in panel.state.text()  # the root of 4 numbers
    assert errors == []


def test_the_result_is_drawn_shown_and_worked_on(
    qtbot: Any,
    binding: ArithmeticBinding,
    panel: ArithmeticPanel,
    library: LibraryBinding,
    generator: LoadedGenerator,
    shown: list[Tile],
) -> None:
    fill(qtbot, binding, library, generator)
    panel.field.setPlainText("mean(tumour) - mean(healthy) + tile 0")
    panel.class_box.setCurrentIndex(panel.class_box.findData("tumour"))
    qtbot.mouseClick(panel.make_button, LEFT)
    idle(qtbot, binding)
    expected, _ = edits.arithmetic_tile(generator, panel.expression, library.library, label="tumour")
    (tile,) = shown
    assert tile.point == expected.point
    assert tile.point is not None
    assert tile.point.class_weights == (0.0, 1.0)
    assert tile.synthetic
    assert panel.picture.isVisible()
    assert panel.result.text() == "SYNTHETIC, made of tumour, healthy, tile 0."
    assert "length" in panel.state.text()


def test_an_expression_that_cannot_be_drawn_is_marked_and_shows_nothing(
    qtbot: Any,
    binding: ArithmeticBinding,
    panel: ArithmeticPanel,
    library: LibraryBinding,
    generator: LoadedGenerator,
    shown: list[Tile],
    errors: list[str],
) -> None:
    fill(qtbot, binding, library, generator)
    qtbot.mouseClick(panel.make_button, LEFT)
    assert panel.state.text() == "Write an expression of names first."
    panel.field.setPlainText("tile 0 +")
    panel.field.entered.emit()
    idle(qtbot, binding)
    assert panel.field.marked_column == 8
    assert "where a name or a number is expected" in panel.state.text()
    assert shown == errors == []
    assert not panel.picture.isVisible()


def test_without_a_generator_nothing_is_drawn(
    qtbot: Any,
    binding: ArithmeticBinding,
    panel: ArithmeticPanel,
    chosen: list[LoadedGenerator | None],
    shown: list[Tile],
) -> None:
    chosen.append(None)
    binding.generator_changed()
    idle(qtbot, binding)
    assert not panel.make_button.isEnabled()
    assert panel.class_box.count() == 1
    panel.field.setPlainText("a")
    panel.make_requested.emit()
    idle(qtbot, binding)
    assert shown == []
    assert panel.state.text() == ""


def test_a_result_of_a_generator_that_was_left_is_not_worked_on(
    qtbot: Any,
    binding: ArithmeticBinding,
    panel: ArithmeticPanel,
    library: LibraryBinding,
    generator: LoadedGenerator,
    chosen: list[LoadedGenerator | None],
    shown: list[Tile],
) -> None:
    fill(qtbot, binding, library, generator)
    panel.field.setPlainText("tile 0")
    qtbot.mouseClick(panel.make_button, LEFT)
    chosen.append(untrained_generator(digest="e" * 64))
    binding.generator_changed()
    idle(qtbot, binding)
    assert shown == []
    binding.close()
    library.changed.emit()
    assert not binding.is_busy
