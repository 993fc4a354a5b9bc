"""The same job on a Dask cluster: real schedulers and workers, which are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.patches import (
    GridSpec,
    PatchDataset,
    Recipe,
    SlideSource,
    SplitSpec,
    extract,
    working_folder,
)
from napari_histolatent.slides import write_synthetic_slide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.filterwarnings("ignore")  # dask's own, when its processes are killed

RECIPE = Recipe(
    grid=GridSpec(size_px=64, level=0, stride_px=8), split=SplitSpec(block_patches=3), tissue=Recipe().tissue
).changed(tissue={"method": "none", "min_tissue": 0.0})


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[SlideSource]:
    """Three drawn slides of three patients, some thousand patches each."""
    folder = tmp_path_factory.mktemp("slides")
    made = []
    for i in range(3):
        write_synthetic_slide(folder / f"{i}.tiff", size_px=(640, 512), seed=i)
        features = [
            {
                "type": "Feature",
                "geometry": {
                    "type": "Polygon",
                    "coordinates": [[[a, 0], [b, 0], [b, 512], [a, 512], [a, 0]]],
                },
                "properties": {"objectType": "annotation", "classification": {"name": name}},
            }
            for name, a, b in (("left", 0, 320), ("right", 320, 640))
        ]
        (folder / f"{i}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        made.append(SlideSource(folder / f"{i}.tiff", folder / f"{i}.geojson", patient=f"p{i}"))
    return made


@pytest.fixture(scope="module")
def alone(sources: list[SlideSource], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset as one process makes it."""
    out = tmp_path_factory.mktemp("alone") / "ds"
    extract(sources, out, recipe=RECIPE)
    return out


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        yield cluster


def content(folder: Path) -> dict[str, bytes]:
    """Return every file's bytes, but of the one that holds times and hosts."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "provenance.json"
    }


def test_a_cluster_makes_the_same_bytes_as_one_process(
    sources: list[SlideSource], alone: Path, cluster: distributed.LocalCluster, tmp_path: Path
) -> None:
    report = extract(sources, tmp_path / "ds", recipe=RECIPE, scheduler=cluster.scheduler_address)
    assert report.patches == len(PatchDataset(alone)) > 3000
    assert content(tmp_path / "ds") == content(alone)
    assert not working_folder(tmp_path / "ds").exists()


def test_workers_that_are_killed_cost_nothing(
    sources: list[SlideSource], alone: Path, cluster: distributed.LocalCluster, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_one(done: int, total: int) -> None:
        # Each time something was written, until two are dead: their nannies start others.
        with distributed.Client(cluster) as client:
            # The one that was killed last may not have been missed yet: it does not answer.
            pids = set(client.run(os.getpid, on_error="ignore").values())
        if len(killed) < 2 and done > 0 and pids:
            victim = sorted(pids)[0]
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    extract(
        sources, tmp_path / "ds", recipe=RECIPE, scheduler=cluster.scheduler_address, on_progress=kill_one
    )
    assert len(killed) == 2
    assert content(tmp_path / "ds") == content(alone)


def start(*command: str, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, "-m", *command], stdout=file, stderr=file)


def test_after_a_lost_scheduler_the_same_command_goes_on(
    sources: list[SlideSource], alone: Path, tmp_path: Path
) -> None:
    log, processes = tmp_path / "log", []
    try:
        scheduler_file = tmp_path / "scheduler.json"
        scheduler = start(
            "distributed.cli.dask_scheduler",
            "--scheduler-file",
            str(scheduler_file),
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            log=log,
        )
        processes.append(scheduler)
        deadline = time.monotonic() + 60
        while not scheduler_file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        address = json.loads(scheduler_file.read_text())["address"]
        processes.append(
            start("distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", log=log)
        )
        with distributed.Client(address) as client:
            client.wait_for_workers(1, timeout=60)

        def kill_scheduler(done: int, total: int) -> None:
            if 0 < done < total:
                scheduler.kill()

        with pytest.raises(UserError, match=r"scheduler is gone.*what is done is kept"):
            extract(sources, tmp_path / "ds", recipe=RECIPE, scheduler=address, on_progress=kill_scheduler)
        assert not (tmp_path / "ds").exists()
        kept = list((working_folder(tmp_path / "ds") / "parts").glob("*.json"))
        assert kept
        report = extract(sources, tmp_path / "ds", recipe=RECIPE)
        assert report.taken_up > 0
        assert content(tmp_path / "ds") == content(alone)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_no_scheduler_answers(
    sources: list[SlideSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_histolatent.patches import _dask_workers

    monkeypatch.setattr(_dask_workers, "_CONNECT_SECONDS", 1)
    with pytest.raises(UserError, match=r"No Dask scheduler answers at tcp://127.0.0.1:1"):
        extract(sources, tmp_path / "ds", recipe=RECIPE, scheduler="tcp://127.0.0.1:1")
    assert not (tmp_path / "ds").exists()
