"""Numbers of a training in words: for a user who has to decide whether to wait."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from napari_histolatent._napari.widgets.extraction_binding import time_left

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_histolatent.jobs.probe import Device, Estimate
    from napari_histolatent.runs import RunStatus

_GB = 1e9
_LEAST_SHARE = 0.02
"""Of the time of a run: what takes less is not told of by itself."""
_WORDS = {"new": "New, not started yet", "unknown": "Not known yet", "gone": "Folder is gone"}
"""What a state is called, where it is not by its own name."""

_IN_DOCK = (
    ("; `histolatent runs` lists those there are", "; choose one from the list of runs"),
    (", or go on with `histolatent resume`", ", or click the run in the list and go on with Resume"),
    ("; stop it with `histolatent stop`,", "; stop it with Stop,"),
    ("there is nothing to resume: give more --steps than it has done to train on", "Fork trains on from it"),
    ("give more --steps", "set more steps"),
    ("name a dataset with --dataset", "start a new run with a dataset"),
    (
        "make one with `histolatent extract SLIDE --annotations FILE --out FOLDER`",
        "cut one in the Patches dock, or choose another folder",
    ),
)
"""Sentences name the command line's ways; these are the dock's."""

_KID, _KID_RANDOM = "KID, judge's features", "KID, random features"
_CONTRAST, _VARIETY = "Contrast", "Variety"
_COPIES = "Copies of training patches"
_RIGHT, _SCORES = "Discriminator is right", "Score of real and generated"
_ACCURACY = "Accuracy, held-out patches"


def described(status: RunStatus, config: Mapping[str, Any], *, is_paused: bool = False) -> str:
    """Return a run's state in words: what it is, how far it is, and what can be done about it.

    Parameters
    ----------
    status
        Where the run stands.
    config
        Its settings.
    is_paused
        Whether a stop was asked for as a pause.
    """
    if status.state == "gone":
        return "Its folder is gone."
    word = _WORDS.get(status.state, status.state.capitalize())
    if is_paused and status.state == "stopped":
        word = "Paused"
    first = f"{word}: step {status.step:,} of {status.steps:,}" if status.steps else word
    left = seconds_left(status, config)
    if status.state == "running" and left is not None:
        first += f", {time_left(left)} left"
    lines = [first]
    losses = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in status.losses.items())
    if losses:
        lines.append(f"Loss: {losses}")
    rate = status.data.get("images_per_second")
    if rate and status.state == "running":
        lines.append(f"{rate:g} images/s on {status.data.get('device', '?')}")
    if status.state in ("failed", "finished", "stopped") and status.message:
        lines.append(in_dock(status.message))
    lines += _what_now(status, is_paused=is_paused)
    return "\n".join(lines)


def in_dock(sentence: str) -> str:
    """Return a sentence with the dock's own controls where it names a command or an option of the command line."""
    for command, control in _IN_DOCK:
        sentence = sentence.replace(command, control)
    return re.sub(r"stop it first with `histolatent stop [^`]*`", "stop it first with Stop", sentence)


def _what_now(status: RunStatus, *, is_paused: bool) -> list[str]:
    kept = "checkpoint" in status.data
    found = re.search(r"step-0*(\d+)", str(status.data.get("checkpoint", "")))
    last = f"its last checkpoint, of step {int(found[1]):,}" if found else "its last checkpoint"
    if status.state == "interrupted":
        return [
            "Its process ended without a word: it was killed, crashed, or the power went. "
            + (f"Resume goes on from {last}." if kept else "It has no checkpoint yet: Resume begins anew.")
        ]
    if status.state == "new":
        return ["Resume starts it."]
    if status.state == "failed":
        return [f"Resume tries again from {last}."] if kept else []
    if status.state == "stopping":
        return ["It ends after its current step, with a checkpoint."]
    if status.state == "stopped":
        return [
            "Resume goes on where it is." if is_paused else "What it has learnt is kept; Resume would go on."
        ]
    return []


def seconds_left(status: RunStatus, config: Mapping[str, Any]) -> float | None:
    """Return how long a run still takes at its present speed, None where that is not known."""
    remaining = status.steps - status.step
    per_step = status.data.get("seconds_per_step")
    if not isinstance(per_step, (int, float)):
        rate, batch = status.data.get("images_per_second"), config.get("batch_size")
        if not rate or not batch:
            return None
        per_step = batch / rate
    return max(0.0, remaining * float(per_step)) if status.steps else None


def health_text(metrics: Mapping[str, Any]) -> str:
    """Return how good the network is, in one or two lines; empty where nothing was measured."""

    def number(name: str) -> float | None:
        value = metrics.get(name)
        return float(value) if isinstance(value, (int, float)) else None

    parts = []
    kid, kid_random = number("kid"), number("kid_random")
    if kid is not None and kid != kid_random:
        parts.append(f"KID {kid:.3g}")
    if kid_random is not None:
        parts.append(f"KID in random features {kid_random:.3g}")
    sd, real = number("pixel_sd"), number("pixel_sd_real")
    if sd is not None and real:
        parts.append(f"contrast {sd / real:.0%} of real patches'")
    scores = number("discriminator_real"), number("discriminator_fake")
    if scores[0] is not None and scores[1] is not None:
        parts.append(f"mean score of real {scores[0]:.2f}, of generated {scores[1]:.2f}")
    distance, real_distance = number("sample_distance"), number("sample_distance_real")
    if distance is not None and real_distance:
        parts.append(f"variety {distance / real_distance:.0%} of real patches'")
    accuracy, n = number("accuracy"), number("n")
    if accuracy is not None:
        parts.append(f"accuracy {accuracy:.3f}" + (f" on {n:.0f} held-out patches" if n else ""))
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


HELP = {
    _KID: "How far the samples are from held-out real patches in the features of the classifier that judges the run: "
    "lower is better, about 0 is as near as real patches are to each other.",
    _KID_RANDOM: "The same in the features of a network with random weights, the same one in each run.",
    _CONTRAST: "How much the samples vary at each pixel, compared with real patches.",
    _VARIETY: "How much samples of a class differ from each other, compared with real patches: far below 100% the "
    "generator draws few pictures.",
    _COPIES: "Samples that are nearer to a training patch than held-out patches are: the generator may have memorised "
    "those.",
    _RIGHT: "How often the discriminator tells real from generated patches: 50% is guessing, near 100% the generator "
    "learns little from it.",
    _SCORES: "What the discriminator says on the average: above 0 it takes a patch for real.",
    _ACCURACY: "Held-out patches whose class the classifier names.",
}
"""Label of `standing_words` -> what it means."""


def standing_words(
    status: RunStatus, metrics: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, str]:
    """Return where a run stands as label -> value with its unit, for a table; what is not known is left out.

    Parameters
    ----------
    status
        Where the run stands.
    metrics
        What was measured so far, later over earlier.
    config
        Its settings.
    """
    word = _WORDS.get(status.state, status.state.capitalize())
    words = {"State": word}
    if status.steps:
        words["Steps done"] = f"{status.step:,} of {status.steps:,} ({status.step / status.steps:.0%})"
    left = seconds_left(status, config)
    if status.state == "running" and left is not None:
        words["Time left"] = time_left(left)
    rate = status.data.get("images_per_second")
    if isinstance(rate, (int, float)):
        device = status.data.get("device")
        words["Speed"] = f"{rate:.1f} images/s" + (f" on {device}" if device else "")
    words |= {f"Loss, {name.replace('_', ' ')}": f"{value:.3g}" for name, value in status.losses.items()}
    return words | _measured(metrics)


def _measured(metrics: Mapping[str, Any]) -> dict[str, str]:
    def number(name: str) -> float:
        value = metrics.get(name)
        return float(value) if isinstance(value, (int, float)) else math.nan

    def share(name: str) -> float:
        real = number(f"{name}_real")
        return number(name) / real if real else math.nan

    words = {}
    kid, kid_random = number("kid"), number("kid_random")
    if kid != kid_random:  # without a judge both are that in random features
        words[_KID] = f"{kid:.3g}"
    words |= {
        _KID_RANDOM: f"{kid_random:.3g}",
        _CONTRAST: f"{share('pixel_sd'):.0%} of real patches'",
        _VARIETY: f"{share('sample_distance'):.0%} of real patches'",
        _COPIES: f"{number('copies'):.0%}",
        _RIGHT: f"{number('discriminator_right'):.0%} of the time",
        _SCORES: f"{number('discriminator_real'):.2f} and {number('discriminator_fake'):.2f}",
        _ACCURACY: f"{number('accuracy'):.1%}"
        + (f" of {number('n'):,.0f}" if not math.isnan(number("n")) else ""),
    }
    return {label: text for label, text in words.items() if "nan" not in text}


def estimate_text(estimate: Estimate, *, free_bytes: int | None) -> str:
    """Return what a run would take, in words."""
    step = estimate.seconds_per_step
    speed = f"{step * 1000:.0f} ms" if step < 1 else f"{step:.1f} s"
    within = [
        f"{time_left(seconds)} for {what}"
        for seconds, what in (
            (estimate.measuring_seconds, "measuring"),
            (estimate.encoder_seconds, "the encoder"),
        )
        if seconds >= _LEAST_SHARE * estimate.seconds and seconds > 0
    ]
    of_it = f" ({' and '.join(within)} among it)" if within else ""
    text = (
        f"About {time_left(estimate.seconds)}{of_it} for {estimate.steps:,} steps: {speed} a step, "
        f"{estimate.images_per_second:.0f} images/s on {estimate.device}, as this machine is busy now. "
        f"{bytes_text(estimate.memory_bytes)} of memory, {bytes_text(estimate.disk_bytes)} on the disk"
    )
    if free_bytes is None:
        return f"{text}."
    if free_bytes < estimate.disk_bytes:
        return f"{text}, where only {bytes_text(free_bytes)} are free: choose another folder."
    return f"{text} ({bytes_text(free_bytes)} free)."


def bytes_text(n: int) -> str:
    """Return a number of bytes in GB, small ones in MB."""
    return f"{n / _GB:.1f} GB" if n >= _GB / 10 else f"{max(1, round(n / 1e6))} MB"


def device_titles(devices: Sequence[Device]) -> tuple[list[tuple[str, str]], str]:
    """Return (name, title) of the devices to choose from, auto first, and why auto takes the one it takes."""

    def title(device: Device) -> str:
        memory = f", {bytes_text(device.memory_bytes)}" if device.memory_bytes else ""
        free = f" ({bytes_text(device.free_bytes)} free)" if device.free_bytes else ""
        return f"{device.title}{memory}{free}"

    best = devices[0]
    rows = [("auto", f"auto: {best.name}"), *((d.name, f"{d.name}: {title(d)}") for d in devices)]
    if best.name == "cpu":
        why = f"auto is the {title(best)}: PyTorch finds no graphics processor here."
    else:
        why = f"auto is {best.name}, {title(best)}: a graphics processor trains many times faster than the processor."
    return rows, why
