"""From what a file says to regions: the repair, in a fixed order, vectorised over all rings of the file.

Order: class mapping; numbers that are none left out; placement; repeated points left out; three distinct points;
closed; valid; parts of one region joined; holes that are shapes of their own cut out. Valid rings come through
with every vertex as it was, and what the repair changes is kept beside the result.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely.geometry import MultiLineString, MultiPoint, MultiPolygon, Polygon

from napari_histolatent.annotations._geometry import n_crossings, polygonal, repaired
from napari_histolatent.annotations._mapping import default_mapping
from napari_histolatent.annotations._placement import AS_IS
from napari_histolatent.annotations._region import UNCLASSIFIED, Annotations, Region, Repair, SourceRing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from napari_histolatent.annotations._mapping import ClassMapping
    from napari_histolatent.annotations._marks import RGB, Mark, SourceFile
    from napari_histolatent.annotations._placement import Placement

_SAME_PX = 0.01
"""Points nearer than this are one."""
_MOST_CROSSINGS = 100_000
"""Of an outline with itself: what takes seconds to repair, and was not drawn by hand."""
_LARGEST = 1e9
"""Level-0 pixels; no slide is a metre wide at 1 nm per pixel."""


def regions_of(
    source: SourceFile,
    *,
    file_name: str,
    mapping: ClassMapping | None = None,
    placement: Placement = AS_IS,
) -> Annotations:
    """Return the regions of a file, repaired, and the report of what that took.

    Parameters
    ----------
    source
        What the file says.
    file_name
        Goes into the ids of regions that have none.
    mapping
        Classes of the file's groups; by default as named, where groups like "negative" are holes in formats that
        have no other holes.
    placement
        How to get from the file's coordinates to level-0 pixels.
    """
    is_chosen = mapping is not None
    if mapping is None:
        mapping = default_mapping(source.format)
    work = _Import(source, mapping, placement)
    return work.annotations(file_name, say_holes=not is_chosen)


@dataclass
class _Area:
    """An area on its way: one region's geometry and what became of it."""

    mark: Mark
    geometry: BaseGeometry
    class_name: str | None
    cuts: bool
    place: int
    """Of its (first) mark in the file, for the order of the regions."""
    rings: list[SourceRing] = field(default_factory=list)
    is_repaired: bool = False
    is_tidied: bool = False
    area_before_px: float = 0.0

    @property
    def is_changed(self) -> bool:
        return self.is_repaired or self.is_tidied


class _Import:
    def __init__(self, source: SourceFile, mapping: ClassMapping, placement: Placement) -> None:
        self._source, self._mapping, self._placement = source, mapping, placement
        groups = {mark.class_name for mark in source.marks}
        self._targets = {group: mapping.of(group) for group in groups}
        self._dropped = list(source.dropped)
        self._messages = list(source.messages)
        self._repairs: list[Repair] = []
        self._holes: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._lost_parts: defaultdict[str, list[tuple[Mark, str]]] = defaultdict(list)

    def annotations(self, file_name: str, *, say_holes: bool) -> Annotations:
        marks = self._mapped()
        areas = self._joined(self._areas([(i, m) for i, m in marks if m.kind == "area"]))
        others = [(i, m) for i, m in marks if m.kind != "area"]
        areas = self._cut(areas)
        found = [(area.place, self._region(area)) for area in areas]
        found += [(i, region) for i, mark in others if (region := self._place_mark(mark)) is not None]
        found.sort(key=lambda item: item[0])
        regions = self._with_ids([(place, region) for place, region in found], file_name)
        self._say_mapping(say_holes=say_holes)
        return Annotations(
            regions=tuple(regions),
            format=self._source.format,
            colors=self._colors(regions, marks),
            elements=_elements(self._source.marks) + len(self._source.dropped),
            repairs=tuple(self._repairs),
            tidied=sum(area.is_tidied and not area.is_repaired for area in areas),
            dropped=len(self._dropped),
            messages=(*(f"{said}" for said in self._dropped), *self._messages),
            groups=_groups(self._source.marks),
            hole_class=self._holes.most_common(1)[0][0] if self._holes else "exclusion",
        )

    def _mapped(self) -> list[tuple[int, Mark]]:
        """Return the marks that become something, with their place in the file."""
        targets, kept = self._targets, []
        for place, mark in enumerate(self._source.marks):
            target = targets[mark.class_name]
            if target.class_name is None and not target.cuts and mark.class_name.strip():
                self._left_out[mark.class_name] += 1
                continue
            if target.cuts and target.class_name is None and mark.kind == "area":
                self._holes[mark.class_name] += 1
            kept.append((place, mark))
        return kept

    # Areas

    def _areas(self, marks: Sequence[tuple[int, Mark]]) -> list[_Area]:
        rings = [ring for _, mark in marks for ring in mark.rings]
        owners = np.repeat(np.arange(len(marks)), [len(mark.rings) for _, mark in marks])
        is_outline = np.ones(len(rings), bool)
        is_outline[1:] = owners[1:] != owners[:-1]
        clean = _cleaned(rings, self._placement)
        self._drop_small_holes(clean, owners, is_outline, marks)
        bad = self._bad_outlines(clean, owners, is_outline, marks)
        use = clean.is_ring & ~np.isin(owners, list(bad))
        geometries = _polygons(clean, use, owners)
        result = []
        alive = [i for i in range(len(marks)) if i not in bad and len(marks[i][1].rings)]
        valid = shapely.is_valid(geometries)
        touched = np.zeros(len(marks), bool)
        np.logical_or.at(touched, owners, clean.is_touched)
        wrong = np.zeros(len(marks), bool)
        np.logical_or.at(wrong, owners, clean.is_wrong)
        areas = shapely.area(geometries)
        starts = np.searchsorted(owners, np.arange(len(marks)))
        for number, i in enumerate(alive):
            place, mark = marks[i]
            geometry: BaseGeometry | None = geometries[number]
            if not valid[number] or areas[number] == 0:
                assert isinstance(geometry, Polygon)
                crossings = n_crossings(geometry)
                if crossings > _MOST_CROSSINGS:
                    self._drop(
                        mark, f"its outline crosses itself some {crossings:,.0f} times, it is a tangle"
                    )
                    continue
                geometry = repaired(geometry)
                if geometry is None:
                    self._drop(mark, "its outline covers no area")
                    continue
            target = self._targets[mark.class_name]
            area = _Area(
                mark=mark,
                geometry=geometry,
                class_name=target.class_name or (UNCLASSIFIED if not target.cuts else None),
                cuts=target.cuts or mark.is_negative,
                place=place,
                is_repaired=bool(wrong[i] or not valid[number]),
                is_tidied=bool(touched[i]),
                area_before_px=float(areas[number]),
            )
            if mark.is_negative:
                area.class_name = None
            if area.is_changed or area.cuts:
                begin = int(starts[i])
                area.rings = [
                    SourceRing(_open(self._placement.moved(ring)), bool(not is_outline[begin + k]))
                    for k, ring in enumerate(mark.rings)
                ]
            result.append(area)
        return result

    def _drop_small_holes(
        self,
        clean: _Rings,
        owners: NDArray[np.int64],
        is_outline: NDArray[np.bool_],
        marks: Sequence[tuple[int, Mark]],
    ) -> None:
        for k in np.flatnonzero(~clean.is_ring & ~is_outline):
            clean.is_wrong[k] = True
            self._messages.append(
                f"{marks[owners[k]][1].where}: a hole of {_points(clean.kept[k])} was left out, it covers no area"
            )

    def _bad_outlines(
        self,
        clean: _Rings,
        owners: NDArray[np.int64],
        is_outline: NDArray[np.bool_],
        marks: Sequence[tuple[int, Mark]],
    ) -> set[int]:
        bad = set()
        for k in np.flatnonzero(is_outline & ~clean.is_ring):
            mark = marks[owners[k]][1]
            lost = len(mark.rings[0]) - clean.finite[k]
            why = f"{_points(clean.kept[k])} that differ enclose no area"
            if lost:
                why += f" ({lost} of {len(mark.rings[0])} have coordinates that are no numbers)"
            self._drop(mark, why)
            bad.add(int(owners[k]))
        for i, (_, mark) in enumerate(marks):
            if not mark.rings:
                self._drop(mark, "it has no points")
                bad.add(i)
        for k in np.flatnonzero(clean.finite < clean.given):
            if int(owners[k]) not in bad:
                self._messages.append(
                    f"{marks[owners[k]][1].where}: {clean.given[k] - clean.finite[k]} of {clean.given[k]} points were "
                    "left out, their coordinates are no numbers"
                )
        return bad

    def _drop(self, mark: Mark, why: str) -> None:
        if mark.part_of:
            self._lost_parts[mark.part_of].append((mark, why))
        else:
            self._dropped.append(f"{mark.where} dropped: {why}")

    def _joined(self, areas: list[_Area]) -> list[_Area]:
        """Join the parts of one region; it is dropped where none of them is left."""
        parts: defaultdict[str, list[_Area]] = defaultdict(list)
        for area in areas:
            if area.mark.part_of:
                parts[area.mark.part_of].append(area)
        for part_of, lost in self._lost_parts.items():
            if part_of in parts:
                self._messages += [f"{mark.where}: a part of it was left out, {why}" for mark, why in lost]
            else:
                self._dropped.append(f"{lost[0][0].where} dropped: {lost[0][1]}")
        if not parts:
            return areas
        result = [area for area in areas if not area.mark.part_of]
        for together in parts.values():
            first = together[0]
            if len(together) > 1:
                geometry: BaseGeometry = MultiPolygon([p for a in together for p in _polygons_of(a.geometry)])
                first.area_before_px = sum(area.area_before_px for area in together)
                overlaps = not geometry.is_valid
                if any(area.is_changed for area in together) or overlaps:
                    first.rings = [
                        ring for area in together for ring in (area.rings or _rings_of(area.geometry))
                    ]
                first.is_repaired = overlaps or any(area.is_repaired for area in together)
                first.is_tidied = any(area.is_tidied for area in together)
                # By structure: what two parts share belongs to the region once.
                first.geometry = repaired(geometry) or geometry
            lost_marks = [mark for mark, _ in self._lost_parts.get(first.mark.part_of, ())]
            if lost_marks:
                first.is_repaired = True
                first.rings = (first.rings or _rings_of(first.geometry)) + [
                    SourceRing(_open(self._placement.moved(ring)), k > 0)
                    for mark in lost_marks
                    for k, ring in enumerate(mark.rings)
                ]
            result.append(first)
        return result

    # Holes that are shapes of their own

    def _cut(self, areas: list[_Area]) -> list[_Area]:
        cutters: defaultdict[str, list[_Area]] = defaultdict(list)
        for area in areas:
            if area.cuts:
                # A group that cuts does so everywhere, a negative shape within its layer.
                cutters[area.mark.layer if area.mark.is_negative else ""].append(area)
        regions = [area for area in areas if area.class_name is not None]
        idle = {id(area) for area in areas if area.cuts and area.class_name is None}
        for layer, negatives in cutters.items():
            below = [a for a in regions if not a.cuts and (not layer or a.mark.layer == layer)]
            self._cut_out(below, negatives, idle)
        for area in areas:
            if id(area) in idle:
                self._messages.append(
                    f"{area.mark.where} ({area.mark.class_name or 'negative'}) is a hole over no region: left out"
                )
            elif area.class_name is None and area.is_repaired:
                self._repairs.append(Repair(area.mark.where, area.area_before_px, float(area.geometry.area)))
        return [area for area in regions if not area.geometry.is_empty]

    def _cut_out(self, below: list[_Area], negatives: list[_Area], idle: set[int]) -> None:
        shapes = np.array([area.geometry for area in negatives], object)
        tree = shapely.STRtree(shapes)
        lonely = np.ones(len(shapes), bool)
        first, second = tree.query(shapes, predicate="intersects")
        lonely[first[first != second]] = False
        holeless = np.array([isinstance(s, Polygon) and not s.interiors for s in shapes])
        covered: list[tuple[_Area, NDArray[np.int64]]] = []
        cut: defaultdict[str, set[int]] = defaultdict(set)
        for area in below:
            shapely.prepare(area.geometry)
            hits = np.sort(tree.query(area.geometry, predicate="intersects"))
            if not len(hits):
                continue
            # A ring wholly inside is put in as it is, every vertex kept; what crosses is computed.
            inside = shapely.contains_properly(area.geometry, shapes[hits]) & lonely[hits] & holeless[hits]
            crossing = hits[~inside]
            before = area.geometry
            geometry: BaseGeometry | None = before
            if len(crossing):
                geometry = polygonal(shapely.difference(before, shapely.union_all(shapes[crossing])))
            if geometry is None:
                covered.append((area, hits))
                continue
            cut[str(area.class_name)].update(int(k) for k in hits)
            idle -= {id(negatives[k]) for k in hits}
            if len(crossing):
                area.rings = area.rings or _rings_of(before)
                area.rings += [
                    SourceRing(r.xy, True) for k in crossing for r in negatives[k].rings if not r.is_hole
                ]
            if area.is_changed or area.rings or any(negatives[k].is_changed for k in hits[inside]):
                area.rings = area.rings or _rings_of(before)
                area.rings += [SourceRing(r.xy, True) for k in hits[inside] for r in negatives[k].rings]
            area.is_tidied |= any(negatives[k].is_changed for k in hits)
            area.geometry = _with_holes(geometry, shapes[hits[inside]])
        for area, hits in covered:
            if cut[str(area.class_name)].isdisjoint(int(k) for k in hits):
                # Drawn in a hole of another class: what the hole is cut from, it is not.
                self._messages.append(
                    f"{area.mark.where} lies wholly in a hole of another class, and is kept"
                )
            else:
                # As where groups are painted one over the other, the holes last (ASAP's masks, CAMELYON).
                self._dropped.append(f"{area.mark.where} dropped: holes cover all of it")
                area.geometry = Polygon()

    # Results

    def _region(self, area: _Area) -> Region:
        assert area.class_name is not None
        if area.is_repaired:
            self._repairs.append(Repair(area.mark.where, area.area_before_px, float(area.geometry.area)))
        return Region(
            id=area.mark.id,
            class_name=area.class_name,
            geometry=area.geometry,
            name=area.mark.name,
            source=tuple(area.rings) if not area.cuts or area.is_changed else (),
        )

    def _place_mark(self, mark: Mark) -> Region | None:
        """Return a mark without area as a region."""
        rings = [self._placement.moved(ring[_finite(ring)]) for ring in mark.rings]
        lost = sum(len(a) - len(b) for a, b in zip(mark.rings, rings, strict=True))
        rings = [ring for ring in rings if len(ring) >= (2 if mark.kind == "line" else 1)]
        if not rings:
            what = "two points" if mark.kind == "line" else "a point"
            self._dropped.append(f"{mark.where} dropped: it has not {what} with coordinates that are numbers")
            return None
        if lost:
            self._messages.append(
                f"{mark.where}: {lost} points were left out, their coordinates are no numbers"
            )
        geometry: BaseGeometry = (
            MultiLineString(list(rings)) if mark.kind == "line" else MultiPoint(np.vstack(rings))
        )
        if len(geometry.geoms) == 1:
            geometry = geometry.geoms[0]
        name = self._targets[mark.class_name].class_name or UNCLASSIFIED
        return Region(id=mark.id, class_name=name, geometry=geometry, name=mark.name)

    def _with_ids(self, found: Sequence[tuple[int, Region]], file_name: str) -> list[Region]:
        """Return the regions with ids that are there and unique."""
        known = Counter(region.id for _, region in found if region.id)
        doubled = sorted(name for name, n in known.items() if n > 1)
        if doubled:
            self._messages.append(
                f"{len(doubled)} ids occur more than once (such as {doubled[0]}): the later ones got new ids"
            )
        seen: set[str] = set()
        result = []
        for place, region in found:
            own = region.id
            if not own or own in seen:
                own = f"{file_name}#{self._source.marks[place].where}"
                while own in seen or own in known:
                    own += "+"
                region = Region(own, region.class_name, region.geometry, region.name, region.source)
            seen.add(own)
            result.append(region)
        return result

    def _colors(self, regions: Sequence[Region], marks: Iterable[tuple[int, Mark]]) -> dict[str, RGB]:
        used = {region.class_name for region in regions}
        colors: dict[str, RGB] = {}
        for group, color in self._source.colors.items():
            name = self._mapping.of(group).class_name
            if name in used:
                colors.setdefault(str(name), color)
        for group, own in dict.fromkeys((mark.class_name, mark.color) for _, mark in marks):
            name = self._targets[group].class_name
            if own is not None and name in used:
                colors.setdefault(str(name), own)
        return colors

    def _say_mapping(self, *, say_holes: bool) -> None:
        for group, n in self._left_out.items():
            self._messages.append(
                f"group {group!r} ({n} shapes) was left out, as mapping {self._mapping.name} says"
            )
        if say_holes:
            for group, n in self._holes.items():
                self._messages.append(
                    f"group {group!r} ({n} shapes) was read as holes; map it to a class if it is one"
                )


# Rings


@dataclass
class _Rings:
    """All rings of a file, cleaned; arrays have one entry a ring."""

    xy: NDArray[np.float64]
    """Every kept point, shape (n, 2)."""
    kept: NDArray[np.int64]
    """How many points are left of each ring, not counting the closing one."""
    finite: NDArray[np.int64]
    given: NDArray[np.int64]
    is_ring: NDArray[np.bool_]
    is_touched: NDArray[np.bool_]
    """Whether points that repeat others were left out."""
    is_wrong: NDArray[np.bool_]
    """Whether points that are none were left out."""


def _cleaned(rings: Sequence[NDArray[np.float64]], placement: Placement) -> _Rings:
    given = np.array([len(ring) for ring in rings], np.int64)
    xy = np.concatenate(rings) if rings else np.zeros((0, 2))
    of = np.repeat(np.arange(len(rings)), given)
    finite = _finite(xy)
    xy, of = placement.moved(xy[finite]), of[finite]
    n_finite = np.bincount(of, minlength=len(rings))
    keep = _distinct(xy, of)
    # A closing point is no point of its own; that it was there is no change.
    starts = np.searchsorted(of, np.arange(len(rings)))
    ends = starts + n_finite
    closed = np.flatnonzero(n_finite > 1)
    first, last = xy[starts[closed]], xy[ends[closed] - 1]
    closing = np.zeros(len(rings), bool)
    closing[closed[(first == last).all(axis=1)]] = True
    last_kept = np.maximum.accumulate(np.where(keep, np.arange(len(xy)), 0))[ends[closed] - 1]
    near = (np.hypot(*(first - xy[last_kept]).T) < _SAME_PX) & (last_kept > starts[closed])
    keep[last_kept[near]] = False
    kept = np.bincount(of[keep], minlength=len(rings))
    return _Rings(
        xy=xy[keep],
        kept=kept,
        finite=n_finite,
        given=given,
        is_ring=_has_three_distinct(kept),
        is_touched=kept + closing < n_finite,
        is_wrong=n_finite < given,
    )


def _has_three_distinct(kept: NDArray[np.int64]) -> NDArray[np.bool_]:
    return kept >= 3


def _finite(xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    # Beyond any slide, and where squares of coordinates overflow, is no place either.
    return np.asarray((np.abs(xy) < _LARGEST).all(axis=1))


def _distinct(xy: NDArray[np.float64], of: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which points differ from the one kept before them in their ring."""
    keep = np.ones(len(xy), bool)
    if len(xy) < 2:
        return keep
    small = (np.hypot(*np.diff(xy, axis=0).T) < _SAME_PX) & (of[1:] == of[:-1])
    keep[1:] = ~small
    # A run of small steps can lead far: there each point is compared with the last one that was kept.
    edges = np.flatnonzero(np.diff(small, prepend=False, append=False))
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if end - begin == 1:
            continue
        run = xy[begin : end + 1].tolist()
        anchor = run[0]
        for k, point in enumerate(run):
            if math.dist(point, anchor) >= _SAME_PX:
                keep[begin + k] = True
                anchor = point
    return keep


def _polygons(clean: _Rings, use: NDArray[np.bool_], owners: NDArray[np.int64]) -> NDArray[np.object_]:
    """Return a polygon for each owner of a used ring; its first ring is the outline."""
    if not use.any():
        return np.empty(0, object)
    points = np.repeat(use, clean.kept)
    index = np.repeat(np.cumsum(use) - 1, clean.kept)[points]
    rings = shapely.linearrings(clean.xy[points], indices=index)
    _, number = np.unique(owners[use], return_inverse=True)
    return np.asarray(shapely.polygons(rings, indices=number))


def _open(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    is_closed = len(ring) > 1 and (ring[0] == ring[-1]).all()
    return ring[:-1] if is_closed else ring


def _polygons_of(geometry: BaseGeometry) -> list[Polygon]:
    return [part for part in shapely.get_parts(geometry) if isinstance(part, Polygon)]


def _rings_of(geometry: BaseGeometry) -> list[SourceRing]:
    return [
        SourceRing(shapely.get_coordinates(ring)[:-1], k > 0)
        for polygon in _polygons_of(geometry)
        for k, ring in enumerate((polygon.exterior, *polygon.interiors))
    ]


def _with_holes(geometry: BaseGeometry, holes: NDArray[np.object_]) -> BaseGeometry:
    """Return a geometry with rings put in that lie wholly inside one of its parts each."""
    if not len(holes):
        return geometry
    parts = _polygons_of(geometry)
    of = [0] * len(holes) if len(parts) == 1 else shapely.STRtree(parts).query(holes, predicate="within")[1]
    added: defaultdict[int, list[BaseGeometry]] = defaultdict(list)
    for hole, part in zip(holes, of, strict=True):
        added[int(part)].append(hole.exterior)
    whole = [Polygon(part.exterior, [*part.interiors, *added[k]]) for k, part in enumerate(parts)]
    return whole[0] if len(whole) == 1 else MultiPolygon(whole)


def _groups(marks: Sequence[Mark]) -> dict[str, int]:
    """Return how many shapes each group has, the parts of one region counted once."""
    counts: Counter[str] = Counter()
    seen: set[str] = set()
    for mark in marks:
        if mark.part_of not in seen:
            counts[mark.class_name] += 1
        if mark.part_of:
            seen.add(mark.part_of)
    return dict(counts)


def _elements(marks: Sequence[Mark]) -> int:
    """Return how many shapes there are, the parts of one region counted once."""
    parts = [mark.part_of for mark in marks if mark.part_of]
    return len(marks) - len(parts) + len(set(parts))


def _points(n: int) -> str:
    return "1 point" if n == 1 else f"{n} points"
