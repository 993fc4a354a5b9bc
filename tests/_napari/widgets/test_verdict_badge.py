from __future__ import annotations

from typing import Any

import pytest

from napari_histolatent._napari.widgets.verdict_badge import DRAWN, VerdictBadge


@pytest.fixture
def badge(qtbot: Any) -> VerdictBadge:
    widget = VerdictBadge()
    qtbot.addWidget(widget)
    return widget


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        ("trust", "Trust"),
        ("caution", "Caution"),
        ("outside", "Outside what the generator knows"),
        (None, "Not calibrated"),
        (DRAWN, "Drawn, not searched"),
    ],
)
def test_a_verdict_is_a_word_in_colour_and_its_reasons(
    badge: VerdictBadge, verdict: str | None, word: str
) -> None:
    assert badge.isHidden(), "nothing was searched"
    badge.show_verdict(verdict, ["First.", "Second."])
    assert badge.badge.text() == word
    assert badge.badge.toolTip()
    assert badge.reasons.text() == "First.\nSecond."
    assert not badge.isHidden()
    badge.clear()
    assert badge.isHidden()


def test_no_two_verdicts_look_alike(badge: VerdictBadge) -> None:
    looks = set()
    for verdict in ("trust", "caution", "outside", None):
        badge.show_verdict(verdict)
        looks.add(badge.badge.styleSheet())
    assert len(looks) == 4
