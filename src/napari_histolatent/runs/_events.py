"""events.jsonl: the only channel between a run and whoever watches it."""

from __future__ import annotations

import json
import math
import os
import stat
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_histolatent._files import json_field, parse_json_object, without_nan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KINDS = ("started", "progress", "sample", "metrics", "checkpoint", "stopped", "finished", "failed")

MOST_STEPS = 2**31 - 1
"""More of them no run has, and no progress bar takes."""
_MAX_LINE_CHARS = 16 * 2**20

_DATA_TYPES: Mapping[str, type] = {
    "metrics": dict,
    "report": dict,
    "judges": dict,
    "best": dict,
    "encoder": dict,
    "sample": str,
    "checkpoint": str,
    "digest": str,
    "device": str,
    "images_per_second": float,
    "patches_per_second": float,
    "seconds_per_step": float,
}
"""What watchers of any kind of work count on where an event has it; whatever else it has is passed on as it is."""


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
        """Return the event of a line, or None where the line is torn, garbled or from another program.

        Of the data only what is of another type than watchers count on is left out.
        """
        if len(line) > _MAX_LINE_CHARS:
            return None
        try:
            values = {"step": 0, "steps": 0, "message": "", "time": 0.0} | parse_json_object(line)
            if values.get("kind") not in KINDS:
                return None
            losses = _object(values, "losses")
            return cls(
                kind=json_field(values, "kind", str),
                step=json_field(values, "step", int, least=0, most=MOST_STEPS),
                steps=json_field(values, "steps", int, least=0, most=MOST_STEPS),
                losses={
                    name: math.nan if value is None else json_field(losses, name, float)
                    for name, value in losses.items()
                },
                data={name: value for name, value in _object(values, "data").items() if _fits(name, value)},
                message=json_field(values, "message", str),
                time=json_field(values, "time", float, least=0),
            )
        except ValueError:
            return None


def _object(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {} if values.get(name) is None else json_field(values, name, dict)


def _fits(name: str, value: Any) -> bool:
    wanted = _DATA_TYPES.get(name)
    if wanted is None or value is None:
        return True
    # No number that comes out of JSON is a subclass, but for true and false.
    return type(value) is wanted or (wanted is float and type(value) is int)


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
        # A pipe would be waited for, and for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            return [], offset
        with path.open("rb") as file:
            file.seek(offset)
            block = file.read()
    except FileNotFoundError:
        return [], offset
    whole = block[: block.rfind(b"\n") + 1]
    lines = whole.decode(errors="replace").splitlines()
    events = [event for line in lines if (event := RunEvent.from_line(line)) is not None]
    return events, offset + len(whole)
