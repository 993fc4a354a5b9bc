from __future__ import annotations

import random
from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
import shapely
from shapely.geometry import Point, box

from napari_histolatent.annotations import Annotations, Region
from napari_histolatent.annotations import _document as document_module
from napari_histolatent.annotations._classes import ClassTable, RegionClass
from napari_histolatent.annotations._document import Change, RegionDocument, edited, with_unique_ids
from napari_histolatent.annotations._region import UNCLASSIFIED, SourceRing
from napari_histolatent.errors import AnnotationError


def square(region_id: str, class_name: str = "a", x: float = 0, size: float = 10) -> Region:
    return Region(region_id, class_name, box(x, 0, x + size, size))


@pytest.fixture
def document() -> RegionDocument:
    return RegionDocument([square("1"), square("2", "b", 20), square("3", "a", 40)])


def listened(document: RegionDocument) -> list[Change]:
    heard: list[Change] = []
    document.changed.connect(heard.append)
    return heard


def test_a_new_document_has_its_regions_and_no_history(document: RegionDocument) -> None:
    assert list(document.regions) == ["1", "2", "3"]
    assert document.classes.names == ("a", "b")
    assert document.version == 0
    assert not document.can_undo
    assert not document.can_redo
    assert document.undo() is None
    assert document.redo() is None
    assert document.version == 0
    with pytest.raises(TypeError):
        document.regions["4"] = square("4")  # type: ignore[index]


def test_one_change_puts_replaces_and_removes(document: RegionDocument) -> None:
    heard = listened(document)
    old = document.regions["1"]
    moved = square("1", "a", 5)
    change = document.apply("Split", [moved, square("4", "new", 60)], ["3", "1", "nowhere"])
    assert change is not None
    assert heard == [change]
    assert list(document.regions) == ["1", "2", "4"]
    assert document.regions["1"] is moved
    assert change.before["1"] is old
    assert change.before["4"] is None
    assert change.after["3"] is None
    assert change.classes_after is not None
    assert change.classes_after.names == ("a", "b", "new") == document.classes.names
    assert document.version == 1
    assert document.undo_title == "Split"


def test_nothing_changed_is_no_change(document: RegionDocument) -> None:
    heard = listened(document)
    source = (SourceRing(np.array([[0.0, np.nan]]), False),)
    document.apply("Source", [replace(square("1"), source=source)])
    same = replace(square("1"), source=(SourceRing(np.array([[0.0, np.nan]]), False),))
    assert document.apply("Same", [same, document.regions["2"]], ["nowhere"], document.classes) is None
    assert document.version == 1
    assert len(heard) == 1
    assert document.undo_title == "Source"
    assert document.apply("Other", [square("1")]) is not None


def test_ids_are_unique_and_not_empty(document: RegionDocument) -> None:
    with pytest.raises(AnnotationError, match='share the id "4"'):
        document.apply("x", [square("4"), square("4", x=9)])
    with pytest.raises(AnnotationError, match="no id"):
        document.apply("x", [square("")])
    assert document.version == 0
    assert list(document.regions) == ["1", "2", "3"]


def test_class_names_are_tidied(document: RegionDocument) -> None:
    document.apply("x", [square("4", " a "), square("5", "  ")])
    assert document.regions["4"].class_name == "a"
    assert document.regions["5"].class_name == UNCLASSIFIED
    assert document.classes.names == ("a", "b", UNCLASSIFIED)


def test_undo_emits_the_inverse_and_redo_the_change(document: RegionDocument) -> None:
    change = document.apply("Delete", remove=["1", "2"])
    assert change is not None
    heard = listened(document)
    inverse = document.undo()
    assert inverse is not None
    assert (inverse.before, inverse.after) == (change.after, change.before)
    assert (document.can_undo, document.can_redo) == (False, True)
    assert document.redo_title == "Delete"
    assert list(document.regions) == ["1", "2", "3"]  # in their old places
    assert document.redo() is change
    assert heard == [inverse, change]
    assert list(document.regions) == ["3"]
    assert document.version == 3


def test_a_new_change_clears_what_could_be_redone(document: RegionDocument) -> None:
    document.apply("Delete", remove=["1"])
    document.undo()
    document.apply("Delete", remove=["2"])
    assert not document.can_redo
    assert document.redo() is None


def test_the_history_is_limited(document: RegionDocument, monkeypatch: pytest.MonkeyPatch) -> None:
    assert document_module.HISTORY_LIMIT == 500
    for i in range(520):
        document.apply(f"{i}", [square("1", x=i + 1)])
    n = 0
    while document.undo():
        n += 1
    assert n == 500
    assert document.regions["1"].geometry.bounds[0] == 20


def test_any_walk_through_the_history_shows_the_states_that_were() -> None:
    rng = random.Random(1)
    document = RegionDocument()
    states = [(dict(document.regions), document.classes)]
    at = 0
    for step in range(600):
        action = rng.random()
        if action < 0.25:
            done = document.undo()
            at -= done is not None
        elif action < 0.45:
            done = document.redo()
            at += done is not None
        else:
            ids = list(document.regions)
            put = [square(f"{step}", rng.choice("abc"), rng.random())]
            put += [square(i, rng.choice("abcd"), rng.random()) for i in rng.sample(ids, min(2, len(ids)))]
            done = document.apply("x", put, rng.sample(ids, min(1, len(ids))))
            at += 1
            del states[at:]
            states.append((dict(document.regions), document.classes))
        regions, classes = states[at]
        assert list(document.regions.items()) == list(regions.items())
        assert document.classes == classes
        names = [region.class_name for region in regions.values()]
        assert {name: n for name, (n, _) in document.counts_and_areas(None).items() if n} == {
            name: names.count(name) for name in set(names)
        }
    assert len(states) > 20


def test_a_locked_class_keeps_its_regions(document: RegionDocument) -> None:
    document.set_class(RegionClass("b", (1, 2, 3), is_locked=True))
    version = document.version
    for attempt in (
        lambda: document.apply("x", [square("2", "b", 99)]),
        lambda: document.apply("x", [square("9", "b")]),
        lambda: document.apply("x", remove=["1", "2"]),
        lambda: document.apply("x", [square("2", "a")]),
        lambda: document.assign_class(["1"], "b"),
        lambda: document.assign_class(["2"], "a"),
        lambda: document.remove_class("b"),
        lambda: document.remove_class("b", regions="remove"),
        lambda: document.rename_class("a", "b", merge=True),
        lambda: document.rename_class("b", "a", merge=True),
    ):
        with pytest.raises(AnnotationError, match=r'"b" is locked.*unlock it first'):
            attempt()
    assert document.version == version
    assert document.rename_class("b", "c") is not None
    assert document.regions["2"].class_name == "c"
    assert document.classes.get("c") == RegionClass("c", (1, 2, 3), is_locked=True)
    document.set_class(RegionClass("c", (1, 2, 3)))
    assert document.apply("x", remove=["2"]) is not None


def test_renaming_a_class_takes_its_regions_along(document: RegionDocument) -> None:
    heard = listened(document)
    document.rename_class("a", " tumor ")
    assert [region.class_name for region in document.regions.values()] == ["tumor", "b", "tumor"]
    assert document.classes.names == ("tumor", "b")
    assert len(heard) == 1
    assert document.rename_class("tumor", "tumor") is None
    with pytest.raises(AnnotationError, match="already"):
        document.rename_class("tumor", "b")
    with pytest.raises(AnnotationError, match="no class"):
        document.rename_class("none", "x")
    with pytest.raises(AnnotationError, match="no class"):
        document.rename_class("none", "b", merge=True)
    document.rename_class("tumor", "b", merge=True)
    assert document.classes.names == ("b",)
    assert document.counts_and_areas(None) == {"b": (3, pytest.approx(300))}
    document.undo()
    document.undo()
    assert document.classes.names == ("a", "b")
    assert document.counts_and_areas(None)["a"][0] == 2


def test_only_a_rename_is_told_as_one(document: RegionDocument) -> None:
    changes = listened(document)
    assert document.rename_class("a", "tumor") is not None
    document.undo()
    document.rename_class("a", "b", merge=True)
    document.set_class(RegionClass("b", (1, 2, 3)))
    first = document.classes.classes[0]
    # A file's regions and classes in the place of those there were.
    document.apply(
        "Import", [square("new", "x")], set(document.regions), ClassTable((replace(first, name="x"),))
    )
    found = [change.renamed_class for change in changes]
    assert found[:2] == [("a", "tumor"), ("tumor", "a")]
    assert found[2:] == [None] * (len(changes) - 2)
    assert len(found) > 4


def test_a_class_is_removed_with_its_regions_or_without(document: RegionDocument) -> None:
    document.remove_class("a")
    assert document.classes.names == ("b", UNCLASSIFIED)
    assert document.counts_and_areas(None)[UNCLASSIFIED][0] == 2
    with pytest.raises(AnnotationError, match="2 regions"):
        document.remove_class(UNCLASSIFIED)
    document.undo()
    document.remove_class("a", regions="remove")
    assert list(document.regions) == ["2"]
    assert document.classes.names == ("b",)
    with pytest.raises(AnnotationError, match="no class"):
        document.remove_class("a")


def test_a_table_never_loses_a_class_that_regions_have(document: RegionDocument) -> None:
    document.apply("x", classes=ClassTable())
    assert set(document.classes.names) == {"a", "b"}
    document.apply("x", remove=["2"], classes=document.classes.without("b"))
    assert document.classes.names == ("a",)


def test_assigning_a_class_keeps_the_shape(document: RegionDocument) -> None:
    geometry = document.regions["1"].geometry
    document.assign_class(["1", "1", "nowhere"], " new ")
    assert document.regions["1"].class_name == "new"
    assert document.regions["1"].geometry is geometry
    assert "new" in document.classes
    assert document.assign_class(["1"], "new") is None


def test_counts_and_areas_follow_every_change(document: RegionDocument) -> None:
    document.apply("Draw", [square("4", "a", 0, 1000), Region("5", "mark", Point(1, 1))])
    assert document.counts_and_areas((0.5, 0.25)) == {
        "a": (3, pytest.approx(1_000_200 * 0.125e-6)),
        "b": (1, pytest.approx(100 * 0.125e-6)),
        "mark": (1, 0),
    }
    document.apply("Delete", remove=["1", "3", "4"])
    assert document.counts_and_areas(None)["a"] == (0, 0)
    document.undo()
    assert document.counts_and_areas(None)["a"] == (3, pytest.approx(1_000_200))


def test_an_edited_region_forgets_the_rings_of_the_file() -> None:
    region = replace(square("1"), name="n", source=(SourceRing(np.zeros((3, 2)), False),))
    result = edited(region, box(0, 0, 1, 1))
    assert result == Region("1", "a", box(0, 0, 1, 1), "n")


def test_a_document_comes_from_a_file_and_goes_to_one() -> None:
    regions = (square("1", "b"), square("1", "a"), square("", " a "), square("1-2", "c"))
    document = RegionDocument.from_annotations(
        Annotations(regions, "x", colors={"b": (1, 2, 3)}, hole_class="none")
    )
    assert list(document.regions) == ["1", "1-2", "region-2", "1-2-2"]
    assert document.classes.names == ("a", "b", "c")
    assert not document.can_undo
    back = document.to_annotations()
    assert back.regions == tuple(document.regions.values())
    assert back.format == "drawn"
    assert back.colors["b"] == (1, 2, 3)
    assert set(back.colors) == {"a", "b", "c"}
    assert back.hole_class == "none"
    assert back.elements == 4


def test_ids_that_are_taken_are_given_anew() -> None:
    result = with_unique_ids([square("1"), square("2")], taken=["1"])
    assert [region.id for region in result] == ["1-2", "2"]


def test_two_hundred_thousand_regions_are_ready_soon() -> None:
    n = 200_000
    corners = np.random.default_rng(0).uniform(0, 1e5, (n, 2))
    shapes = shapely.box(*corners.T, *(corners + 10).T)
    regions = [Region(f"{i}", f"class {i % 5}", shape) for i, shape in enumerate(shapes)]
    start = perf_counter()
    document = RegionDocument(regions)
    assert perf_counter() - start < 5  # 0.3 s where nothing else runs
    imported = RegionDocument()
    change = imported.apply("Import", regions)
    assert change is not None
    assert change.after["7"] is regions[7]
    imported.undo()
    assert not imported.regions
    start = perf_counter()
    document.apply("Brush", [edited(regions[3], box(0, 0, 1, 1))])
    document.counts_and_areas(None)
    assert perf_counter() - start < 0.2  # a stroke looks at what it changed, not at all
    assert document.counts_and_areas(None)["class 3"] == (40_000, pytest.approx(100 * 39_999 + 1))
