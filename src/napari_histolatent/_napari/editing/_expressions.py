"""Help with writing an expression of named points: how a name is written, what could stand at the cursor. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_PLAIN = re.compile(r"[^\W\d]\w*( ([^\W\d]\w*|\d+))*")
_COLUMN = re.compile(r", at column (\d+), ")
_MEAN = "mean"
_SIGNS = "+-*/(),"


def written(name: str) -> str:
    """Return a name as an expression holds it: in quotes where it is not made of words alone."""
    return name if _PLAIN.fullmatch(name) and name != _MEAN else f'"{name}"'


@dataclass(frozen=True)
class Fragment:
    """The part of an expression that is being written: from `start` to `end`, both places between characters."""

    start: int
    end: int
    text: str
    """Without the quote it may begin with."""
    is_in_mean: bool
    """Whether it stands in mean( … ), where a group has its place."""


def fragment_at(text: str, cursor: int) -> Fragment:
    """Return what is being written where the cursor stands."""
    before = text[:cursor]
    quote = _open_quote(before)
    if quote is not None:
        start = quote
    else:
        start = max((before.rfind(sign) for sign in _SIGNS), default=-1) + 1
        start += len(before[start:]) - len(before[start:].lstrip())
    return Fragment(start, cursor, before[start:].lstrip("\"'"), _is_in_mean(before[:start]))


def completions(points: Sequence[str], groups: Sequence[str], fragment: Fragment) -> list[tuple[str, str]]:
    """Return what could stand in a fragment's place: (what is shown, what is written), those that begin alike first.

    Nothing where nothing is being written yet, or where it is whole already.
    """
    if fragment.is_in_mean:
        offered = [(name, written(name)) for name in [*groups, *points]]
    else:
        offered = [(name, written(name)) for name in points]
        offered += [(f"{_MEAN}({name})", f"{_MEAN}({written(name)})") for name in groups]
    typed = fragment.text.casefold()
    if not typed.strip():
        return []
    found = [item for item in dict.fromkeys(offered) if typed in item[0].casefold()]
    if any(fragment.text == shown for shown, _ in found):
        return []
    return sorted(found, key=lambda item: not item[0].casefold().startswith(typed))


def column_of(sentence: str) -> int | None:
    """Return at which column (from 1) an error of an expression lies, None if it does not say."""
    found = _COLUMN.search(sentence)
    return int(found[1]) if found else None


def _open_quote(before: str) -> int | None:
    """Return where a quote stands that is still open."""
    opened: int | None = None
    for i, sign in enumerate(before):
        if opened is None and sign in "\"'":
            opened = i
        elif opened is not None and sign == before[opened]:
            opened = None
    return opened


def _is_in_mean(before: str) -> bool:
    """Whether the last parenthesis that is open is that of a mean."""
    depth = 0
    for i in range(len(before) - 1, -1, -1):
        depth += (before[i] == ")") - (before[i] == "(")
        if depth < 0:
            return re.search(rf"\b{_MEAN}\s*$", before[:i]) is not None
    return False
