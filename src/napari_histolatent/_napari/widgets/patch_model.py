from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

NO_CLASS = ""
"""The label of a patch without a class."""

_ROOM = 256  # slots that a column grows by at least
_NO_VALUE = float("nan")


@dataclass(frozen=True, slots=True)
class Card:
    """What the gallery shows of one patch, but for its pixels."""

    key: Hashable
    """Tells the patch from all others, whatever its owner likes."""
    label: str = NO_CLASS
    """Name of its class."""
    color: tuple[int, int, int] = (128, 128, 128)
    """Of its class: red, green, blue, 0 to 255."""
    slide: str = ""
    """Name of its slide."""
    values: Mapping[str, float] = field(default_factory=dict)
    """What is known of it in numbers: area fractions, focus, ... NaN: not measured."""
    note: str = ""
    """A line of text for its tooltip: why it is left out, say."""
    is_left_out: bool = False
    """Whether it is no member of the dataset."""
    xy: tuple[int, int] | None = None
    """Its top-left corner, level-0 px (x, y)."""


@dataclass(frozen=True)
class CardFilter:
    """Which cards are shown: those that pass all that is set."""

    label: str | None = None
    """Only this class; `NO_CLASS`: only patches without one; None: any."""
    slide: str | None = None
    """Only this slide; None: any."""
    value: str | None = None
    """Only cards whose value of this name reaches `bound`; None: any."""
    bound: float = 0.0
    """Compared in single precision, in which values are stored: 0.7 reaches 0.7. NaN never passes."""
    is_least: bool = True
    """Whether `bound` is the least value that passes; else it is the greatest."""

    @property
    def is_set(self) -> bool:
        """Whether it may hide a card."""
        return not (self.label is None and self.slide is None and self.value is None)


@dataclass(frozen=True)
class CardOrder:
    """How cards follow each other; equal ones in the order in which they were added."""

    by: Literal["added", "class", "slide", "value"] = "added"
    value: str = ""
    """Name of the value to sort by, where `by` says so. Cards without it come last, either way."""
    is_descending: bool = False


class CardTable:
    """Cards, with a column of numbers for whatever they are filtered and sorted by.

    A card keeps its *slot*, a number that counts up from 0 in the order added, until it is taken out. What takes
    long for many cards is made when it is first asked for. Knows nothing of Qt: it may be made in a worker.

    Parameters
    ----------
    cards
        In the order added, each with a key of its own.
    """

    def __init__(self, cards: Iterable[Card] = ()) -> None:
        self._take(_Cards(cards))

    @classmethod
    def from_columns(
        cls,
        n: int,
        *,
        card_of: Callable[[int], Card],
        key_of: Callable[[int], Hashable],
        slot_of: Callable[[Hashable], int],
        labels: tuple[NDArray[np.integer[Any]], Sequence[str]],
        slide: str,
        values: Mapping[str, NDArray[np.floating[Any]]],
    ) -> CardTable:
        """Return a table of cards that are made when they are looked at: 200,000 cost no more than their numbers.

        Parameters
        ----------
        n
            Number of cards, in slots 0 to n - 1.
        card_of, key_of
            Return the card, and its key, of a slot.
        slot_of
            Returns the slot of a key, -1 if no card has it. No two cards have the same key.
        labels
            For each card an index into names, shape (n,), and the names.
        slide
            Name of the slide of all cards.
        values
            For each name of a value that of every card, shape (n,); NaN: not measured.
        """
        table = cls()
        table._take(_Cards(n=n, card_of=card_of, key_of=key_of, slot_of=slot_of))
        codes, names = labels
        table._made_slots = {}
        table._made_names = {
            "label": _Names.coded(np.asarray(codes), names),
            "slide": _Names.coded(np.zeros(n, np.int32), (slide,)),
        }
        table._values = {name: _Column(np.array(column, np.float32)) for name, column in values.items()}
        table._value_names = dict.fromkeys(values)
        table._n_named = n
        return table

    def _take(self, cards: _Cards) -> None:
        self.cards = cards
        """By slot; one that was taken out stays there."""
        n = len(cards)
        self.n_cards = n
        """Number of cards, without those taken out."""
        self._made_slots: dict[Hashable, int] | None = None
        self._is_in = _Column(np.ones(n, np.bool_))
        self._made_names: dict[str, _Names] = {}
        self._values: dict[str, _Column] = {}
        self._value_names: dict[str, None] = {}
        self._n_named = 0

    @property
    def n_slots(self) -> int:
        """Number of slots ever given."""
        return len(self.cards)

    @property
    def has_all_labels(self) -> bool:
        """Whether `labels` and `slides` are at hand."""
        return len(self._made_names) == 2

    @property
    def has_all_names(self) -> bool:
        """Whether `value_names` knows every card."""
        return self._n_named == len(self.cards)

    @property
    def value_names(self) -> tuple[str, ...]:
        """Names of values, in the order in which cards bring them, as far as `learn_names` has looked."""
        return tuple(self._value_names)

    def learn_names(self, most: int) -> None:
        """Look through up to `most` further cards for names of values.

        All of 100,000 cards at once would hold the user's hand; the first thousand nearly always know all.
        """
        stop = min(self._n_named + most, len(self.cards))
        for slot in range(self._n_named, stop):
            self._value_names.update(dict.fromkeys(self.cards[slot].values))
        self._n_named = stop

    def prepare_some(self, n_names: int) -> bool:
        """Make a part of what is made when it is first asked for; return whether there was any left.

        Parameters
        ----------
        n_names
            Cards to look through for names of values, where that is the part.

        Raises
        ------
        ValueError
            Two cards have the same key.
        """
        if not self.has_all_labels:
            _ = self._slides if "label" in self._made_names else self._labels
        elif self._made_slots is None:
            self.slot(None)
        elif not self.has_all_names:
            self.learn_names(n_names)
        else:
            missing = next((name for name in self._value_names if name not in self._values), None)
            if missing is None:
                return False
            self.values(missing)
        return True

    def prepare(self) -> None:
        """Make all that is made when it is first asked for: in a worker, before the table is shown.

        Raises
        ------
        ValueError
            Two cards have the same key.
        """
        while self.prepare_some(len(self.cards)):
            pass

    def slot(self, key: Hashable) -> int:
        """Return a card's slot, -1 if there is no such card.

        Raises
        ------
        ValueError
            Two of the cards that the table was made of have the same key.
        """
        slot = self._slot_of.get(key, -1)
        if slot >= 0:
            return slot
        slot = self.cards.made_slot_of(key)
        return slot if slot >= 0 and self._is_in.numbers[slot] else -1

    def keys(self, slots: NDArray[np.intp]) -> list[Any]:
        """Return the keys of the cards in these slots, without those taken out."""
        return [self.cards.key(i) for i in slots[self._is_in.numbers[slots]].tolist()]

    def labels(self) -> tuple[str, ...]:
        """Return the classes that cards have, sorted; `NO_CLASS` is not among them."""
        return tuple(name for name in self._labels.used(self._is_in.numbers) if name != NO_CLASS)

    def slides(self) -> tuple[str, ...]:
        """Return the slides that cards are of, sorted."""
        return self._slides.used(self._is_in.numbers)

    def color(self, label: str) -> tuple[int, int, int]:
        """Return the colour of a class, that of any of its cards; grey if it has none."""
        found = np.flatnonzero((self._labels.numbers == self._labels.code(label)) & self._is_in.numbers)
        return self.cards[int(found[0])].color if found.size else Card(key=None).color

    def values(self, name: str) -> NDArray[np.float32]:
        """Return a value of every slot, NaN where a card has none: (n_slots,)."""
        if name not in self._values:
            numbers = (card.values.get(name, _NO_VALUE) for card in self.cards)
            self._values[name] = _Column(np.fromiter(numbers, np.float32, len(self.cards)))
        values: NDArray[np.float32] = self._values[name].numbers
        return values

    def range_of(self, name: str) -> tuple[float, float] | None:
        """Return the least and the greatest finite value of a name, None if there is none."""
        values = self.values(name)[self._is_in.numbers]
        values = values[np.isfinite(values)]
        return (float(values.min()), float(values.max())) if values.size else None

    def rows(self, wanted: CardFilter, order: CardOrder) -> NDArray[np.intp]:
        """Return the slots of the cards that pass a filter, in an order: (n,)."""
        passes = self._is_in.numbers.copy()
        if wanted.label is not None:
            passes &= self._labels.numbers == self._labels.code(wanted.label)
        if wanted.slide is not None:
            passes &= self._slides.numbers == self._slides.code(wanted.slide)
        if wanted.value is not None:
            values, bound = self.values(wanted.value), np.float32(wanted.bound)
            passes &= values >= bound if wanted.is_least else values <= bound
        slots = np.flatnonzero(passes)
        if order.by == "added":
            return slots[::-1] if order.is_descending else slots
        if order.by == "value":
            keys = self.values(order.value)[slots]
        else:
            names = self._labels if order.by == "class" else self._slides
            keys = names.ranks()[slots].astype(np.float32)
        if order.is_descending:
            keys = -keys
        return slots[np.argsort(keys, kind="stable")]  # NumPy sorts NaN to the end

    def add(self, card: Card) -> int:
        """Append a card, or change the one that has its key; return its slot."""
        slot = self.slot(card.key)
        if slot >= 0:
            self.update(card)
            return slot
        had_all_names = self.has_all_names
        labels, slides = self._labels, self._slides  # made before there is another card
        self._slot_of[card.key] = slot = len(self.cards)
        self.cards.append(card)
        self.n_cards += 1
        self._is_in.append(True)
        labels.append(card.label)
        slides.append(card.slide)
        for name, column in self._values.items():
            column.append(card.values.get(name, _NO_VALUE))
        self._value_names.update(dict.fromkeys(card.values))
        if had_all_names:
            self._n_named += 1
        return slot

    def update(self, card: Card) -> int:
        """Change the card that has this one's key; return its slot, -1 if there is none."""
        slot = self.slot(card.key)
        if slot >= 0:
            self.cards[slot] = card
            self._labels.put(slot, card.label)
            self._slides.put(slot, card.slide)
            for name, column in self._values.items():
                column.numbers[slot] = card.values.get(name, _NO_VALUE)
            self._value_names.update(dict.fromkeys(card.values))
        return slot

    def remove(self, key: Hashable) -> int:
        """Take a card out; return the slot that it had, -1 if there was none."""
        slot = self.slot(key)
        if slot >= 0:
            self._slot_of.pop(key, None)
            self._is_in.numbers[slot] = False
            self.n_cards -= 1
        return slot

    @property
    def _labels(self) -> _Names:
        return self._names_of("label")

    @property
    def _slides(self) -> _Names:
        return self._names_of("slide")

    def _names_of(self, what: str) -> _Names:
        if what not in self._made_names:
            self._made_names[what] = _Names(map(attrgetter(what), self.cards), len(self.cards))
        return self._made_names[what]

    @property
    def _slot_of(self) -> dict[Hashable, int]:
        if self._made_slots is None:
            slots = {card.key: i for i, card in enumerate(self.cards)}
            if len(slots) < len(self.cards):
                twice = next(card.key for i, card in enumerate(self.cards) if slots[card.key] != i)
                raise ValueError(f"two patches have the key {twice!r}: give each a key of its own.")
            self._made_slots = slots
        return self._made_slots


class _Cards:
    """Cards by slot: those that were given, or the first n of them made when they are looked at."""

    def __init__(
        self,
        cards: Iterable[Card] = (),
        *,
        n: int = 0,
        card_of: Callable[[int], Card] | None = None,
        key_of: Callable[[int], Hashable] | None = None,
        slot_of: Callable[[Hashable], int] | None = None,
    ) -> None:
        self._n_made, self._card_of, self._key_of, self._slot_of = n, card_of, key_of, slot_of
        self._changed: dict[int, Card] = {}
        self._given = list(cards)

    def __len__(self) -> int:
        return self._n_made + len(self._given)

    def __getitem__(self, slot: int) -> Card:
        if slot >= self._n_made:
            return self._given[slot - self._n_made]
        changed = self._changed.get(slot)
        if changed is not None:
            return changed
        assert self._card_of is not None
        return self._card_of(slot)

    def __setitem__(self, slot: int, card: Card) -> None:
        if slot >= self._n_made:
            self._given[slot - self._n_made] = card
        else:
            self._changed[slot] = card

    def __iter__(self) -> Iterator[Card]:
        # A list is gone through far faster than its slots are.
        return iter(self._given) if not self._n_made else (self[slot] for slot in range(len(self)))

    def append(self, card: Card) -> None:
        self._given.append(card)

    def key(self, slot: int) -> Hashable:
        return self._key_of(slot) if self._key_of is not None and slot < self._n_made else self[slot].key

    def made_slot_of(self, key: Hashable) -> int:
        return -1 if self._slot_of is None else self._slot_of(key)


class _Column:
    """Numbers that grow at the end, at a cost that does not depend on how many there are."""

    def __init__(self, numbers: NDArray[Any]) -> None:
        self._room, self._n = numbers, len(numbers)

    @property
    def numbers(self) -> NDArray[Any]:
        return self._room[: self._n]

    def append(self, number: float) -> None:
        if self._n == len(self._room):
            more = np.zeros(max(self._n, _ROOM), self._room.dtype)
            self._room = np.concatenate([self._room, more])
        self._room[self._n] = number
        self._n += 1


class _Names(_Column):
    """Names as numbers, so that comparing and sorting them is fast."""

    def __init__(self, names: Iterable[str], n: int) -> None:
        code_of: defaultdict[str, int] = defaultdict()
        code_of.default_factory = code_of.__len__  # a new name gets the next number
        super().__init__(np.fromiter(map(code_of.__getitem__, names), np.int32, n))
        self._code_of = dict(code_of)

    @classmethod
    def coded(cls, codes: NDArray[np.integer[Any]], names: Sequence[str]) -> _Names:
        """Return names that are numbers already: indices into different names."""
        made = cls((), 0)
        made._room, made._n = codes.astype(np.int32), len(codes)
        made._code_of = {name: i for i, name in enumerate(names)}
        return made

    def code(self, name: str) -> int:
        return self._code_of.get(name, -1)

    def append(self, number: Any) -> None:
        super().append(self._code_of.setdefault(number, len(self._code_of)))

    def put(self, slot: int, name: str) -> None:
        self.numbers[slot] = self._code_of.setdefault(name, len(self._code_of))

    def used(self, is_in: NDArray[np.bool_]) -> tuple[str, ...]:
        counts = np.bincount(self.numbers[is_in], minlength=len(self._code_of))
        return tuple(sorted((name for name, i in self._code_of.items() if counts[i]), key=_sorted_by))

    def ranks(self) -> NDArray[np.intp]:
        """Return for every slot where its name stands among all names, sorted."""
        ranks = np.zeros(len(self._code_of), np.intp)
        for rank, name in enumerate(sorted(self._code_of, key=_sorted_by)):
            ranks[self._code_of[name]] = rank
        of_slots: NDArray[np.intp] = ranks[self.numbers]
        return of_slots


def _sorted_by(name: str) -> tuple[bool, str, str]:
    """Sort names as people do, and patches without a class behind the others."""
    return name == NO_CLASS, name.casefold(), name
