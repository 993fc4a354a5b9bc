"""The regions of one slide while they are being edited: what is true now, and how to take it back."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
import shapely
from psygnal import Signal

from napari_histolatent.annotations._chunks import in_chunks
from napari_histolatent.annotations._classes import ClassTable, class_name_of, unknown_class
from napari_histolatent.annotations._region import UNCLASSIFIED, Annotations, Region
from napari_histolatent.errors import AnnotationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from shapely.geometry.base import BaseGeometry

    from napari_histolatent.annotations._classes import RegionClass

HISTORY_LIMIT = 500
"""Changes that can be undone."""


@dataclass(frozen=True)
class Change:
    """One step of editing. It holds references to regions, no copies."""

    title: str
    """For the undo button: `Draw polygon`."""
    before: dict[str, Region | None] = field(repr=False)
    """Each touched region's id, with the region as it was; None where there was none."""
    after: dict[str, Region | None] = field(repr=False)
    """The same ids, with the region as it is; None where it was removed."""
    classes_before: ClassTable | None = None
    """None where the class table did not change."""
    classes_after: ClassTable | None = None

    @cached_property
    def totals(self) -> tuple[dict[str, tuple[int, float]], dict[str, tuple[int, float]]]:
        """Number and area (px²) of the regions before and after, by class: asked for, they are remembered."""
        return _totals(self.before.values()), _totals(self.after.values())

    @cached_property
    def put(self) -> dict[str, Region]:
        """The regions that are new or changed, by id: asked for, they are remembered."""
        return {region_id: region for region_id, region in self.after.items() if region is not None}

    @property
    def renamed_class(self) -> tuple[str, str] | None:
        """Old and new name, where a class got another name and nothing else happened; else None."""
        before, after = self.classes_before, self.classes_after
        if before is None or after is None or len(before) != len(after) or None in self.before.values():
            return None
        pairs = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        if len(pairs) != 1:
            return None
        ((old, new),) = pairs
        is_same = replace(old, name=new.name) == new and new.name not in before
        return (old.name, new.name) if is_same else None

    def inverse(self) -> Change:
        """Return the change that takes this one back."""
        return Change(f"Undo: {self.title}", self.after, self.before, self.classes_after, self.classes_before)


@dataclass(frozen=True)
class DocumentState:
    """A document as it was at one version, safe to be read by another thread."""

    regions: dict[str, Region] = field(repr=False)
    classes: ClassTable
    hole_class: str
    version: int


def edited(region: Region, geometry: BaseGeometry) -> Region:
    """Return the region with another geometry, and without the rings of the file: they no longer say it."""
    return replace(region, geometry=geometry, source=())


class RegionDocument:
    """The truth about one slide's regions. To be used from one thread.

    Regions keep the order in which they came, also one that is removed and brought back by undo.

    Parameters
    ----------
    regions
        What is there from the start; it cannot be undone. A class that the table lacks is added to it.
    classes
        The class table, empty unless given.
    hole_class
        The group that holes are written to, in formats where a hole is a shape of its own (ASAP).
    version
        Where to go on counting, for a document that comes from a store.
    """

    changed = Signal(Change)
    """Each change after it was made; an undone one comes as its inverse."""

    def __init__(
        self,
        regions: Iterable[Region] = (),
        classes: ClassTable | None = None,
        *,
        hole_class: str = "exclusion",
        version: int = 0,
    ) -> None:
        self._regions: dict[str, Region] = {}
        self._order: dict[str, int] = {}
        self._classes = classes or ClassTable()
        self._hole_class = hole_class
        self._counts: Counter[str] = Counter()
        self._areas_px: dict[str, float] = {}
        self._undo: deque[Change] = deque(maxlen=HISTORY_LIMIT)
        self._redo: list[Change] = []
        self._version = 0
        change = self._planned("", regions, (), None, is_guarded=False)
        if change is not None:
            self._carry_out(change)
        self._version = version

    @property
    def regions(self) -> Mapping[str, Region]:
        """The regions by id, in order; a view that follows every change."""
        return MappingProxyType(self._regions)

    @property
    def classes(self) -> ClassTable:
        """The class table; it has the class of every region."""
        return self._classes

    @property
    def hole_class(self) -> str:
        """The group that holes are written to, in formats where a hole is a shape of its own (ASAP)."""
        return self._hole_class

    @property
    def version(self) -> int:
        """A number that grows by one with each change, undo and redo too."""
        return self._version

    # Changing

    def apply(
        self,
        title: str,
        put: Iterable[Region] = (),
        remove: Iterable[str] = (),
        classes: ClassTable | None = None,
    ) -> Change | None:
        """Make one change, which one undo takes back.

        Parameters
        ----------
        title
            For the undo button.
        put
            New regions, and those that take the place of the one of their id.
        remove
            Ids; one that is not there, or is put as well, is not removed.
        classes
            The new class table. A class that it lacks but a region has is added to it.

        Returns
        -------
        Change or None
            None if nothing changes.

        Raises
        ------
        AnnotationError
            If two of `put` share an id, or a region of a locked class would change.
        """
        change = self._planned(title, put, remove, classes, is_guarded=True)
        return self._done(change)

    def plan(
        self,
        title: str,
        put: Iterable[Region] = (),
        remove: Iterable[str] = (),
        classes: ClassTable | None = None,
    ) -> Change | None:
        """Return the change that `apply` would make, for `commit`. May run in another thread than the one that changes.

        Where 200,000 regions are imported, this takes the time, and the commit a twentieth of it.

        Raises
        ------
        AnnotationError
            As `apply` does.
        """
        change = self._planned(title, put, remove, classes, is_guarded=True)
        if change is not None:
            _ = change.totals, change.put  # of all regions: now, not on the thread of the window
        return change

    def commit(self, change: Change, *, planned_at: int) -> bool:
        """Make a planned change; False, and nothing done, if the document is not at the version it was planned at."""
        if planned_at != self._version:
            return False
        self._done(change)
        return True

    def state(self) -> DocumentState:
        """Return what is true now, for another thread to store."""
        return DocumentState(dict(self._regions), self._classes, self._hole_class, self._version)

    def assign_class(self, ids: Iterable[str], name: str) -> Change | None:
        """Give regions another class, a new one if there is none of that name."""
        name = class_name_of(name)
        put = [
            replace(self._regions[region_id], class_name=name)
            for region_id in dict.fromkeys(ids)
            if region_id in self._regions
        ]
        return self.apply(f"Assign {name}", put)

    def set_class(self, item: RegionClass) -> Change | None:
        """Add a class, or change the colour, key, visibility or lock of the one of that name."""
        return self.apply(f"Change class {item.name}", classes=self._classes.with_class(item))

    def rename_class(self, old: str, new: str, *, merge: bool = False) -> Change | None:
        """Rename a class; its regions follow, also those of a locked one.

        Parameters
        ----------
        old, new
            The names.
        merge
            Whether `new` may be a class there is: then it takes over the regions, unless either is locked.

        Raises
        ------
        AnnotationError
            If there is no class `old`, or there is a class `new` and `merge` is false or one is locked.
        """
        name = class_name_of(new)
        is_merge = merge and name != old and name in self._classes and old in self._classes
        if is_merge:
            self._refuse_locked_classes({old, name})
            table = self._classes.without(old)
        else:
            table = self._classes.renamed(old, name)
        put = [replace(region, class_name=name) for region in self._of_class(old)]
        title = f"Merge class {old} into {name}" if is_merge else f"Rename class {old} to {name}"
        return self._done(self._planned(title, put, (), table, is_guarded=False))

    def remove_class(
        self, name: str, *, regions: Literal["unclassify", "remove"] = "unclassify"
    ) -> Change | None:
        """Remove a class, and its regions with it or to the class `unclassified`.

        Raises
        ------
        AnnotationError
            If there is no such class, it is locked, or it is `unclassified` and its regions are to stay.
        """
        if name not in self._classes:
            raise unknown_class(name, self._classes)
        self._refuse_locked_classes({name})
        mine = list(self._of_class(name))
        table = self._classes.without(name)
        if regions == "remove":
            return self.apply(f"Remove class {name}", remove=[region.id for region in mine], classes=table)
        if mine and name == UNCLASSIFIED:
            msg = f'The class "{name}" has {len(mine)} regions; assign them to another class first, or remove them too.'
            raise AnnotationError(msg)
        put = [replace(region, class_name=UNCLASSIFIED) for region in mine]
        return self.apply(f"Remove class {name}", put, classes=table)

    # History

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to take back."""
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        """Whether there is an undone change to make again."""
        return bool(self._redo)

    @property
    def undo_title(self) -> str:
        """What undo would take back, empty if nothing."""
        return self._undo[-1].title if self._undo else ""

    @property
    def redo_title(self) -> str:
        """What redo would make again, empty if nothing."""
        return self._redo[-1].title if self._redo else ""

    def undo(self) -> Change | None:
        """Take the last change back; return the inverse of it, or None if there is none."""
        if not self._undo:
            return None
        change = self._undo.pop()
        self._redo.append(change)
        inverse = change.inverse()
        self._carry_out(inverse)
        self.changed.emit(inverse)
        return inverse

    def redo(self) -> Change | None:
        """Make the last undone change again and return it, or None if there is none."""
        if not self._redo:
            return None
        change = self._redo.pop()
        self._undo.append(change)
        self._carry_out(change)
        self.changed.emit(change)
        return change

    # Reading

    def counts_and_areas(self, mpp_xy: tuple[float, float] | None) -> dict[str, tuple[int, float]]:
        """Return the number of regions and their area for each class of the table.

        Parameters
        ----------
        mpp_xy
            µm per pixel: areas are in mm² with it, in level-0 pixels squared without.
        """
        factor = 1.0 if mpp_xy is None else mpp_xy[0] * mpp_xy[1] / 1e6
        return {
            name: (self._counts[name], self._areas_px.get(name, 0.0) * factor) for name in self._classes.names
        }

    def to_annotations(self, format: str = "drawn") -> Annotations:
        """Return the regions as the writers take them."""
        return Annotations(
            regions=tuple(self._regions.values()),
            format=format,
            colors={item.name: item.color for item in self._classes},
            elements=len(self._regions),
            hole_class=self._hole_class,
        )

    @classmethod
    def from_annotations(cls, annotations: Annotations) -> RegionDocument:
        """Return a document of the regions of a file; an id that the file uses twice becomes unique."""
        names = sorted({_tidy_name(region.class_name) for region in annotations.regions})
        return cls(
            with_unique_ids(annotations.regions),
            ClassTable().completed(names, annotations.colors),
            hole_class=annotations.hole_class,
        )

    # Helpers

    def _of_class(self, name: str) -> Iterator[Region]:
        return (region for region in self._regions.values() if region.class_name == name)

    def _done(self, change: Change | None) -> Change | None:
        if change is None:
            return None
        self._undo.append(change)
        self._redo.clear()
        self._carry_out(change)
        self.changed.emit(change)
        return change

    def _planned(
        self,
        title: str,
        put: Iterable[Region],
        remove: Iterable[str],
        classes: ClassTable | None,
        *,
        is_guarded: bool,
    ) -> Change | None:
        after: dict[str, Region | None] = {}
        put_ids: set[str] = set()
        for given in put:
            if not given.id or given.id in put_ids:
                msg = f'Two regions share the id "{given.id}"' if given.id else "A region has no id"
                msg += "; give each region an id of its own."
                raise AnnotationError(msg)
            put_ids.add(given.id)
            name = _tidy_name(given.class_name)
            region = given if name == given.class_name else replace(given, class_name=name)
            old = self._regions.get(region.id)
            if old is None or not _is_same(old, region):
                after[region.id] = region
        for region_id in remove:
            if region_id in self._regions and region_id not in put_ids:
                after[region_id] = None
        before = {region_id: self._regions.get(region_id) for region_id in after}
        if is_guarded:
            self._refuse_locked_classes(_class_names(before) | _class_names(after))
        table = self._classes if classes is None else classes
        table = table.completed(self._names_in_use(before, after))
        has_new_table = table != self._classes
        if not after and not has_new_table:
            return None
        return Change(
            title,
            before,
            after,
            self._classes if has_new_table else None,
            table if has_new_table else None,
        )

    def _names_in_use(
        self, before: Mapping[str, Region | None], after: Mapping[str, Region | None]
    ) -> list[str]:
        counts = self._counts.copy()
        counts.subtract(region.class_name for region in before.values() if region is not None)
        counts.update(region.class_name for region in after.values() if region is not None)
        return [name for name, count in counts.items() if count > 0]

    def _refuse_locked_classes(self, names: set[str]) -> None:
        for item in self._classes:
            if item.is_locked and item.name in names:
                msg = f'The class "{item.name}" is locked, so its regions stay as they are; unlock it first.'
                raise AnnotationError(msg)

    def _carry_out(self, change: Change) -> None:
        if not change.before or not any(map(self._order.__contains__, change.after)):
            # All new, as from a file: in one go.
            first = len(self._order)
            self._order.update(zip(change.after, range(first, first + len(change.after)), strict=True))
            self._regions.update(change.put)
        else:
            self._carry_out_singly(change.after)
        before, after = change.totals
        self._tally(before, -1)
        self._tally(after, 1)
        if change.classes_after is not None:
            self._classes = change.classes_after
        self._version += 1

    def _carry_out_singly(self, after: Mapping[str, Region | None]) -> None:
        is_in_order = True
        for region_id, region in after.items():
            if region is None:
                del self._regions[region_id]
                continue
            if region_id not in self._regions:
                # A region that comes back takes its old place.
                is_in_order &= region_id not in self._order
                self._order.setdefault(region_id, len(self._order))
            self._regions[region_id] = region
        if not is_in_order:
            items = sorted(self._regions.items(), key=lambda item: self._order[item[0]])
            self._regions.clear()
            self._regions.update(items)

    def _tally(self, totals: Mapping[str, tuple[int, float]], sign: int) -> None:
        for name, (count, area) in totals.items():
            self._counts[name] += sign * count
            self._areas_px[name] = self._areas_px.get(name, 0.0) + sign * area
            if self._counts[name] <= 0:
                # What rounding left of the area goes with the last region.
                del self._counts[name]
                self._areas_px.pop(name, None)


def _totals(touched: Iterable[Region | None]) -> dict[str, tuple[int, float]]:
    regions = [region for region in touched if region is not None]
    if not regions:
        return {}
    areas = in_chunks(shapely.area, np.array([region.geometry for region in regions], object))
    names, which = np.unique([region.class_name for region in regions], return_inverse=True)
    counts = np.bincount(which, minlength=len(names))
    sums = np.bincount(which, weights=areas, minlength=len(names))
    return {str(name): (int(n), float(area)) for name, n, area in zip(names, counts, sums, strict=True)}


def with_unique_ids(regions: Iterable[Region], taken: Iterable[str] = ()) -> list[Region]:
    """Return the regions, with new ids for those without one or with one that another region has.

    Parameters
    ----------
    regions
        As a file gives them.
    taken
        Ids of the document that they are to join.
    """
    used = set(taken)
    unique: list[Region] = []
    n_of: dict[str, int] = {}
    for region in regions:
        region_id, stem = region.id, region.id or "region"
        while not region_id or region_id in used:
            n_of[stem] = n_of.get(stem, 1) + 1
            region_id = f"{stem}-{n_of[stem]}"
        used.add(region_id)
        unique.append(region if region_id == region.id else replace(region, id=region_id))
    return unique


def _tidy_name(name: str) -> str:
    return name.strip() or UNCLASSIFIED


def _class_names(regions: Mapping[str, Region | None]) -> set[str]:
    return {region.class_name for region in regions.values() if region is not None}


def _is_same(one: Region, other: Region) -> bool:
    """Whether nothing differs; `==` would compare the arrays of the source rings, and fail."""
    if one is other:
        return True
    return (
        one.class_name == other.class_name
        and one.name == other.name
        and (one.geometry is other.geometry or bool(shapely.equals_identical(one.geometry, other.geometry)))
        and len(one.source) == len(other.source)
        and all(
            a.is_hole == b.is_hole and np.array_equal(a.xy, b.xy, equal_nan=True)
            for a, b in zip(one.source, other.source, strict=True)
        )
    )
