"""Arithmetic on latent points (S1 3.2.2): an expression of named points and groups becomes a point.

    expression = term {("+" | "-") term}
    term       = factor {("*" | "/") factor}
    factor     = ("+" | "-") factor | number | name | "mean" "(" name {"," name} ")" | "(" expression ")"

A name is one word or several (tumour with lumen); one that holds a sign or begins with a digit stands in quotes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent.errors import UserError
from napari_histolatent.latent.points import LatentPoint, class_vector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_MAX_LENGTH = 4000
_MAX_DEPTH = 50
_LARGEST = 1e100
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
        |(?P<quoted>"[^"]*"|'[^']*')
        |(?P<word>[^\W\d]\w*)
        |(?P<sign>[-+*/(),]))""",
    re.VERBOSE,
)
_MEAN = "mean"


@dataclass(frozen=True)
class Combination:
    """What an expression came to."""

    point: LatentPoint
    norm_before: float
    """Length of z as the expression gave it."""
    norm_after: float
    """Length of z once it was brought back to where the prior lives."""
    names: tuple[str, ...]
    """The points and groups it was made of."""


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    column: int


@dataclass(frozen=True)
class _Vector:
    """z, y and offsets as one row of numbers, which all operations treat alike."""

    numbers: NDArray[np.float64]


def combine(
    expression: str,
    *,
    points: Mapping[str, LatentPoint],
    groups: Mapping[str, Sequence[LatentPoint]] | None = None,
    prior: str = "normal",
    classes: Sequence[str] = (),
    label: str | None = None,
) -> Combination:
    """Return the point that an expression of named points and groups makes.

    Sums leave the shell on which the prior lives, and means shrink: z is brought back, to the length sqrt(d) for a
    normal prior, into -1 to 1 for a uniform one. The class vector is that of `label`, else the one-hot vector
    nearest to what the expression gives.

    Parameters
    ----------
    expression
        For example ``mean(tumour with lumen) - mean(tumour) + mean(healthy)``.
    points
        By name.
    groups
        Points by the name of their group; `mean` takes groups and points.
    prior
        Of the generator: normal or uniform.
    classes
        Of the generator.
    label
        The class to draw the result in.

    Raises
    ------
    UserError
        If the expression cannot be read (says at which column), names what there is not, divides by zero, is a
        number, or mixes points of different generators.
    """
    reader = _Reader(expression, points, groups or {})
    with np.errstate(all="ignore"):  # what grows beyond all numbers is told below
        value = reader.read()
    if not isinstance(value, _Vector):
        msg = f"The expression {expression.strip()!r} is the number {value:g}, not a point; name a point or a group in it."
        raise UserError(msg)
    return _combination(value, expression, reader, prior, classes, label)


def _combination(
    value: _Vector,
    expression: str,
    reader: _Reader,
    prior: str,
    classes: Sequence[str],
    label: str | None,
) -> Combination:
    first = reader.first
    assert first is not None
    d, k = len(first.values), len(first.class_weights)
    z, y, offsets = np.split(value.numbers, [d, d + k])
    if not np.isfinite(value.numbers).all() or np.abs(value.numbers).max() > _LARGEST:
        msg = (
            f"The expression {expression.strip()!r} comes to numbers that are too large; change its factors."
        )
        raise UserError(msg)
    before = float(np.linalg.norm(z))
    if before < 1e-9:
        msg = (
            f"The expression {expression.strip()!r} comes to zero, which is no point to draw from; change it."
        )
        raise UserError(msg)
    back = z * math.sqrt(d) / before if prior == "normal" else np.clip(z, -1, 1)
    if label is not None:
        weights = class_vector(classes, label)
    else:  # the nearest one-hot vector is that of the largest entry
        weights = tuple(float(i == int(y.argmax())) for i in range(k)) if k else ()
    width = len(first.offsets[0]) if first.offsets else reader.offset_width
    rows = offsets.reshape(-1, width) if offsets.size and width else np.zeros((0, 0))
    point = LatentPoint(
        values=tuple(map(float, back)),
        class_weights=weights,
        checkpoint_digest=first.checkpoint_digest,
        origin=" ".join(expression.split()),
        space=first.space,
        offsets=tuple(tuple(map(float, row)) for row in rows),
        # What a copy was tuned to draw is of that one tile: a combination is drawn by the checkpoint itself.
        tuned_digest="",
    )
    return Combination(point, before, float(np.linalg.norm(back)), tuple(dict.fromkeys(reader.names)))


class _Reader:
    """Reads one expression by recursive descent, and works it out on the way."""

    def __init__(
        self,
        expression: str,
        points: Mapping[str, LatentPoint],
        groups: Mapping[str, Sequence[LatentPoint]],
    ) -> None:
        self._expression, self._points, self._groups = expression, points, groups
        self._tokens = _tokens_of(expression)
        self._at, self._depth = 0, 0
        self.names: list[str] = []
        self.first: LatentPoint | None = None
        self.offset_width = 0
        self._offset_rows = 0
        for point in [*points.values(), *(item for group in self._groups.values() for item in group)]:
            if point.offsets:
                self._offset_rows, self.offset_width = len(point.offsets), len(point.offsets[0])
                break

    def read(self) -> _Vector | float:
        value = self._sum()
        if self._next.kind != "end":
            raise self._fault(f"{self._next.text!r} is not expected")
        return value

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, *texts: str) -> _Token | None:
        """Return the next token and go on, if it is one of these signs."""
        token = self._next
        if token.kind == "sign" and token.text in texts:
            self._at += 1
            return token
        return None

    def _expect(self, text: str) -> None:
        if self._take(text) is None:
            found = "the end" if self._next.kind == "end" else repr(self._next.text)
            raise self._fault(f"{text!r} is expected, not {found}")

    def _sum(self) -> _Vector | float:
        left = self._product()
        while sign := self._take("+", "-"):
            right = self._product()
            if isinstance(left, _Vector) != isinstance(right, _Vector):
                raise self._fault("a number and a point cannot be added", sign.column)
            factor = 1.0 if sign.text == "+" else -1.0
            if isinstance(left, _Vector) and isinstance(right, _Vector):
                left = _Vector(left.numbers + factor * right.numbers)
            elif not isinstance(left, _Vector) and not isinstance(right, _Vector):
                left = left + factor * right
        return left

    def _product(self) -> _Vector | float:
        left = self._factor()
        while sign := self._take("*", "/"):
            right = self._factor()
            if sign.text == "/":
                if isinstance(right, _Vector):
                    raise self._fault("nothing can be divided by a point; use a number", sign.column)
                if right == 0:
                    raise self._fault("it divides by zero", sign.column)
                right = 1 / right
            if isinstance(left, _Vector) and isinstance(right, _Vector):
                raise self._fault("two points cannot be multiplied; use a number", sign.column)
            if isinstance(left, _Vector) and not isinstance(right, _Vector):
                left = _Vector(left.numbers * right)
            elif isinstance(right, _Vector) and not isinstance(left, _Vector):
                left = _Vector(right.numbers * left)
            elif not isinstance(left, _Vector) and not isinstance(right, _Vector):
                left = left * right
        return left

    def _factor(self) -> _Vector | float:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._fault(f"it is nested more than {_MAX_DEPTH} deep")
        try:
            if sign := self._take("+", "-"):
                value, factor = self._factor(), 1.0 if sign.text == "+" else -1.0
                return _Vector(value.numbers * factor) if isinstance(value, _Vector) else value * factor
            if self._take("("):
                inner = self._sum()
                self._expect(")")
                return inner
            return self._named_or_number()
        finally:
            self._depth -= 1

    def _named_or_number(self) -> _Vector | float:
        token = self._next
        if token.kind == "number":
            self._at += 1
            value = float(token.text)
            if not math.isfinite(value):
                raise self._fault(f"the number {token.text} is too large", token.column)
            return value
        if token.kind == "word" and token.text == _MEAN and self._tokens[self._at + 1].text == "(":
            self._at += 2
            members: list[LatentPoint] = []
            while True:
                members += self._members(self._name())
                if not self._take(","):
                    break
            self._expect(")")
            return _Vector(np.mean([self._row(point, token.column) for point in members], axis=0))
        name = self._name()
        if name.text not in self._points and name.text in self._groups:
            raise self._fault(f"{name.text!r} is a group; write mean({name.text})", name.column)
        (point,) = self._members(name)
        return _Vector(self._row(point, name.column))

    def _name(self) -> _Token:
        """Return a name of one word or several, or in quotes."""
        first = self._next
        if first.kind == "quoted":
            self._at += 1
            return _Token("name", first.text[1:-1].strip(), first.column)
        words: list[str] = []
        while self._next.kind == "word" or (words and self._next.kind == "number"):
            words.append(self._next.text)
            self._at += 1
        if not words:
            found = "it ends" if first.kind == "end" else f"{first.text!r} stands"
            raise self._fault(f"{found} where a name or a number is expected", first.column)
        return _Token("name", " ".join(words), first.column)

    def _members(self, name: _Token) -> Sequence[LatentPoint]:
        found = [self._points[name.text]] if name.text in self._points else self._groups.get(name.text)
        if not found:
            there = ", ".join([*self._points, *self._groups]) or "none yet"
            raise self._fault(
                f"there is no point or group named {name.text!r} (there are: {there})", name.column
            )
        self.names.append(name.text)
        return found

    def _row(self, point: LatentPoint, column: int) -> NDArray[np.float64]:
        if self.first is None:
            self.first = point
        same = (
            point.checkpoint_digest == self.first.checkpoint_digest
            and len(point.values) == len(self.first.values)
            and len(point.class_weights) == len(self.first.class_weights)
            and point.space == self.first.space
        )
        if not same:
            raise self._fault(
                f"the points are of different generators ({self.first.checkpoint_digest[:12]} and "
                f"{point.checkpoint_digest[:12]})",
                column,
            )
        shape = (self._offset_rows, self.offset_width)
        offsets = np.array(point.offsets) if point.offsets else np.zeros(shape)
        if offsets.shape != shape:
            raise self._fault("the points have offsets of different layers", column)
        return np.concatenate([point.values, point.class_weights, offsets.ravel()])

    def _fault(self, what: str, column: int | None = None) -> UserError:
        at = self._next.column if column is None else column
        shown = self._expression if len(self._expression) <= 200 else f"{self._expression[:200]}…"
        return UserError(f"In the expression {shown!r}, at column {at}, {what}; mend it there.")


def _tokens_of(expression: str) -> list[_Token]:
    if len(expression) > _MAX_LENGTH:
        msg = f"The expression has {len(expression):,} characters, more than {_MAX_LENGTH:,}; make groups of its points."
        raise UserError(msg)
    tokens: list[_Token] = []
    at = 0
    while expression[at:].strip():
        match = _TOKEN.match(expression, at)
        if match is None:
            column = at + len(expression[at:]) - len(expression[at:].lstrip()) + 1
            msg = f"In the expression {expression[:200]!r}, at column {column}, {expression[column - 1]!r} means nothing; put a name with signs or digits first in quotes."
            raise UserError(msg)
        kind = str(match.lastgroup)
        tokens.append(_Token(kind, match[kind], match.start(kind) + 1))
        at = match.end()
    return [*tokens, _Token("end", "", len(expression.rstrip()) + 1)]
