"""events.jsonl: the only channel between a run and whoever watches it."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_histolatent._files import without_nan

if TYPE_CHECKING:
    from pathlib import Path

KINDS = ("started", "progress", "sample", "metrics", "checkpoint", "stopped", "finished", "failed")


@dataclass(frozen=True)
class RunEvent:
    """One line of events.jsonl."""

    kind: str
    """One of started, progress, sample, metrics, checkpoint, stopped, finished, failed."""
    step: int = 0
    """Steps done."""
    steps: int = 0
    """Steps in all."""
    losses: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    """What else there is to say: metrics (with warnings, sentences), files (relative to the run), the device."""
    message: str = ""
    time: float = field(default_factory=time.time)
    """Seconds since 1970."""

    def to_line(self) -> str:
        """Return the event as one JSON line; a number that is not finite becomes null."""
        return json.dumps(without_nan(vars(self)), allow_nan=False) + "\n"

    @classmethod
    def from_line(cls, line: str) -> RunEvent | None:
        """Return the event of a line, or None where the line is torn or from another program."""
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            return None
        if not isinstance(values, dict) or values.get("kind") not in KINDS:
            return None
        try:
            return cls(
                kind=values["kind"],
                step=int(values.get("step", 0)),
                steps=int(values.get("steps", 0)),
                losses={
                    str(name): math.nan if value is None else float(value)
                    for name, value in dict(values.get("losses") or {}).items()
                },
                data=dict(values.get("data") or {}),
                message=str(values.get("message", "")),
                time=float(values.get("time", 0)),
            )
        except (TypeError, ValueError, OverflowError):
            return None


def append_event(path: Path, event: RunEvent) -> None:
    """Append one event as a whole line; a line that a killed process left torn is closed first."""
    line = event.to_line()
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode())


def read_events(path: Path, offset: int = 0) -> tuple[list[RunEvent], int]:
    """Return the events after a byte offset, and the offset to go on from.

    A last line without its end is left for the next call.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            block = file.read()
    except FileNotFoundError:
        return [], offset
    whole = block[: block.rfind(b"\n") + 1]
    lines = whole.decode(errors="replace").splitlines()
    events = [event for line in lines if (event := RunEvent.from_line(line)) is not None]
    return events, offset + len(whole)
