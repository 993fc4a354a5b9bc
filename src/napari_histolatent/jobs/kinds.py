"""One function per kind of work that a run's process can do. Torch is imported where the work begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histolatent.jobs.extraction import EXTRACT, run_extraction
from napari_histolatent.patches import PatchDataset
from napari_histolatent.training import ClassifierConfig, TrainingConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_histolatent.runs import Run

TRAIN, CLASSIFIER = "train", "classifier"


def _train_gan(run: Run) -> None:
    _train(run, TrainingConfig.from_json(run.spec["config"]))


def _train_classifier(run: Run) -> None:
    _train(run, ClassifierConfig.from_json(run.spec["config"]))


def _train(run: Run, config: TrainingConfig | ClassifierConfig) -> None:
    from napari_histolatent.training.loop import train

    train(
        config,
        PatchDataset(run.spec["dataset"]),
        folder=run.path,
        on_event=run.append,
        should_stop=lambda: run.stop_requested,
        resume=True,
    )


KINDS: Mapping[str, Callable[[Run], None]] = {
    TRAIN: _train_gan,
    CLASSIFIER: _train_classifier,
    EXTRACT: run_extraction,
}
