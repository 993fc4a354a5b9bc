"""Where a layer of ours comes to lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image

from napari_histolatent._napari._layers import KEY, slide_layer, slide_layers
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari.patches._overlay import Overlay
from tests._napari.helpers import add

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.slides import Slide


def test_a_layer_is_put_once_above_those_it_belongs_on(viewer: Any, plain: Callable[..., Slide]) -> None:
    a, b = plain("a"), plain("b")
    overlay = Overlay(viewer, a, role="grid", above=("slide", "overview"))
    assert not overlay.is_slide_there
    for slide in (a, b):
        for layer in slide_layers(slide):
            add(viewer, layer)
    assert overlay.is_slide_there
    first, second = (Image(np.zeros((4, 4)), metadata=overlay.metadata) for _ in range(2))
    overlay.put(first)
    assert viewer.layers.index(first) == 2
    overlay.put(second)
    assert first not in viewer.layers
    assert viewer.layers.index(second) == 2
    # On top, where nothing is said.
    top = Overlay(viewer, a, role="picked")
    top.put(Image(np.zeros((4, 4)), metadata=top.metadata))
    assert viewer.layers[-1].metadata[KEY]["role"] == "picked"
    for each in (overlay, top):
        each.close()
    assert len(viewer.layers) == 4


def test_regions_that_come_later_lie_above(qtbot: Any, viewer: Any, plain: Callable[..., Slide]) -> None:
    a, b = plain("a"), plain("b")
    for slide in (a, b):
        for layer in slide_layers(slide):
            add(viewer, layer)
    overlay = Overlay(viewer, a, role="grid", above=("slide", "overview"))
    grid = Image(np.zeros((4, 4)), metadata=overlay.metadata)
    overlay.put(grid)

    def regions_of(slide: Slide) -> Image:
        return Image(np.zeros((4, 4)), metadata={KEY: {"role": "regions", "slide_digest": slide.info.digest}})

    foreign, own = regions_of(b), regions_of(a)
    viewer.layers.insert(2, foreign)
    qtbot.wait(20)
    assert viewer.layers.index(foreign) == 2, "regions of another slide are left where they are"
    viewer.layers.insert(2, own)
    qtbot.waitUntil(lambda: viewer.layers.index(grid) < viewer.layers.index(own), timeout=2000)
    assert viewer.layers.index(grid) == 2
    overlay.close()


def test_a_closed_overlay_listens_no_more(qtbot: Any, viewer: Any, plain: Callable[..., Slide]) -> None:
    slide = plain("a")
    for layer in slide_layers(slide):
        add(viewer, layer)
    events = viewer.layers.events
    before = len(events.removed.callbacks), len(events.inserted.callbacks)
    overlay = Overlay(viewer, slide, role="grid")
    assert (len(events.removed.callbacks), len(events.inserted.callbacks)) == (before[0] + 1, before[1] + 1)
    overlay.close()
    assert (len(events.removed.callbacks), len(events.inserted.callbacks)) == before


def test_the_selected_layer_stays_so_throughout(qtbot: Any, viewer: Any, plain: Callable[..., Slide]) -> None:
    a, b = plain("a"), plain("b")
    below, above = (add(viewer, slide_layer(slide)) for slide in (a, b))
    viewer.layers.selection.active = below
    overlay, session = Overlay(viewer, a, role="grid", above=("slide",)), session_of(viewer)
    assert session.slide() is a
    seen: list[Any] = []
    viewer.layers.selection.events.active.connect(lambda _: seen.append(session.slide()))
    overlay.put(Image(np.zeros((4, 4)), metadata=overlay.metadata))
    assert viewer.layers.selection.active is below
    assert seen
    assert all(slide is a for slide in seen), "the other slide is never current"
    viewer.layers.selection = {below, above}
    overlay.put(Image(np.zeros((4, 4)), metadata=overlay.metadata))
    assert set(viewer.layers.selection) == {below, above}
    overlay.close()
    overlay.put(Image(np.zeros((4, 4)), metadata=overlay.metadata))
    assert list(viewer.layers) == [below, above], "nothing is put any more"
