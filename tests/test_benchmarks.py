"""The pure parts of the benchmarks; their windows are driven by hand (see tests/benchmarks)."""

from __future__ import annotations

import importlib
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import openslide
import pytest
from PIL import Image
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parent / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("bench_*.py"))
CELL = 256

Script = Any


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Script]:
    """A function that imports a script by name; they import one another from their own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize("name", SCRIPTS)
def test_importing_a_script_opens_no_window_and_says_how_to_run_it(
    script: Callable[[str], Script], name: str
) -> None:
    module = script(name)
    assert f"python tests/benchmarks/{name}.py" in module.__doc__
    assert callable(module.main)


# Statistics and report


def test_statistics(script: Callable[[str], Script]) -> None:
    stats = script("_stats")
    assert stats.median([3, 1, 2]) == 2
    assert np.isnan(stats.median([]))
    assert stats.percentile([0, 10], 95) == pytest.approx(9.5)
    assert stats.median_ratio([2, 4, 100], [1, 2, 10]) == 2


def test_slope_is_per_minute_and_of_the_second_half(script: Callable[[str], Script]) -> None:
    stats = script("_stats")
    seconds = list(range(61))
    values = [1000 - 20 * t if t < 30 else 2 * t for t in seconds]
    assert stats.slope_per_minute(*stats.second_half(seconds, values)) == pytest.approx(120)
    assert np.isnan(stats.slope_per_minute([1], [1]))


def test_sides_are_measured_in_turns_of_changing_order(script: Callable[[str], Script]) -> None:
    order: list[str] = []
    sides = {name: lambda name=name: order.append(name) or 1.0 for name in "ab"}
    figures = script("_stats").interleaved(sides, repeats=2, warm_up=True)
    assert "".join(order) == "ababba"
    assert figures == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_report_prints_a_table_and_writes_strict_json(
    script: Callable[[str], Script], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    rows = [["ours", 1234.5, 0.98765], ["bare", 7, float("nan")]]
    raw = {"ms": [np.float64(1.5), float("inf")]}
    script("_stats").report("A title", ["side", "ms", "ratio"], rows, raw=raw, json_path=out)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "A title",
        "side     ms  ratio",
        "----  -----  -----",
        "ours  1,234  0.988",
        "bare      7    nan",
    ]
    record = json.loads(out.read_text(), parse_constant=pytest.fail)
    assert record["rows"][1] == {"side": "bare", "ms": 7, "ratio": None}
    assert record["raw"] == {"ms": [1.5, None]}


# Steps


def test_steps_of_the_camera(script: Callable[[str], Script]) -> None:
    window = script("_window")
    zooms = window.zoom_steps(0.01, 1.0, 2)
    assert zooms == pytest.approx([0.1, 1.0])
    points = window.pan_steps((0, 0), (10, 5), 6)
    assert points == [(10, 0), (10, 5), (0, 5), (-10, 5), (-10, 0), (-10, -5)]
    assert window.fit_zoom((1280, 800), (61_440, 61_440)) == pytest.approx(0.95 * 800 / 61_440)


def test_walk_is_seeded_and_stays_on_the_slide(script: Callable[[str], Script]) -> None:
    walkers = [script("bench_walk").Walker(random.Random(3), (60_000, 40_000), (1280, 800)) for _ in range(2)]
    for _ in range(2000):
        for walker in walkers:
            walker.step()
            assert 0 <= walker.x <= 60_000
            assert 0 <= walker.y <= 40_000
            assert walker.zoom <= 2
    assert len({(walker.x, walker.y, walker.zoom) for walker in walkers}) == 1


def test_a_walk_that_breaks_the_cap_says_so(script: Callable[[str], Script]) -> None:
    samples = {
        "seconds": [0.0, 1.0, 2.0],
        "rss_bytes": [1e9, 1e9, 1e9],
        "cache_bytes": [0, 3e6, 2e6],
        "worst_gap_ms": [1.0, 9.0, 2.0],
    }
    summary = script("bench_walk").summary
    assert dict(summary(samples, 2_500_000))["cap kept"] == "NO"
    assert dict(summary(samples, 3_000_000))["cap kept"] == "yes"


def test_block_figures_compare_with_the_floor_of_the_same_turn(script: Callable[[str], Script]) -> None:
    block = script("bench_block")
    runs, floor = [[10.0, 60.0], [30.0, 80.0]], [[20.0, 50.0], [5.0, 60.0]]
    row = block.row_of("slide", runs, zooms=1, floor=floor)
    assert row[0] == "slide"
    assert row[1] == 20
    assert row[6] == 70
    assert row[-3:] == [70, 15, pytest.approx((60 / 50 + 80 / 60) / 2)]


# The made-up slide


def test_a_wrong_tile_is_recognised(script: Callable[[str], Script]) -> None:
    ui = script("bench_ui_thread")
    box = (512, 2048, 300, 1500)
    shown = ui.expected(3, box)
    assert shown.shape == (1536, 1200, 3)
    assert ui.tile_count(box) == 9
    assert ui.wrong_tiles(shown, ui.expected(3, box), box) == 0
    assert ui.wrong_tiles(ui.expected(3, (0, 1536, 300, 1500)), shown, box) == 9
    assert ui.wrong_tiles(ui.expected(2, box), shown, box) == 9
    shown[0, 212] ^= 1  # the first pixel of the second tile
    assert ui.wrong_tiles(shown, ui.expected(3, box), box) == 1


def test_averaging_two_stored_pixels_gives_the_expected_display_level(
    script: Callable[[str], Script],
) -> None:
    ui = script("bench_ui_thread")
    stored = ui.SlowBackend(0).read_level(1, (4 * 1024, 4 * 512), (1024, 512))
    halved = np.asarray(Image.fromarray(stored).reduce(2))
    assert np.array_equal(halved, ui.expected(3, (256, 512, 512, 1024)))


# Settling


def test_stored_box_of_a_display_box(script: Callable[[str], Script]) -> None:
    stored_box = script("bench_settle").stored_box
    assert stored_box((512, 1024, 0, 512), 2.0, (4000, 1500)) == ((0, 1024), (1024, 476))
    assert stored_box((512, 1024, 0, 512), 2.0, (4000, 1000)) is None
    assert stored_box((0, 10, 10, 20), 1.05, (4000, 1000)) == ((10, 0), (11, 11))


# Jumps


def test_a_known_shift_is_found(script: Callable[[str], Script]) -> None:
    rng = np.random.default_rng(0)
    grey = ndimage.gaussian_filter(rng.normal(size=(300, 400)), 2) * 400 + 128
    moved = ndimage.shift(grey, (0.6, -1.4), order=3, mode="nearest")
    before, after = (np.repeat(v[..., None], 3, axis=-1) for v in (grey, moved))
    x, y = script("bench_jump").shift_px(before, after)
    assert (x, y) == (pytest.approx(-1.4, abs=0.06), pytest.approx(0.6, abs=0.06))


# The mosaic


@pytest.fixture(scope="module")
def slides(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """exact.tiff and odd.tiff of 1,024 and 831 px."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        mosaic = importlib.import_module("mosaic")
    exact, odd = mosaic.write_mosaic(tmp_path_factory.mktemp("mosaic"), data_dir, side=1024, cell=CELL)
    return exact, odd


def test_openslide_opens_the_mosaics_with_the_ratios_meant(slides: tuple[Path, Path]) -> None:
    with openslide.OpenSlide(slides[0]) as exact, openslide.OpenSlide(slides[1]) as odd:
        assert exact.level_dimensions == ((1024, 1024), (256, 256), (64, 64), (16, 16))
        assert exact.level_downsamples == (1, 4, 16, 64)
        assert odd.level_dimensions == ((831, 831), (207, 207), (51, 51), (12, 12))
        assert odd.level_downsamples[1] == pytest.approx(831 / 207)
        for slide in (exact, odd):
            assert slide.properties["openslide.vendor"] == "generic-tiff"
            assert float(slide.properties["openslide.mpp-x"]) == 0.25
        digests = {slide.properties["openslide.quickhash-1"] for slide in (exact, odd)}
        assert len(digests) == 2
    assert {path.name for path in slides[0].parent.iterdir()} == {"exact.tiff", "odd.tiff"}


def test_the_mosaic_has_the_colours_of_its_sources(
    script: Callable[[str], Script], slides: tuple[Path, Path], data_dir: Path
) -> None:
    mosaic = script("mosaic")
    cells = mosaic.cells_of(data_dir, CELL)
    layout = mosaic.layout_of(1024, CELL, kinds=len(cells) - 1)
    for path in slides:
        with openslide.OpenSlide(path) as slide:
            for row, column in np.ndindex(3, 3):
                corner = (column * CELL, row * CELL)
                read = np.asarray(slide.read_region(corner, 0, (CELL, CELL)).convert("RGB"), float)
                meant = cells[layout.index[row, column]].astype(float)
                assert np.abs(read.mean(axis=(0, 1)) - meant.mean(axis=(0, 1))).max() < 1.5
                assert np.abs(read - meant).mean() < 8  # JPEG with halved chroma


def test_lower_levels_are_box_means_of_the_finest(slides: tuple[Path, Path]) -> None:
    for path in slides:
        with openslide.OpenSlide(path) as slide:
            for level in (1, 2):
                ratio, size = 4**level, slide.level_dimensions[level]
                finest = slide.read_region((0, 0), 0, (size[0] * ratio, size[1] * ratio)).convert("L")
                stored = np.asarray(slide.read_region((0, 0), level, size).convert("L"), float)
                meant = np.asarray(finest.reduce(ratio), float)
                # JPEG blurs small levels; a pixel beside its place would still be far worse.
                aside = min(np.abs(np.roll(meant, 1, axis) - stored).mean() for axis in (0, 1))
                assert np.abs(meant - stored).mean() < 0.5 * aside


def test_every_fifth_cell_is_glass_and_neighbours_differ(script: Callable[[str], Script]) -> None:
    layout = script("mosaic").layout_of(2048 * 30, 2048, kinds=40)
    assert layout.side == 61_440
    assert (layout.index == -1).mean() == 0.2
    assert layout.index.max() == 39
    assert not ((layout.index[:, 1:] == layout.index[:, :-1]) & (layout.index[:, 1:] >= 0)).any()


def test_a_side_that_holds_no_whole_cells_is_refused(script: Callable[[str], Script]) -> None:
    with pytest.raises(ValueError, match="whole cells"):
        script("mosaic").layout_of(1000, 256, kinds=8)


def test_the_eight_turns_differ(script: Callable[[str], Script]) -> None:
    square = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    turns = {script("mosaic").turned(square, i).tobytes() for i in range(8)}
    assert len(turns) == 8


# Training


def test_the_rate_of_steps_leaves_out_the_slow_beginning_and_the_checkpoint(
    script: Callable[[str], Script],
) -> None:
    training = script("bench_training")
    moments = [(0, 0.0), (1, 9.0), *((step, 9.0 + 0.5 * step) for step in range(2, 21))]
    moments += [(20, 300.0), (20, 301.0)]  # the checkpoint, and that it stopped
    assert training.rate_of(moments) == pytest.approx(0.5)
    assert training.steps_within(60, 0.5) == 120
    assert training.steps_within(0.1, 0.5) == 1


@pytest.fixture(scope="module")
def s1_config() -> Any:
    """S1's networks, as small as they go, for the patches of `tiny_dataset`."""
    from napari_histolatent.training import preset

    changes = {"size_px": 32, "batch_size": 4, "base_channels": 4, "z_dim": 6, "device": "cpu"}
    return preset("s1").with_changes(**changes)


@pytest.fixture
def tiny_patches(tiny_dataset: Path) -> Any:
    from napari_histolatent.patches import PatchDataset

    return PatchDataset(tiny_dataset)


def test_the_training_and_the_plain_loop_take_turns_of_changing_order(
    script: Callable[[str], Script], s1_config: Any, tiny_patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_histolatent.training._gan_task import GanTask

    order = ""
    inner = GanTask.step

    def step(task: GanTask, index: int) -> Any:
        nonlocal order
        order += "o"
        return inner(task, index)

    def plain() -> None:
        nonlocal order
        order += "p"

    monkeypatch.setattr(GanTask, "step", step)
    ours, theirs = script("bench_step").in_turns(s1_config, tiny_patches, plain, pairs=3, steps=2)
    assert order == "pp" + "oo" + "oopp" + "ppoo" + "oopp"
    assert len(ours.seconds) == len(theirs) == 3
    assert all(value > 0 for value in ours.seconds)
    assert 0 < ours.data_share < 1


def test_what_happens_between_stretches_is_in_no_figure(
    script: Callable[[str], Script], s1_config: Any, tiny_patches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_histolatent.runs import Run

    bench = script("bench_step")
    now = 0.0

    def between(turn: int) -> None:
        nonlocal now
        now += 3600  # the other side's turn

    told: list[dict[str, float]] = []
    append = Run.append
    monkeypatch.setattr(bench, "perf_counter", lambda: now)
    monkeypatch.setattr(Run, "append", lambda run, event: told.append(event.data) or append(run, event))
    stretches = bench.timed_stretches(s1_config, tiny_patches, steps=2, count=2, between=between)
    assert stretches.seconds == [0, 0]
    assert max(data.get("seconds_per_step", 0) for data in told) == 0


def test_the_plain_loop_learns_what_the_training_learns(
    script: Callable[[str], Script], s1_config: Any, tiny_patches: Any
) -> None:
    import torch

    from napari_histolatent.training._gan_task import GanTask

    cpu = torch.device("cpu")
    config = s1_config.with_changes(instance_noise=0.0, learning_rate=1e-9, batch_size=32)
    plain = script("bench_step").PlainLoop(config, tiny_patches, cpu)
    ours = GanTask(config, tiny_patches, cpu).step(0)
    # Of the same first weights, on other patches.
    assert plain.step() == pytest.approx((float(ours["discriminator"]), float(ours["generator"])), rel=0.02)
    updates = [
        int(next(iter(optimizer.state.values()))["step"])
        for optimizer in (plain.optimizers[0], plain.optimizers[1])
    ]
    assert updates == [1, 2], "one of the discriminator, two of the generator"
    with pytest.raises(SystemExit, match="too few for a batch of 4096"):
        script("bench_step").PlainLoop(config.with_changes(batch_size=4096), tiny_patches, cpu)


def test_the_rewriting_of_transposed_convolutions_is_exact(
    script: Callable[[str], Script], s1_config: Any
) -> None:
    import torch

    from napari_histolatent.models import build_gan

    bench = script("bench_step")
    generator, _ = build_gan("cdcgan", classes=("a", "b"), size_px=32, **s1_config.network_options)
    z, y = torch.randn(3, 6), torch.eye(2)[[0, 1, 0]]
    other = bench.rewritten(generator)
    assert bench.difference(generator, other, z, y) < 1e-5
    with torch.no_grad():
        other.stages[1].weight[0, 0, 0, 0] += 0.1
    assert bench.difference(generator, other, z, y) > bench.SAME
    rows, _ = bench.rewriting_part(s1_config, batches=(2,), pairs=2)
    assert all(value > 0 for value in rows[0][1:4])


def test_parts_of_the_step_benchmark_give_rows_of_the_table(
    script: Callable[[str], Script], s1_config: Any, tiny_patches: Any
) -> None:
    bench = script("bench_step")
    modern = s1_config.with_changes(preset="modern", design="modern")
    parts = [
        bench.step_part(s1_config, tiny_patches, pairs=1, steps=1),
        bench.modern_part(modern, tiny_patches, steps=1, count=2),
        bench.latency_part((modern, s1_config), tiny_patches.classes),
        bench.gpu_part(s1_config, tiny_patches, pairs=1, steps=1),  # on the CPU
    ]
    rows = [row for rows, _ in parts for row in rows]
    assert [len(row) for row in rows] == [len(bench.HEADERS)] * 9
    figures = {row[0]: row[1] for row in rows}
    assert all(value > 0 for name, value in figures.items() if "memory" not in name), figures


def test_operations_are_counted_two_for_each_product(
    script: Callable[[str], Script], s1_config: Any, tiny_patches: Any
) -> None:
    count = script("bench_step").operations_of_step
    once = count(s1_config.with_changes(generator_steps=1), tiny_patches)
    assert count(s1_config.with_changes(generator_steps=1, batch_size=8), tiny_patches) == 2 * once
    assert once < count(s1_config, tiny_patches) < 2 * once


def test_presets_are_compared_seed_by_seed(script: Callable[[str], Script]) -> None:
    ratios = script("bench_training").ratios_of_presets
    kid = {("s1", 0): 5.0, ("modern", 0): 0.1, ("s1", 1): 3.0, ("modern", 1): -0.001, ("s1", 2): 1.0}
    assert ratios(kid, "s1", "modern") == [pytest.approx(50), float("inf")]


def test_controls_are_of_as_many_training_tiles_of_each_class(script: Callable[[str], Script]) -> None:
    import torch

    from napari_histolatent.evaluation.gates import Labelled

    images = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    train = Labelled(images, torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0]))
    held_out = Labelled(images[:3], torch.tensor([0, 1, 0]))
    controls = script("bench_training").real_controls(train, held_out)
    assert list(controls) == ["real tiles", "blurred real tiles", "mean-colour tiles"]
    assert torch.equal(controls["real tiles"].images, images[[0, 2, 1]])
    assert all(control.labels.tolist() == [0, 0, 1] for control in controls.values())
    flat = controls["mean-colour tiles"].images
    assert torch.allclose(flat[1, :, 0, 0], images[2].mean(dim=(1, 2)))


def test_a_row_names_the_bounds_that_are_missed(script: Callable[[str], Script]) -> None:
    from napari_histolatent.evaluation.gates import SampleFigures

    training = script("bench_training")
    row = training.row_of("run", 100, SampleFigures(0.5, 0.2, 0.1, 0.01, 0.3, 0.8, 1.0, 1.0))
    assert len(row) == len(training.HEADERS)
    assert row[-1] == "kid_colour_ratio, pixel_sd_ratio"
    assert np.isnan(row[-2])


def test_gates_that_are_missed_are_faults(script: Callable[[str], Script]) -> None:
    from napari_histolatent.evaluation.gates import SampleFigures

    faults_of, bad_controls = script("bench_training").faults_of, script("bench_training").BAD_CONTROLS
    good = SampleFigures(0.01, 0.001, 0.1, 0.1, 0.3, 1.0, 1.0, 1.0)
    bad = SampleFigures(9.0, 0.9, 9.0, 0.9, 0.3, 1.0, 1.0, 1.0)
    right = {"real tiles": good, "modern-seed-0": good, "s1-seed-0": bad, **dict.fromkeys(bad_controls, bad)}
    compared = ["s1-seed-0"]
    assert faults_of(right, [12.0, 9.0, 11.0], compared=compared) == []
    assert faults_of(right, [], compared=compared) == []
    assert faults_of(right, [12.0, 9.0, 9.5], compared=compared) == [
        "s1 / modern: 9.5, at least 10 is asked for"
    ]
    for name in ("real tiles", "modern-seed-0"):
        wrong = {**right, name: bad}
        assert faults_of(wrong, [], compared=compared) == [
            f"{name}: misses kid_colour_ratio, kid_random_ratio"
        ]
    for name in bad_controls:
        assert faults_of({**right, name: good}, [], compared=compared) == [
            f"{name}: keeps all bounds, though it is bad"
        ]
    assert len(faults_of(right, [])) == 1, "only what is compared need not keep the bounds"


def test_a_run_that_was_trained_otherwise_is_not_taken(
    script: Callable[[str], Script], tmp_path: Path
) -> None:
    from napari_histolatent.runs import Run
    from napari_histolatent.training import TrainingConfig

    require = script("bench_training").require_trained_so
    config = TrainingConfig(steps=10)
    spec = {"config": config.with_changes(checkpoint_every=3).to_json(), "dataset_digest": "d"}
    Run.create(tmp_path / "run", kind="train", spec=spec | {"minutes": None})
    Run.create(tmp_path / "timed", kind="train", spec=spec | {"minutes": 8.0})
    require(tmp_path / "run", config, dataset_digest="d", minutes=None)
    require(tmp_path / "timed", config.with_changes(steps=99), dataset_digest="d", minutes=8.0)
    for changed, asked in (
        (config.with_changes(steps=11), {}),
        (config.with_changes(seed=1), {}),
        (config, {"dataset_digest": "e"}),
        (config, {"minutes": 3.0}),
    ):
        with pytest.raises(SystemExit, match=r"was trained with .* instead of .*; choose another --out"):
            require(tmp_path / "run", changed, **{"dataset_digest": "d", "minutes": None} | asked)


def test_a_mosaic_of_real_tiles_holds_held_out_tiles_in_the_regions_of_their_class(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    from napari_histolatent.annotations import read_annotations
    from napari_histolatent.patches import PatchDataset
    from tests.real_mosaic import write_real_mosaic

    dataset = PatchDataset(tiny_dataset)
    path = write_real_mosaic(dataset, tmp_path, side_px=640)
    assert path.name == "REAL-mosaic.tif"
    rows = dataset.rows_of("val")
    tiles = dataset.read(rows).astype(float).mean(axis=(1, 2))
    checked = 0
    with openslide.OpenSlide(path) as slide:
        assert "Mosaic of real tiles" in slide.properties["tiff.ImageDescription"]
        for region in read_annotations(path.with_suffix(".geojson")).regions:
            own = tiles[dataset.labels[rows] == dataset.classes.index(region.class_name)]
            for polygon in region.polygons:
                place = polygon.representative_point()
                corner = (int(place.x) // 32 * 32, int(place.y) // 32 * 32)
                shown = np.asarray(slide.read_region(corner, 0, (32, 32)).convert("RGB"), float)
                distance = np.abs(own - shown.mean(axis=(0, 1))).max(axis=1)
                assert distance.min() < 2, region.name
                checked += 1
    assert checked >= 2


def test_pca_with_as_many_numbers_as_directions_is_exact(script: Callable[[str], Script]) -> None:
    import torch

    rng = torch.Generator().manual_seed(0)
    axes = torch.randn(3, 3 * 4 * 4, generator=rng)
    images = (torch.randn(40, 3, generator=rng) @ axes).view(-1, 3, 4, 4)
    pca = script("bench_invert").pca_rmse
    assert max(pca(images[:30], images[30:], 4)) < 1e-3
    assert min(pca(images[:30], images[30:], 1)) > 1e-2


def test_figures_of_reverse_search_that_are_not_reached_are_told(script: Callable[[str], Script]) -> None:
    faults_of = script("bench_invert").faults_of

    def row(tiles: str, method: str, rmse: float, z: float, seconds: float, kept: Any = 1.0) -> list[Any]:
        return [tiles, method, 64, rmse, 20.0, 0.5, 0.3, z, seconds, kept]

    good = [
        row("generated", "fast", 0.02, 1, 0.1),
        row("generated", "polished", 0.005, 1, 0.2),
        row("real", "fast", 0.24, 1, 0.1),
        row("real", "s1", 0.23, 1.8, 0.7),
        row("real", "faithful", 0.07, 1, 1.5),
    ]
    flips = [["fast", 64, 1.0, 1.0, "-", "-"], ["faithful", 64, 0.9, 0.9, 0.2, 0.1]]
    assert faults_of(good, flips, 0.213) == []
    bad = [
        row("generated", "fast", 0.04, 1, 0.2),
        row("real", "fast", 0.26, 1.3, 0.2),
        row("real", "s1", 0.23, 1.8, 0.7),
        row("real", "faithful", float("nan"), 1, 1.5, 0.5),
    ]
    faults = faults_of(bad, [["fast", 64, 0.9, 0.8, "-", "-"]], 0.2)
    assert [fault.partition(" is ")[0].partition(": ")[2] for fault in faults[:-1]] == [
        "RMSE",
        "s/tile",
        "|z|",
        "RMSE",
        "s/tile",
        "RMSE",
        "RMSE",
        "class kept",
    ]
    assert faults[-1] == "flips, fast: 0.9, at least 0.95 is asked for"


def test_methods_are_measured_on_the_same_tiles(script: Callable[[str], Script], tiny_patches: Any) -> None:
    from types import SimpleNamespace

    import torch

    from napari_histolatent.models import build_gan

    bench = script("bench_invert")
    network, _ = build_gan("cdcgan", classes=("a", "b"), size_px=16, z_dim=4, base_channels=4)
    network.eval().requires_grad_(False)
    loaded = SimpleNamespace(network=network, checkpoint=SimpleNamespace(digest="d"))
    models = bench.Models(loaded, None, {})
    tiles = bench.generated_tiles(network, 4)
    assert tiles.weights == [(1.0, 0.0), (0.0, 1.0)] * 2
    found, seconds = bench.searched(models, tiles, "faithful", steps=2)
    row = bench.row_of(models, tiles, "real", "faithful", found, seconds)
    assert len(row) == len(bench.HEADERS)
    assert row[:3] == ["real", "faithful", 4]
    same = bench.drawn(models, found)
    errors = (same - tiles.images).square().mean(dim=(1, 2, 3)).sqrt()
    assert torch.allclose(errors, torch.tensor([item.rmse for item in found]), atol=1e-3)
    judge = SimpleNamespace(
        network=type(
            "Blind", (), {"classes": ("a", "b"), "__call__": lambda _, x: torch.tensor([[1.0, 0]] * len(x))}
        )()
    )
    flips = bench.flips(bench.Models(loaded, None, {"colour": judge}), tiles, {"fast": found})
    assert [len(row) for row in flips] == [len(bench.FLIP_HEADERS)] * 2
    assert flips[0] == ["fast", 4, 0.5, 0.0, "-", "-"], (
        "all that should be a are called so, none that should be b"
    )


def test_figures_of_the_slider(script: Callable[[str], Script]) -> None:
    slider = script("bench_slider")
    assert slider.rank_of([0.1, 0.2, 0.9]) == pytest.approx(1)
    assert slider.rank_of([0.9, 0.2, 0.1]) == pytest.approx(-1)
    assert slider.rank_of([0.5, 0.5]) == 0
    assert slider.fall_of([0.1, 0.5, 0.4, 0.45, 0.3, 0.9]) == pytest.approx(0.2)
    assert slider.fall_of([0.1, 0.2]) == 0
    even = [np.full((2, 2, 3), v, np.uint8) for v in (0, 10, 20)]
    assert slider.unevenness_of(even) == pytest.approx(1)
    assert slider.unevenness_of([*even, np.full((2, 2, 3), 60, np.uint8)]) == pytest.approx(2)
    good = {
        "moves_ms": [5.0],
        "moves_cpu_ms": [4.0],
        "first_s": [0.1],
        "ready_s": [1.0],
        "ready_cpu_s": [1.0],
    } | {
        "rank": [1.0] * 20,
        "fall": [0.0] * 20,
        "uneven": [1.1] * 20,
    }
    assert slider.faults_of(good) == []
    assert slider.faults_of(good | {"rank": [1.0] * 19 + [0.5]}) == [], "95 % are as wanted"
    bad = good | {"moves_ms": [20.0], "ready_s": [4.0], "fall": [0.0] * 18 + [0.1] * 2}
    assert len(slider.faults_of(bad)) == 3
    rows = slider.rows_of(bad)
    assert all(len(row) == len(slider.HEADERS) for row in rows)
    assert [row[4] for row in rows] == [0, 1, "", 0, 1, 1, 0.9, 1]
