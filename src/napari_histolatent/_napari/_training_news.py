"""What is new of a run, read in threads: the UI thread touches no file of it."""

from __future__ import annotations

import os
import time
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from napari_histolatent._pictures import marked
from napari_histolatent.runs import ENDED, RunStatus

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histolatent.runs import Run, RunEvent

_POLLS_OF_ENDED = 5
"""A run that has ended is looked at in every so many polls only: it may be resumed elsewhere."""
_EVENTS_AT_ONCE = 2000
"""So many at a time: the UI thread shows that many in a few milliseconds."""


@dataclass(frozen=True)
class Frame:
    """A sample picture: after how many steps, and its file."""

    step: int
    path: Path


@dataclass(frozen=True)
class News:
    """Where a run stands, and what happened since the last news."""

    status: RunStatus
    events: Sequence[RunEvent] = ()
    frames: Sequence[Frame] = ()
    """New sample pictures whose files are there, oldest first."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Measurements of the network so far, later over earlier; its `warnings` are those of the newest look."""
    message: str = ""
    """What the run said last of its own accord while it went on."""


def news_of(run: Run, *, poll_seconds: float) -> Iterator[News | None]:
    """Yield what is new of a run, from its first event on, without an end; None where nothing is.

    A run that has ended may be resumed elsewhere, one that cannot be read may be there again.
    """
    run = copy(run)  # what it has read is this thread's alone: others ask the same run for its status
    offset, metrics, message = 0, dict[str, Any](), ""
    status, before = RunStatus("unknown"), None
    while True:
        try:
            # The state is asked first: what an ended run wrote is then all there.
            status = run.status()
            events, offset = run.events(offset)
        except OSError as error:
            trouble = (
                f"{run.path} cannot be read ({error.strerror or error}); it is looked at again and again."
            )
            yield News(status, (), (), metrics, trouble)
            before = None
            time.sleep(poll_seconds)
            continue
        is_at_rest = status.state in ENDED or status.state == "new"
        if is_at_rest and not events and status == before:
            for _ in range(_POLLS_OF_ENDED):
                yield None  # for whoever watches to call it off
                time.sleep(poll_seconds)
            continue
        before = status
        for start in range(0, max(1, len(events)), _EVENTS_AT_ONCE):
            part = events[start : start + _EVENTS_AT_ONCE]
            for event in part:
                if event.kind == "started":
                    message = ""
                metrics = metrics | (event.data.get("metrics") or {})
                if event.message and event.kind not in ("stopped", "finished", "failed"):
                    message = event.message
            yield News(status, part, frames_of(run, part), metrics, message)
        time.sleep(poll_seconds)


def frames_of(run: Run, events: Sequence[RunEvent]) -> list[Frame]:
    """Return the sample pictures that events tell of and that are there."""
    named = [
        Frame(event.step, run.path / str(event.data["sample"]))
        for event in events
        if event.data.get("sample")
    ]
    return [frame for frame in named if os.path.isfile(frame.path)]  # Path.is_file may raise


def neighbours_of(frame: Frame) -> Path:
    """Return where the real patches nearest to a frame's samples are pictured, if the run wrote them."""
    return frame.path.with_name(frame.path.name.replace("step-", "neighbours-"))


def shown_picture(path: Path, *, side_px: int, synthetic: bool) -> NDArray[np.uint8] | None:
    """Return a picture as large as it is shown, None if it cannot be read; SYNTHETIC in its corner if it is."""
    try:
        with Image.open(path) as image:
            # Before the word is drawn: scaled with the picture it could not be read.
            factor = side_px / max(image.size)
            size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
            how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX
            pixels = np.asarray(image.convert("RGB").resize(size, how))
    except (OSError, ValueError):  # taken away or cut off meanwhile: a picture less
        return None
    return marked(pixels) if synthetic else pixels
