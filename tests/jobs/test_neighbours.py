from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.jobs.neighbours import KnownPatches, has_dataset, known_to
from napari_histolatent.patches import PatchDataset

if TYPE_CHECKING:
    from napari_histolatent.training.load import LoadedGenerator


@pytest.fixture(scope="module")
def known(tiny_dataset: Path) -> KnownPatches:
    return KnownPatches(PatchDataset(tiny_dataset), most=60)


def test_a_training_patch_is_nearest_to_itself(known: KnownPatches, tiny_dataset: Path) -> None:
    dataset = PatchDataset(tiny_dataset)
    row = int(dataset.rows_of("train")[0])
    first, second, third = known.nearest(dataset.read([row])[0], 3)
    np.testing.assert_array_equal(first.pixels, dataset.read([row])[0])
    assert first.distance == pytest.approx(0, abs=1e-3)
    assert first.distance < second.distance <= third.distance
    assert first.label == dataset.columns["label"][row]
    assert first.xy == (dataset.columns["x"][row], dataset.columns["y"][row])


def test_only_so_many_training_patches_are_looked_at(known: KnownPatches, tiny_dataset: Path) -> None:
    assert len(known) == 60
    told: list[tuple[int, int]] = []
    small = KnownPatches(
        PatchDataset(tiny_dataset), most=5, on_progress=lambda done, total: told.append((done, total))
    )
    assert len(small.nearest(np.zeros((32, 32, 3), np.uint8), 9)) == 5
    assert told == [(5, 5)]


def test_what_is_usual_between_patches_is_less_than_to_noise(known: KnownPatches) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    assert 0 < known.usual_distance < known.nearest(noise, 1)[0].distance
    distances = known._features[:, None] - known._features
    apart = np.sqrt(np.square(distances).mean(axis=2)) + np.diag(np.full(60, np.inf))
    assert known.usual_distance == pytest.approx(np.median(apart.min(axis=1)), rel=1e-3)


def test_looking_through_can_be_stopped(tiny_dataset: Path) -> None:
    with pytest.raises(UserError, match="was stopped"):
        KnownPatches(PatchDataset(tiny_dataset), should_stop=lambda: True)


def test_the_dataset_is_the_one_of_the_run_else_the_one_that_is_named(
    generator: LoadedGenerator, tiny_dataset: Path, tmp_path: Path
) -> None:
    assert known_to(generator, "/nowhere", most=4).dataset.path == tiny_dataset
    alone = replace(generator, checkpoint=replace(generator.checkpoint, path=tmp_path / "exported"))
    assert known_to(alone, tiny_dataset, most=4).dataset.path == tiny_dataset
    with pytest.raises(DatasetError, match="learnt from is not known"):
        known_to(alone)
    with pytest.raises(DatasetError, match="nowhere"):
        known_to(alone, Path("/nowhere"))
    assert has_dataset(generator, "/nowhere")
    assert has_dataset(alone, tiny_dataset)
    assert not has_dataset(alone)
    assert not has_dataset(alone, Path("/nowhere"))
