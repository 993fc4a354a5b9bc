from __future__ import annotations

import numpy as np
import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.latent.measured import FEATURES, function_named, measured, table

EOSIN, NUCLEUS, GLASS = (230, 150, 190), (80, 50, 130), (250, 250, 250)


def tile(nuclei: int, glass: int) -> np.ndarray:
    """A pink tile of 40 px with dark squares of 8 px, and glass in rows from below."""
    pixels = np.full((40, 40, 3), EOSIN, np.uint8)
    for i in range(nuclei):
        top, left = 1 + 12 * (i // 3), 1 + 12 * (i % 3)
        pixels[top : top + 8, left : left + 8] = NUCLEUS
    if glass:
        pixels[-glass:] = GLASS
    return pixels


def test_each_feature_grows_with_what_it_measures() -> None:
    images = np.stack([tile(0, 0), tile(2, 0), tile(6, 0), tile(6, 12)])
    found = table(images)
    assert set(found) == set(FEATURES)
    assert all(values.shape == (4,) and values.dtype == np.float64 for values in found.values())
    area = found["nuclear area fraction"]
    assert area[:3] == pytest.approx([0, 2 * 64 / 1600, 6 * 64 / 1600], abs=0.05)
    stain = found["haematoxylin"]
    assert stain[0] < stain[1] < stain[2]
    assert found["lumen fraction"] == pytest.approx([0, 0, 0, 0.3])


def test_one_image_is_measured_as_among_others() -> None:
    images = np.stack([tile(2, 0), tile(6, 4)])
    for name in FEATURES:
        assert measured(images[1:], name)[0] == pytest.approx(measured(images, name)[1])
        assert function_named(name)(images).tolist() == measured(images, name).tolist()


def test_a_feature_that_there_is_not_is_refused() -> None:
    with pytest.raises(UserError, match="no measured feature 'age'; choose one of: nuclear area fraction, "):
        measured(np.zeros((1, 8, 8, 3), np.uint8), "age")
