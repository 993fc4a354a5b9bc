from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.jobs import inversions
from napari_histolatent.jobs.inversions import (
    INVERT,
    TABLE_FILE,
    InversionReport,
    invert_dataset,
    new_inversions,
    read_points,
)
from napari_histolatent.jobs.kinds import KINDS
from napari_histolatent.latent.draw import drawn_float
from napari_histolatent.latent.search_options import OWN_STEPS, SearchOptions
from napari_histolatent.latent.tuned import TunedWeights
from napari_histolatent.models.images import to_tensor
from napari_histolatent.models.metrics import rmse
from napari_histolatent.patches import PatchDataset

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.training.load import LoadedGenerator

QUICK = SearchOptions(steps=2)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inversions, "_ROWS_OF_PART", 16)
    monkeypatch.setitem(OWN_STEPS, "fast", 3)


def batch(gan_run: Path, dataset: Path, out: Path, **more: Any) -> InversionReport:
    options = {"split": "val", "method": "s1", "options": QUICK, "device": "cpu"} | more
    return invert_dataset(gan_run, dataset, out, **options)


def test_a_table_of_points(
    gan_run: Path, generator: LoadedGenerator, tiny_dataset: Path, tmp_path: Path
) -> None:
    data = PatchDataset(tiny_dataset)
    rows = data.rows_of("val")
    report = batch(gan_run, tiny_dataset, tmp_path / "out")
    assert (report.done, report.total, report.taken_up) == (len(rows), len(rows), 0)
    table = pq.read_table(tmp_path / "out" / TABLE_FILE).to_pydict()
    assert table["row"] == rows.tolist()
    assert table["label"] == table["searched_as"] == [data.classes[i] for i in data.labels[rows]]
    assert table["verdict"] == [None] * len(rows)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [TABLE_FILE, "request.json"]
    points = read_points(tmp_path / "out")
    drawn = drawn_float(generator.network, points[:5], torch.device("cpu"))
    errors = rmse(drawn, to_tensor(data.read(rows[:5])))
    np.testing.assert_allclose(errors, table["rmse"][:5], rtol=1e-3)
    assert report.median_rmse == pytest.approx(np.median(table["rmse"]))


def test_a_stopped_batch_goes_on_where_it_was(
    gan_run: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inversions, "_ROWS_OF_PART", 4)
    parts = iter(range(100))
    stopped = batch(gan_run, tiny_dataset, tmp_path / "out", should_stop=lambda: next(parts) >= 2)
    assert (stopped.done, stopped.taken_up) == (8, 0)
    assert stopped.done < stopped.total
    with pytest.raises(UserError, match="cannot be read as a table of latent points"):
        read_points(tmp_path / "out")
    finished = batch(gan_run, tiny_dataset, tmp_path / "out")
    assert (finished.done, finished.taken_up) == (finished.total, 8)
    again = batch(gan_run, tiny_dataset, tmp_path / "out")
    assert (again.done, again.taken_up) == (again.total, again.total)
    whole = batch(gan_run, tiny_dataset, tmp_path / "whole")
    assert whole.median_rmse == pytest.approx(finished.median_rmse)


def test_another_request_does_not_mix_with_the_first(
    gan_run: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    batch(gan_run, tiny_dataset, tmp_path / "out", should_stop=lambda: True)
    with pytest.raises(UserError, match=r"holds a batch of another request \(other options\)"):
        batch(gan_run, tiny_dataset, tmp_path / "out", options=SearchOptions(steps=3))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(UserError, match="is not empty; choose another folder"):
        batch(gan_run, tiny_dataset, tmp_path / "full")


def test_tuned_copies_are_kept_with_their_points(
    gan_run: Path,
    generator: LoadedGenerator,
    tiny_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = PatchDataset(tiny_dataset)
    monkeypatch.setattr(inversions, "_rows", lambda *_: data.rows_of("val")[:2])
    batch(gan_run, tiny_dataset, tmp_path / "out", method="faithful")
    points = read_points(tmp_path / "out")
    for point in points:
        file = tmp_path / "out" / "tuned" / f"{point.tuned_digest[:16]}.safetensors"
        tuned = TunedWeights.load(file, network=generator.network)
        assert tuned.digest == point.tuned_digest
    assert len({point.tuned_digest for point in points}) == 2


def test_a_patch_of_no_class_is_searched_in_each(
    gan_run: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inversions, "_candidates", lambda own, classes: [(1.0, 0.0), (0.0, 1.0)])
    both = batch(gan_run, tiny_dataset, tmp_path / "both")
    monkeypatch.setattr(inversions, "_candidates", lambda own, classes: [(1.0, 0.0)])
    one = batch(gan_run, tiny_dataset, tmp_path / "one")
    assert both.median_rmse <= one.median_rmse
    assert len(read_points(tmp_path / "both")) == both.total


def test_a_run_of_its_own(gan_run: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    run = new_inversions(gan_run, tiny_dataset, tmp_path / "out", split="val", method="s1", options=QUICK)
    KINDS[INVERT](run)
    status = run.status()
    assert (status.state, status.step) == ("finished", status.steps)
    assert status.data["report"]["table"] == str(tmp_path / "out" / TABLE_FILE)
    stopped = new_inversions(gan_run, tiny_dataset, tmp_path / "other", method="s1", options=QUICK)
    stopped.request_stop()
    KINDS[INVERT](stopped)
    assert stopped.status().state == "stopped"


def test_what_cannot_be_searched_is_refused(gan_run: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no reverse search named 'slow'"):
        new_inversions(gan_run, tiny_dataset, tmp_path / "out", method="slow")
    with pytest.raises(DatasetError, match="has no patch in the split elsewhere"):
        new_inversions(gan_run, tiny_dataset, tmp_path / "out", split="elsewhere")
