from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QColor, QPalette, QWheelEvent

from napari_histolatent._napari.widgets.loss_plot import LossPlot


@pytest.fixture
def plot(qtbot: Any) -> LossPlot:
    widget = LossPlot()
    qtbot.addWidget(widget)
    return widget


def lines_of(plot: LossPlot) -> dict[str, tuple[list[float], list[float]]]:
    """Return what is drawn, by the names in the legend."""
    drawn = {}
    for item in plot.getPlotItem().listDataItems():
        x, y = item.getData()
        drawn[item.name()] = (list(x), list(y))
    assert [label.text for _, label in plot.getPlotItem().legend.items] == list(drawn)
    return drawn


def test_each_loss_is_a_line(plot: LossPlot) -> None:
    for step in (10, 20, 30):
        plot.add_losses(step, {"generator": step / 10, "discriminator": 5.0})
    assert lines_of(plot) == {}, "drawn when asked to"
    plot.redraw()
    expected = {
        "generator": ([10, 20, 30], [1, 2, 3]),
        "discriminator": ([10, 20, 30], [5, 5, 5]),
    }
    assert lines_of(plot) == expected
    assert plot.points == expected


def test_lines_grow(plot: LossPlot) -> None:
    plot.add_losses(1, {"loss": 3.0})
    plot.redraw()
    plot.add_losses(2, {"loss": 2.0})
    plot.redraw()
    assert lines_of(plot) == {"loss": ([1, 2], [3, 2])}


def test_lines_are_told_apart(plot: LossPlot) -> None:
    plot.add_losses(1, {"a": 1.0, "b": 2.0, "c": 3.0})
    plot.redraw()
    colors = {item.opts["pen"].color().name() for item in plot.getPlotItem().listDataItems()}
    assert len(colors) == 3


def test_another_run_begins_with_an_empty_plot(plot: LossPlot) -> None:
    plot.add_losses(1, {"a": 1.0, "b": 2.0})
    plot.redraw()
    plot.clear_losses()
    assert lines_of(plot) == {}
    assert plot.points == {}
    plot.add_losses(5, {"a": 4.0})
    plot.redraw()
    assert lines_of(plot) == {"a": ([5], [4])}


def test_a_loss_that_is_no_number_breaks_nothing(qtbot: Any, plot: LossPlot) -> None:
    for step, value in ((1, 1.0), (2, np.nan), (3, 2.0)):
        plot.add_losses(step, {"a": value})
    plot.add_losses(1, {"b": np.nan})
    plot.redraw()
    with qtbot.waitExposed(plot):
        plot.show()
    plot.grab()
    assert lines_of(plot)["a"][0] == [1, 2, 3]


def test_the_plot_follows_the_theme(qtbot: Any, plot: LossPlot) -> None:
    for background, text in (("#101418", "#f0f0f0"), ("#ffffff", "#202020")):
        palette = QPalette()
        palette.setColor(QPalette.ColorRole.Window, QColor(background))
        palette.setColor(QPalette.ColorRole.WindowText, QColor(text))
        plot.setPalette(palette)
        assert plot.backgroundBrush().color().name() == background
        assert plot.getAxis("left").pen().color().name() == text
        assert plot.getAxis("bottom").textPen().color().name() == text


def test_there_are_more_colours_than_losses(plot: LossPlot) -> None:
    plot.add_losses(1, dict.fromkeys("abcdefgh", 1.0))
    plot.redraw()
    colors = {item.opts["pen"].color().name() for item in plot.getPlotItem().listDataItems()}
    assert len(colors) == 8


def test_the_legend_hides_no_curve_and_no_axis_is_cut_off(qtbot: Any, plot: LossPlot) -> None:
    plot.resize(330, 170)
    with qtbot.waitExposed(plot):
        plot.show()
    plot.add_losses(1, {f"encoder_{name}": 1.0 for name in "abcdef"})
    plot.redraw()
    item = plot.getPlotItem()
    qtbot.waitUntil(
        lambda: item.legend.sceneBoundingRect().bottom() <= item.vb.sceneBoundingRect().top() + 12
    )
    for side in ("bottom", "left"):
        label = item.getAxis(side).label
        place = label.mapRectToScene(label.boundingRect())
        assert place.bottom() <= plot.height()
        assert place.left() >= 0


def test_the_wheel_is_left_to_the_dock(plot: LossPlot) -> None:
    place = QPointF(50, 50)
    event = QWheelEvent(
        place,
        place,
        QPoint(),
        QPoint(0, -120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    before = plot.getPlotItem().viewRange()
    plot.wheelEvent(event)
    assert not event.isAccepted()
    assert plot.getPlotItem().viewRange() == before


def test_numbers_that_fall_by_decades_are_drawn_as_such(qtbot: Any) -> None:
    widget = LossPlot("KID", logarithmic=True)
    qtbot.addWidget(widget)
    for step, value in enumerate((1000.0, 10.0, 0.1, -0.5)):
        widget.add_losses(step, {"KID": value})
    widget.redraw()
    (_, drawn) = lines_of(widget)["KID"]
    assert drawn == pytest.approx([3, 1, -1, -3]), "what is not above 0 lies at the bottom"
    assert widget.points["KID"][1][-1] == -0.5


def test_the_legend_follows_the_theme(plot: LossPlot) -> None:
    plot.add_losses(1, {"a": 1.0})
    plot.redraw()
    palette = QPalette(plot.palette())
    palette.setColor(QPalette.ColorRole.WindowText, QColor(12, 34, 56))
    plot.setPalette(palette)
    ((_, label),) = plot.getPlotItem().legend.items
    assert "#0c2238" in label.item.toHtml().lower()
