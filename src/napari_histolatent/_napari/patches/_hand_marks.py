"""What the user decided about single patches of a slide, with undo, kept in a file per slide."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_histolatent._files import data_folder, write_json
from napari_histolatent.errors import DatasetError, writing_to
from napari_histolatent.patches import HandMark

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

VERSION = 1
_MOST_UNDONE = 500
_SAME_WIDTH_PX = 0.5


@dataclass(frozen=True)
class MarkKey:
    """Which patch: its top-left corner in level-0 pixels, and its size."""

    x: int
    y: int
    size_px: int
    """Side in its own pixels."""
    downsample: float
    """Level-0 pixels per patch pixel, across."""

    @property
    def width_px(self) -> float:
        """Width in level-0 pixels."""
        return self.size_px * self.downsample


@dataclass(frozen=True)
class Decision:
    """What was decided about one patch."""

    label: str = ""
    """Class instead of the rule's; "" leaves it to the rule."""
    is_in: bool = True
    is_picked: bool = False
    """Whether it was cut by a click, where the grid need not have a patch."""


@dataclass(frozen=True)
class _Step:
    title: str
    before: dict[MarkKey, Decision | None]
    after: dict[MarkKey, Decision | None]


class HandMarks:
    """The decisions about the patches of one slide, oldest first. Knows nothing of Qt."""

    changed = Signal(tuple)
    """The keys that were changed."""

    def __init__(self) -> None:
        self._decisions: dict[MarkKey, Decision] = {}
        self._done: list[_Step] = []
        self._undone: list[_Step] = []

    def __len__(self) -> int:
        return len(self._decisions)

    def items(self) -> tuple[tuple[MarkKey, Decision], ...]:
        """Return all decisions, oldest first."""
        return tuple(self._decisions.items())

    def get(self, key: MarkKey) -> Decision | None:
        """Return what was decided about a patch, or None."""
        return self._decisions.get(key)

    @property
    def undo_title(self) -> str:
        """What would be undone, "" if nothing."""
        return self._done[-1].title if self._done else ""

    @property
    def redo_title(self) -> str:
        """What would be done again, "" if nothing."""
        return self._undone[-1].title if self._undone else ""

    def fitting(self, size_px: int, downsample: float) -> tuple[HandMark, ...]:
        """Return the decisions about patches of this size on the slide, as a plan takes them.

        Those about patches of another size stay, and come back with it: at another size they would name tissue
        that nobody looked at.
        """
        return tuple(
            HandMark(key.x, key.y, decision.label, decision.is_in)
            for key, decision in self._decisions.items()
            if fits(key, size_px, downsample)
        )

    def put(self, decisions: Mapping[MarkKey, Decision | None], title: str) -> None:
        """Decide about patches (None: leave them to the rule again), as one step that can be undone."""
        before = {key: self._decisions.get(key) for key in decisions}
        after = dict(decisions)
        if before == after:
            return
        self._done.append(_Step(title, before, after))
        del self._done[:-_MOST_UNDONE]
        self._undone.clear()
        self._take(after)

    def undo(self) -> str:
        """Take the last step back; return its title, "" if there was none."""
        if not self._done:
            return ""
        step = self._done.pop()
        self._undone.append(step)
        self._take(step.before)
        return step.title

    def redo(self) -> str:
        """Do again what was undone last; return its title, "" if there was nothing."""
        if not self._undone:
            return ""
        step = self._undone.pop()
        self._done.append(step)
        self._take(step.after)
        return step.title

    def rename(self, old: str, new: str) -> None:
        """Follow a class that got another name, also in what can be undone."""

        def renamed(decision: Decision | None) -> Decision | None:
            is_of = decision is not None and decision.label == old
            return replace(decision, label=new) if decision is not None and is_of else decision

        def all_of(step: dict[MarkKey, Decision | None]) -> dict[MarkKey, Decision | None]:
            return {key: renamed(decision) for key, decision in step.items()}

        for steps in (self._done, self._undone):
            steps[:] = [_Step(step.title, all_of(step.before), all_of(step.after)) for step in steps]
        keys = tuple(key for key, decision in self._decisions.items() if decision.label == old)
        for key in keys:
            self._decisions[key] = replace(self._decisions[key], label=new)
        if keys:
            self.changed.emit(keys)

    def fill(self, decisions: Iterable[tuple[MarkKey, Decision]]) -> None:
        """Take in what was kept from before; what was decided meanwhile stays as it is."""
        kept = dict(decisions)
        self._decisions = kept | self._decisions
        # A step back to "nothing" of a patch that was decided before goes back to that.
        for i, step in enumerate(self._done):
            before = {key: kept.get(key) if old is None else old for key, old in step.before.items()}
            self._done[i] = _Step(step.title, before, step.after)
        self.changed.emit(tuple(kept))

    def _take(self, decisions: Mapping[MarkKey, Decision | None]) -> None:
        for key, decision in decisions.items():
            if decision is None:
                self._decisions.pop(key, None)
            else:
                self._decisions[key] = decision
        self.changed.emit(tuple(decisions))


def fits(key: MarkKey, size_px: int, downsample: float) -> bool:
    """Return whether a patch has this size, to half a level-0 pixel."""
    return key.size_px == size_px and abs(key.width_px - size_px * downsample) < _SAME_WIDTH_PX


def marks_file(digest: str) -> Path:
    """Return the file that keeps the decisions about a slide."""
    return data_folder() / "marks" / f"{digest}.json"


def marks_json(items: Iterable[tuple[MarkKey, Decision]], slide_name: str) -> dict[str, Any]:
    """Return decisions as JSON."""
    return {
        "version": VERSION,
        "slide": slide_name,
        "marks": [[k.x, k.y, k.size_px, k.downsample, d.label, d.is_in, d.is_picked] for k, d in items],
    }


def write_marks(path: Path, content: Mapping[str, Any]) -> None:
    """Write what `marks_json` gave, whole or not at all.

    Raises
    ------
    UserError
        If the folder cannot be written to.
    """
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dict(content))


def read_marks(path: Path) -> tuple[tuple[MarkKey, Decision], ...]:
    """Return the decisions that a file keeps; none if there is no file.

    Raises
    ------
    DatasetError
        If it is damaged, or written by a newer version. It is moved aside, so that nothing is written over it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except OSError as error:
        msg = f"{path} cannot be read ({error}); make it readable, then open the slide again."
        raise DatasetError(msg) from error
    except UnicodeError as error:
        raise _moved_aside(path, error) from error
    try:
        content = json.loads(text)
        if content["version"] > VERSION:
            raise ValueError(f"version {content['version']}")
        return tuple(
            (
                MarkKey(int(x), int(y), int(size_px), float(downsample)),
                Decision(str(label), bool(is_in), bool(is_picked)),
            )
            for x, y, size_px, downsample, label, is_in, is_picked in content["marks"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _moved_aside(path, error) from error


def _moved_aside(path: Path, error: Exception) -> DatasetError:
    aside = path.with_name(f"{path.stem}.damaged-{time.strftime('%Y%m%d-%H%M%S')}.json")
    try:
        path.replace(aside)
        where = f"it was moved to {aside}"
    except OSError:
        where = "it could not be moved aside"
    return DatasetError(
        f"The patches marked by hand in {path.name} cannot be read ({error}); {where}, and marking starts anew."
    )
