from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._napari._layers import KEY, slide_layer, tile_layer
from napari_histolatent._napari._session import session_of
from napari_histolatent.annotations import read_annotations
from napari_histolatent.jobs.tiles import Tile, cut_tile
from napari_histolatent.slides import open_slide, write_synthetic_slide
from tests._napari.helpers import add, give_regions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_histolatent.slides import Slide


@pytest.fixture
def other_slide(tmp_path: Path) -> Iterator[Slide]:
    """A second slide with pixels of its own."""
    write_synthetic_slide(tmp_path / "other.tiff", size_px=(512, 512), seed=1)
    with open_slide(tmp_path / "other.tiff") as opened:
        yield opened


def tile_of(name: str) -> Tile:
    return Tile(name=name, pixels=np.zeros((8, 8, 3), np.uint8))


def test_a_viewer_has_one_session_whoever_asks(viewer: Any, proxy: Any) -> None:
    from napari.utils._proxies import PublicOnlyProxy

    session = session_of(viewer)
    assert session_of(viewer) is session
    assert session_of(proxy) is session
    assert session_of(PublicOnlyProxy(viewer)) is session


def test_a_session_outlives_the_proxy_it_was_asked_for_with(viewer: Any) -> None:
    from napari.utils._proxies import PublicOnlyProxy

    proxy = PublicOnlyProxy(viewer)
    session_of(proxy).add_to_tray(tile_of("a"))
    del proxy  # its dock is closed
    gc.collect()
    assert [tile.name for tile in session_of(viewer).tray] == ["a"]


def test_two_viewers_have_two_sessions(viewer: Any) -> None:
    from napari.components import ViewerModel

    assert session_of(ViewerModel()) is not session_of(viewer)


def test_a_session_dies_with_its_viewer(slide: Slide, tiny_regions: Path) -> None:
    from napari.components import ViewerModel
    from napari.utils._proxies import PublicOnlyProxy

    viewer = ViewerModel()
    add(viewer, slide_layer(slide))
    session = session_of(PublicOnlyProxy(viewer))
    give_regions(viewer, slide, read_annotations(tiny_regions))
    session.add_to_tray(tile_of("a"))
    ends = weakref.ref(session), weakref.ref(viewer)
    del session, viewer
    gc.collect()
    assert [end() for end in ends] == [None, None]


def test_a_session_without_its_viewer_has_no_slide(slide: Slide) -> None:
    from napari.components import ViewerModel

    viewer = ViewerModel()
    add(viewer, slide_layer(slide))
    session = session_of(viewer)
    assert session.slide() is slide
    del viewer
    gc.collect()
    assert session.slide() is None
    assert session.annotations() is None


def test_the_slide_is_the_selected_one_else_the_topmost(
    viewer: Any, slide: Slide, other_slide: Slide
) -> None:
    session = session_of(viewer)
    assert session.slide() is None
    below = add(viewer, slide_layer(slide))
    above = add(viewer, slide_layer(other_slide))
    shapes = viewer.add_shapes()
    for active, expected in (
        (below, slide),
        (above, other_slide),
        (shapes, other_slide),
        (None, other_slide),
    ):
        viewer.layers.selection.active = active
        assert session.slide() is expected
    viewer.layers.selection = {below, above}  # none of them is the active one
    assert session.slide() is other_slide
    viewer.layers.remove(above)
    assert session.slide() is slide
    viewer.layers.remove(below)
    assert session.slide() is None


def test_a_renamed_slide_layer_is_still_the_slide(viewer: Any, slide: Slide) -> None:
    add(viewer, slide_layer(slide)).name = "patient 7"
    assert session_of(viewer).slide() is slide


def test_what_was_computed_from_a_slide_is_no_slide(viewer: Any, slide: Slide) -> None:
    """Other plugins copy a layer's metadata to what they make of it."""
    session = session_of(viewer)
    layer = add(viewer, slide_layer(slide))
    copied = viewer.add_image(np.asarray(layer.data[-1]), rgb=True, metadata=dict(layer.metadata))
    pyramid = viewer.add_image(
        [np.asarray(layer.data[-1]), np.asarray(layer.data[-1])[::2, ::2]],
        rgb=True,
        multiscale=True,
        metadata=dict(layer.metadata),
    )
    labels = viewer.add_labels(np.zeros((8, 8), int), metadata=dict(layer.metadata))
    for made in (copied, pyramid, labels):
        viewer.layers.selection.active = made
        assert session.slide() is slide
    viewer.layers.remove(layer)
    assert session.slide() is None


@pytest.mark.parametrize("metadata", [{}, {KEY: None}, {KEY: "slide"}, {KEY: {"role": 3}}, {"other": {}}])
def test_layers_of_others_are_passed_over(viewer: Any, metadata: dict[str, Any]) -> None:
    viewer.add_image(np.zeros((4, 4)), metadata=metadata)
    assert session_of(viewer).slide() is None


def test_a_tile_is_no_slide(viewer: Any, slide: Slide) -> None:
    tile = cut_tile(slide, (100, 100), size_px=32, mpp=0.5)
    add(viewer, tile_layer(tile, slide.info, name="slide"))
    assert session_of(viewer).slide() is None


def test_regions_belong_to_their_slide(
    viewer: Any, slide: Slide, other_slide: Slide, tiny_regions: Path
) -> None:
    session, annotations = session_of(viewer), read_annotations(tiny_regions)
    below = add(viewer, slide_layer(slide))
    add(viewer, slide_layer(other_slide))
    give_regions(viewer, slide, annotations)
    assert session.annotations() is None, "the slide on top has none"
    assert session.regions_note() == ""
    viewer.layers.selection.active = below
    assert session.annotations().regions == annotations.regions
    assert session.annotations() is session.annotations(), "nothing is copied as long as nothing changes"
    assert session.regions_note() == "2 regions: 1 epithelium, 1 stroma"


def test_each_change_is_told_once(
    qtbot: Any, viewer: Any, slide: Slide, tiny_regions: Path, tmp_path: Path
) -> None:
    session = session_of(viewer)
    told: list[Any] = []
    session.annotations_changed.connect(lambda: told.append("annotations"))
    session.tray_changed.connect(lambda: told.append(len(session.tray)))
    session.dataset_changed.connect(told.append)
    give_regions(viewer, slide, read_annotations(tiny_regions))
    qtbot.waitUntil(lambda: told == ["annotations"], timeout=5_000)
    session.add_to_tray(tile_of("a"))
    session.add_to_tray(tile_of("b"))
    session.remove_from_tray(0)
    session.set_dataset(tmp_path)
    assert told == ["annotations", 1, 2, 1, str(tmp_path)]
    assert [tile.name for tile in session.tray] == ["b"]
    assert session.dataset == tmp_path


def test_the_tray_that_is_handed_out_is_not_the_sessions_own(viewer: Any) -> None:
    session = session_of(viewer)
    session.add_to_tray(tile_of("a"))
    before = session.tray
    session.add_to_tray(tile_of("b"))
    assert [tile.name for tile in before] == ["a"]


def test_a_listener_that_is_gone_is_forgotten(viewer: Any) -> None:
    class Listener:
        def __init__(self) -> None:
            self.heard = 0

        def hear(self) -> None:
            self.heard += 1

    session, listener = session_of(viewer), Listener()
    session.tray_changed.connect(listener.hear)
    session.add_to_tray(tile_of("a"))
    assert listener.heard == 1
    gone = weakref.ref(listener)
    del listener
    gc.collect()
    assert gone() is None
    session.add_to_tray(tile_of("b"))
    assert len(session.tray) == 2


def test_the_slide_is_the_one_that_the_selected_layer_lies_on(
    viewer: Any, slide: Slide, other_slide: Slide
) -> None:
    session = session_of(viewer)
    add(viewer, slide_layer(slide))
    add(viewer, slide_layer(other_slide))
    on_first = viewer.add_shapes(
        metadata={KEY: {"role": "regions", "slide_digest": slide.info.digest}}, ndim=2
    )
    somebodys = viewer.add_image(np.zeros((8, 8)))
    above = viewer.layers[1]
    for layer, expected in (
        (on_first, slide),
        (somebodys, slide),
        (None, slide),
        (above, other_slide),
        (viewer.layers[0], slide),
    ):
        viewer.layers.selection.active = layer
        assert session.slide() is expected
    viewer.layers.selection = {above, somebodys}
    assert session.slide() is slide, "with several selected the slide stays"
    viewer.layers.remove(viewer.layers[0])
    assert session.slide() is other_slide
