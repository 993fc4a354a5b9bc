"""What was done to an edit, as a tree: undone steps are kept, and doing something else opens a branch. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

State = TypeVar("State")

MOST_STEPS = 100
"""Steps kept: each may hold the tuned weights of a tile, some megabytes."""


@dataclass(frozen=True)
class Step(Generic[State]):
    """A state, and what led to it."""

    id: int
    parent: int | None
    """The step it was made from; None: the first one."""
    label: str
    """What was done, in words."""
    state: State


@dataclass(frozen=True)
class Branch:
    """A line of steps that ends somewhere: what can be gone back to."""

    id: int
    """Of its last step."""
    label: str
    """What was done after the branches parted, in words."""
    steps: int
    """From the first state to its end."""
    is_current: bool
    """Whether the present state lies on it, or redo leads there."""


class History(Generic[State]):
    """A tree of states with a place in it. States are kept as they are: give it frozen ones.

    Parameters
    ----------
    state
        The first.
    label
        What it is, in words.
    most
        Steps kept; beyond it the oldest go: first those of branches that were left, then the earliest.
    """

    def __init__(self, state: State, label: str = "start", *, most: int = MOST_STEPS) -> None:
        if most < 1:
            raise ValueError(most)
        self._most = most
        self._steps: dict[int, Step[State]] = {0: Step(0, None, label, state)}
        self._at = 0
        self._made = 1
        self._next: dict[int, int] = {}
        """Of each step the one that was made from it, or gone to, last: where redo leads."""

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def current(self) -> State:
        """The present state."""
        return self._steps[self._at].state

    @property
    def step(self) -> Step[State]:
        """The present step."""
        return self._steps[self._at]

    @property
    def undo_label(self) -> str | None:
        """What undo would take back; None where there is nothing to undo."""
        return None if self.step.parent is None else self.step.label

    @property
    def redo_label(self) -> str | None:
        """What redo would do again; None where there is nothing to redo."""
        return self._steps[self._next[self._at]].label if self._at in self._next else None

    @property
    def can_undo(self) -> bool:
        """Whether there is an earlier state."""
        return self.undo_label is not None

    @property
    def can_redo(self) -> bool:
        """Whether something was undone that can be done again."""
        return self.redo_label is not None

    def do(self, state: State, label: str) -> None:
        """Go to a new state. What was undone before stays, as a branch."""
        made = Step(self._made, self._at, label, state)
        self._steps[made.id] = made
        self._next[self._at] = made.id
        self._at = made.id
        self._made += 1
        while len(self._steps) > self._most:
            self._forget_one()

    def amend(self, state: State) -> None:
        """Put another state in the place of the present one: a slider that is still moving makes no steps."""
        self._steps[self._at] = replace(self.step, state=state)

    def undo(self) -> State | None:
        """Go back one step and return the state there; None, and nothing done, at the first."""
        parent = self.step.parent
        if parent is None:
            return None
        self._next[parent] = self._at
        self._at = parent
        return self.current

    def redo(self) -> State | None:
        """Go forward to where undo came from last and return the state there; None if there is no such."""
        following = self._next.get(self._at)
        if following is None:
            return None
        self._at = following
        return self.current

    def go(self, step: int) -> State:
        """Go to a step, as `branches` and `steps` name them, and return its state; redo goes on along its branch.

        Raises
        ------
        KeyError
            If it was forgotten meanwhile.
        """
        self._steps[step]
        self._at = step
        for child in self._way_to(step):
            parent = self._steps[child].parent
            if parent is not None:
                self._next[parent] = child
        return self.current

    def branches(self) -> list[Branch]:
        """Return all branches, the one that was made last first."""
        parents = {item.parent for item in self._steps.values()}
        present = self._end_of_present()
        ends = sorted((i for i in self._steps if i not in parents), reverse=True)
        return [Branch(end, self._words(end), len(self._way_to(end)), end == present) for end in ends]

    def steps(self) -> list[Step[State]]:
        """Return the steps of the present branch, the first state first, those that redo leads to last."""
        return [self._steps[i] for i in self._way_to(self._end_of_present())]

    def _end_of_present(self) -> int:
        end = self._at
        while end in self._next:
            end = self._next[end]
        return end

    def _way_to(self, step: int) -> list[int]:
        """Return the steps from the first to this one."""
        way = [step]
        while (parent := self._steps[way[-1]].parent) is not None:
            way.append(parent)
        return way[::-1]

    def _children(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {i: [] for i in self._steps}
        for item in self._steps.values():
            if item.parent is not None:
                found[item.parent].append(item.id)
        return found

    def _words(self, end: int) -> str:
        """Return what was done since this branch parted from another, or in all if it is the only one."""
        children = self._children()
        labels: list[str] = []
        for i in reversed(self._way_to(end)):
            labels.append(self._steps[i].label)
            parent = self._steps[i].parent
            if parent is not None and len(children[parent]) > 1:
                break
        return ", ".join(reversed(labels))

    def _forget_one(self) -> None:
        """Forget the oldest step that nothing was made from and that the present branch does without."""
        children, kept = self._children(), set(self._way_to(self._end_of_present()))
        for i in self._oldest_first():
            if i not in kept and not children[i]:
                self._drop(i)
                return
        # Only the present branch is left: its first state goes. Never the present one, which is its last.
        first = next(i for i in self._oldest_first() if self._steps[i].parent is None)
        (second,) = children[first]
        self._steps[second] = replace(self._steps[second], parent=None)
        self._drop(first)

    def _oldest_first(self) -> Iterator[int]:
        return iter(sorted(self._steps))

    def _drop(self, step: int) -> None:
        del self._steps[step]
        self._next.pop(step, None)
        for parent in [parent for parent, child in self._next.items() if child == step]:
            del self._next[parent]
