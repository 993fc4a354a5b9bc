"""Changes of a document reach the disk by themselves."""

from __future__ import annotations

import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from shapely.geometry import box

from napari_histolatent._napari.regions import _autosaver
from napari_histolatent._napari.regions._autosaver import Autosaver
from napari_histolatent.annotations import Region, RegionDocument, RegionStore, snapshot_of
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FACTS = {"name": "a.svs", "path": "/a.svs", "digest": "d"}


@pytest.fixture
def document() -> RegionDocument:
    return RegionDocument()


@pytest.fixture
def saver(qapp: Any, tmp_path: Path, document: RegionDocument) -> Iterator[Autosaver]:
    made = Autosaver(tmp_path / "regions" / "d.sqlite", FACTS)
    made.watch(document)
    yield made
    made.close()
    assert not [
        t for t in threading.enumerate() if t.name.startswith("histolatent-autosave") and t.is_alive()
    ]


def draw(document: RegionDocument, name: str, size: float = 10.0) -> Region:
    region = Region(name, "tumour", box(0, 0, size, size))
    document.apply(f"Draw {name}", [region])
    return region


def stored(path: Path) -> list[Region]:
    """What the file has, read as another process would: from a copy."""
    copy = path.with_name("copy.sqlite")
    copy.write_bytes(path.read_bytes())
    try:
        with RegionStore(copy) as store:
            found = store.load()
            return [] if found is None else list(found.regions)
    finally:
        copy.unlink()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_autosaver, "_AFTER_MS", 40)
    monkeypatch.setattr(_autosaver, "_AGAIN_MS", 120)


def test_a_change_is_on_the_disk_within_five_seconds(
    qtbot: Any, saver: Autosaver, document: RegionDocument, tmp_path: Path
) -> None:
    path = tmp_path / "regions" / "d.sqlite"
    assert saver.is_saved
    assert not path.exists(), "a slide that is only looked at leaves no file"
    started = time.monotonic()
    with qtbot.waitSignal(saver.saved, timeout=5000) as told:
        region = draw(document, "a")
        assert not saver.is_saved
        for i in range(12):  # who draws on does not put it off
            qtbot.wait(100)
            region = draw(document, "a", 20.0 + i)
    assert time.monotonic() - started < 5
    assert saver.is_saved
    assert told.args[0] == pytest.approx(time.time(), abs=5)
    assert stored(path) == [region]


def test_each_change_is_a_version_that_can_be_loaded(
    qtbot: Any, quick: None, saver: Autosaver, document: RegionDocument
) -> None:
    for name in ("a", "b"):
        with qtbot.waitSignal(saver.saved, timeout=5000):
            draw(document, name)
    versions = saver.versions().result(10)
    assert [version.title for version in versions] == ["Draw b", "Draw a"]
    old = saver.load(versions[-1].version).result(10)
    assert [region.id for region in old.regions] == ["a"]  # type: ignore[attr-defined]
    document.undo()
    with qtbot.waitSignal(saver.saved, timeout=5000):
        document.undo()
    assert saver.load(saver.versions().result(10)[0].version).result(10).regions == ()  # type: ignore[attr-defined]


def test_closing_writes_what_is_pending(saver: Autosaver, document: RegionDocument, tmp_path: Path) -> None:
    regions = [draw(document, name) for name in "abc"]
    saver.close()
    assert stored(tmp_path / "regions" / "d.sqlite") == regions
    draw(document, "later")
    assert saver.is_saved, "nobody listens any more"


def test_a_write_that_fails_is_tried_again_and_told_once(
    qtbot: Any,
    quick: None,
    saver: Autosaver,
    document: RegionDocument,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[int] = []
    save = RegionStore.save

    def refuse(self: RegionStore, changes: Any, version: int) -> int:
        tries.append(len(changes))
        if len(tries) <= 3:
            msg = "The disk is full; free some space."
            raise UserError(msg)
        return save(self, changes, version)

    monkeypatch.setattr(RegionStore, "save", refuse)
    told: list[str] = []
    saver.failed.connect(told.append)
    regions = [draw(document, "a")]
    qtbot.waitUntil(lambda: len(tries) == 2, timeout=5000)
    regions.append(draw(document, "b"))
    assert not saver.is_saved
    with qtbot.waitSignal(saver.saved, timeout=5000):
        pass
    assert told == ["The disk is full; free some space."]
    assert stored(tmp_path / "regions" / "d.sqlite") == regions


def test_a_write_that_fails_while_the_window_closes_is_made_again(
    qtbot: Any,
    quick: None,
    saver: Autosaver,
    document: RegionDocument,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    save = RegionStore.save

    def refuse(self: RegionStore, changes: Any, version: int) -> int:
        if not entered.is_set():
            entered.set()
            go_on.wait(10)
            msg = "Another program holds the file; close it."
            raise UserError(msg)
        return save(self, changes, version)

    monkeypatch.setattr(RegionStore, "save", refuse)
    region = draw(document, "a")
    qtbot.waitUntil(entered.is_set, timeout=5000)
    threading.Timer(0.2, go_on.set).start()
    saver.close()
    qtbot.wait(50)
    assert stored(tmp_path / "regions" / "d.sqlite") == [region]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs the rights of Unix")
def test_a_folder_that_cannot_be_written_to_is_one_sentence(
    qtbot: Any, quick: None, document: RegionDocument, tmp_path: Path, errors: list[str]
) -> None:
    folder = tmp_path / "regions"
    if os.geteuid() == 0:  # who may do everything is stopped by a file in the way only
        folder.write_text("in the way")
    else:
        folder.mkdir()
        folder.chmod(stat.S_IREAD | stat.S_IEXEC)
    saver = Autosaver(folder / "d.sqlite", FACTS)
    saver.watch(document)
    told: list[str] = []
    saver.failed.connect(told.append)
    draw(document, "a")
    qtbot.waitUntil(lambda: bool(told), timeout=5000)
    qtbot.wait(400)
    assert len(told) == 1
    assert str(folder) in told[0]
    assert not saver.is_saved
    saver.close()
    assert len(errors) == 1
    assert errors[0].startswith("The last changes of the regions are not saved:")


def ids(stored: object) -> list[str]:
    return [region.id for region in stored.regions]  # type: ignore[attr-defined]


def test_two_windows_on_a_fresh_slide_keep_their_regions_apart(
    qtbot: Any, quick: None, saver: Autosaver, document: RegionDocument, tmp_path: Path
) -> None:
    path = tmp_path / "regions" / "d.sqlite"
    other_document = RegionDocument()
    other = Autosaver(path, FACTS)
    other.watch(other_document)
    told: list[str] = []
    own_told: list[str] = []
    other.told.connect(told.append)
    saver.told.connect(own_told.append)
    with qtbot.waitSignal(saver.saved, timeout=5000):
        for name in ("a", "b"):
            draw(document, name)
    # Who has drawn nothing sees the other's regions in the list, and leaves no file by looking.
    (listed,) = other.versions().result(10)
    assert (listed.version, listed.title, listed.n_changed) == (
        -1,
        "Made in a second window (2 regions)",
        2,
    )
    assert ids(other.load(-1).result(10)) == ["a", "b"]
    assert other.load(-2).result(10) is None
    assert [file.name for file in path.parent.glob("*.sqlite")] == ["d.sqlite"]
    with qtbot.waitSignal(other.saved, timeout=5000):
        draw(other_document, "x")
    with qtbot.waitSignal(other.saved, timeout=5000):
        draw(other_document, "y")
    with qtbot.waitSignal(saver.saved, timeout=5000):
        draw(document, "c")
    assert len(told) == 1
    assert "Earlier versions…" in told[0]
    assert own_told == []
    versions = saver.versions().result(10)
    assert [(version.version, version.title) for version in versions] == [
        (3, "Draw c"),
        (2, "Draw b"),
        (-1, "Made in a second window (2 regions)"),
    ]
    assert ids(saver.load(-1).result(10)) == ["x", "y"]
    other.close()
    saver.close()
    with RegionStore(path) as store:
        assert store.path == path
        assert ids(store.load()) == ["a", "b", "c"]
        (kept,) = store.others()
        assert ids(store.load_other(kept.path)) == ["x", "y"]


def test_looking_at_the_versions_of_a_fresh_slide_leaves_no_file(saver: Autosaver, tmp_path: Path) -> None:
    assert saver.versions().result(10) == []
    assert saver.load(-1).result(10) is None
    assert saver.load(1).result(10) is None
    assert not (tmp_path / "regions").exists()


def test_after_a_failed_load_the_regions_go_to_a_file_that_is_found_again(
    qtbot: Any, quick: None, saver: Autosaver, document: RegionDocument, tmp_path: Path
) -> None:
    path = tmp_path / "regions" / "d.sqlite"
    path.mkdir(parents=True)  # whoever may read everything cannot read this
    told: list[str] = []
    saver.told.connect(told.append)
    with qtbot.waitSignal(saver.saved, timeout=5000):
        draw(document, "a")
    assert len(told) == 1
    assert "kept apart, in d-2.sqlite" in told[0]
    assert "another window" not in told[0]
    saver.close()
    later = Autosaver(path, FACTS)
    (listed,) = later.versions().result(10)
    assert listed.version == -1
    assert ids(later.load(-1).result(10)) == ["a"]
    later.close()


def test_another_windows_file_that_is_damaged_is_told(
    qtbot: Any, quick: None, saver: Autosaver, document: RegionDocument, tmp_path: Path
) -> None:
    path = tmp_path / "regions" / "d.sqlite"
    with RegionStore(path) as store:
        draw_in = RegionDocument([Region("x", "tumour", box(0, 0, 1, 1))])
        store.save([snapshot_of(draw_in)], 1)
    assert len(saver.versions().result(10)) == 1
    path.write_bytes(b"junk" * 1000)
    with qtbot.waitSignal(saver.told, timeout=5000) as told:
        assert saver.load(-1).result(10) is None
    assert "cannot be read" in told.args[0]


def test_a_change_during_a_long_write_is_written_right_after_it(
    qtbot: Any,
    saver: Autosaver,
    document: RegionDocument,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_autosaver, "_AFTER_MS", 400)
    entered, go_on = threading.Event(), threading.Event()
    starts: list[float] = []
    save = RegionStore.save

    def slow(self: RegionStore, changes: Any, version: int) -> int:
        starts.append(time.monotonic())
        entered.set()
        if len(starts) == 1:
            go_on.wait(10)
        return save(self, changes, version)

    monkeypatch.setattr(RegionStore, "save", slow)
    draw(document, "a")
    qtbot.waitUntil(entered.is_set, timeout=5000)
    draw(document, "b")
    qtbot.wait(600)
    ended = time.monotonic()
    go_on.set()
    qtbot.waitUntil(lambda: len(starts) == 2, timeout=5000)
    assert starts[1] - ended < 0.3
    qtbot.waitUntil(lambda: saver.is_saved, timeout=5000)
    # One that has waited for less goes on gathering, for as long as it would have.
    go_on.clear()
    del starts[:]
    draw(document, "c")
    qtbot.waitUntil(lambda: len(starts) == 1, timeout=5000)
    changed = time.monotonic()
    draw(document, "d")
    go_on.set()
    qtbot.waitUntil(lambda: len(starts) == 2, timeout=5000)
    assert 0.3 < starts[1] - changed < 0.8
