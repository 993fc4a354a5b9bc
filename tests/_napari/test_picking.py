from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from napari_histolatent._napari._picking import CanvasClicks
from tests._napari.helpers import click


@pytest.fixture
def clicked() -> list[tuple[float, ...]]:
    return []


@pytest.fixture
def clicks(proxy: Any, clicked: list[tuple[float, ...]]) -> CanvasClicks:
    return CanvasClicks(proxy, clicked.append)


def test_nothing_is_heard_before_it_is_switched_on(viewer: Any, clicks: CanvasClicks, clicked: list) -> None:
    click(viewer, (1.5, 2.5))
    assert clicked == []
    clicks.switch(True)
    click(viewer, (1.5, 2.5))
    assert clicked == [(1.5, 2.5)]


def test_a_click_is_where_the_button_went_down(viewer: Any, clicks: CanvasClicks, clicked: list) -> None:
    clicks.switch(True)
    click(viewer, (0.0, 10.0, 20.0), path=[(1, 0), (2, -3)])
    assert clicked == [(0.0, 10.0, 20.0)], "a hand is never quite still"


@pytest.mark.parametrize(
    "path",
    [
        [(6, 0)],
        [(0, -6)],
        [(2, 2), (40, 0), (80, 3)],
        [(30, 30), (0, 0)],  # there and back again
    ],
)
def test_a_drag_is_no_click(
    viewer: Any, clicks: CanvasClicks, clicked: list, path: list[tuple[float, float]]
) -> None:
    clicks.switch(True)
    click(viewer, (1.0, 2.0), path=path)
    assert clicked == []
    click(viewer, (3.0, 4.0))
    assert clicked == [(3.0, 4.0)]


@pytest.mark.parametrize("button", [2, 3])
def test_other_buttons_are_the_viewers(viewer: Any, clicks: CanvasClicks, clicked: list, button: int) -> None:
    clicks.switch(True)
    click(viewer, (1.0, 2.0), button=button)
    assert clicked == []


def test_switched_on_twice_it_hears_once(viewer: Any, clicks: CanvasClicks, clicked: list) -> None:
    clicks.switch(True)
    clicks.switch(True)
    click(viewer, (1.0, 2.0))
    assert clicked == [(1.0, 2.0)]
    clicks.switch(False)
    click(viewer, (1.0, 2.0))
    assert clicked == [(1.0, 2.0)]


def test_switched_off_twice_it_takes_nothing_of_others_away(
    viewer: Any, clicks: CanvasClicks, clicked: list
) -> None:
    before = list(viewer.mouse_drag_callbacks)
    clicks.switch(False)
    clicks.switch(True)
    assert len(viewer.mouse_drag_callbacks) == len(before) + 1
    clicks.switch(False)
    clicks.switch(False)
    assert viewer.mouse_drag_callbacks == before
    clicks.switch(True)
    click(viewer, (1.0, 2.0))
    assert clicked == [(1.0, 2.0)], "and on again"


def test_two_docks_pick_for_themselves(viewer: Any, proxy: Any) -> None:
    heard: list[str] = []
    first = CanvasClicks(proxy, lambda _: heard.append("first"))
    second = CanvasClicks(proxy, lambda _: heard.append("second"))
    first.switch(True)
    second.switch(True)
    first.switch(False)
    click(viewer, (1.0, 2.0))
    assert heard == ["second"]


def test_a_callback_that_someone_took_away_is_no_trouble(clicked: list) -> None:
    viewer = SimpleNamespace(mouse_drag_callbacks=[])
    clicks = CanvasClicks(viewer, clicked.append)
    clicks.switch(True)
    viewer.mouse_drag_callbacks.clear()
    clicks.switch(False)
    assert viewer.mouse_drag_callbacks == []
