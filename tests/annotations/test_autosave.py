from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from shapely.geometry import LineString, MultiPolygon, Point, box

from napari_histolatent.annotations import Region
from napari_histolatent.annotations import _autosave as autosave
from napari_histolatent.annotations._autosave import RegionStore, Stored, regions_folder, snapshot_of
from napari_histolatent.annotations._classes import ClassTable, RegionClass
from napari_histolatent.annotations._document import Change, RegionDocument
from napari_histolatent.annotations._region import SourceRing
from napari_histolatent.errors import AnnotationError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

N_IN_CHILD = 300


def square(region_id: str, class_name: str = "a", x: float = 0.1, size: float = 10) -> Region:
    return Region(region_id, class_name, box(x, 0, x + size, size))


def step(document: RegionDocument, version: int) -> Change:
    """Make the change that leads to `version`: the same one in every process."""
    rng = random.Random(version)
    ids = list(document.regions)
    put = [square(f"v{version}", rng.choice("abc"), rng.random() * 1e4)]
    put += [square(i, rng.choice("abcd"), rng.random() * 1e4) for i in rng.sample(ids, min(3, len(ids)))]
    change = document.apply(f"step {version}", put, rng.sample(ids, min(len(ids) // 200, 3)))
    assert change is not None
    assert document.version == version
    return change


def write_forever(path: Path) -> None:
    """Be the child that is killed."""
    with RegionStore(path) as store:
        stored = store.load()
        document = stored.to_document() if stored else RegionDocument()
        while True:
            pending = [step(document, document.version + 1) for _ in range(1 + document.version % 3)]
            sys.stdout.write(f"{store.save(pending, document.version)}\n")
            sys.stdout.flush()


def hold_open(path: Path) -> None:
    """Be the other process that has the file."""
    with RegionStore(path) as store:
        sys.stdout.write(f"{store.path.name}\n")
        sys.stdout.flush()
        sys.stdin.readline()


def write_apart(path: Path) -> None:
    """Be the second window that loaded nothing, and is killed."""
    store = RegionStore(path, is_new=True)
    document = RegionDocument()
    while True:
        store.save([step(document, document.version + 1)], document.version)
        sys.stdout.write(f"{store.path.name} {document.version}\n")
        sys.stdout.flush()


def child(function: str, path: Path) -> subprocess.Popen[str]:
    # The test module itself is what the child runs.
    code = f"import sys, pathlib; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_autosave as t; t.{function}(pathlib.Path(sys.argv[1]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "regions" / "slide.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[RegionStore]:
    with RegionStore(path) as store:
        yield store


def assert_holds(stored: Stored | None, document: RegionDocument) -> None:
    assert stored is not None
    assert stored.n_skipped == 0
    assert [region.id for region in stored.regions] == list(document.regions)
    assert stored.regions == tuple(document.regions.values())
    assert all(
        shapely.equals_identical(one.geometry, other.geometry)
        for one, other in zip(stored.regions, document.regions.values(), strict=True)
    )
    assert stored.classes == document.classes
    assert stored.hole_class == document.hole_class


def test_the_folder_is_in_the_data_folder(user_data_dir: Path) -> None:
    assert regions_folder() == user_data_dir / "regions"


def test_a_new_store_is_empty(store: RegionStore, path: Path) -> None:
    assert store.is_empty
    assert store.load() is None
    assert store.versions() == []
    assert store.others() == []
    assert store.notice == ""
    assert store.slide == {}
    assert (store.was_interrupted, store.is_open_elsewhere) == (False, False)
    assert store.path == path


def test_a_snapshot_comes_back_as_it_was(path: Path) -> None:
    ring = SourceRing(np.array([[0.1, 0.2], [np.nan, 1e9], [3, 4]]), True)
    regions = [
        replace(square("1", "tümor"), name="Näme"),
        Region(
            "2", "b", MultiPolygon([box(0, 0, 1, 1), box(2, 2, 3, 3).difference(box(2.2, 2.2, 2.4, 2.4))])
        ),
        Region("3", "mark", Point(1 / 3, 2)),
        Region("4", "mark", LineString([(0, 0), (1, 1)])),
    ]
    classes = ClassTable((RegionClass("b", (9, 8, 7), "5", is_visible=False, is_locked=True),))
    document = RegionDocument(regions, classes, hole_class="lumen")
    with RegionStore(path, {"name": "slide 1.svs"}) as store:
        store.save([snapshot_of(document)], document.version)
    with RegionStore(path) as store:
        assert not store.was_interrupted
        assert not store.is_empty
        assert store.slide == {"name": "slide 1.svs"}
        assert_holds(store.load(), document)
        # Rings are arrays, which == cannot compare.
        document = RegionDocument([replace(regions[0], source=(ring,))])
        store.save([snapshot_of(document)], document.version)
        stored = store.load()
    assert stored is not None
    assert stored.count == 1
    np.testing.assert_array_equal(stored.regions[0].source[0].xy, ring.xy)
    assert stored.regions[0].source[0].is_hole


def test_changes_undo_and_redo_are_followed_in_order(path: Path, store: RegionStore) -> None:
    document = RegionDocument([square(f"{i}") for i in range(5)])
    store.save([snapshot_of(document)], document.version)
    pending: list[Change] = []
    document.changed.connect(pending.append)

    def save() -> None:
        store.save(pending, document.version)
        pending.clear()
        assert_holds(store.load(), document)

    document.apply("Delete", remove=["1", "2"])
    save()
    document.apply("Draw", [square("new", "c")])
    save()
    document.undo()
    document.undo()
    save()
    document.set_class(RegionClass("a", (1, 1, 1)))
    document.rename_class("a", "z")
    save()
    store.close()
    with RegionStore(path) as again:
        stored = again.load()
        assert_holds(stored, document)
        assert stored is not None
        document = stored.to_document()
        assert document.version == stored.version
        change = document.apply("Draw", [square("later", "z")])
        assert change is not None
        again.save([change], document.version)
        assert_holds(again.load(), document)


def test_earlier_versions_can_be_loaded(store: RegionStore) -> None:
    document = RegionDocument()
    states: dict[int, tuple[Region, ...]] = {}
    for version in range(1, 40):
        assert store.save([step(document, version)], version) == version
        states[version] = tuple(document.regions.values())
    assert [item.version for item in store.versions()] == list(range(39, 0, -1))
    newest = store.versions()[0]
    assert (newest.title, newest.n_changed) == ("step 39", 4)
    assert abs(newest.time - time.time()) < 60
    for version, regions in states.items():
        stored = store.load(version)
        assert stored is not None
        assert stored.regions == regions
        assert stored.version == version
    assert store.load(40) is None
    assert store.load(0) is None


def test_several_changes_are_one_version(store: RegionStore) -> None:
    document = RegionDocument()
    store.save([step(document, version) for version in range(1, 4)], 3)
    assert [(item.version, item.title) for item in store.versions()] == [(3, "step 3 and 2 more")]
    assert_holds(store.load(), document)


def test_a_document_that_counts_from_zero_again_does_not_overwrite(store: RegionStore) -> None:
    store.save([step(RegionDocument(), 1)], 50)
    document = RegionDocument([square("x")])
    assert store.save([snapshot_of(document)], document.version) == 51
    assert store.save([step(document, 1)], document.version) == 52
    assert_holds(store.load(), document)
    stored = store.load(50)
    assert stored is not None
    assert stored.count == 1


def test_a_hundred_versions_are_kept_and_the_file_does_not_grow(store: RegionStore) -> None:
    big = Point(0, 0).buffer(100, quad_segs=500)  # 32 kB
    document = RegionDocument()
    sizes = []
    for i in range(1, 700):
        if i % 50 == 0:
            change = document.apply("Delete", remove=[f"{i - 1}"])
        else:
            change = document.apply("Draw", [Region(f"{i % 10}", "a", shapely.affinity.translate(big, i))])
        if change is None:
            continue
        store.save([change], document.version)
        if i % 100 == 99:
            sizes.append(store.path.stat().st_size)
    assert len(store.versions()) == autosave.VERSIONS_KEPT
    assert_holds(store.load(), document)
    oldest = store.versions()[-1]
    stored = store.load(oldest.version)
    assert stored is not None
    assert stored.count >= 9
    assert store.load(oldest.version - 1) is None
    assert max(sizes) < 1.5 * sizes[1]
    connection = store._connection
    n_rows = connection.execute("SELECT COUNT(*) FROM regions").fetchone()[0]
    assert n_rows <= autosave.VERSIONS_KEPT + 10
    assert connection.execute("SELECT COUNT(*) FROM classes").fetchone()[0] <= autosave.VERSIONS_KEPT


def test_freed_space_is_given_back(store: RegionStore) -> None:
    big = [Region(f"{i}", "a", Point(i, 0).buffer(100, quad_segs=2000)) for i in range(100)]
    document = RegionDocument(big)
    store.save([snapshot_of(document)], document.version)
    full = store.path.stat().st_size
    pending = [document.apply("Delete", remove=list(document.regions))]
    for i in range(autosave.VERSIONS_KEPT + 2):
        store.save([change for change in pending if change], document.version)
        pending = [document.apply("Draw", [square("x", x=i)])]
    assert full > 10e6
    assert store.path.stat().st_size < 5e6


# Sessions


def test_a_second_process_gets_a_branch(path: Path) -> None:
    with RegionStore(path) as store:
        store.save([step(RegionDocument(), 1)], 1)
    holder = child("hold_open", path)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline().strip() == path.name
        with RegionStore(path) as second:
            assert second.is_open_elsewhere
            assert not second.was_interrupted
            assert second.path == path.with_name("slide-2.sqlite")
            stored = second.load()
            assert stored is not None
            document = stored.to_document()
            time.sleep(0.02)
            second.save([step(document, 2)], 2)
    finally:
        holder.communicate("\n", timeout=30)
    # Nobody is left: the branch was changed last, and is listed.
    with RegionStore(path) as third:
        assert not third.is_open_elsewhere
        assert not third.was_interrupted
        assert third.path == path
        stored = third.load()
        assert stored is not None
        assert stored.version == 1
        (other,) = third.others()
        assert (other.path, other.count) == (path.with_name("slide-2.sqlite"), len(document.regions))
        assert other.time == pytest.approx(time.time(), abs=60)
        before = other.path.read_bytes()
        assert_holds(third.load_other(other.path), document)
        assert third.notice == ""
        assert other.path.read_bytes() == before


def test_two_stores_of_one_process_do_not_mix_either(path: Path) -> None:
    with RegionStore(path) as first:
        first.save([step(RegionDocument(), 1)], 1)
        with RegionStore(path) as second:
            assert second.is_open_elsewhere
            assert second.path != first.path
            second_path = second.path
        assert not second_path.exists()  # nothing was saved to it
        assert first.load() is not None
    with RegionStore(path) as again:
        assert again.path == path
        assert not again.was_interrupted


def keep(path: Path, *names: str, is_new: bool = False) -> Path:
    """Be a window that draws regions and is closed; return its file."""
    document = RegionDocument([square(name) for name in names])
    with RegionStore(path, is_new=is_new) as store:
        store.save([snapshot_of(document)], 1)
        return store.path


def ids(stored: Stored | None) -> list[str]:
    assert stored is not None
    return [region.id for region in stored.regions]


def test_a_branch_that_was_saved_later_does_not_take_the_place_of_the_file(path: Path) -> None:
    names = [f"{i}" for i in range(20)]
    with RegionStore(path) as first:
        first.save([snapshot_of(RegionDocument([square(name) for name in names]))], 1)
        with RegionStore(path) as second, RegionStore(path) as third:
            for store, name in ((second, "b"), (third, "c")):
                time.sleep(0.02)
                document = store.load().to_document()  # type: ignore[union-attr]
                change = document.apply("Draw", [square(name)])
                assert change is not None
                store.save([change], document.version)
            assert [other.path for other in first.others()] == [third.path, second.path]
            # From a branch, the file itself is another one.
            assert {other.path for other in second.others()} == {path, third.path}
    with RegionStore(path) as again:
        assert again.path == path
        assert ids(again.load()) == names
        assert [(other.path.name, other.count) for other in again.others()] == [
            ("slide-3.sqlite", 21),
            ("slide-2.sqlite", 21),
        ]
        assert ids(again.load_other(path.with_name("slide-2.sqlite"))) == [*names, "b"]
    assert [other.path.name for other in RegionStore.others_of(path)] == [
        "slide-3.sqlite",
        "slide-2.sqlite",
        "slide.sqlite",
    ]


def test_a_branch_that_adds_nothing_is_not_listed(path: Path) -> None:
    keep(path, "a")
    with RegionStore(path) as first:
        copied = RegionStore(path)  # of a window that is killed before it saves
        emptied = RegionStore(path)
        emptied.save([snapshot_of(RegionDocument())], 2)
        assert first.others() == []
        emptied.close()
        shutil.copy(copied.path, path.with_name("slide-9.sqlite"))
        copied.close()
        assert path.with_name("slide-9.sqlite").exists()
        assert first.others() == []
        assert first.notice == ""


def test_the_newest_branch_is_opened_if_the_file_itself_is_gone_or_empty(path: Path) -> None:
    keep(path, "a")
    with RegionStore(path):
        keep(path, "b")
        time.sleep(0.02)
        kept = keep(path, "c")
    path.unlink()
    with RegionStore(path) as store:
        assert store.path == kept
        assert ids(store.load()) == ["c"]
        assert [ids(store.load_other(other.path)) for other in store.others()] == [["b"]]
        assert not path.exists()
    assert kept.exists(), "nothing was saved to it this time, but it is no needless copy"
    path.write_bytes(b"damaged" * 1000)
    with RegionStore(path) as store:
        assert ids(store.load()) == ["c"]
        assert "slide.sqlite.damaged-1" in store.notice
        assert store.notice.endswith("kept in slide-3.sqlite.")


def test_who_loaded_nothing_starts_empty_beside_what_there_is(path: Path) -> None:
    assert keep(path, "a", "b", is_new=True) == path
    before = path.read_bytes()
    for is_live in (False, True):
        first = RegionStore(path) if is_live else None
        before = path.read_bytes()
        with RegionStore(path, {"name": "s"}, is_new=True) as second:
            assert second.is_empty
            assert second.path != path
            assert second.is_open_elsewhere is is_live
            assert second.slide == {"name": "s"}
            assert [(other.path, other.count) for other in second.others()] == [(path, 2)]
            needless = second.path
        assert not needless.exists()
        assert path.read_bytes() == before
        if first is not None:
            first.close()
    second_path = keep(path, "c", is_new=True)
    assert path.read_bytes() != b""
    with RegionStore(path) as store:
        assert ids(store.load()) == ["a", "b"]
        assert [(other.path, other.count) for other in store.others()] == [(second_path, 1)]


def test_a_file_that_is_used_but_still_empty_is_not_shared(path: Path) -> None:
    with RegionStore(path, is_new=True) as first, RegionStore(path, is_new=True) as second:
        assert first.path == path
        assert second.path == path.with_name("slide-2.sqlite")
    assert path.exists()
    with RegionStore(path, is_new=True) as again:
        assert again.path == path


def newer(path: Path) -> None:
    RegionStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def foreign(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE regions (x)")
    connection.close()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (newer, "newer version"),
        (foreign, "not a store of regions"),
        (lambda path: path.write_bytes(b"junk" * 1000), "not a database"),
        (lambda path: path.mkdir(), "unable to open"),
    ],
)
def test_who_loaded_nothing_gets_a_branch_beside_a_file_that_cannot_be_opened(
    path: Path, make: Any, why: str
) -> None:
    path.parent.mkdir()
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    for number, name in ((2, "a"), (3, "b")):
        time.sleep(0.02)
        with RegionStore(path, is_new=True) as store:
            assert store.path == path.with_name(f"slide-{number}.sqlite")
            assert why in store.notice
            assert store.notice.endswith(f"What is drawn now is kept apart, in slide-{number}.sqlite.")
            store.save([snapshot_of(RegionDocument([square(name)]))], 1)
            assert ids(store.load()) == [name]
            assert len(store.others()) == number - 2
    assert (path.read_bytes() if path.is_file() else b"") == before
    found = RegionStore.others_of(path)
    assert [(other.path.name, other.count) for other in found] == [
        ("slide-3.sqlite", 1),
        ("slide-2.sqlite", 1),
    ]
    stored, notice = RegionStore.read(found[0].path)
    assert ids(stored) == ["b"]
    assert notice == ""


def test_a_session_counts_as_open_before_another_thread_can_look(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    sign_in = RegionStore._sign_in

    def checked(self: RegionStore, slide: Any) -> None:
        # The lock is still held here: afterwards is too late.
        assert self._session in autosave._open_sessions
        sign_in(self, slide)

    monkeypatch.setattr(RegionStore, "_sign_in", checked)
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: RegionStore(path, is_new=True), range(4)))
    assert len({store.path for store in stores}) == 4
    for store in stores:
        store.close()


def test_a_branch_that_cannot_be_made_leaves_no_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(path, "a")

    def refuse(*_: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(RegionStore, "_sign_in", refuse)
    for _ in range(3):
        with pytest.raises(UserError, match="the disk is full"):
            RegionStore(path, is_new=True)
    assert list(path.parent.glob("slide-*")) == []


def test_listing_the_files_of_a_slide_without_any_makes_none(path: Path) -> None:
    assert RegionStore.others_of(path) == []
    assert RegionStore.read(path) == (None, f"The regions kept in {path} are not there any more.")
    assert not path.parent.exists()


def test_another_file_that_was_left_half_written_is_read_as_it_was(path: Path, tmp_path: Path) -> None:
    kept = keep(path, "a")
    connection = sqlite3.connect(kept, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM regions")
    for i in range(2000):  # more than the cache: it goes to the file before it is committed
        connection.execute("INSERT INTO meta VALUES (?, ?)", (f"{i}", "x" * 500))
    killed = tmp_path / "killed.sqlite"
    shutil.copy(kept, killed)
    shutil.copy(f"{kept}-journal", f"{killed}-journal")
    connection.execute("ROLLBACK")
    connection.close()
    assert killed.stat().st_size > kept.stat().st_size
    stored, notice = RegionStore.read(killed)
    assert ids(stored) == ["a"]
    assert notice == ""


def test_another_file_that_is_being_written_to_is_a_sentence(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autosave, "_BUSY_S", 0.05)
    kept = keep(path, "a")
    connection = sqlite3.connect(kept, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with RegionStore(path.with_name("other.sqlite")) as store, pytest.raises(UserError, match="locked"):
        store.load_other(kept)
    connection.execute("ROLLBACK")
    connection.close()
    newer(kept)
    with RegionStore(path.with_name("other.sqlite")) as store, pytest.raises(UserError, match="newer"):
        store.load_other(kept)


def test_a_session_of_another_host_counts_for_a_day(path: Path) -> None:
    with RegionStore(path) as store:
        store.save([step(RegionDocument(), 1)], 1)
    for age, is_open in ((60.0, True), (2 * 24 * 3600.0, False)):
        connection = sqlite3.connect(path)
        connection.execute(
            "INSERT INTO sessions VALUES ('far', 1, 'elsewhere', 0, 0, ?)", (time.time() - age,)
        )
        connection.commit()
        connection.close()
        with RegionStore(path) as store:
            assert store.is_open_elsewhere is is_open
            assert not store.was_interrupted
        if is_open:
            connection = sqlite3.connect(path)
            connection.execute("DELETE FROM sessions")
            connection.commit()
            connection.close()


def test_a_process_id_that_is_used_again_is_another_process(path: Path) -> None:
    RegionStore(path).close()
    connection = sqlite3.connect(path)
    parent = os.getppid()
    connection.execute(
        "INSERT INTO sessions VALUES ('old', ?, ?, 1000, 0, 0)", (parent, autosave.socket.gethostname())
    )
    connection.commit()
    connection.close()
    with RegionStore(path) as store:
        assert not store.is_open_elsewhere
        assert store.was_interrupted


# Faults


def kill_again_and_again(path: Path, n: int) -> None:
    rng = random.Random(7)
    truth = RegionDocument()
    for _ in range(n):
        process = child("write_forever", path)
        assert process.stdout is not None
        printed = [int(process.stdout.readline())]
        time.sleep(rng.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        printed += [int(line) for line in process.stdout if line.endswith("\n")]
        process.wait()
        process.stdout.close()
        assert process.stdin is not None
        process.stdin.close()
        with RegionStore(path) as store:
            assert store.was_interrupted
            assert not store.is_open_elsewhere
            assert store.notice == ""
            stored = store.load()
            assert store._connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert stored is not None
        assert stored.version >= printed[-1] > truth.version
        while truth.version < stored.version:
            step(truth, truth.version + 1)
        assert_holds(stored, truth)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_process_loses_nothing_it_saved(path: Path) -> None:
    kill_again_and_again(path, 5)


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_process_loses_nothing_it_saved_fifty_times(path: Path) -> None:
    kill_again_and_again(path, 50)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_second_window_leaves_a_file_that_is_listed(path: Path) -> None:
    keep(path, "a")
    for number in (2, 3):
        process = child("write_apart", path)
        assert process.stdout is not None
        assert process.stdin is not None
        first = process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        name, version = [first, *(line for line in process.stdout if line.endswith("\n"))][-1].split()
        process.wait()
        process.stdout.close()
        process.stdin.close()
        assert name == f"slide-{number}.sqlite"
        with RegionStore(path) as store:
            assert store.path == path
            assert ids(store.load()) == ["a"]
            assert not store.was_interrupted
            assert store.others()[0].path.name == name
            stored = store.load_other(path.with_name(name))
            assert stored is not None
            assert stored.version >= int(version)
            truth = RegionDocument()
            while truth.version < stored.version:
                step(truth, truth.version + 1)
            assert_holds(stored, truth)


def test_no_damage_of_another_file_raises_anything_but_a_sentence(sound: Path, tmp_path: Path) -> None:
    content = sound.read_bytes()
    rng = random.Random(5)
    main = tmp_path / "beside" / "slide.sqlite"
    keep(main, "a")
    branch = main.with_name("slide-2.sqlite")
    n_none = 0
    for i in range(60):
        wrong = bytearray(content[: rng.randrange(len(content))] if i % 3 == 0 else content)
        for _ in range(0 if i % 3 == 0 else 20):
            at = rng.randrange(len(wrong))
            wrong[at : at + 300] = rng.randbytes(len(wrong[at : at + 300]))
        branch.write_bytes(wrong)
        with RegionStore(main) as store:
            assert ids(store.load()) == ["a"]
            store.others()
            try:
                stored = store.load_other(branch)
            except UserError:
                continue
            if stored is None and wrong:
                n_none += 1
                assert str(branch) in store.notice
            elif stored is not None:
                stored.to_document()
        assert branch.read_bytes() == wrong
    assert n_none > 10


def damage(sound: Path, folder: Path, n: int) -> None:
    content = sound.read_bytes()
    rng = random.Random(11)
    n_loaded = n_aside = 0
    for i in range(n):
        path = folder / f"{i}" / "slide.sqlite"
        path.parent.mkdir()
        kind = i % 3
        if kind == 0:
            path.write_bytes(content[: rng.randrange(1, len(content))])
        else:
            wrong = bytearray(content)
            for _ in range(1 if kind == 1 else 20):
                at = rng.randrange(len(wrong))
                size = rng.choice((1, 8, 300))
                wrong[at : at + size] = rng.randbytes(len(wrong[at : at + size]))
            path.write_bytes(wrong)
        try:
            with RegionStore(path) as store:
                for version in (None, 3, 20):
                    stored = store.load(version)
                    if stored is not None:
                        stored.to_document()
                store.versions()
                if store.is_empty:
                    assert "damaged-1" in store.notice
                    assert (path.parent / "slide.sqlite.damaged-1").exists()
                    n_aside += 1
                    document = RegionDocument([square("1")])
                    store.save([snapshot_of(document)], document.version)
                    assert_holds(store.load(), document)
                else:
                    n_loaded += 1
                    document = RegionDocument([square("1")])
                    store.save([snapshot_of(document)], document.version)
        except UserError:
            continue
    assert n_aside > 0
    assert n_loaded + n_aside > n // 2


@pytest.fixture
def sound(path: Path) -> Path:
    with RegionStore(path) as store:
        document = RegionDocument([square(f"{i}", "abc"[i % 3], i) for i in range(100)])
        store.save([snapshot_of(document)], 0)
        for version in range(1, 30):
            store.save([step(document, version)], version)
    return path


def test_no_damage_raises_anything_but_a_sentence(sound: Path, tmp_path: Path) -> None:
    damage(sound, tmp_path, 10)


@pytest.mark.long
def test_no_damage_raises_anything_but_a_sentence_two_hundred_times(sound: Path, tmp_path: Path) -> None:
    damage(sound, tmp_path, 200)


@pytest.mark.parametrize("content", [b"hello", bytes(5000), random.Random(1).randbytes(100_000)])
def test_a_file_that_is_no_database_is_moved_aside(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    journal = path.with_name("slide.sqlite-journal")
    journal.write_bytes(b"of the old file")
    with RegionStore(path) as store:
        assert store.is_empty
        assert "slide.sqlite.damaged-1" in store.notice
        assert path.with_name("slide.sqlite.damaged-1").read_bytes() == content
        store.save([step(RegionDocument(), 1)], 1)
    path.write_bytes(content)
    with RegionStore(path) as store:
        assert path.with_name("slide.sqlite.damaged-2").exists()


def test_another_programs_database_is_moved_aside(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE regions (x)")
    connection.close()
    with RegionStore(path) as store:
        assert "not a store of regions" in store.notice
        assert store.is_empty


def test_a_file_of_a_newer_program_is_left_alone(path: Path) -> None:
    RegionStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match="newer version"):
        RegionStore(path)
    assert path.read_bytes() == before


def test_a_damaged_region_is_skipped_and_counted(path: Path) -> None:
    document = RegionDocument([square(f"{i}") for i in range(6)])
    with RegionStore(path) as store:
        store.save([snapshot_of(document)], document.version)
        for region_id, value in (
            ("1", b"\x01\x03junk"),
            ("2", "text"),
            ("3", shapely.to_wkb(box(0, 0, np.inf, 1))),
        ):
            store._connection.execute("UPDATE regions SET geometry = ? WHERE id = ?", (value, region_id))
        store._connection.execute("UPDATE regions SET source = '[{' WHERE id = '4'")
        stored = store.load()
        assert stored is not None
        assert [region.id for region in stored.regions] == ["0", "4", "5"]
        assert stored.n_skipped == 3
        assert "3 of 6 regions are damaged" in store.notice
        store.load()
        assert store.notice.count("3 of 6") == 1


def test_damage_while_open_asks_for_the_whole_document(path: Path) -> None:
    document = RegionDocument([square(f"{i}") for i in range(2000)])
    with RegionStore(path) as store:
        store.save([snapshot_of(document)], document.version)
        store._connection.execute("DROP TABLE regions")
        change = step(document, 1)
        with pytest.raises(UserError, match=r"not kept yet.*damaged-1"):
            store.save([change], document.version)
        assert store.is_empty
        store.save([snapshot_of(document)], document.version)
        assert_holds(store.load(), document)


def test_a_full_disk_is_a_sentence_and_nothing_is_half_stored(store: RegionStore) -> None:
    document = RegionDocument()
    store.save([step(document, 1)], 1)
    n_pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {n_pages + 2}")
    pending = [document.apply("Import", [square(f"{i}", x=i) for i in range(2000)])]
    changes = [change for change in pending if change]
    with pytest.raises(UserError, match=r"the disk is full.*free some space"):
        store.save(changes, document.version)
    stored = store.load()
    assert stored is not None
    assert stored.version == 1
    store._connection.execute("PRAGMA max_page_count = 1000000")
    assert store.save(changes, document.version) == 2
    assert_holds(store.load(), document)


def test_a_read_only_file_is_a_sentence(store: RegionStore) -> None:
    store._connection.execute("PRAGMA query_only = 1")
    with pytest.raises(UserError, match="cannot be written to"):
        store.save([step(RegionDocument(), 1)], 1)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="in the way"):
        RegionStore(tmp_path / "file" / "slide.sqlite")
    (tmp_path / "slide.sqlite").mkdir()
    with pytest.raises(UserError, match="Cannot keep your regions"):
        RegionStore(tmp_path / "slide.sqlite")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(UserError, match="cannot be written to"):
            RegionStore(tmp_path / "slide.sqlite")
    finally:
        tmp_path.chmod(0o700)


def test_another_program_that_holds_the_file_is_a_sentence(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autosave, "_BUSY_S", 0.05)
    document = RegionDocument()
    with RegionStore(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        change = step(document, 1)
        with pytest.raises(UserError, match="another program holds"):
            store.save([change], 1)
        other.execute("ROLLBACK")
        other.close()
        store.save([change], 1)
        assert_holds(store.load(), document)


def test_a_closed_store_says_so_and_closes_twice(path: Path) -> None:
    store = RegionStore(path)
    store.close()
    store.close()
    with pytest.raises(AnnotationError, match="closed"):
        store.load()
    with pytest.raises(AnnotationError, match="closed"):
        store.save([], 1)


def test_a_snapshot_is_the_state_when_it_was_made(store: RegionStore) -> None:
    document = RegionDocument([square("1"), square("2")])
    store.save([snapshot_of(document)], 0)
    change = document.apply("Delete", remove=["1"])
    assert change is not None
    whole = snapshot_of(document)
    later = document.apply("Draw", [square("3")])
    assert later is not None
    store.save([change, whole], 1)
    stored = store.load()
    assert stored is not None
    assert [region.id for region in stored.regions] == ["2"]
    store.save([whole, later], 2)
    assert_holds(store.load(), document)


def test_threads_take_turns(store: RegionStore) -> None:
    from concurrent.futures import ThreadPoolExecutor

    document = RegionDocument()
    changes = [step(document, version) for version in range(1, 30)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: (store.save([changes[i]], i + 1), store.load()), range(len(changes))))
    assert len(store.versions()) == len(changes)


def test_a_copied_file_serves_as_well(sound: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "other.sqlite"
    copy.parent.mkdir()
    shutil.copy(sound, copy)
    with RegionStore(copy) as store:
        stored = store.load()
    assert stored is not None
    assert json.dumps(stored.classes.to_json())
    assert stored.count > 100
