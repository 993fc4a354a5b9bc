"""The outlines of picked patches: a layer a slide, and none for what left the tray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent._napari._layers import KEY, slide_layer, world_of
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari.widgets.patches_binding import PatchesBinding
from napari_histolatent._napari.widgets.patches_view import PatchesView
from napari_histolatent.slides import open_slide, write_synthetic_slide
from tests._napari.helpers import add, click

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_histolatent.slides import Slide


@pytest.fixture
def view(qtbot: Any) -> PatchesView:
    widget = PatchesView()
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def binding(proxy: Any, view: PatchesView) -> Iterator[PatchesBinding]:
    made = PatchesBinding(proxy, view)
    view.pick_button.click()
    yield made
    made.close()


def pick(qtbot: Any, viewer: Any, slide: Slide, level0_xy: tuple[float, float]) -> None:
    before = len(session_of(viewer).tray)
    click(viewer, world_of(level0_xy, slide.info))
    qtbot.waitUntil(lambda: len(session_of(viewer).tray) == before + 1, timeout=20_000)


def boxes_in(layer: Any) -> list[tuple[float, float]]:
    """Return the upper left corners, (x, y) in level-0 pixels."""
    return [tuple(float(v) for v in (corners.min(0) + 0.5)[::-1]) for corners in layer.data]


def test_each_slide_has_its_own_layer_and_a_patch_takes_its_outline_along(
    qtbot: Any, viewer: Any, view: PatchesView, binding: PatchesBinding, slide: Slide, tmp_path: Path
) -> None:
    first = add(viewer, slide_layer(slide))
    write_synthetic_slide(tmp_path / "finer.tiff", size_px=(512, 512), mpp=0.25, seed=1)
    session = session_of(viewer)
    with open_slide(tmp_path / "finer.tiff") as finer:
        second = add(viewer, slide_layer(finer))
        viewer.layers.selection.active = first
        for place in ((120.5, 200.5), (550.5, 300.5), (300.5, 300.5)):
            pick(qtbot, viewer, slide, place)
        viewer.layers.selection.active = second
        pick(qtbot, viewer, finer, (300.5, 300.5))
        layers = {
            layer.metadata[KEY]["slide_digest"]: layer
            for layer in viewer.layers
            if layer.metadata[KEY]["role"] == "picked"
        }
        assert {digest: layer.name for digest, layer in layers.items()} == {
            slide.info.digest: "picked patches of tiny.tiff",
            finer.info.digest: "picked patches of finer.tiff",
        }
        mine, others = layers[slide.info.digest], layers[finer.info.digest]
        assert [len(mine.data), len(others.data)] == [3, 1]
        session.remove_from_tray(1)
        assert [len(mine.data), len(others.data)] == [2, 1]
        assert boxes_in(mine) == [session.tray[i].level0_box[:2] for i in (0, 1)]
        pick(qtbot, viewer, finer, (200.5, 200.5))
        session.remove_from_tray(2)
        assert boxes_in(others) == [session.tray[2].level0_box[:2]]
        for _ in range(3):
            session.remove_from_tray(0)
        assert [len(mine.data), len(others.data)] == [0, 0]
        pick(qtbot, viewer, finer, (300.5, 300.5))
        assert [len(mine.data), len(others.data)] == [0, 1]
