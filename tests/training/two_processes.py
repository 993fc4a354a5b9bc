"""Trains some GANs, on as many processes as it is told, and keeps losses and states: run by test_distributed.py.

`python -m tests.training.two_processes FOLDER PROCESSES`; Lightning Fabric runs the same for the second process.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from napari_histolatent.training import TrainingConfig, _gan_task
from napari_histolatent.training.loop import train
from tests.training.conftest import MemoryDataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from napari_histolatent.runs import RunEvent

# With Adam's usual step size and a mean gradient of no memory, a gradient that is 0 but for rounding moves its
# weight by a whole step, one way or the other, and 20 such steps later no two sums in another order agree.
SHARED = TrainingConfig(
    size_px=16,
    steps=20,
    batch_size=16,
    seed=3,
    device="cpu",
    base_channels=4,
    z_dim=6,
    log_every=1,
    learning_rate=1e-6,
    r1_every=4,
    ema_decay=0.5,
    stain_jitter=0.2,
    instance_noise=0.1,
    metrics_every=0,
)
CONFIGS: Mapping[str, TrainingConfig] = {
    "modern": SHARED.with_changes(condition_ramp_steps=10, generator_steps=2, label_smoothing=0.1),
    "s1": SHARED.with_changes(network="dcgan", design="s1", r1_weight=0.1),
    # Plain gradient steps, thousands of times as long: here the weights move. In s1 what rounding differs grows fast.
    "modern, steepest": SHARED.with_changes(generator_steps=2, learning_rate=0.02),
    "s1, steepest": SHARED.with_changes(design="s1", r1_weight=0.1, learning_rate=0.02, steps=8),
}


def steepest(parameters: Any, rate: float, _betas: tuple[float, float]) -> torch.optim.Optimizer:
    """Return what takes Adam's place: a gradient that is 0 but for rounding moves its weight as little."""
    return torch.optim.SGD(parameters, rate)


@contextmanager
def optimised(name: str) -> Iterator[None]:
    """Train with the optimiser that a config's name says."""
    adam = _gan_task.Adam
    if name.endswith("steepest"):
        _gan_task.Adam = steepest  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        _gan_task.Adam = adam  # type: ignore[misc]


def dataset() -> Any:
    """Return two classes of 16 px."""
    counts = {"train": {"epithelium": 20, "stroma": 7}, "val": {"epithelium": 5, "stroma": 4}}
    return MemoryDataset(size_px=16, counts=counts, seed=0, digest="d" * 64)


def main(folder: Path, devices: int) -> None:
    torch.set_num_threads(1)
    rank = os.environ.get("LOCAL_RANK", "0")
    for name, config in CONFIGS.items():
        events: list[RunEvent] = []
        with optimised(name):
            train(
                config.with_changes(devices=devices),
                dataset(),
                folder=folder / name,
                on_event=events.append,
                should_stop=lambda: False,
            )
        said = {event.step: event.losses for event in events if event.kind == "progress"}
        (folder / name / f"losses-{rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)
