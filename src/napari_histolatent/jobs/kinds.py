"""One function per kind of work that a run's process can do. Torch is imported where the work begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histolatent.errors import UserError, writing_to
from napari_histolatent.jobs.calibration import CALIBRATE, run_calibration
from napari_histolatent.jobs.calibration_phase import EndHeldBack, calibrate_at_the_end
from napari_histolatent.jobs.extraction import EXTRACT, run_extraction
from napari_histolatent.jobs.inversions import INVERT, run_inversions
from napari_histolatent.jobs.region_heatmap import HEATMAP, run_region_heatmap
from napari_histolatent.patches import PatchDataset
from napari_histolatent.runs import Run
from napari_histolatent.training import ClassifierConfig, TrainingConfig
from napari_histolatent.training.config import EncoderConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_histolatent.runs import RunEvent
    from napari_histolatent.training.checkpoint import Checkpoint

TRAIN, CLASSIFIER, ENCODER = "train", "classifier", "encoder"


def _telling(run: Run) -> Callable[[RunEvent], None]:
    """Return what writes down the events of a run; a disk that refuses them is said as of any other file."""

    def tell(event: RunEvent) -> None:
        with writing_to(run.path):
            run.append(event)

    return tell


def _train_gan(run: Run) -> None:
    config, tell = TrainingConfig.from_json(run.spec["config"]), _telling(run)
    if not config.calibrate:
        _train(run, config, tell)
        return
    held = EndHeldBack(tell)
    checkpoint = _train(run, config, held)
    if held.end is not None:
        calibrate_at_the_end(run, config, checkpoint, held.end, on_event=tell)


def _train_classifier(run: Run) -> None:
    _train(run, ClassifierConfig.from_json(run.spec["config"]), _telling(run))


def _train(
    run: Run, config: TrainingConfig | ClassifierConfig, on_event: Callable[[RunEvent], None]
) -> Checkpoint:
    from napari_histolatent.training.loop import train

    return train(
        config,
        PatchDataset(run.spec["dataset"]),
        folder=run.path,
        on_event=on_event,
        should_stop=lambda: run.stop_requested,
        resume=True,
    )


def _train_encoder(run: Run) -> None:
    """Train an encoder for spec["run"]: a generator's run, checkpoint or exported folder.

    `load_encoder` finds it by that name where this run lies in the generator's folder, as `encoder`. Patches are
    those of spec["dataset"], else those that the generator learnt from, if they are still there.
    """
    from napari_histolatent.training._encoder_task import train_encoder
    from napari_histolatent.training.load import load_generator

    config = EncoderConfig.from_json(run.spec["config"])
    generator = load_generator(run.spec["run"], device=config.device)
    train_encoder(
        config,
        generator,
        _patches_for_encoder(run, generator.checkpoint, needed=config.real_weight > 0),
        folder=run.path,
        on_event=_telling(run),
        should_stop=lambda: run.stop_requested,
        resume=True,
    )


def _patches_for_encoder(run: Run, generator: Checkpoint, *, needed: bool) -> PatchDataset | None:
    if "dataset" in run.spec:
        return PatchDataset(run.spec["dataset"])
    try:
        in_run = generator.path.parent.name == "checkpoints"
        dataset = PatchDataset(Run(generator.path.parent.parent).spec["dataset"]) if in_run else None
    except KeyError:  # a run without a dataset
        return None
    except UserError:
        if needed:
            raise
        return None
    # Of a dataset that was cut again, the held-out patches may be some that the generator learnt from.
    return dataset if dataset is not None and dataset.digest == generator.dataset_digest else None


KINDS: Mapping[str, Callable[[Run], None]] = {
    TRAIN: _train_gan,
    CLASSIFIER: _train_classifier,
    ENCODER: _train_encoder,
    EXTRACT: run_extraction,
    HEATMAP: run_region_heatmap,
    CALIBRATE: run_calibration,
    INVERT: run_inversions,
}
