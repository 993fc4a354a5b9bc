"""What devices there are and what a training would take here, asked of a process of its own.

Whoever asks (a dock) then needs no torch and keeps its own process free of it. `python -m
napari_histolatent.jobs.probe` answers with one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histolatent.errors import RunError, UserError
from napari_histolatent.patches import PatchDataset
from napari_histolatent.training import ClassifierConfig, TrainingConfig
from napari_histolatent.training.suitable import require_possible

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_POLL_SECONDS = 0.1
_PIXEL_BYTES = 2.0
"""Of a pixel of a sample picture as PNG, measured on tissue."""
_PREVIEW_COLUMNS = 8


@dataclass(frozen=True)
class Device:
    """A device by the name that configs take, and its memory in bytes (None where unknown)."""

    name: str
    title: str
    memory_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True)
class Estimate:
    """What was measured in a few steps on this machine."""

    seconds_per_step: float
    images_per_second: float
    device: str
    checkpoint_bytes: int
    memory_bytes: int
    """Of the device's memory; on the processor what the process takes in all."""
    steps: int
    """Steps of the training that was asked for."""
    disk_bytes: int
    """All that the run leaves on the disk."""
    measuring_seconds: float = 0.0
    """Of the whole run: looking at samples or held-out patches, at its checkpoints and between them."""
    encoder_seconds: float = 0.0
    """Of the whole run: the steps of the encoder that follows, where one is asked for."""

    @property
    def seconds(self) -> float:
        """What the whole run takes; what is done once, or written, comes on top: seconds."""
        return self.steps * self.seconds_per_step + self.measuring_seconds + self.encoder_seconds


def devices_here(should_stop: Callable[[], bool] = lambda: False) -> tuple[Device, ...]:
    """Return the devices of this machine, best first; the first is what "auto" takes.

    Raises
    ------
    UserError
        If the process that looks fails.
    """
    return tuple(Device(**item) for item in _ask({"what": "devices"}, should_stop) or ())


def estimate(
    dataset: str | Path,
    config: TrainingConfig | ClassifierConfig,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Estimate | None:
    """Take a few steps of a training, and return what all of it would take; None if stopped meanwhile.

    Raises
    ------
    UserError
        If the config does not fit the dataset or the device is absent.
    """
    opened = PatchDataset(dataset)
    kind = "gan" if isinstance(config, TrainingConfig) else "classifier"
    require_possible(config, opened)
    question = {"what": "steps", "dataset": str(dataset), "kind": kind, "config": config.to_json()}
    found = _ask(question, should_stop)
    if found is None:
        return None
    seconds = float(found["seconds_per_step"])
    return Estimate(
        seconds_per_step=seconds,
        images_per_second=config.batch_size / seconds,
        device=str(found["device"]),
        checkpoint_bytes=int(found["checkpoint_bytes"]),
        memory_bytes=int(found["memory_bytes"]),
        steps=config.steps,
        disk_bytes=disk_bytes(config, int(found["checkpoint_bytes"]), n_classes=len(opened.classes)),
        measuring_seconds=measuring_seconds(
            config,
            seconds_per_measurement=float(found["seconds_per_measurement"]),
            seconds_per_checkpoint=float(found["seconds_per_checkpoint"]),
        ),
        encoder_seconds=getattr(config, "encoder_steps", 0) * float(found["seconds_per_encoder_step"]),
    )


def measuring_seconds(
    config: TrainingConfig | ClassifierConfig,
    *,
    seconds_per_measurement: float,
    seconds_per_checkpoint: float,
) -> float:
    """Return what the measurements of a whole run take: at each checkpoint, the last step's among them, and between."""
    checkpoints = -(-config.steps // config.checkpoint_every)
    every = getattr(config, "metrics_every", 0)
    between = 0
    if every:
        both = lcm(every, config.checkpoint_every)
        # Where a checkpoint is kept, its own measurement does for both; so it does at the last step.
        between = (config.steps - 1) // every - (config.steps - 1) // both
    return checkpoints * seconds_per_checkpoint + between * seconds_per_measurement


def disk_bytes(config: TrainingConfig | ClassifierConfig, checkpoint_bytes: int, *, n_classes: int) -> int:
    """Return about what a whole run leaves on the disk: kept checkpoints and sample pictures."""
    written = -(-config.steps // config.checkpoint_every)
    if isinstance(config, ClassifierConfig):
        return min(written, 2) * checkpoint_bytes
    milestones = config.steps // config.milestone_every if config.milestone_every else 0
    kept = min(written, config.keep_checkpoints + 1 + milestones)  # the best one besides
    picture = _PREVIEW_COLUMNS * max(1, n_classes) * config.size_px**2 * _PIXEL_BYTES
    return round(kept * checkpoint_bytes + written * picture)


def _ask(question: dict[str, Any], should_stop: Callable[[], bool]) -> Any:
    """Put a question to a process of its own, and return its answer; None if stopped meanwhile."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, json.dumps(question)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )
        try:
            while process.poll() is None:
                if should_stop():
                    return None
                try:
                    process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(0)
        errors.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
        last_words = errors.read().decode(errors="replace").strip().splitlines()[-1:]
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError):
        reason = last_words[0] if last_words else f"exit code {process.returncode}"
        msg = f"Nothing could be measured ({reason}); start the training and watch its speed."
        raise RunError(msg) from None
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["found"]


def _answer(question: dict[str, Any]) -> Any:
    if question["what"] == "devices":
        from napari_histolatent.models.device_facts import device_facts

        return [asdict(item) for item in device_facts()]
    from napari_histolatent.training.beside_steps import measure_beside
    from napari_histolatent.training.probe import measure

    kind = TrainingConfig if question["kind"] == "gan" else ClassifierConfig
    config = kind.from_json(question["config"])
    with tempfile.TemporaryDirectory() as folder:
        dataset = PatchDataset(question["dataset"])
        return measure(config, dataset, folder=Path(folder)) | measure_beside(config, dataset)


def main(arguments: Sequence[str]) -> int:
    """Answer one question; an expected fault is an answer too."""
    try:
        answer = {"found": _answer(json.loads(arguments[0]))}
    except UserError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.exit(code)
