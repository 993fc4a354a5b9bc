"""The classes of a slide's regions: name, colour, number key, whether shown and whether locked."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from napari_histolatent.annotations._region import PALETTE
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from napari_histolatent.annotations._marks import RGB

KEYS = tuple("123456789")
"""The number keys that pick a class."""


@dataclass(frozen=True)
class RegionClass:
    """One class of regions.

    Raises
    ------
    AnnotationError
        If the name is empty, the colour none, or the key no digit from 1 to 9.
    """

    name: str
    """Without blanks around it; upper and lower case differ."""
    color: RGB
    key: str = ""
    """The number key that picks the class, `1` to `9`, or empty."""
    is_visible: bool = True
    is_locked: bool = False
    """Whether the regions of this class are kept from being edited."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", class_name_of(self.name))
        if len(self.color) != 3 or not all(_is_channel(value) for value in self.color):
            msg = f'The class "{self.name}" has the colour {self.color!r}; give three numbers from 0 to 255.'
            raise AnnotationError(msg)
        object.__setattr__(self, "color", tuple(int(value) for value in self.color))
        if self.key and self.key not in KEYS:
            msg = f'The class "{self.name}" has the key {self.key!r}; give a digit from 1 to 9, or none.'
            raise AnnotationError(msg)


def class_name_of(text: str) -> str:
    """Return a class name as it is kept, without blanks around it.

    Raises
    ------
    AnnotationError
        If nothing is left of it.
    """
    name = text.strip()
    if not name:
        msg = f"The class name {text!r} is empty; type a name."
        raise AnnotationError(msg)
    return name


@dataclass(frozen=True)
class ClassTable:
    """The classes of one slide, in the order shown. Every change returns a new table.

    Raises
    ------
    AnnotationError
        If two classes share a name or a key.
    """

    classes: tuple[RegionClass, ...] = ()

    def __post_init__(self) -> None:
        names: set[str] = set()
        keys: dict[str, str] = {}
        for item in self.classes:
            if item.name in names:
                msg = f'There are two classes named "{item.name}"; give one of them another name.'
                raise AnnotationError(msg)
            if item.key and item.key in keys:
                msg = f'The key {item.key} of the class "{item.name}" belongs to "{keys[item.key]}"; choose another.'
                raise AnnotationError(msg)
            names.add(item.name)
            keys[item.key] = item.name

    def __iter__(self) -> Iterator[RegionClass]:
        return iter(self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @cached_property
    def _by_name(self) -> dict[str, RegionClass]:
        return {item.name: item for item in self.classes}

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order shown."""
        return tuple(item.name for item in self.classes)

    def get(self, name: str) -> RegionClass | None:
        """Return the class of that name, or None."""
        return self._by_name.get(name)

    def with_class(self, item: RegionClass) -> ClassTable:
        """Return the table with a class added at the end, or in the place of the one of that name.

        Raises
        ------
        AnnotationError
            If its key belongs to another class.
        """
        if item.name not in self:
            return ClassTable((*self.classes, item))
        return ClassTable(tuple(item if old.name == item.name else old for old in self.classes))

    def without(self, name: str) -> ClassTable:
        """Return the table without a class; a name that it lacks changes nothing."""
        return ClassTable(tuple(item for item in self.classes if item.name != name)) if name in self else self

    def renamed(self, old: str, new: str) -> ClassTable:
        """Return the table with one class renamed, in its place.

        Raises
        ------
        AnnotationError
            If there is no class `old`, or `new` is empty or belongs to another class.
        """
        if old not in self:
            raise unknown_class(old, self)
        name = class_name_of(new)
        if name != old and name in self:
            msg = f'There is a class "{name}" already; choose another name for "{old}".'
            raise AnnotationError(msg)
        return ClassTable(
            tuple(replace(item, name=name) if item.name == old else item for item in self.classes)
        )

    def completed(self, names: Iterable[str], colors: Mapping[str, RGB] | None = None) -> ClassTable:
        """Return the table with every class of `names` that it lacks.

        A new class gets the colour of `colors` or else the next that no class has, and the next free key.
        """
        classes = list(self.classes)
        known = set(self.names)
        for text in names:
            name = class_name_of(text)
            if name in known:
                continue
            known.add(name)
            color = (colors or {}).get(name) or _next_color({item.color for item in classes})
            used = {item.key for item in classes}
            classes.append(RegionClass(name, color, next((key for key in KEYS if key not in used), "")))
        return ClassTable(tuple(classes)) if len(classes) > len(self.classes) else self

    def to_json(self) -> list[dict[str, Any]]:
        """Return the table as a JSON value."""
        return [
            {
                "name": item.name,
                "color": list(item.color),
                "key": item.key,
                "is_visible": item.is_visible,
                "is_locked": item.is_locked,
            }
            for item in self.classes
        ]

    @classmethod
    def from_json(cls, value: object) -> ClassTable:
        """Return what can be understood of a table's JSON value; entries that cannot are left out.

        A key that an earlier class has is taken away, as the class is worth more than its key.
        """
        table = cls()
        for entry in value if isinstance(value, list) else ():
            try:
                item = RegionClass(
                    name=str(entry["name"]),
                    color=tuple(entry["color"]),
                    key=str(entry.get("key", "")),
                    is_visible=bool(entry.get("is_visible", True)),
                    is_locked=bool(entry.get("is_locked", False)),
                )
            except (AnnotationError, LookupError, TypeError, AttributeError):
                continue
            if item.name in table:
                continue
            if item.key and any(item.key == other.key for other in table):
                item = replace(item, key="")
            table = table.with_class(item)
        return table


def unknown_class(name: str, table: ClassTable) -> AnnotationError:
    """Return the error for a class that a table lacks."""
    there = ", ".join(f'"{known}"' for known in table.names) or "none"
    return AnnotationError(f'There is no class "{name}"; choose one of those there are: {there}.')


def _is_channel(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _next_color(used: set[RGB]) -> RGB:
    """Return the first colour of the palette not in use; after those, hues a golden angle apart."""
    for color in PALETTE:
        if color not in used:
            return color
    for step in range(len(used) + 1):
        # Lightness alternates too: neighbouring hues alone are hard to tell apart on stained tissue.
        red, green, blue = colorsys.hls_to_rgb(step * 0.618034 % 1, (0.45, 0.6, 0.33)[step % 3], 0.65)
        color = (round(red * 255), round(green * 255), round(blue * 255))
        if color not in used:
            return color
    return PALETTE[0]
