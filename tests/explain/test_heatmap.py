from __future__ import annotations

import json

import numpy as np
import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.explain import COLORMAPS, Heatmap, colored, lookup_table, overlaid
from napari_histolatent.explain.heatmap import shared_maximum, translucent

DARKEST, BRIGHTEST = (20, 20, 90), (255, 250, 180)


def heatmap(values: object, **facts: object) -> Heatmap:
    given = {"target": "stroma", "layer": "features.11", "probability": 0.75} | facts
    return Heatmap(values=np.array(values, np.float32), **given)  # type: ignore[arg-type]


def lightness(colors: np.ndarray) -> np.ndarray:
    return colors.astype(float) @ [0.2126, 0.7152, 0.0722]


def test_one_scale_for_all() -> None:
    maps = [heatmap([[0, 1]]), heatmap([[3, 2]]), heatmap([[0, 0]])]
    assert shared_maximum(maps) == 3
    assert shared_maximum(maps[::2]) == 1
    assert shared_maximum([]) == 0


def test_colours_run_from_dark_to_bright() -> None:
    colors = colored(heatmap([[0, 1, 2, 4]]))
    assert (colors.shape, colors.dtype) == ((1, 4, 3), np.uint8)
    assert tuple(colors[0, 0]) == DARKEST
    assert tuple(colors[0, -1]) == BRIGHTEST


def test_colours_can_be_read_in_grey() -> None:
    ramp = colored(heatmap([np.linspace(0, 1, 256)]))[0]
    assert (np.diff(lightness(ramp)) >= 0).all()
    assert len(np.unique(ramp, axis=0)) > 200


def test_a_shared_scale_makes_the_weaker_map_darker() -> None:
    weak, strong = heatmap([[0.0, 1.0]]), heatmap([[0.0, 4.0]])
    top = shared_maximum([weak, strong])
    assert tuple(colored(weak)[0, 1]) == tuple(colored(strong, maximum=top)[0, 1]) == BRIGHTEST
    np.testing.assert_array_equal(colored(weak, maximum=top)[0, 1], colored(heatmap([[0.25, 1]]))[0, 0])


def test_what_is_beyond_the_scale_is_brightest() -> None:
    assert tuple(colored(heatmap([[9.0]]), maximum=2)[0, 0]) == BRIGHTEST


@pytest.mark.parametrize("maximum", [None, 0.0, 5.0])
def test_a_map_of_nothing_is_dark_all_over(maximum: float | None) -> None:
    assert (colored(heatmap(np.zeros((4, 5))), maximum=maximum) == DARKEST).all()


def test_a_translucent_map_is_clear_where_there_is_nothing() -> None:
    shown = heatmap([[0, 1, 2, 4]])
    layer = translucent(shown)
    assert (layer.shape, layer.dtype) == ((1, 4, 4), np.uint8)
    np.testing.assert_array_equal(layer[..., :3], colored(shown))
    assert layer[0, :, 3].tolist() == [0, 64, 128, 255]


def test_a_translucent_map_keeps_the_shared_scale() -> None:
    layer = translucent(heatmap([[0.0, 1.0, 9.0]]), maximum=5)
    np.testing.assert_array_equal(layer[..., :3], colored(heatmap([[0.0, 1.0, 9.0]]), maximum=5))
    assert layer[0, :, 3].tolist() == [0, 51, 255]


def test_a_translucent_map_of_nothing_is_clear_all_over() -> None:
    assert (translucent(heatmap(np.zeros((4, 5))))[..., 3] == 0).all()


@pytest.mark.parametrize(("opacity", "share"), [(0.0, 0), (0.25, 0.25), (1.0, 1)])
def test_the_map_over_the_tile(opacity: float, share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    shown = heatmap(np.linspace(0, 2, 36).reshape(6, 6))
    mixed = overlaid(pixels, shown, opacity=opacity)
    assert (mixed.shape, mixed.dtype) == ((6, 6, 3), np.uint8)
    expected = (1 - share) * pixels.astype(float) + share * colored(shown).astype(float)
    np.testing.assert_allclose(mixed, expected, atol=0.51)


def test_the_overlay_is_half_and_half_if_nothing_is_said() -> None:
    pixels, shown = np.full((1, 2, 3), 200, np.uint8), heatmap([[0, 1]])
    np.testing.assert_array_equal(overlaid(pixels, shown), overlaid(pixels, shown, opacity=0.5))


def test_the_overlay_keeps_the_shared_scale() -> None:
    pixels, shown = np.zeros((1, 1, 3), np.uint8), heatmap([[1.0]])
    np.testing.assert_array_equal(
        overlaid(pixels, shown, maximum=4, opacity=1)[0, 0], colored(shown, maximum=4)[0, 0]
    )


def test_the_tile_given_stays_as_it_is() -> None:
    pixels = np.full((1, 2, 3), 200, np.uint8)
    overlaid(pixels, heatmap([[0, 1]]))
    assert (pixels == 200).all()


@pytest.mark.parametrize("box", [None, (1.0, 2.0, 3.0, 4.0)])
def test_json_of_all_but_the_map(box: tuple[float, ...] | None) -> None:
    facts = heatmap([[0.5, 2]], level0_box=box).to_json()
    assert json.loads(json.dumps(facts)) == {
        "target": "stroma",
        "layer": "features.11",
        "probability": 0.75,
        "maximum": 2.0,
        "level0_box": None if box is None else [1.0, 2.0, 3.0, 4.0],
    }


# Colour maps


def test_the_default_colour_map_is_the_first() -> None:
    shown = heatmap(np.linspace(0, 2, 36).reshape(6, 6))
    assert COLORMAPS == ("ember", "jet")
    np.testing.assert_array_equal(colored(shown), colored(shown, colormap="ember"))


def test_jet_runs_from_blue_through_green_to_red() -> None:
    low, middle, high = colored(heatmap([[0, 1, 2]]), colormap="jet")[0].tolist()
    assert (low, high) == ([0, 0, 128], [128, 0, 0])
    assert middle[1] == 255
    assert middle[0] == middle[2] < 140


@pytest.mark.parametrize("name", COLORMAPS)
def test_a_lookup_table_is_what_maps_are_coloured_by(name: str) -> None:
    table = lookup_table(name)
    assert (table.shape, table.dtype) == ((256, 3), np.uint8)
    ramp = heatmap([np.arange(256)])
    np.testing.assert_allclose(colored(ramp, colormap=name)[0].astype(int), table, atol=1)


def test_every_picture_of_a_map_takes_the_colour_map() -> None:
    shown, pixels = heatmap([[0.0, 1.0, 3.0]]), np.zeros((1, 3, 3), np.uint8)
    jet = colored(shown, colormap="jet", maximum=4)
    np.testing.assert_array_equal(translucent(shown, colormap="jet", maximum=4)[..., :3], jet)
    np.testing.assert_array_equal(overlaid(pixels, shown, colormap="jet", maximum=4, opacity=1), jet)


def test_an_unknown_colour_map_is_refused() -> None:
    with pytest.raises(UserError, match=r"no colour map 'hot'; choose one of ember, jet\.$"):
        colored(heatmap([[0, 1]]), colormap="hot")
