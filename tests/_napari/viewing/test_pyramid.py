from __future__ import annotations

from itertools import pairwise

import pytest

from napari_histolatent._napari.viewing._pyramid import (
    box_of,
    centre_out,
    content_ratio,
    display_levels,
    overlap,
    tiles_of,
    within,
)
from napari_histolatent.slides import Level


def stored(*sizes: tuple[int, int]) -> list[Level]:
    """Return levels as OpenSlide describes them: the downsample is the mean of both ratios."""
    (width, height), *_ = sizes
    return [Level(w, h, (width / w + height / h) / 2) for w, h in sizes]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4443, 3567), (98_304, 98_304), (61_247, 17), (7, 9000)])
@pytest.mark.parametrize("coarsest", [64, 2048])
def test_levels_halve_exactly_until_one_fits_in_memory(size: tuple[int, int], coarsest: int) -> None:
    levels = display_levels(stored(size), coarsest_px=coarsest)
    assert len(levels) >= 2, "napari takes a picture for multiscale from two levels on"
    assert [level.downsample for level in levels] == [2**i for i in range(len(levels))]
    for finer, coarser in pairwise(levels):
        # napari places a level by the ratio of shapes.
        assert (finer.width_px, finer.height_px) == (2 * coarser.width_px, 2 * coarser.height_px)
    finest, last = levels[0], levels[-1]
    assert (finest.inside_width_px, finest.inside_height_px) == size
    assert 0 <= finest.width_px - size[0] < last.downsample
    assert 0 <= finest.height_px - size[1] < last.downsample
    assert max(last.inside_width_px, last.inside_height_px) <= max(coarsest, max(size) / 2 + 1)


def test_each_level_is_read_from_the_next_finer_stored_one() -> None:
    levels = display_levels(stored((61_440, 61_440), (15_360, 15_360), (3840, 3840), (960, 960)))
    assert [level.stored_level for level in levels] == [0, 0, 1, 1, 2, 2]
    assert [level.factor for level in levels] == [1, 2, 1, 2, 1, 2]


def test_a_slide_of_one_level_is_halved() -> None:
    levels = display_levels(stored((10_000, 5000)))
    assert [level.stored_level for level in levels] == [0, 0, 0, 0]
    assert [level.factor for level in levels] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((11_500, 8228), 4.0),  # a scanner's 4.00012: 46000 x 32914 in blocks of 4, the rest cut
        ((11_500, 8229), 4.0),  # rounded up
        ((11_498, 8228), 4.0004),  # not what blocks of 4 leave
        ((18_400, 13_166), 2.5),
    ],
)
def test_sizes_that_were_cut_do_not_move_the_content(size: tuple[int, int], expected: float) -> None:
    level0, level = stored((46_000, 32_914), size)
    assert content_ratio(level0, level) == pytest.approx(expected, rel=1e-4)
    assert (content_ratio(level0, level) == round(expected)) == (expected == round(expected))


def test_odd_ratios_are_shown_from_their_own_level() -> None:
    levels = display_levels(stored((61_247, 61_247), (15_311, 15_311), (3827, 3827), (956, 956)))
    assert [level.stored_level for level in levels] == [0, 0, 1, 1, 2, 2]
    assert [level.factor for level in levels] == [1, 2, 1, 2, 1, 2]
    assert (levels[2].inside_width_px, levels[2].width_px) == (15_311, 61_248 // 4)


def test_the_tiles_of_a_box() -> None:
    assert list(tiles_of((0, 512, 0, 513), 3)) == [(3, 0, 0), (3, 0, 1)]
    assert list(tiles_of((511, 513, 1024, 1025), 0)) == [(0, 0, 2), (0, 1, 2)]


def test_the_box_of_a_tile_ends_with_its_level() -> None:
    level = display_levels(stored((1000, 600)))[0]
    assert box_of((0, 0, 0), level) == (0, 512, 0, 512)
    assert box_of((0, 1, 1), level) == (512, 600, 512, 1000)


def test_the_middle_comes_first() -> None:
    box = (0, 1536, 0, 1536)
    ordered = centre_out(list(tiles_of(box, 0)), box)
    assert ordered[0] == (0, 1, 1)
    assert set(ordered[-4:]) == {(0, 0, 0), (0, 0, 2), (0, 2, 0), (0, 2, 2)}


def test_boxes_overlap_where_they_do() -> None:
    assert overlap((0, 10, 0, 10), (5, 20, 8, 9)) == (5, 10, 8, 9)
    assert overlap((0, 10, 0, 10), (10, 20, 0, 10)) is None
    assert within((5, 10, 8, 9), (5, 20, 4, 9)) == (slice(0, 5), slice(4, 5))
