from __future__ import annotations

import math
from typing import Any

import pytest

from napari_histolatent._napari.widgets.training_plots import TrainingPlots, kids_of


@pytest.fixture
def plots(qtbot: Any) -> TrainingPlots:
    widget = TrainingPlots()
    qtbot.addWidget(widget)
    return widget


def test_losses_and_distances_have_a_plot_each(plots: TrainingPlots) -> None:
    plots.add(10, {"generator": 1.0}, {})
    plots.redraw()
    assert plots.kid.isHidden(), "there is none yet"
    plots.add(20, {}, {"kid": 0.5, "kid_random": 0.25, "pixel_sd": 3.0, "warnings": ["One."]})
    plots.redraw()
    assert plots.losses.points == {"generator": ([10], [1.0])}
    assert plots.kid.points == {"KID": ([20], [0.5]), "KID, random features": ([20], [0.25])}
    assert not plots.kid.isHidden()
    plots.clear()
    plots.redraw()
    assert plots.losses.points == plots.kid.points == {}
    assert plots.kid.isHidden()


def test_a_run_that_was_set_back_has_no_point_twice(plots: TrainingPlots) -> None:
    for step, value in ((10, 1.0), (20, 2.0), (30, 3.0), (20, 4.0)):
        plots.add(step, {"generator": value}, {})
    assert plots.losses.points == {"generator": ([10, 20], [1.0, 4.0])}


def test_a_long_run_is_drawn_in_few_points_to_its_end(plots: TrainingPlots) -> None:
    for step in range(1, 9002):
        plots.add(step, {"generator": float(step)}, {})
    plots.redraw()
    drawn, _ = plots.losses._lines["generator"].getData()
    assert len(drawn) < 2100
    assert (drawn[0], drawn[-1]) == (1, 9001)
    assert len(plots.losses.points["generator"][0]) == 9001


def test_what_is_no_number_is_no_point() -> None:
    assert kids_of({"kid": None, "kid_random": "much"}) == {}
    assert kids_of({"kid": 0.5, "kid_random": 0.5}) == {"KID, random features": 0.5}, "without a judge"
    assert math.isnan(kids_of({"kid": math.nan})["KID"])


def test_a_plot_without_points_is_hidden(plots: TrainingPlots) -> None:
    assert plots.losses.isHidden(), "axes of nothing say nothing"
    plots.add(10, {"generator": 1.0}, {})
    plots.redraw()
    assert not plots.losses.isHidden()
    plots.clear()
    assert plots.losses.isHidden()
