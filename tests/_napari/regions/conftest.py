from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent._napari.viewing import cache
from tests._napari.regions.hand import Hand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[3]


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any], npe2pm: Any) -> Iterator[Any]:
    """A window that knows our plugin."""
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        viewer = make_napari_viewer(show=True)
        viewer.window._qt_window.resize(1200, 780)
        yield viewer
    cache().clear()


@pytest.fixture
def hand(qtbot: Any, window: Any) -> Hand:
    """What the user does in the window."""
    return Hand(qtbot, window)
