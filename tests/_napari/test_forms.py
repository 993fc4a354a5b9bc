from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest

from napari_histolatent._config import option
from napari_histolatent._napari._forms import form_of, values_of
from napari_histolatent.patches import GridSpec
from napari_histolatent.training import PRESETS


@dataclass(frozen=True)
class Config:
    """One field of each kind that a form can show."""

    steps: int = option(20, "Steps in all.")
    rate: float = option(0.25, "Of Adam.")
    name: str = option("lean", "What it is called.")
    augment: bool = option(True, "Whether.")
    hidden: int = option(3, "Not asked for.")


LABELS = {"rate": "Rate", "steps": "Steps", "augment": "Augment", "name": "Name"}


def test_a_form_shows_what_is_asked_for_in_that_order(qtbot: Any) -> None:
    form = form_of(Config(), LABELS)
    assert [widget.name for widget in form] == list(LABELS)
    assert [widget.label for widget in form] == list(LABELS.values())
    assert values_of(form) == {"rate": 0.25, "steps": 20, "augment": True, "name": "lean"}
    assert [type(v) for v in values_of(form).values()] == [float, int, bool, str]


def test_the_help_is_the_configs_own(qtbot: Any) -> None:
    form = form_of(Config(), LABELS)
    assert form["steps"].tooltip == "Steps in all."
    helps = {item.name: item.metadata["help"] for item in fields(GridSpec)}
    grid = form_of(GridSpec(mpp=0.5), {"size_px": "Size", "edge": "Edge"})
    assert {widget.name: widget.tooltip for widget in grid} == {
        name: helps[name] for name in ("size_px", "edge")
    }


def test_what_the_user_sets_comes_back(qtbot: Any) -> None:
    form = form_of(Config(), LABELS, {"steps": {"min": 1, "max": 1000}})
    form["steps"].value, form["rate"].value = 999, 0.75
    form["augment"].value, form["name"].value = False, "mine"
    assert values_of(form) == {"rate": 0.75, "steps": 999, "augment": False, "name": "mine"}


def test_limits_hold(qtbot: Any) -> None:
    form = form_of(Config(), {"steps": "Steps"}, {"steps": {"min": 1, "max": 1000, "step": 10}})
    assert (form["steps"].min, form["steps"].max, form["steps"].step) == (1, 1000, 10)
    with pytest.raises(ValueError, match="1001"):
        form["steps"].value = 1001
    form["steps"].native.setValue(5000)  # by hand
    assert form["steps"].value == 1000


def test_choices_are_offered(qtbot: Any) -> None:
    form = form_of(PRESETS["demo"], {"device": "Device"}, {"device": {"choices": ["auto", "cpu"]}})
    assert form["device"].choices == ("auto", "cpu")
    form["device"].value = "cpu"
    assert values_of(form) == {"device": "cpu"}
    assert form["device"].tooltip


@pytest.mark.parametrize("mpp", [0.5, 0.25, 0.499, 0.2527, 0.2325])
def test_a_pixel_size_is_kept_to_the_last_digit(qtbot: Any, mpp: float) -> None:
    """A scanner's pixel size has four digits; the form must not round them away."""
    form = form_of(
        GridSpec(mpp=mpp), {"mpp": "Resolution"}, {"mpp": {"min": 0.05, "max": 16.0, "step": 0.05}}
    )
    assert values_of(form) == {"mpp": pytest.approx(mpp)}


def test_a_field_that_is_not_there_is_our_mistake(qtbot: Any) -> None:
    with pytest.raises(AttributeError, match="nothing"):
        form_of(Config(), {"nothing": "Nothing"})
