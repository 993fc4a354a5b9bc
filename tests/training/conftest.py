from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch

from napari_histolatent.runs import Run, RunEvent
from napari_histolatent.training import ClassifierConfig, TrainingConfig
from napari_histolatent.training.checkpoint import checkpoints_in
from napari_histolatent.training.loop import train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


class MemoryDataset:
    """What training reads of a `PatchDataset`, in memory; each class has its own mean colour."""

    mpp = 0.5
    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, *, size_px: int, counts: dict[str, dict[str, int]], seed: int, digest: str) -> None:
        """Make patches: `counts` is split -> class -> number."""
        rng = np.random.default_rng(seed)
        self.size_px, self.digest = size_px, digest
        self.classes = tuple(dict.fromkeys(name for classes in counts.values() for name in classes))
        rows = [
            (split, self.classes.index(name))
            for split, classes in counts.items()
            for name, n in classes.items()
            for _ in range(n)
        ]
        rng.shuffle(rows)
        self._splits = np.array([split for split, _ in rows])
        self.labels = np.array([int(label) for _, label in rows], np.int64)
        colors = np.array([[150, 90, 170], [235, 190, 210], [200, 200, 90]])[self.labels]
        grain = rng.normal(0, 15, (len(rows), size_px, size_px, 1))
        self._pixels = np.clip(colors[:, None, None] + grain, 0, 255).astype(np.uint8)

    def rows_of(self, split: str) -> np.ndarray:
        return np.flatnonzero(self._splits == split)

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        return self._pixels[np.asarray(rows)]

    def __len__(self) -> int:
        return len(self.labels)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums come in one order, and networks this small are faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def dataset_of() -> Callable[..., Any]:
    """A function that makes a dataset: `dataset_of({split: {class: n}}, size_px=16, seed=0, digest="d")`."""

    def make(
        counts: dict[str, dict[str, int]], *, size_px: int = 16, seed: int = 0, digest: str = "d" * 64
    ) -> MemoryDataset:
        return MemoryDataset(size_px=size_px, counts=counts, seed=seed, digest=digest)

    return make


@pytest.fixture(scope="session")
def patches(dataset_of: Callable[..., Any]) -> Any:
    """Two classes of 16 px in three splits, more of one than of the other."""
    return dataset_of(
        {
            "train": {"epithelium": 20, "stroma": 7},
            "val": {"epithelium": 5, "stroma": 4},
            "test": {"epithelium": 4, "stroma": 6},
        }
    )


@pytest.fixture(scope="session")
def gan_config() -> TrainingConfig:
    """A GAN of a few thousand weights for a few steps."""
    return TrainingConfig(
        size_px=16,
        steps=6,
        batch_size=8,
        seed=3,
        device="cpu",
        checkpoint_every=2,
        log_every=1,
        z_dim=6,
        base_channels=4,
        r1_every=2,
        ema_decay=0.5,
    )


@pytest.fixture(scope="session")
def classifier_config() -> ClassifierConfig:
    """A classifier of a few thousand weights for a few steps."""
    return ClassifierConfig(
        size_px=16,
        steps=6,
        batch_size=8,
        seed=3,
        device="cpu",
        checkpoint_every=2,
        log_every=1,
        base_channels=4,
    )


class Training:
    """One call of `train`: its checkpoint, its events, and where they are."""

    def __init__(
        self,
        config: TrainingConfig | ClassifierConfig,
        dataset: Any,
        folder: Path,
        *,
        stop_after: int | None = None,
        resume: bool = False,
    ) -> None:
        """Train; `stop_after` is the step after which it is asked to stop."""
        self.folder, self.events = folder, list[RunEvent]()
        self._asked = 0
        self.checkpoint = train(
            config,
            dataset,
            folder=folder,
            on_event=self.events.append,
            should_stop=lambda: self._stop(stop_after),
            resume=resume,
        )

    def _stop(self, after: int | None) -> bool:
        self._asked += 1
        return after is not None and self.events[0].step + self._asked >= after

    @property
    def losses(self) -> dict[int, dict[str, float]]:
        """Step -> its losses, of the steps of this call."""
        return {event.step: event.losses for event in self.events if event.kind == "progress"}

    @property
    def kinds(self) -> list[str]:
        """What happened, in order."""
        return [event.kind for event in self.events]

    @property
    def steps_kept(self) -> list[int]:
        """The steps of the checkpoints there are."""
        return [int(path.name[5:]) for path in checkpoints_in(self.folder / "checkpoints")]


@pytest.fixture(scope="session")
def training() -> type[Training]:
    """`training(config, dataset, folder, stop_after=None, resume=False)` trains and keeps what happened."""
    return Training


def made_run(folder: Path, kind: str, config: TrainingConfig | ClassifierConfig, dataset: Any) -> Path:
    run = Run.create(folder, kind=kind, spec={"config": config.to_json()})
    Training(config, dataset, run.path)
    return run.path


@pytest.fixture(scope="session")
def gan_run(tmp_path_factory: pytest.TempPathFactory, gan_config: TrainingConfig, patches: Any) -> Path:
    """A run whose GAN has been trained; read it, do not change it."""
    return made_run(tmp_path_factory.mktemp("runs") / "gan", "train", gan_config, patches)


@pytest.fixture(scope="session")
def classifier_run(
    tmp_path_factory: pytest.TempPathFactory, classifier_config: ClassifierConfig, patches: Any
) -> Path:
    """A run whose classifier has been trained; read it, do not change it."""
    folder = tmp_path_factory.mktemp("runs") / "classifier"
    return made_run(folder, "classifier", classifier_config, patches)
