"""The regions of a slide in a window: they come back, and nothing that is done to the layers loses one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from shapely.affinity import translate
from shapely.geometry import box

from napari_histolatent._napari._layers import slide_layer
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari.regions import is_regions_layer
from napari_histolatent.annotations import (
    ClassMapping,
    Placement,
    Region,
    RegionClass,
    RegionStore,
    Target,
    edited,
    regions_folder,
)
from napari_histolatent.errors import AnnotationError
from napari_histolatent.slides import open_slide
from tests._napari.helpers import add, settled

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent._napari.regions import SlideRegions
    from napari_histolatent.slides import Slide

DRAWN = Region("mine", "tumour", box(100, 100, 200, 220), "a name")


@pytest.fixture
def notices(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Everything that napari was asked to say."""
    from napari.utils.notifications import notification_manager

    said: list[str] = []
    monkeypatch.setattr(notification_manager, "dispatch", lambda notice: said.append(notice.message))
    return said


def layers(viewer: Any) -> list[Any]:
    return [layer for layer in viewer.layers if is_regions_layer(layer)]


def open_in(qtbot: Any, viewer: Any, slide: Slide) -> SlideRegions:
    add(viewer, slide_layer(slide))
    regions = session_of(viewer).regions_of(slide)
    qtbot.waitUntil(lambda: not regions.is_loading, timeout=10_000)
    settled(qtbot, regions)
    return regions


@pytest.fixture
def regions(qtbot: Any, viewer: Any, slide: Slide, notices: list[str]) -> SlideRegions:
    return open_in(qtbot, viewer, slide)


def another_viewer() -> Any:
    from napari.components import ViewerModel

    return ViewerModel()


def test_a_slide_that_is_looked_at_has_no_layer_and_no_file(
    viewer: Any, regions: SlideRegions, notices: list[str]
) -> None:
    assert layers(viewer) == []
    assert not regions_folder().exists() or list(regions_folder().iterdir()) == []
    assert notices == []
    assert regions.annotations() is None
    assert regions.current_class == "tumour"


def test_regions_are_back_when_the_slide_is_opened_again(
    qtbot: Any, viewer: Any, slide: Slide, regions: SlideRegions, notices: list[str]
) -> None:
    regions.apply("Draw", [DRAWN])
    session_of(viewer).close()
    later = another_viewer()
    again = open_in(qtbot, later, slide)
    assert again is not regions
    assert list(again.document.regions.values()) == [DRAWN]
    (layer,) = layers(later)
    assert list(layer.features["name"]) == ["a name"]
    assert len(notices) == 1
    assert notices[0].startswith("The 1 regions of tiny.tiff are back, as of ")
    assert again.document.version == 1
    with pytest.raises(IndexError):
        again.document.undo_title[0]
    session_of(later).close()


def test_a_slide_that_is_closed_and_opened_in_the_window_has_its_regions(
    qtbot: Any, viewer: Any, slide: Slide, regions: SlideRegions
) -> None:
    regions.apply("Draw", [DRAWN])
    settled(qtbot, regions)
    (below,) = [layer for layer in viewer.layers if not is_regions_layer(layer)]
    viewer.layers.remove(below)
    qtbot.waitUntil(lambda: len(viewer.layers) == 0, timeout=5000)
    assert session_of(viewer).regions() is None
    again = open_in(qtbot, viewer, slide)
    assert again is not regions
    assert list(again.document.regions.values()) == [DRAWN]
    assert len(layers(viewer)) == 1


def test_after_a_crash_a_warning_says_so(qtbot: Any, viewer: Any, slide: Slide, notices: list[str]) -> None:
    path = regions_folder() / f"{slide.info.digest}.sqlite"
    with RegionStore(path) as store:
        from napari_histolatent.annotations import RegionDocument, snapshot_of

        document = RegionDocument([DRAWN])
        store.save([snapshot_of(document, title="Draw")], 1)
        # What a process leaves that was killed: its row, with a process that is no more.
        store._connection.execute("UPDATE sessions SET pid = 999999, id = 'dead'")
    if not sessions_of(path):
        leave_a_dead_session(path)
    regions = open_in(qtbot, viewer, slide)
    assert list(regions.document.regions) == ["mine"]
    assert len(notices) == 1
    assert notices[0].startswith("napari ended unexpectedly last time; the 1 regions of tiny.tiff are back")


def sessions_of(path: Path) -> list[Any]:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM sessions").fetchall()


def leave_a_dead_session(path: Path) -> None:
    import socket
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO sessions VALUES ('dead', 999999, ?, 1.0, 1.0, 1.0)", (socket.gethostname(),)
        )
        connection.commit()


def test_a_layer_that_the_user_removes_loses_no_region(
    qtbot: Any, viewer: Any, regions: SlideRegions, notices: list[str]
) -> None:
    regions.apply("Draw", [DRAWN])
    settled(qtbot, regions)
    viewer.layers.remove(layers(viewer)[0])
    qtbot.waitUntil(lambda: bool(notices), timeout=3000)
    assert notices[0].startswith("The layer is gone; the 1 regions of tiny.tiff are kept")
    assert regions.selected == ()
    assert list(regions.document.regions) == ["mine"]
    regions.ensure_layer()
    settled(qtbot, regions)
    assert [len(layer.data) for layer in layers(viewer)] == [1]
    viewer.layers.remove(layers(viewer)[0])
    regions.apply("More", [Region("more", "normal", box(0, 0, 9, 9))])
    settled(qtbot, regions)
    assert [len(layer.data) for layer in layers(viewer)] == [2]


def test_two_windows_on_one_slide_do_not_mix(
    qtbot: Any, viewer: Any, slide: Slide, regions: SlideRegions, notices: list[str]
) -> None:
    saver = regions.autosaver
    assert saver is not None
    with qtbot.waitSignal(saver.saved, timeout=5000):
        regions.apply("Draw", [DRAWN])
    second = another_viewer()
    other = open_in(qtbot, second, slide)
    assert any("open in another window too" in text for text in notices)
    other.apply("Draw", [Region("theirs", "tumour", DRAWN.geometry)], ["mine"])
    assert list(regions.document.regions) == ["mine"]
    regions.apply("Move", [Region("mine", "tumour", translate(DRAWN.geometry, 5, 5))])
    session_of(second).close()
    session_of(viewer).close()
    again = open_in(qtbot, another_viewer(), slide)
    assert again.document.regions["mine"].geometry.equals(translate(DRAWN.geometry, 5, 5))
    assert list(again.document.regions) == ["mine"]
    assert any("Regions of tiny.tiff that were made in a second window" in text for text in notices)
    again.close()


def test_a_file_that_is_damaged_is_set_aside_and_said(
    qtbot: Any, viewer: Any, slide: Slide, notices: list[str]
) -> None:
    path = regions_folder() / f"{slide.info.digest}.sqlite"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database at all" * 500)
    regions = open_in(qtbot, viewer, slide)
    assert len(notices) == 1
    assert "cannot be read" in notices[0]
    saver = regions.autosaver
    assert saver is not None
    with qtbot.waitSignal(saver.saved, timeout=5000):
        regions.apply("Draw", [DRAWN])
    assert path.with_name(f"{path.name}.damaged-1").exists()


def wait_imported(qtbot: Any, regions: SlideRegions, path: Path, **options: Any) -> Any:
    with qtbot.waitSignal(regions.imported, timeout=10_000) as told:
        regions.import_file(path, **options)
    settled(qtbot, regions)
    return told.args[0]


def test_an_import_is_one_change_and_a_second_mapping_replaces_it(
    qtbot: Any, regions: SlideRegions, tiny_regions: Path
) -> None:
    regions.apply("Draw", [DRAWN])
    imported = wait_imported(qtbot, regions, tiny_regions)
    assert imported.check.regions == 2
    assert len(imported.ids) == 2
    assert regions.document.undo_title == "Import tiny.geojson"
    assert regions.sources == (tiny_regions,)
    mapping = ClassMapping("mine", {"epithelium": Target("tumour")})
    again = wait_imported(qtbot, regions, tiny_regions, mapping=mapping, in_place_of=imported)
    classes = sorted(region.class_name for region in regions.document.regions.values())
    assert classes == ["stroma", "tumour", "tumour"]
    assert "mine" in regions.document.regions
    assert again.mapping == mapping
    regions.undo()
    assert sorted(r.class_name for r in regions.document.regions.values()) == [
        "epithelium",
        "stroma",
        "tumour",
    ]
    regions.undo()
    assert list(regions.document.regions) == ["mine"]


def test_a_file_is_read_again_and_again_in_the_place_of_itself(
    qtbot: Any, regions: SlideRegions, tiny_regions: Path
) -> None:
    imported = wait_imported(qtbot, regions, tiny_regions)
    for name in ("tumour", "tumour", "other"):
        mapping = ClassMapping("mine", {"epithelium": Target(name)})
        imported = wait_imported(qtbot, regions, tiny_regions, mapping=mapping, in_place_of=imported)
        assert len(imported.ids) == 2
        assert sorted(r.class_name for r in regions.document.regions.values()) == sorted([name, "stroma"])
        assert regions.document.classes.names == (
            ("stroma", name) if name == "other" else ("stroma", "tumour")
        )


def test_what_was_moved_by_a_proposal_stays_there_when_its_groups_are_mapped(
    qtbot: Any, regions: SlideRegions, tiny_regions: Path
) -> None:
    imported = wait_imported(qtbot, regions, tiny_regions)
    assert imported.changed_in(regions.document) == 0
    regions.accept(imported, Placement(0.5, (3.0, 0.0)))
    settled(qtbot, regions)
    before = {r.geometry.bounds for r in regions.document.regions.values()}
    assert regions.last_import is not None
    assert regions.last_import.changed_in(regions.document) == 0, "accepted, not edited"
    mapping = ClassMapping("mine", {"epithelium": Target("tumour")})
    wait_imported(qtbot, regions, tiny_regions, mapping=mapping, in_place_of=regions.last_import)
    assert {r.geometry.bounds for r in regions.document.regions.values()} == before


def test_changes_since_an_import_are_counted(qtbot: Any, regions: SlideRegions, tiny_regions: Path) -> None:
    imported = wait_imported(qtbot, regions, tiny_regions)
    one, other = imported.ids
    regions.apply("Edit", [edited(regions.document.regions[one], box(0, 0, 9, 9))], [other])
    assert imported.changed_in(regions.document) == 2


def test_two_imports_at_once_are_both_taken_in(
    qtbot: Any, regions: SlideRegions, tiny_regions: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second.geojson"
    second.write_bytes(tiny_regions.read_bytes())
    regions.import_file(tiny_regions)
    regions.import_file(second)
    qtbot.waitUntil(lambda: len(regions.document.regions) == 4, timeout=10_000)
    assert regions.sources == (tiny_regions, second)


def test_classes_that_the_user_made_stay_with_an_import(
    qtbot: Any, regions: SlideRegions, tiny_regions: Path
) -> None:
    mine = RegionClass("necrosis", (1, 2, 3), "7")
    regions.document.set_class(mine)
    wait_imported(qtbot, regions, tiny_regions)
    assert regions.document.classes.get("necrosis") == mine


def test_an_import_says_what_was_dropped_without_a_dock(
    qtbot: Any, regions: SlideRegions, tmp_path: Path, notices: list[str]
) -> None:
    path = tmp_path / "half.geojson"
    good = {"type": "Polygon", "coordinates": [[[1, 1], [9, 1], [9, 9]]]}
    bad = {"type": "Polygon", "coordinates": [[[1, 1], [9, 1]]]}
    path.write_text(
        json.dumps([{"type": "Feature", "geometry": shape, "properties": {}} for shape in (good, bad)])
    )
    wait_imported(qtbot, regions, path)
    assert notices == ["half.geojson: 1 regions with 0 holes, 1 dropped; see the report in the Regions dock."]


def test_an_import_into_an_empty_slide_brings_its_own_classes(
    qtbot: Any, regions: SlideRegions, tiny_regions: Path
) -> None:
    wait_imported(qtbot, regions, tiny_regions)
    assert regions.document.classes.names == ("epithelium", "stroma")
    assert regions.current_class == "epithelium"
    regions.undo()
    assert regions.current_class in regions.document.classes.names


def test_a_file_without_regions_changes_nothing(
    qtbot: Any, regions: SlideRegions, tmp_path: Path, notices: list[str]
) -> None:
    path = tmp_path / "empty.geojson"
    path.write_text('{"type": "FeatureCollection", "features": []}')
    imported = wait_imported(qtbot, regions, path)
    assert imported.ids == frozenset()
    assert regions.document.classes.names == ("tumour", "normal")
    assert regions.current_class == "tumour"
    assert notices == ["empty.geojson holds no regions; see the report in the Regions dock."]


def test_a_proposal_is_offered_and_moves_what_was_imported(
    qtbot: Any, regions: SlideRegions, tmp_path: Path
) -> None:
    path = tmp_path / "far.geojson"
    corners = [[1400, 1200], [1500, 1200], [1500, 1270], [1400, 1200]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))
    imported = wait_imported(qtbot, regions, path)
    (own,) = imported.ids
    assert imported.check.outside == 1
    regions.accept(imported, Placement(0.5, (0.0, 0.0)))
    settled(qtbot, regions)
    assert regions.document.regions[own].geometry.bounds == (700, 600, 750, 635)
    regions.undo()
    assert regions.document.regions[own].geometry.bounds == (1400, 1200, 1500, 1270)


def test_an_earlier_version_is_gone_back_to_and_that_can_be_undone(qtbot: Any, regions: SlideRegions) -> None:
    saver = regions.autosaver
    assert saver is not None
    for name in ("a", "b"):
        with qtbot.waitSignal(saver.saved, timeout=5000):
            regions.apply(f"Draw {name}", [Region(name, "tumour", box(0, 0, 9, 9))])
    versions = saver.versions().result(10)
    regions.restore(saver.load(versions[-1].version).result(10), "Go back")  # type: ignore[arg-type]
    settled(qtbot, regions)
    assert list(regions.document.regions) == ["a"]
    regions.undo()
    assert list(regions.document.regions) == ["a", "b"]


def test_going_back_brings_the_classes_back_too(qtbot: Any, regions: SlideRegions) -> None:
    saver = regions.autosaver
    assert saver is not None
    with qtbot.waitSignal(saver.saved, timeout=5000):
        regions.apply("Draw", [DRAWN])
    then = regions.document.classes
    with qtbot.waitSignal(saver.saved, timeout=5000):
        regions.document.set_class(RegionClass("tumour", (9, 8, 7), "5"))
    versions = saver.versions().result(10)
    regions.restore(saver.load(versions[-1].version).result(10), "Go back")  # type: ignore[arg-type]
    settled(qtbot, regions)
    assert regions.document.classes == then


def test_nothing_is_changed_while_regions_are_read(
    qtbot: Any, viewer: Any, slide: Slide, regions: SlideRegions
) -> None:
    regions.apply("Draw", [DRAWN])
    session_of(viewer).close()
    later = another_viewer()
    add(later, slide_layer(slide))
    again = session_of(later).regions_of(slide)
    assert again.is_loading
    for act in (
        lambda: again.apply("Draw", [DRAWN]),
        again.undo,
        again.redo,
        lambda: again.import_file(regions_folder()),
    ):
        with pytest.raises(AnnotationError, match="still being read"):
            act()
    qtbot.waitUntil(lambda: not again.is_loading, timeout=10_000)
    settled(qtbot, again)
    again.close()


def test_regions_are_kept_beside_the_slide_if_the_user_asks(
    qtbot: Any, viewer: Any, tiny_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "slides" / "a.tiff"
    copy.parent.mkdir()
    copy.write_bytes(tiny_slide.read_bytes())
    kept = copy.with_name("a.tiff.regions.sqlite")
    monkeypatch.setattr(
        "napari_histolatent._napari.regions._slide_regions.keeps_regions_beside_slide", lambda: True
    )
    with open_slide(copy) as opened:
        regions = open_in(qtbot, viewer, opened)
        assert not kept.exists(), "nothing is written before something is drawn"
        with qtbot.waitSignal(regions.autosaver.saved, timeout=5000):
            regions.apply("Draw", [DRAWN])
        session_of(viewer).close()
        assert kept.exists()
        monkeypatch.setattr(
            "napari_histolatent._napari.regions._slide_regions.keeps_regions_beside_slide", lambda: False
        )
        again = open_in(qtbot, another_viewer(), opened)
        assert list(again.document.regions) == ["mine"], "where they are, whatever is set now"
        again.close()
