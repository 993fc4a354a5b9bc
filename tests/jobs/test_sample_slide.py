from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from napari_histolatent.annotations import read_annotations
from napari_histolatent.errors import UserError
from napari_histolatent.jobs.sample_slide import (
    ASSUMED_MPP,
    GLASS_RGB,
    Layout,
    latent_field,
    layout_of,
    regions_of,
    write_generated_slide,
    write_mosaic,
)
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent.training.load import LoadedGenerator

COLORS = np.array([[200, 60, 120], [60, 70, 190]], np.uint8)
DrawRow = Any


def painted(layout: Layout) -> DrawRow:
    """Draw each tile in the colour of its class."""

    def draw_row(row: int, columns: np.ndarray) -> np.ndarray:
        colors = COLORS[layout.class_weights[row, columns].argmax(axis=-1)]
        side = layout.tile_px
        return np.broadcast_to(colors[:, None, None], (len(columns), side, side, 3))

    return draw_row


def write(path: Path, layout: Layout, draw_row: DrawRow, **options: Any) -> Path:
    write_mosaic(
        path,
        layout,
        draw_row,
        class_names=("dark", "bright"),
        mpp=0.5,
        title="A title",
        facts={"seed": 3},
        **options,
    )
    return path


def everywhere(layout: Layout) -> Layout:
    """The same with tissue up to the borders."""
    return replace(layout, edge=np.ones_like(layout.edge))


def finest(path: Path) -> np.ndarray:
    return tifffile.imread(path, level=0)


# The layout


@pytest.mark.parametrize(("size_px", "tile_px", "overlap_px"), [(1000, 64, 16), (256, 64, 0), (64, 64, 8)])
def test_the_grid_covers_the_slide_with_no_row_too_many(size_px: int, tile_px: int, overlap_px: int) -> None:
    layout = layout_of(size_px=size_px, tile_px=tile_px, overlap_px=overlap_px, n_classes=2)
    n = len(layout.edge)
    reach = n * (tile_px - overlap_px) + overlap_px
    assert reach >= size_px
    assert reach - (tile_px - overlap_px) < size_px
    assert layout.class_weights.shape == (n, n, 2)
    assert layout.class_weights.sum(axis=-1) == pytest.approx(1)


def test_tissue_is_one_piece_amid_glass_with_regions_of_both_classes() -> None:
    layout = layout_of(size_px=4096, tile_px=64, n_classes=2, seed=5)
    border = np.concatenate([layout.drawn[0], layout.drawn[-1], layout.drawn[:, 0], layout.drawn[:, -1]])
    assert not border.any()
    assert 0.4 < layout.drawn.mean() < 0.8
    shares = layout.class_weights[layout.inside].mean(axis=0)
    assert 0.25 < shares[0] < 0.75
    # Smooth: a tile is nearly always of its neighbour's class.
    kind = layout.class_weights.argmax(axis=-1)
    assert (kind[:, 1:] == kind[:, :-1]).mean() > 0.9


def test_a_sharp_layout_blends_no_classes() -> None:
    sharp = layout_of(size_px=2048, tile_px=64, n_classes=3, sharp=True).class_weights
    soft = layout_of(size_px=2048, tile_px=64, n_classes=3).class_weights
    assert set(np.unique(sharp)) == {0, 1}
    assert np.array_equal(sharp.argmax(axis=-1), soft.argmax(axis=-1))
    assert ((soft > 0.1) & (soft < 0.9)).any()


def test_a_network_without_classes_has_a_layout_without() -> None:
    layout = layout_of(size_px=512, tile_px=64, n_classes=0)
    assert layout.class_weights.shape == (8, 8, 0)
    assert regions_of(layout, ()).regions == ()


@pytest.mark.parametrize(("prior", "variance"), [("normal", 1.0), ("uniform", 1 / 3)])
def test_latents_are_of_the_prior_and_neighbours_alike(prior: str, variance: float) -> None:
    z = latent_field(40, 32, prior=prior, seed=1)
    assert z.mean() == pytest.approx(0, abs=0.05)
    assert z.var() == pytest.approx(variance, rel=0.05)
    assert (np.abs(z).max() <= 1) == (prior == "uniform")

    def likeness(shift: int) -> float:
        return float((z * np.roll(z, shift, axis=1)).mean() / variance)

    assert 0.4 < likeness(1) < 0.65
    assert abs(likeness(15)) < 0.1


# The slide


def test_regions_lie_on_what_they_name(tmp_path: Path) -> None:
    layout = layout_of(size_px=2048, tile_px=32, overlap_px=8, n_classes=2, seed=2)
    path = write(tmp_path / "slide.tif", layout, painted(layout))
    pixels = finest(path).astype(int)
    regions = read_annotations(tmp_path / "slide.geojson").regions
    assert {region.class_name for region in regions} == {"dark", "bright"}
    for region in regions:
        for polygon in region.polygons:
            place = polygon.representative_point()
            color = COLORS[("dark", "bright").index(region.class_name)].astype(int)
            assert np.abs(pixels[int(place.y), int(place.x)] - color).max() < 12, region.name
    area = sum(region.geometry.area for region in regions)
    is_glass = np.abs(pixels - GLASS_RGB).max(axis=-1) < 3
    assert 0.5 < area / (~is_glass).sum() < 1
    assert is_glass[:60].all()
    assert is_glass[:, -60:].all()


def test_it_opens_as_a_pyramid_that_says_what_it_is(tmp_path: Path) -> None:
    layout = layout_of(size_px=2100, tile_px=64, n_classes=2)
    path = write(tmp_path / "slide.tif", layout, painted(layout))
    with open_slide(path) as slide:
        assert [(level.width_px, level.height_px) for level in slide.info.levels] == [
            (2100, 2100),
            (1050, 1050),
            (525, 525),
        ]
        assert slide.info.mpp_x == slide.info.mpp_y == pytest.approx(0.5)
        fine = slide.read_region((800, 900), size_px=(512, 512), level=0).astype(float)
        coarse = slide.read_region((800, 900), size_px=(128, 128), level=2).astype(float)
    assert np.abs(fine.reshape(128, 4, 128, 4, 3).mean(axis=(1, 3)) - coarse).mean() < 3
    with tifffile.TiffFile(path) as file:
        assert [level.pages[0].tile for level in file.series[0].levels] == [(256, 256)] * 3
        title, facts = file.pages[0].description.split("\n\n")
    assert title == "A title"
    assert json.loads(facts) == {"seed": 3, "mpp": 0.5}


def test_neighbours_fade_into_one_another(tmp_path: Path) -> None:
    layout = everywhere(layout_of(size_px=112, tile_px=64, overlap_px=16, n_classes=2))

    def draw_row(row: int, columns: np.ndarray) -> np.ndarray:
        levels = np.where((columns + row) % 2 == 0, 60, 180).astype(np.uint8)
        return np.broadcast_to(levels[:, None, None, None], (len(columns), 64, 64, 3))

    pixels = finest(write(tmp_path / "slide.tif", layout, draw_row)).astype(float)[..., 1]
    line = pixels[20]
    assert line[:47] == pytest.approx(60, abs=2)
    assert line[65:] == pytest.approx(180, abs=2)
    assert line[48:64] == pytest.approx(60 + 120 * (np.arange(16) + 0.5) / 16, abs=4)
    assert pixels[:, 20] == pytest.approx(line, abs=4)


@pytest.mark.parametrize("overlap_px", [0, 16])
def test_equal_tiles_leave_no_seam(tmp_path: Path, overlap_px: int) -> None:
    layout = everywhere(layout_of(size_px=200, tile_px=64, overlap_px=overlap_px, n_classes=2))

    def draw_row(row: int, columns: np.ndarray) -> np.ndarray:
        return np.full((len(columns), 64, 64, 3), 123, np.uint8)

    pixels = finest(write(tmp_path / "slide.tif", layout, draw_row))
    assert pixels.shape == (200, 200, 3)
    assert np.abs(pixels.astype(int) - 123).max() <= 1


def test_without_overlap_tiles_are_as_they_are(tmp_path: Path) -> None:
    layout = everywhere(layout_of(size_px=96, tile_px=32, n_classes=2))
    tiles = np.random.default_rng(0).integers(60, 200, (3, 3, 1, 1, 3), np.uint8)

    def draw_row(row: int, columns: np.ndarray) -> np.ndarray:
        return np.broadcast_to(tiles[row, columns], (len(columns), 32, 32, 3))

    pixels = finest(write(tmp_path / "slide.tif", layout, draw_row)).astype(int)
    for row, column in np.ndindex(3, 3):
        middle = pixels[32 * row + 10 : 32 * row + 22, 32 * column + 10 : 32 * column + 22]
        assert np.abs(middle - tiles[row, column]).max() < 16
        assert np.abs(middle.mean(axis=(0, 1)) - tiles[row, column, 0, 0]).max() < 6


def test_progress_counts_rows_up(tmp_path: Path) -> None:
    layout = layout_of(size_px=256, tile_px=64, n_classes=2)
    said: list[tuple[int, int]] = []
    write(
        tmp_path / "slide.tif",
        layout,
        painted(layout),
        on_progress=lambda done, total: said.append((done, total)),
    )
    assert said == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_fails_midway_leaves_the_old_slide(tmp_path: Path) -> None:
    layout = layout_of(size_px=256, tile_px=64, n_classes=2)
    path = write(tmp_path / "slide.tif", layout, painted(layout))
    before = path.read_bytes()

    def fails(row: int, columns: np.ndarray) -> np.ndarray:
        if row == 2:
            msg = "out of memory"
            raise RuntimeError(msg)
        return painted(layout)(row, columns)

    with pytest.raises(RuntimeError, match="out of memory"):
        write(path, layout, fails)
    assert path.read_bytes() == before
    assert {item.name for item in tmp_path.iterdir()} == {"slide.tif", "slide.geojson"}


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    layout = layout_of(size_px=64, tile_px=64, n_classes=2)
    with pytest.raises(UserError, match="a file is in the way"):
        write(tmp_path / "file" / "slide.tif", layout, painted(layout))


# A generator's


def described(path: Path) -> tuple[str, dict[str, Any]]:
    with tifffile.TiffFile(path) as file:
        title, facts = file.pages[0].description.split("\n\n")
    return title, json.loads(facts)


def test_a_slide_of_samples(generator: LoadedGenerator, tmp_path: Path) -> None:
    path = tmp_path / "SYNTHETIC-slide.tif"
    write_generated_slide(path, generator, size_px=600, seed=4)
    title, facts = described(path)
    assert title.startswith("SYNTHETIC: drawn by a generative model, not tissue")
    assert facts == {
        "synthetic": True,
        "model_digest": generator.checkpoint.digest,
        "weights": "trained",
        "classes": ["epithelium", "stroma"],
        "seed": 4,
        "tile_px": 32,
        "mpp_is_assumed": False,
        "mpp": 1.0,
    }
    with open_slide(path) as slide:
        assert slide.info.mpp_x == pytest.approx(1.0)
        middle = slide.read_region((200, 200), size_px=(200, 200), level=0)
        corner = slide.read_region((0, 0), size_px=(30, 30), level=0)
    assert middle.std() > 5
    assert np.abs(corner.astype(int) - GLASS_RGB).max() < 3
    again = tmp_path / "again.tif"
    write_generated_slide(again, generator, size_px=600, seed=4)
    assert again.read_bytes() == path.read_bytes()
    write_generated_slide(again, generator, size_px=600, seed=5)
    assert not np.array_equal(finest(again)[200:400, 200:400], middle)


def test_random_weights_and_an_assumed_pixel_size_are_named(
    generator: LoadedGenerator, tmp_path: Path
) -> None:
    fresh = replace(generator, checkpoint=replace(generator.checkpoint, step=0, mpp=None))
    write_generated_slide(tmp_path / "a.tif", fresh, size_px=128)
    facts = described(tmp_path / "a.tif")[1]
    assert (facts["weights"], facts["mpp_is_assumed"], facts["mpp"]) == ("random", True, ASSUMED_MPP)
    stated = replace(generator.checkpoint, mpp=3.0, metrics={"mpp_is_assumed": True})
    write_generated_slide(tmp_path / "a.tif", replace(generator, checkpoint=stated), size_px=128)
    facts = described(tmp_path / "a.tif")[1]
    assert (facts["mpp_is_assumed"], facts["mpp"]) == (True, 3.0)


def test_a_slide_smaller_than_a_tile_is_refused(generator: LoadedGenerator, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="A slide of 31 px does not hold a tile of 32 px; make it larger"):
        write_generated_slide(tmp_path / "a.tif", generator, size_px=31)


def test_tiles_are_the_generators_own_images_turned(
    generator: LoadedGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_histolatent.jobs import sample_slide
    from napari_histolatent.latent import draw as drawing

    drawn: list[np.ndarray] = []
    placed: list[np.ndarray] = []
    write_as_before: Callable[..., None] = sample_slide.write_mosaic

    def keep(*arguments: Any, **options: Any) -> np.ndarray:
        drawn.append(drawing.draw(*arguments, **options))
        return drawn[-1]

    def spy(path: Path, layout: Layout, draw_row: DrawRow, **options: Any) -> None:
        def watched(row: int, columns: np.ndarray) -> np.ndarray:
            placed.append(draw_row(row, columns))
            return placed[-1]

        write_as_before(path, layout, watched, **options)

    monkeypatch.setattr(sample_slide, "draw", keep)
    monkeypatch.setattr(sample_slide, "write_mosaic", spy)
    write_generated_slide(tmp_path / "a.tif", generator, size_px=256)
    turns = set()
    for tile, shown in zip(np.concatenate(drawn), np.concatenate(placed), strict=True):
        ways = {(mirrored, k) for mirrored in (False, True) for k in range(4)}
        fitting = {
            way for way in ways if np.array_equal(np.rot90(tile[:, ::-1] if way[0] else tile, way[1]), shown)
        }
        assert fitting
        turns |= fitting
    assert len(turns) > 4
