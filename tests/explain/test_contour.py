from __future__ import annotations

import numpy as np
import pytest
from shapely import Polygon

from napari_histolatent.errors import UserError
from napari_histolatent.explain import Heatmap, contours


def heatmap(values: object) -> Heatmap:
    return Heatmap(np.array(values, np.float32), "stroma", "features.11", 0.75)


def cone(size: int = 40, centre: tuple[float, float] = (24.0, 14.0), height: float = 10.0) -> Heatmap:
    """A cone over (x, y), falling by 1 a pixel."""
    rows, columns = np.mgrid[:size, :size] + 0.5
    return heatmap(np.maximum(height - np.hypot(columns - centre[0], rows - centre[1]), 0))


def test_a_cone_has_circles_about_its_tip() -> None:
    shown = cone()
    for contour, radius in zip(contours(shown, (0.8, 0.5, 0.2), maximum=10), (2, 5, 8), strict=True):
        (line,) = contour.lines
        np.testing.assert_array_equal(line[0], line[-1])
        distances = np.hypot(*(line - (24.0, 14.0)).T)
        np.testing.assert_allclose(distances, radius, atol=0.25)


def test_thresholds_are_shares_of_the_maps_own_maximum_if_nothing_is_said() -> None:
    shown = cone()
    own = contours(shown, (0.3,))[0]
    stated = contours(shown, (0.3,), maximum=float(shown.values.max()))[0]
    np.testing.assert_array_equal(own.lines[0], stated.lines[0])
    assert contours(shown, (0.5,), maximum=40.0)[0].lines == (), "nothing as high as that"


def test_two_places_have_two_lines() -> None:
    values = np.maximum(cone(centre=(8.0, 8.0), height=5).values, cone(centre=(30.0, 28.0), height=5).values)
    lines = contours(heatmap(values))[0].lines
    middles = sorted(tuple(line[:-1].mean(axis=0)) for line in lines)
    np.testing.assert_allclose(middles, [(8, 8), (30, 28)], atol=0.3)


def test_lines_close_at_the_edge() -> None:
    (line,) = contours(heatmap(np.ones((6, 9))))[0].lines
    np.testing.assert_array_equal(line[0], line[-1])
    assert line.min(axis=0).tolist() == [0, 0]
    assert line.max(axis=0).tolist() == [9, 6]
    assert Polygon(line).area == pytest.approx(54, rel=0.02)


def test_a_map_of_nothing_has_no_lines() -> None:
    assert [contour.lines for contour in contours(heatmap(np.zeros((4, 5))), (0.2, 0.5))] == [(), ()]
    assert contours(heatmap(np.ones((4, 5))), ()) == ()


def test_lines_on_the_slide() -> None:
    contour = contours(heatmap(np.ones((6, 9))))[0]
    (placed,) = contour.on_slide((6, 9), (100.0, 200.0, 118.0, 206.0))
    assert placed.min(axis=0).tolist() == [100, 200]
    assert placed.max(axis=0).tolist() == [118, 206]


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, float("nan")])
def test_a_threshold_that_is_none_is_refused(threshold: float) -> None:
    with pytest.raises(UserError, match=rf"threshold of {threshold:g} is not possible; give shares"):
        contours(cone(), (0.5, threshold))
