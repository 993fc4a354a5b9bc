from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._napari._editing import Seen
from napari_histolatent._napari._layers import KEY, set_pixel_size, slide_layer
from napari_histolatent._napari.editing._scene import (
    EARLIER,
    EARLIER_TILE,
    PUT_AWAY,
    Look,
    Scene,
    ground_of,
    line_pieces,
    residual_picture,
    wiped,
)
from napari_histolatent.explain import COLORMAPS, Heatmap
from napari_histolatent.jobs.tiles import Tile, cut_tile
from napari_histolatent.latent import LatentPoint
from tests._napari.helpers import add

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.slides import Slide

SIDE = 16
POINT = LatentPoint((0.0, 1.0), (1.0, 0.0), "digest")


@pytest.fixture
def tile(slide: Slide) -> Tile:
    return cut_tile(slide, (200.0, 300.0), size_px=SIDE, mpp=1.0)


def drawn(tile: Tile, noise: Callable[..., np.ndarray], seed: int) -> Tile:
    return tile.redrawn(noise(SIDE, SIDE, seed=seed), POINT, f"drawn {seed}")


def seen(tile: Tile, top: float, *, target: str = "stroma", box: Any = None) -> Seen:
    values = np.zeros((SIDE, SIDE), np.float32)
    values[4:8, 4:12] = top
    return Seen(Heatmap(values, target, "layer", 0.5, box or tile.level0_box), {"stroma": 0.5})


@pytest.fixture
def shown(viewer: Any, slide: Slide, tile: Tile, noise: Callable[..., np.ndarray]) -> Scene:
    """A scene with a reconstruction and an edit, each with its heatmap."""
    add(viewer, slide_layer(slide))
    scene = Scene(viewer)
    scene.place(tile, slide, draws_tile=False)
    scene.show("tile", tile, seen(tile, 1.0))
    scene.show("reconstruction", drawn(tile, noise, 1), seen(tile, 1.0))
    scene.show("edit", drawn(tile, noise, 2), seen(tile, 2.0))
    return scene


def corner(layer: Any, slide_image: Any) -> tuple[float, ...]:
    return tuple(slide_image.world_to_data(layer.data_to_world((-0.5, -0.5)))[-2:] + 0.5)


def test_in_place_everything_covers_its_tile(viewer: Any, shown: Scene, tile: Tile) -> None:
    left, top, *_ = tile.level0_box
    for key in ("reconstruction", "edit", "heatmap edit", "heatmap tile"):
        assert corner(shown.layer(key), viewer.layers[0]) == pytest.approx((top, left)), key
    assert shown.layer("tile") is None, "the slide shows it"
    assert [shown.layer(f"heatmap {name}").visible for name in ("tile", "reconstruction", "edit")] == [
        False,
        False,
        True,
    ]


def test_side_by_side_each_lies_a_tile_further_and_comes_back(viewer: Any, shown: Scene, tile: Tile) -> None:
    left, top, right, _ = tile.level0_box
    width = right - left
    shown.set_look(Look(is_beside=True))
    for n, column in enumerate(("tile", "reconstruction", "edit")):
        for key in (column, f"heatmap {column}"):
            layer = shown.layer(key)
            if layer is not None:
                assert corner(layer, viewer.layers[0]) == pytest.approx((top, left + n * width)), key
                assert layer.visible
    shown.set_look(Look())
    assert corner(shown.layer("edit"), viewer.layers[0]) == pytest.approx((top, left))


def test_what_was_generated_says_so(shown: Scene, viewer: Any) -> None:
    for key in ("reconstruction", "edit"):
        layer = shown.layer(key)
        assert layer.name == f"SYNTHETIC {key}"
        assert layer.metadata[KEY]["synthetic"] is True
        assert layer.metadata[KEY]["model_digest"] == "digest"
        heatmap = shown.layer(f"heatmap {key}")
        assert heatmap.name == f"Grad-CAM {key}: stroma (of a SYNTHETIC tile)"
        assert heatmap.metadata[KEY]["synthetic"] is True
    assert shown.layer("heatmap tile").name == "Grad-CAM tile: stroma"
    assert shown.layer("heatmap tile").metadata[KEY]["synthetic"] is False
    shown.set_look(Look(shows_residual=True, shows_difference=True))
    assert shown.layer("residual").name.startswith("SYNTHETIC residual")
    assert "SYNTHETIC" in shown.layer("difference").name


def test_scrubbing_only_assigns(
    viewer: Any, shown: Scene, tile: Tile, noise: Callable[..., np.ndarray]
) -> None:
    before, edit = list(viewer.layers), shown.layer("edit")
    told: list[object] = []
    viewer.layers.events.inserted.connect(told.append)
    viewer.layers.events.removed.connect(told.append)
    frames = [drawn(tile, noise, seed) for seed in range(3, 8)]
    for frame in frames:
        shown.show("edit", frame, seen(tile, 1.5))
        assert np.array_equal(edit.data, frame.pixels)
    assert np.array_equal(frames[0].pixels, noise(SIDE, SIDE, seed=3)), "a frame stays what it was"
    assert told == []
    assert list(viewer.layers) == before


def test_all_heatmaps_are_on_one_scale(shown: Scene, tile: Tile, noise: Callable[..., np.ndarray]) -> None:
    assert shown.maximum == 2.0
    assert shown.layer("heatmap tile").data[5, 5, 3] == 128, "half of the brightest"
    shown.show("edit", drawn(tile, noise, 3), seen(tile, 4.0))
    assert shown.layer("heatmap tile").data[5, 5, 3] == 64, "a brighter one dims all others"
    shown.set_scale([seen(tile, 1.0).heatmap, None])
    shown.show("tile", tile, seen(tile, 1.0))
    assert shown.layer("heatmap tile").data[5, 5, 3] == 255


def test_the_wipe_shows_what_was_before_on_the_left(shown: Scene, tile: Tile) -> None:
    edit = shown.layer("edit").data.copy()
    shown.set_look(Look(wipe=0.25))
    data = shown.layer("edit").data
    assert np.array_equal(data[:, :4], tile.pixels[:, :4])
    assert np.array_equal(data[:, 4:], edit[:, 4:])
    assert shown.layer("edit").metadata[KEY]["wipe"] == {"share": 0.25, "left_part": "tile"}
    shown.set_look(Look(wipe=1.0, wipe_from="reconstruction"))
    assert np.array_equal(shown.layer("edit").data, shown.layer("reconstruction").data)
    shown.set_look(Look())
    assert np.array_equal(shown.layer("edit").data, edit)
    assert "wipe" not in shown.layer("edit").metadata[KEY]


def test_pictures_of_two_sizes_are_not_composed(noise: Callable[..., np.ndarray]) -> None:
    after = noise(8, 8)
    assert wiped(noise(16, 16), after, 0.5) is after


def test_opacities_are_linked(shown: Scene) -> None:
    shown.set_look(Look(picture_opacity=0.4, heatmap_opacity=0.2, shows_residual=True))
    for key in ("reconstruction", "edit", "residual"):
        assert shown.layer(key).opacity == 0.4
    for column in ("tile", "reconstruction", "edit"):
        assert shown.layer(f"heatmap {column}").opacity == 0.2


def test_heatmaps_are_switched_off_with_all_that_is_drawn_of_them(shown: Scene) -> None:
    shown.set_look(Look(thresholds=(0.5,), shows_difference=True))
    assert shown.layer("lines edit") is not None
    assert shown.layer("difference") is not None
    shown.set_look(Look(shows_heatmaps=False, thresholds=(0.5,), shows_difference=True))
    for key in ("heatmap tile", "heatmap edit", "lines edit", "difference"):
        assert shown.layer(key) is None
    assert shown.layer("edit") is not None


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_lines_run_around_what_is_bright(viewer: Any, shown: Scene, tile: Tile, colormap: str) -> None:
    shown.set_look(Look(thresholds=(0.5,), colormap=colormap))
    layer = shown.layer("lines edit")
    assert len(layer.data) > 8
    left, top, *_ = tile.level0_box
    scale = (tile.level0_box[2] - left) / SIDE
    rows, columns = np.array(
        [viewer.layers[0].world_to_data(layer.data_to_world(v[0])) for v in layer.data]
    ).T
    # The bright part covers rows 4 to 8 and columns 4 to 12 of the tile.
    assert (rows.min() + 0.5 - top) / scale == pytest.approx(4, abs=0.5)
    assert (columns.max() + 0.5 - left) / scale == pytest.approx(12, abs=0.5)
    shown.show("edit", tile, seen(tile, 0.0))
    assert len(shown.layer("lines edit").data) == 0, "a map of nothing has no lines"


def test_no_lines_make_no_pieces() -> None:
    assert line_pieces([]).shape == (0, 2, 2)


def test_the_residual_is_grey_where_nothing_is_missing(noise: Callable[..., np.ndarray]) -> None:
    pixels = noise(4, 4)
    assert (residual_picture(pixels, pixels) == 128).all()
    assert residual_picture(np.full((1, 1, 3), 255, np.uint8), np.zeros((1, 1, 3), np.uint8)).min() == 255
    assert residual_picture(np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 255, np.uint8)).max() == 0


def test_heatmaps_of_two_classes_have_no_difference(
    shown: Scene, tile: Tile, noise: Callable[..., np.ndarray]
) -> None:
    shown.set_look(Look(shows_difference=True))
    assert shown.remark == ""
    shown.show("edit", drawn(tile, noise, 3), seen(tile, 1.0, target="fat"))
    assert shown.layer("difference") is None
    assert "another class (stroma and fat)" in shown.remark


def test_a_map_of_the_middle_lies_in_the_middle(viewer: Any, shown: Scene, tile: Tile) -> None:
    left, top, right, bottom = tile.level0_box
    w, h = (right - left) / 4, (bottom - top) / 4
    shown.show("tile", None)
    shown.show("tile", tile, seen(tile, 1.0, box=(left + w, top + h, right - w, bottom - h)))
    layer = shown.layer("heatmap tile")
    assert corner(layer, viewer.layers[0]) == pytest.approx((top + h, left + w))


def test_a_tile_without_a_place_lies_left_of_the_slide(
    viewer: Any, slide: Slide, noise: Callable[..., np.ndarray]
) -> None:
    scene = Scene(viewer)
    sample = Tile("sample", noise(SIDE, SIDE), mpp=1.0, point=POINT, synthetic=True)
    scene.place(sample, slide, draws_tile=False)
    scene.show("reconstruction", sample)
    layer = scene.layer("reconstruction")
    assert layer.extent.world[1, 1] < 0
    assert layer.scale == pytest.approx((1.0, 1.0))
    assert layer.metadata[KEY]["x"] is None
    assert ground_of(replace(sample, mpp=None), None).unit == "pixel"
    assert ground_of(sample, None).corner == (0.0, 0.0)


def test_a_recoloured_tile_has_a_layer_of_its_own(viewer: Any, slide: Slide, tile: Tile) -> None:
    scene = Scene(viewer)
    scene.place(tile, slide, draws_tile=True)
    scene.show("tile", tile)
    assert scene.layer("tile").name == "tile"
    assert scene.layer("tile").metadata[KEY]["synthetic"] is False


def test_layers_follow_a_pixel_size_that_is_stated_later(
    viewer: Any, slide: Slide, shown: Scene, tile: Tile
) -> None:
    set_pixel_size(viewer, slide, 0.25)
    left, top, *_ = tile.level0_box
    for key in ("edit", "heatmap edit"):
        assert corner(shown.layer(key), viewer.layers[0]) == pytest.approx((top, left)), key
    shown.set_look(Look(is_beside=True))
    assert corner(shown.layer("edit"), viewer.layers[0])[1] > left


def test_a_layer_that_the_user_removed_comes_back_and_a_new_name_stays(
    viewer: Any, shown: Scene, tile: Tile, noise: Callable[..., np.ndarray]
) -> None:
    viewer.layers.remove(shown.layer("edit"))
    shown.show("edit", drawn(tile, noise, 3), None)
    shown.layer("edit").name = "my favourite"
    shown.show("edit", drawn(tile, noise, 4), None)
    assert shown.layer("edit").name == "my favourite"


def told_of(layers: Any) -> list[str]:
    """Return what is put into a layer list or taken out from now on: a list that grows."""
    told: list[str] = []
    layers.events.inserted.connect(lambda event: told.append(f"in: {event.value}"))
    layers.events.removed.connect(lambda event: told.append(f"out: {event.value}"))
    return told


def test_another_tile_puts_the_layers_of_the_last_away(
    viewer: Any, shown: Scene, slide: Slide, tile: Tile
) -> None:
    edit, told = shown.layer("edit"), told_of(viewer.layers)
    before = edit.data.copy(), dict(edit.metadata[KEY])
    shown.place(replace(tile), slide, draws_tile=False)
    assert shown.layer("edit") is None
    assert not any(layer.visible for layer in list(viewer.layers)[1:])
    assert shown.maximum == 0
    assert told == []
    assert np.array_equal(edit.data, before[0])
    assert edit.metadata[KEY] == {**before[1], PUT_AWAY: True}, "it says what it shows still"


def test_the_next_tile_is_shown_in_the_same_layers(
    viewer: Any, slide: Slide, shown: Scene, noise: Callable[..., np.ndarray]
) -> None:
    edit, heatmap = shown.layer("edit"), shown.layer("heatmap edit")
    edit.name, edit.visible, edit.opacity = "my favourite", False, 0.3
    told = told_of(viewer.layers)
    other = cut_tile(slide, (400.0, 100.0), size_px=2 * SIDE, mpp=0.5)
    shown.place(other, slide, draws_tile=False)
    pixels = noise(2 * SIDE, 2 * SIDE, seed=5)
    shown.show("edit", other.redrawn(pixels, POINT, "other"), seen(other, 1.0, target="fat"))
    assert shown.layer("edit") is edit
    assert told == []
    assert np.array_equal(edit.data, pixels)
    left, top, *_ = other.level0_box
    assert corner(edit, viewer.layers[0]) == pytest.approx((top, left))
    assert corner(heatmap, viewer.layers[0]) == pytest.approx((top, left))
    assert edit.scale == pytest.approx((0.5, 0.5)), "pixels of another size"
    assert (edit.name, edit.visible, edit.opacity) == ("SYNTHETIC edit", True, 1.0), "as a new one would be"
    assert heatmap.name == "Grad-CAM edit: fat (of a SYNTHETIC tile)"
    assert PUT_AWAY not in edit.metadata[KEY]
    assert shown.layer("reconstruction") is None
    shown.show("edit", other.redrawn(255 - pixels, POINT, "next"))
    assert np.array_equal(pixels, noise(2 * SIDE, 2 * SIDE, seed=5)), "a picture stays what it was"


def test_what_the_user_took_away_while_it_was_put_away_comes_anew(
    viewer: Any, slide: Slide, shown: Scene, tile: Tile
) -> None:
    edit = shown.layer("edit")
    shown.forget()
    viewer.layers.remove(edit)
    shown.place(tile, slide, draws_tile=False)
    shown.show("edit", tile)
    assert shown.layer("edit") is not edit
    assert np.array_equal(shown.layer("edit").data, tile.pixels)


def test_what_was_hidden_by_hand_stays_hidden_while_the_slider_moves(
    shown: Scene, tile: Tile, noise: Callable[..., np.ndarray]
) -> None:
    shown.layer("edit").visible = False
    shown.show("edit", drawn(tile, noise, 3), seen(tile, 1.5))
    assert not shown.layer("edit").visible
    assert shown.layer("heatmap edit").visible


def test_heatmaps_lie_above_pictures_whichever_came_first(
    viewer: Any, slide: Slide, tile: Tile, noise: Callable[..., np.ndarray]
) -> None:
    add(viewer, slide_layer(slide))
    scene = Scene(viewer)
    scene.set_look(Look(thresholds=(0.5,)))
    scene.place(tile, slide, draws_tile=False)
    scene.show("tile", tile, seen(tile, 1.0))
    scene.show("reconstruction", drawn(tile, noise, 1), seen(tile, 1.0))
    scene.show("edit", drawn(tile, noise, 1))
    keys = (
        "reconstruction",
        "edit",
        "heatmap tile",
        "heatmap reconstruction",
        "lines tile",
        "lines reconstruction",
    )
    assert list(viewer.layers)[1:] == [scene.layer(key) for key in keys]


def test_what_is_put_away_is_in_the_unit_of_the_slide_that_is_there(
    viewer: Any, slide: Slide, shown: Scene, tile: Tile
) -> None:
    edit = shown.layer("edit")
    assert {str(unit) for unit in edit.units} == {"micrometer"}
    shown.place(replace(tile, level0_box=None, mpp=None), None, draws_tile=False)
    assert {str(unit) for unit in edit.units} == {"pixel"}


def test_at_a_new_tile_the_layers_lie_above_what_was_opened_since(
    viewer: Any, slide: Slide, shown: Scene, tile: Tile
) -> None:
    mine = list(viewer.layers)[1:]
    opened = viewer.add_image(np.zeros((4, 4)), name="another slide")
    shown.place(tile, slide, draws_tile=False)
    assert list(viewer.layers)[1:] == [opened, *mine]


def test_the_users_selection_stays(viewer: Any, slide: Slide, tile: Tile) -> None:
    chosen = add(viewer, slide_layer(slide))
    viewer.layers.selection.active = chosen
    scene = Scene(viewer)
    scene.place(tile, slide, draws_tile=True)
    scene.show("tile", tile, seen(tile, 1.0))
    assert viewer.layers.selection.active is chosen


# In which order


def order(viewer: Any, scene: Scene, *keys: str) -> list[int]:
    """Return at which places of the layer list these lie, from below."""
    return [viewer.layers.index(scene.layer(key)) for key in keys]


def is_rising(places: list[int]) -> bool:
    return places == sorted(places)


def test_a_tile_that_comes_late_does_not_cover_the_edit(
    viewer: Any, slide: Slide, shown: Scene, tile: Tile, noise: Callable[..., np.ndarray]
) -> None:
    shown.place(replace(tile), slide, draws_tile=True)
    shown.show("tile", tile, seen(tile, 1.0))
    for column, seed in (("reconstruction", 3), ("edit", 4)):
        shown.show(column, drawn(tile, noise, seed), seen(tile, 1.0))
    keys = ("tile", "reconstruction", "edit", "heatmap tile", "heatmap reconstruction", "heatmap edit")
    assert is_rising(order(viewer, shown, *keys))


def test_a_reconstruction_that_was_removed_comes_back_below_the_edit(
    viewer: Any, shown: Scene, tile: Tile, noise: Callable[..., np.ndarray]
) -> None:
    viewer.layers.remove(shown.layer("reconstruction"))
    shown.show("reconstruction", drawn(tile, noise, 3))
    assert is_rising(order(viewer, shown, "reconstruction", "edit", "heatmap tile"))


def test_the_residual_lies_above_the_edit(
    viewer: Any, slide: Slide, tile: Tile, noise: Callable[..., np.ndarray]
) -> None:
    scene = Scene(viewer)
    scene.set_look(Look(shows_residual=True))
    scene.place(tile, slide, draws_tile=False)
    scene.show("tile", tile, seen(tile, 1.0))
    scene.show("reconstruction", drawn(tile, noise, 1))
    scene.show("edit", drawn(tile, noise, 1))
    assert is_rising(order(viewer, scene, "edit", "residual", "heatmap tile"))
    scene.set_look(Look())
    residual = next(layer for layer in viewer.layers if "residual" in layer.name)
    for place in (0, len(viewer.layers)):
        viewer.layers.move(viewer.layers.index(residual), place)
        scene.set_look(Look(shows_residual=True))
        assert is_rising(order(viewer, scene, "reconstruction", "edit", "residual", "heatmap tile")), place
        scene.set_look(Look())


def test_at_a_new_tile_the_layers_are_in_their_order_again(
    viewer: Any, slide: Slide, shown: Scene, tile: Tile
) -> None:
    for index in (1, 3, 2):
        viewer.layers.move(index, len(viewer.layers))
    shown.place(replace(tile), slide, draws_tile=False)
    keys = ("reconstruction", "edit", "heatmap tile", "heatmap reconstruction", "heatmap edit")
    assert [layer.metadata[KEY]["role"] for layer in list(viewer.layers)[1:]] == [
        key.replace("heatmap", "Grad-CAM") for key in keys
    ]


# What is put away


def test_what_is_put_away_says_in_its_name_that_it_is_of_earlier(
    viewer: Any, slide: Slide, shown: Scene, tile: Tile, noise: Callable[..., np.ndarray]
) -> None:
    edit, heatmap, reconstruction = (shown.layer(key) for key in ("edit", "heatmap edit", "reconstruction"))
    reconstruction.name = "mine"
    shown.show("edit", None)
    assert (edit.name, heatmap.name) == (
        f"SYNTHETIC edit{EARLIER}",
        f"Grad-CAM edit: stroma (of a SYNTHETIC tile){EARLIER}",
    )
    for _ in range(2):
        shown.place(replace(tile), slide, draws_tile=False)
        assert edit.name == f"SYNTHETIC edit{EARLIER_TILE}"
        assert heatmap.name.endswith(f"{EARLIER_TILE}")
    assert reconstruction.name == "mine"
    edit.visible = True  # the user looks at it once more
    shown.place(replace(tile), slide, draws_tile=False)
    assert not edit.visible
    shown.show("edit", drawn(tile, noise, 3), seen(tile, 1.0))
    assert (edit.name, heatmap.name) == ("SYNTHETIC edit", "Grad-CAM edit: stroma (of a SYNTHETIC tile)")


def test_a_name_and_an_eye_of_the_users_stay_with_the_tile(
    shown: Scene, tile: Tile, noise: Callable[..., np.ndarray]
) -> None:
    edit, of_tile, of_edit = (shown.layer(key) for key in ("edit", "heatmap tile", "heatmap edit"))
    edit.name, edit.visible, of_tile.visible, of_edit.visible = "mine", False, True, False
    for seed in (3, 4):
        for column in ("tile", "edit"):
            shown.show(column, None)
        assert edit.name == "mine"
        assert not of_tile.visible
        shown.show("tile", tile, seen(tile, 1.0))
        shown.show("edit", drawn(tile, noise, seed), seen(tile, 1.0))
        assert (edit.name, edit.visible, of_tile.visible, of_edit.visible) == ("mine", False, True, False)
    shown.set_look(Look(is_beside=True))
    assert edit.visible, "another layout shows all"
    shown.set_look(Look())
    shown.show("tile", tile, seen(tile, 1.0))
    assert not of_tile.visible


def test_what_is_put_away_never_lies_outside_the_slide(
    viewer: Any, slide: Slide, shown: Scene, tile: Tile
) -> None:
    shown.set_look(Look(thresholds=(0.5,)))
    mine = list(viewer.layers)[1:]
    assert len(mine) == 8, "with three of lines"
    other = SimpleNamespace(info=replace(slide.info, digest="other", mpp_x=0.125, mpp_y=0.125))
    there = replace(tile, slide_digest="other", level0_box=(8.0, 4.0, 40.0, 36.0))
    shown.place(there, other, draws_tile=False)
    for layer in mine:
        ends = [layer.data_to_world((-0.5 + n, -0.5 + n)) for n in (0, SIDE)]
        assert np.ravel(ends) == pytest.approx([0.4375, 0.9375, 4.4375, 4.9375]), layer.name
    off = replace(there, level0_box=None)
    shown.place(off, other, draws_tile=False)
    shown.show("edit", off, seen(off, 1.0))
    assert [layer.data_to_world((SIDE, SIDE))[1] < 0 for layer in mine].count(True) == 3, "the edit's own"
    shown.place(there, other, draws_tile=False)
    for layer in mine:
        assert layer.data_to_world((-0.5, -0.5)) == pytest.approx((0.4375, 0.9375)), layer.name


def test_closing_takes_along_what_is_put_away_and_nothing_else(
    proxy: Any, viewer: Any, slide: Slide, tile: Tile, noise: Callable[..., np.ndarray]
) -> None:
    add(viewer, slide_layer(slide))
    for n in range(2):
        scene = Scene(proxy)
        scene.place(tile, slide, draws_tile=False)
        scene.show("tile", tile, seen(tile, 1.0))
        for column, seed in (("reconstruction", 1), ("edit", 2)):
            scene.show(column, drawn(tile, noise, seed), seen(tile, 1.0))
        scene.place(replace(tile), slide, draws_tile=False)
        scene.show("tile", tile, seen(tile, 1.0))
        scene.layer("heatmap tile").name = f"heatmap {n}"
        next(v for v in viewer.layers if v.name.startswith("SYNTHETIC edit")).visible = True
        next(v for v in viewer.layers if v.name.startswith("SYNTHETIC recon")).name = f"mine {n}"
        mine = {f"heatmap {n}", f"SYNTHETIC edit{EARLIER_TILE}", f"mine {n}"}
        before = {layer.name for layer in viewer.layers}
        assert mine < before
        scene.close()
        scene.close()
        assert before - {layer.name for layer in viewer.layers} == {
            f"Grad-CAM {column}: stroma (of a SYNTHETIC tile){EARLIER_TILE}"
            for column in ("reconstruction", "edit")
        }
        viewer.layers.remove(f"SYNTHETIC edit{EARLIER_TILE}")
    scene.show("edit", drawn(tile, noise, 3), seen(tile, 1.0))
    assert scene.layer("heatmap edit").visible, "what was taken away comes anew"
