"""A store of a slide's regions that outlives a crash, one SQLite file per slide.

SQLite, as a brush stroke among 200,000 regions is to write one row, and a commit is to be there whole or not
at all. Every row belongs to a version of the document; the newest row of an id says what the region is.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import socket
import sqlite3
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import numpy as np
import psutil
import shapely
from filelock import FileLock

from napari_histolatent._files import data_folder
from napari_histolatent.annotations._classes import ClassTable
from napari_histolatent.annotations._document import Change, DocumentState, RegionDocument
from napari_histolatent.annotations._geometry import repaired
from napari_histolatent.annotations._region import UNCLASSIFIED, Region, SourceRing
from napari_histolatent.errors import AnnotationError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

VERSIONS_KEPT = 100
"""Versions that can be gone back to."""

_APPLICATION_ID = 0x484C5247  # "HLRG": tells our files from other SQLite files
_SCHEMA_VERSION = 1
_CHUNK = 1_000
_BUSY_S = 10.0
_SPARE_PAGES = 1_000
"""Free pages (4 kB) that a file may keep: the next rows fill them."""
_FAR_SESSION_S = 24 * 3600.0
"""How long a session of another host, of which no process can be seen, counts as open after its last save."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE versions (version INTEGER PRIMARY KEY, time REAL, title TEXT, n_changed INTEGER);
CREATE TABLE regions (
    id TEXT, version INTEGER, class_name TEXT, name TEXT, geometry BLOB, source TEXT, order_no INTEGER,
    PRIMARY KEY (id, version)
);
CREATE INDEX regions_version ON regions (version);
CREATE TABLE classes (version INTEGER PRIMARY KEY, json TEXT);
CREATE TABLE sessions (id TEXT PRIMARY KEY, pid INTEGER, host TEXT, started REAL, opened REAL, seen REAL);
"""

_STATE = """
SELECT r.id, r.class_name, r.name, r.geometry, r.source, r.order_no FROM regions AS r
JOIN (SELECT id, MAX(version) AS version FROM regions WHERE version <= ? GROUP BY id) AS newest
ON r.id = newest.id AND r.version = newest.version WHERE r.geometry IS NOT NULL
"""

_COUNT = """
SELECT COUNT(*) FROM regions AS r
JOIN (SELECT id, MAX(version) AS version FROM regions GROUP BY id) AS newest
ON r.id = newest.id AND r.version = newest.version WHERE r.geometry IS NOT NULL
"""

_open_sessions: set[str] = set()
"""Sessions of this very process: its id alone does not tell an open store from one left behind."""


@dataclass(frozen=True)
class StoredVersion:
    """A version that can be gone back to."""

    version: int
    time: float
    """Seconds since 1970."""
    title: str
    n_changed: int
    """Regions that it changed."""


@dataclass(frozen=True)
class StoredFile:
    """Another file of the same slide, kept by a second window that had it open at the same time."""

    path: Path
    time: float
    """When it was last changed, seconds since 1970."""
    count: int
    """Regions in its newest state."""


@dataclass(frozen=True)
class Stored:
    """The state of a slide's regions as of one version."""

    regions: tuple[Region, ...]
    classes: ClassTable
    hole_class: str
    version: int
    time: float
    """When the version was stored, seconds since 1970."""
    n_skipped: int = 0
    """Regions that are damaged in the file and left out."""

    @property
    def count(self) -> int:
        """The number of regions."""
        return len(self.regions)

    def to_document(self) -> RegionDocument:
        """Return a document with this state, which goes on counting versions from here."""
        return RegionDocument(self.regions, self.classes, hole_class=self.hole_class, version=self.version)


@dataclass(frozen=True)
class Snapshot(Change):
    """The whole state of a document, to be saved as a change is; regions that it lacks are gone."""

    hole_class: str = "exclusion"


def snapshot_of(document: RegionDocument | DocumentState, *, title: str = "All regions") -> Snapshot:
    """Return the document's state, which later changes leave as it is: references only, so it is made at once.

    For the first save of a document, and for the one after a damaged file:
    `store.save([snapshot_of(document)], document.version)`.
    """
    return Snapshot(
        title,
        {},
        dict(document.regions),
        classes_after=document.classes,
        hole_class=document.hole_class,
    )


class RegionStore:
    """The file that keeps one slide's regions, opened for writing by one session.

    Safe to use from any thread, one call at a time. The file asked for is opened whenever no other session has
    it. If one has, this one gets a file of its own beside it (`-2`, `-3`, ...) that starts as a copy: two
    sessions never mix. Such branches are listed by `others`; one is opened only if the file itself is not there
    or holds nothing.

    A file that is damaged is moved aside, and an empty one is begun; `notice` says so. After that `is_empty`
    is true: what is saved then is a `snapshot_of` the whole document, not the last change.

    Parameters
    ----------
    path
        The file; its folder is made.
    slide
        What is known of the slide (its name, path, digest), kept in the file for whoever finds it.
    is_new
        Whether this session begins with nothing loaded; the store is empty then. A file that holds something, is in
        use, or cannot be read is not touched: a branch beside it is used, and that one starts empty.

    Raises
    ------
    UserError
        If the folder cannot be written to or the disk is full; unless `is_new`, also if the file cannot be read.
    """

    def __init__(self, path: Path, slide: Mapping[str, str] | None = None, *, is_new: bool = False) -> None:
        self._asked = path
        self._lock = threading.RLock()
        self._session = uuid4().hex
        self._notices: list[str] = []
        self._was_interrupted = self._is_open_elsewhere = False
        self._is_new_branch = self._has_saved = False
        self._orders: dict[str, int] | None = None
        self._next_order = 0
        self._offset = 0
        with _keeping_in(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two programs that open the same slide at once must not both find it free.
            with FileLock(path.with_name(f".{path.name}.lock"), timeout=60):
                self._path, self._connection = self._choose_new() if is_new else self._choose()
                # Before the lock goes: another window of this process must not take the session for a dead one.
                _open_sessions.add(self._session)
                try:
                    self._sign_in(slide)
                except BaseException:
                    _open_sessions.discard(self._session)
                    self._connection.close()
                    if self._is_new_branch:
                        _remove_database(self._path)
                    raise
        self._is_open = True

    def __enter__(self) -> RegionStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The file in use, which may be a branch beside the one asked for."""
        return self._path

    @property
    def notice(self) -> str:
        """What the user should know: damaged files and regions; empty if nothing."""
        return " ".join(self._notices)

    @property
    def was_interrupted(self) -> bool:
        """Whether the last session that had the file ended without closing it."""
        return self._was_interrupted

    @property
    def is_open_elsewhere(self) -> bool:
        """Whether another session has the slide's file, so that this one works in a branch."""
        return self._is_open_elsewhere

    def others(self) -> list[StoredFile]:
        """Return the slide's other files as they are now, the newest first.

        Only those that hold regions; not a branch that was made as a copy and never saved to. What cannot be read is
        left out, and `notice` says so.
        """
        return _others_of(self._asked, self._path, self._tell)

    @staticmethod
    def others_of(path: Path) -> list[StoredFile]:
        """Return a slide's files as `others` does, for who has no store: `path` itself is among them."""
        return _others_of(path, None, lambda _: None)

    def load_other(self, path: Path) -> Stored | None:
        """Return the newest state of another file, which is only read.

        Returns
        -------
        Stored or None
            None if the file is damaged or gone, which `notice` says, or holds nothing.

        Raises
        ------
        UserError
            If another program holds the file, it may not be read, or a newer version of the program made it.
        """
        stored, notice = self.read(path)
        if notice:
            self._tell(notice)
        return stored

    @staticmethod
    def read(path: Path) -> tuple[Stored | None, str]:
        """Return what `load_other` does and the sentence about it, for who has no store."""
        try:
            with closing(_only_read(path)) as connection:
                return _state_in(connection, path)
        except (OSError, *_FAULTS) as error:
            if not os.path.lexists(path):
                return None, f"The regions kept in {path} are not there any more."
            if isinstance(error, _FAULTS) and _is_damage(error):
                return None, _trouble_with(path, error)
            msg = (
                f"{_trouble_with(path, error)} Check that no other program holds it and that you may read it."
            )
            raise UserError(msg) from error

    @property
    def is_empty(self) -> bool:
        """Whether nothing is stored yet."""
        with self._using() as connection:
            return connection.execute("SELECT 1 FROM versions LIMIT 1").fetchone() is None
        return True  # it was damaged, and is begun anew

    @property
    def slide(self) -> dict[str, str]:
        """What was told of the slide when the file was last opened with it."""
        with self._using() as connection:
            facts = _from_json(_meta(connection, "slide"))
            return {str(key): str(value) for key, value in facts.items()} if isinstance(facts, dict) else {}
        return {}

    def load(self, version: int | None = None) -> Stored | None:
        """Return the state of the newest version, or as of an earlier one.

        Regions that are damaged in the file are left out; `notice` counts them.

        Returns
        -------
        Stored or None
            None if nothing is stored, or there is no such version.
        """
        with self._using() as connection:
            stored, notice = _state_in(connection, self._path, version)
            if notice:
                self._tell(notice)
            return stored
        return None

    def versions(self) -> list[StoredVersion]:
        """Return the versions that can be loaded, the newest first."""
        with self._using() as connection:
            rows = connection.execute(
                "SELECT version, time, title, n_changed FROM versions ORDER BY version DESC LIMIT ?",
                (VERSIONS_KEPT,),
            ).fetchall()
            return [
                StoredVersion(int(row[0]), _number(row[1]), str(row[2]), int(_number(row[3]))) for row in rows
            ]
        return []

    def save(self, changes: Sequence[Change], version: int) -> int:
        """Store all pending changes at once; a region that several of them touch is stored as it ended.

        Parameters
        ----------
        changes
            In the order made, all since the last save; a `snapshot_of` the document first if the store is
            empty or has another state.
        version
            The document's version after them.

        Returns
        -------
        int
            The version stored: higher than asked for if the file has that one already.

        Raises
        ------
        UserError
            If the disk is full, the file is read-only or was damaged. Nothing is stored then; the same
            changes can be saved later, or, once `is_empty`, the whole document.
        """
        after: dict[str, Region | None] = {}
        table: ClassTable | None = None
        whole: Snapshot | None = None
        for change in changes:
            if isinstance(change, Snapshot):
                whole = change
                after.clear()
            after.update(change.after)
            table = table if change.classes_after is None else change.classes_after
        titles = [change.title for change in changes if change.title]
        title = titles[-1] if titles else ""
        if len(titles) > 1:
            title += f" and {len(titles) - 1} more"
        with self._using(is_write=True) as connection:
            if whole is None:
                return self._store(connection, version, title, after, table)
            after.update(dict.fromkeys(self._orders_of(connection).keys() - after.keys()))
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('hole_class', ?)", (whole.hole_class,))
            # The document's order takes the place of the file's.
            orders, self._orders = self._orders, {}
            try:
                return self._store(connection, version, title, after, table)
            except BaseException:
                self._orders = orders
                raise
        raise self._begun_anew()

    def close(self) -> None:
        """End the session; what was saved stays. A branch that nothing was saved to is removed."""
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            is_needless = self._is_new_branch and not self._has_saved
            try:
                self._connection.execute("DELETE FROM sessions WHERE id = ?", (self._session,))
            except _FAULTS:
                pass  # the disk is full or gone: the next opening finds a session of a dead process
            finally:
                self._connection.close()
                _open_sessions.discard(self._session)
            if is_needless:
                _remove_database(self._path)

    # Storing

    def _store(
        self,
        connection: sqlite3.Connection,
        version: int,
        title: str,
        after: Mapping[str, Region | None],
        table: ClassTable | None,
    ) -> int:
        last = connection.execute("SELECT MAX(version) FROM versions").fetchone()[0]
        stored = version + self._offset
        if last is not None:
            stored = max(stored, int(last) + 1)
        orders = self._orders_of(connection)
        items = list(after.items())
        for start in range(0, len(items), _CHUNK):
            connection.executemany(
                "INSERT OR REPLACE INTO regions VALUES (?, ?, ?, ?, ?, ?, ?)",
                self._rows(items[start : start + _CHUNK], stored, orders),
            )
        if table is not None:
            connection.execute(
                "INSERT OR REPLACE INTO classes VALUES (?, ?)", (stored, json.dumps(table.to_json()))
            )
        now = time.time()
        connection.execute("INSERT INTO versions VALUES (?, ?, ?, ?)", (stored, now, title, len(items)))
        connection.execute("UPDATE sessions SET seen = ? WHERE id = ?", (now, self._session))
        _prune(connection)
        connection.execute("COMMIT")
        self._offset = stored - version
        self._has_saved = True
        _give_back_space(connection)
        return stored

    def _rows(
        self, items: Sequence[tuple[str, Region | None]], version: int, orders: dict[str, int]
    ) -> Iterator[tuple[object, ...]]:
        blobs = shapely.to_wkb(
            np.array([None if region is None else region.geometry for _, region in items], object)
        )
        for (region_id, region), blob in zip(items, blobs, strict=True):
            order = orders.get(region_id)
            if order is None:
                order = orders[region_id] = self._next_order
                self._next_order += 1
            if region is None:
                yield region_id, version, None, None, None, None, order
            else:
                yield region_id, version, region.class_name, region.name, blob, _source_text(region), order

    def _orders_of(self, connection: sqlite3.Connection) -> dict[str, int]:
        """Return each region's place, as the document has it: one that comes back takes its old place."""
        if self._orders is None:
            rows = connection.execute(
                "SELECT id, order_no FROM regions AS r WHERE geometry IS NOT NULL AND version ="
                " (SELECT MAX(version) FROM regions WHERE id = r.id)"
            )
            self._orders = {region_id: int(_number(order)) for region_id, order in rows}
            highest = connection.execute("SELECT MAX(order_no) FROM regions").fetchone()[0]
            self._next_order = int(_number(highest)) + 1
        return self._orders

    def _forget(self) -> None:
        self._orders = None
        self._next_order = 0
        self._offset = 0

    # Faults

    @contextmanager
    def _using(self, *, is_write: bool = False) -> Iterator[sqlite3.Connection]:
        """Give the connection to the block; end the block early, without an error, if the file is damaged."""
        with self._lock:
            if not self._is_open:
                msg = f"The regions in {self._path} are closed; open the slide again."
                raise AnnotationError(msg)
            with _keeping_in(self._path.parent):
                try:
                    if is_write:
                        self._connection.execute("BEGIN IMMEDIATE")
                    yield self._connection
                except _FAULTS as error:
                    if not _is_damage(error):
                        raise
                    self._begin_anew(error)
                finally:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")

    def _begin_anew(self, error: Exception) -> None:
        self._connection.close()
        self._forget()
        # A closed connection is what a file that could not be begun left: there is nothing to move.
        if not isinstance(error, sqlite3.ProgrammingError):
            self._tell(_moved_aside(self._path, error))
        self._connection = _opened(self._path)
        self._sign_in(None)

    def _begun_anew(self) -> UserError:
        return UserError(f"Your last change is not kept yet: {self.notice} Save all regions again.")

    def _tell(self, notice: str) -> None:
        if notice not in self._notices:
            self._notices.append(notice)

    # Opening

    def _choose(self) -> tuple[Path, sqlite3.Connection]:
        """Return the file to work in, opened: the one asked for, or a branch if that is in use."""
        candidates: list[_Candidate] = []
        try:
            base = self._base()
            candidates += [base] if base is not None else []
            chosen = base
            if base is None or not base.holds:
                branches = [self._branch(path) for path in _branches_of(self._asked)]
                candidates += [branch for branch in branches if branch is not None]
                holding = [candidate for candidate in candidates if candidate.holds]
                chosen = max(holding, key=lambda candidate: candidate.changed, default=base)
            if chosen is None:
                return self._asked, _opened(self._asked)
            if base is None and self.notice:
                self._tell(f"The regions are those of a second window, kept in {chosen.path.name}.")
            if chosen.is_live:
                self._is_open_elsewhere = self._is_new_branch = True
                path = _free_branch_of(self._asked)
                return path, _branched(chosen.connection, path)
            self._was_interrupted = chosen.was_interrupted
            candidates.remove(chosen)
            return chosen.path, chosen.connection
        finally:
            for candidate in candidates:
                candidate.connection.close()

    def _choose_new(self) -> tuple[Path, sqlite3.Connection]:
        """Return an empty file to work in, opened: the one asked for if it is free, or a branch."""
        if not self._asked.exists():
            return self._asked, _opened(self._asked)
        is_readable = True
        try:
            if self._is_free():
                return self._asked, _opened(self._asked)
        except (UserError, OSError, *_FAULTS) as error:
            # Whatever is wrong with that file, what is drawn now has to be kept.
            is_readable = False
            self._tell(_trouble_with(self._asked, error))
        path = _free_branch_of(self._asked)
        if not is_readable:
            self._tell(f"What is drawn now is kept apart, in {path.name}.")
        self._is_new_branch = True
        return path, _branched(None, path)

    def _is_free(self) -> bool:
        """Whether the file asked for holds nothing and is used by nobody; it is only read."""
        with closing(_connected(self._asked, is_read_only=True)) as connection:
            if _has_no_table(connection):
                return True
            _require_ours(connection, self._asked)
            base = _Candidate.of(self._asked, connection)
            self._is_open_elsewhere = base.is_live
            return not base.holds and not base.is_live

    def _base(self) -> _Candidate | None:
        """Look at the file asked for; None if it is not there, or was damaged and is aside now."""
        if not self._asked.exists():
            return None
        try:
            return _Candidate.of(self._asked, _opened(self._asked))
        except _FAULTS as error:
            if not _is_damage(error):
                raise
            self._tell(_moved_aside(self._asked, error))
            return None

    def _branch(self, path: Path) -> _Candidate | None:
        """Look at a branch; None if it cannot be read, which is no reason to open nothing."""
        try:
            return _Candidate.of(path, _opened(path))
        except (UserError, OSError, *_FAULTS) as error:
            self._tell(_trouble_with(path, error))
            return None

    def _sign_in(self, slide: Mapping[str, str] | None) -> None:
        """Write this session's row in the place of the dead ones."""
        now = time.time()
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM sessions")
        connection.execute(
            "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?)",
            (self._session, os.getpid(), socket.gethostname(), psutil.Process().create_time(), now, now),
        )
        if slide is not None:
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('slide', ?)", (json.dumps(dict(slide)),))
        connection.execute("COMMIT")


def regions_folder() -> Path:
    """Return the folder of the stores."""
    return data_folder() / "regions"


# Files


@dataclass(frozen=True, eq=False)
class _Candidate:
    """One of a slide's files, looked at while opening."""

    path: Path
    connection: sqlite3.Connection
    holds: bool
    """Whether there is a version in it."""
    changed: float
    """When it was last changed; 0 if it is empty."""
    is_live: bool
    was_interrupted: bool

    @classmethod
    def of(cls, path: Path, connection: sqlite3.Connection) -> _Candidate:
        try:
            n_versions, changed = connection.execute("SELECT COUNT(*), MAX(time) FROM versions").fetchone()
            sessions = connection.execute("SELECT id, pid, host, started, seen FROM sessions").fetchall()
        except BaseException:
            connection.close()
            raise
        is_live = any(_is_alive(*session) for session in sessions)
        here = socket.gethostname()
        was_interrupted = not is_live and any(session[2] == here for session in sessions)
        return cls(path, connection, n_versions > 0, _number(changed), is_live, was_interrupted)


def _is_alive(session: object, pid: object, host: object, started: object, seen: object) -> bool:
    """Whether a session may still write to its file."""
    if host != socket.gethostname():
        return time.time() - _number(seen) < _FAR_SESSION_S
    if pid == os.getpid():
        return session in _open_sessions
    try:
        process = psutil.Process(int(_number(pid)))
        # Process ids are used again: the time of the start tells whether it is the same one.
        is_same = abs(process.create_time() - _number(started)) < 1
        return bool(is_same and process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, ValueError, OverflowError):
        return False


def _opened(path: Path) -> sqlite3.Connection:
    """Return a sound store, made if there is none.

    Raises
    ------
    sqlite3.Error
        What SQLite says; `sqlite3.DatabaseError` itself if the file is damaged or not ours.
    UserError
        If a newer version of the program made it.
    """
    connection = _connected(path)
    try:
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -32000")
        if _has_no_table(connection):
            # Counts only before the first page is written, and would write to a file that is there.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID};"
                f" PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            )
        _require_ours(connection, path)
        fault = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if fault != "ok":
            raise sqlite3.DatabaseError(fault)
    except BaseException:
        connection.close()
        raise
    return connection


def _connected(path: Path, *, is_read_only: bool = False) -> sqlite3.Connection:
    target = str(path)
    if is_read_only:
        # For writing all the same, so that what a killed process left half written can be taken back; only a file that
        # is there, and no statement may write.
        name = path.absolute().as_posix()
        target = f"file://{'' if name.startswith('/') else '/'}{quote(os.fsencode(name), safe='/:')}?mode=rw"
    connection = sqlite3.connect(
        target, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, uri=is_read_only
    )
    if is_read_only:
        try:
            connection.execute("PRAGMA query_only = 1")
        except BaseException:
            connection.close()
            raise
    return connection


def _only_read(path: Path) -> sqlite3.Connection:
    """Return a store that is only read, as it is at this moment: its process may go on writing."""
    connection = _connected(path, is_read_only=True)
    try:
        connection.execute("BEGIN")
        _require_ours(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _has_no_table(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _require_ours(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        msg = "file is not a store of regions"
        raise sqlite3.DatabaseError(msg)
    made_by = connection.execute("PRAGMA user_version").fetchone()[0]
    if made_by > _SCHEMA_VERSION:
        msg = f"The regions in {path} were kept by a newer version of napari-histolatent (format {made_by}); update it."
        raise UserError(msg)


def _branched(source: sqlite3.Connection | None, path: Path) -> sqlite3.Connection:
    """Return a new store that starts as a copy of another, or empty."""
    try:
        if source is not None:
            with closing(_connected(path)) as copy:
                source.backup(copy)
        connection = _opened(path)
        try:
            connection.execute("DELETE FROM sessions")
            # Up to here it holds nothing of its own.
            connection.execute("INSERT OR REPLACE INTO meta SELECT 'branched_at', MAX(version) FROM versions")
        except BaseException:
            connection.close()
            raise
    except BaseException:
        # Tried again every few seconds on a full disk, it would leave a file each time.
        _remove_database(path)
        raise
    return connection


def _others_of(path: Path, own: Path | None, tell: Callable[[str], None]) -> list[StoredFile]:
    """Return the slide's files but `own` that hold regions which no other file has."""
    others = []
    for file in (path, *_branches_of(path)):
        try:
            if file == own or not file.exists():
                continue
            with closing(_only_read(file)) as connection:
                has_own = connection.execute(
                    "SELECT (SELECT MAX(version) FROM versions) >"
                    " COALESCE((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'branched_at'), -1)"
                ).fetchone()[0]
                count = connection.execute(_COUNT).fetchone()[0] if has_own else 0
                newest = connection.execute("SELECT time FROM versions ORDER BY version DESC LIMIT 1")
                if count:
                    others.append(StoredFile(file, _number(newest.fetchone()[0]), count))
        except (UserError, OSError, *_FAULTS) as error:
            if os.path.lexists(file):  # a window that closes takes its needless branch away
                tell(_trouble_with(file, error))
    return sorted(others, key=lambda other: -other.time)


def _branches_of(path: Path) -> list[Path]:
    """Return the files of second sessions beside the file, by number."""
    pattern = re.compile(re.escape(path.stem) + r"-(\d+)" + re.escape(path.suffix))
    numbered = [
        (int(match[1]), found)
        for found in path.parent.glob(f"{glob.escape(path.stem)}-*{glob.escape(path.suffix)}")
        if (match := pattern.fullmatch(found.name))
    ]
    return [found for _, found in sorted(numbered)]


def _free_branch_of(path: Path) -> Path:
    number = 2
    while (branch := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return branch


def _moved_aside(path: Path, error: Exception) -> str:
    """Move a damaged file out of the way and return the sentence about it."""
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    os.replace(path, aside)
    journal = path.with_name(f"{path.name}-journal")
    if journal.exists():
        # Left where it is, it would be played into the new file.
        os.replace(journal, aside.with_name(f"{aside.name}-journal"))
    return f"The regions kept in {path} cannot be read ({error}); the file is now {aside.name}."


def _remove_database(path: Path) -> None:
    for file in (path, path.with_name(f"{path.name}-journal")):
        with suppress(OSError):  # it holds nothing that another file lacks
            file.unlink(missing_ok=True)


# Rows


def _state_in(
    connection: sqlite3.Connection, path: Path, version: int | None = None
) -> tuple[Stored | None, str]:
    """Return the state as of a version, the newest if None, and what is to be told of it."""
    where = "" if version is None else "WHERE version = ?"
    row = connection.execute(
        f"SELECT version, time FROM versions {where} ORDER BY version DESC LIMIT 1",
        () if version is None else (version,),
    ).fetchone()
    if row is None:
        return None, ""
    found, when = int(row[0]), _number(row[1])
    rows = connection.execute(_STATE, (found,)).fetchall()
    classes = connection.execute(
        "SELECT json FROM classes WHERE version <= ? ORDER BY version DESC LIMIT 1", (found,)
    ).fetchone()
    regions, n_skipped = _regions_of(rows)
    notice = (
        f"{n_skipped} of {len(rows)} regions are damaged in {path} and were left out; look over the slide."
        if n_skipped
        else ""
    )
    stored = Stored(
        regions,
        ClassTable.from_json(_from_json(classes[0] if classes else None)),
        str(_meta(connection, "hole_class") or "exclusion"),
        found,
        when,
        n_skipped,
    )
    return stored, notice


def _regions_of(rows: Sequence[tuple[Any, ...]]) -> tuple[tuple[Region, ...], int]:
    """Return the regions of database rows, in order, and how many rows are damaged."""
    sound = [row for row in rows if isinstance(row[0], str) and row[0] and isinstance(row[3], bytes)]
    sound.sort(key=lambda row: _number(row[5]))
    geometries = shapely.from_wkb(np.array([row[3] for row in sound], object), on_invalid="ignore")
    geometries = _usable(geometries)
    regions: dict[str, Region] = {}
    for row, geometry in zip(sound, geometries, strict=True):
        if geometry is not None:
            regions[row[0]] = Region(
                row[0],
                str(row[1] or "").strip() or UNCLASSIFIED,
                geometry,
                str(row[2] or ""),
                _source_of(row[4]) if row[4] else (),
            )
    return tuple(regions.values()), len(rows) - len(regions)


def _usable(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return the geometries with None for those that bytes gone wrong have made into nothing that can be shown."""
    usable = geometries.copy()
    usable[shapely.is_empty(geometries) | ~np.isfinite(shapely.bounds(geometries)).all(axis=-1)] = None
    # Coordinates gone wrong make an outline cross itself: what is left of it is shown, not thrown away.
    for index in np.flatnonzero(~shapely.is_missing(usable) & ~shapely.is_valid(usable)):
        usable[index] = repaired(usable[index])
    return usable


def _source_text(region: Region) -> str | None:
    if not region.source:
        return None
    return json.dumps([{"is_hole": ring.is_hole, "xy": ring.xy.tolist()} for ring in region.source])


def _source_of(text: object) -> tuple[SourceRing, ...]:
    """Return the rings of a source column; those that cannot be read are none, the geometry is what counts."""
    try:
        return tuple(
            SourceRing(np.array(ring["xy"], np.float64).reshape(-1, 2), bool(ring["is_hole"]))
            for ring in _from_json(text) or ()
        )
    except (LookupError, TypeError, ValueError):
        return ()


def _meta(connection: sqlite3.Connection, key: str) -> object:
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def _from_json(text: object) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


# Space


def _prune(connection: sqlite3.Connection) -> None:
    """Remove what only versions older than the kept ones need."""
    row = connection.execute(
        "SELECT version FROM versions ORDER BY version DESC LIMIT 1 OFFSET ?", (VERSIONS_KEPT - 1,)
    ).fetchone()
    oldest = connection.execute("SELECT MIN(version) FROM versions").fetchone()[0]
    if row is None or row[0] == oldest:
        return
    # Only ids that changed since the last pruning can have rows that nobody needs any more.
    newly = (oldest, row[0])
    connection.execute(
        "DELETE FROM regions WHERE rowid IN (SELECT old.rowid FROM regions AS new JOIN regions AS old"
        " ON old.id = new.id AND old.version < new.version WHERE new.version > ? AND new.version <= ?)",
        newly,
    )
    connection.execute("DELETE FROM regions WHERE version > ? AND version <= ? AND geometry IS NULL", newly)
    connection.execute("DELETE FROM versions WHERE version < ?", (row[0],))
    connection.execute(
        "DELETE FROM classes WHERE version < (SELECT MAX(version) FROM classes WHERE version <= ?)",
        (row[0],),
    )


def _give_back_space(connection: sqlite3.Connection) -> None:
    """Shorten the file where pruning left much of it free; never a reason for a save to fail."""
    try:
        n_free = int(connection.execute("PRAGMA freelist_count").fetchone()[0])
        if n_free > 2 * _SPARE_PAGES:
            # As a script: `execute` takes one step, which is one page.
            connection.executescript(f"PRAGMA incremental_vacuum({min(n_free - _SPARE_PAGES, 5_000)})")
    except _FAULTS:
        return


# Faults


_FAULTS = (sqlite3.Error, UnicodeError)
"""What SQLite's module raises; a UnicodeError where its sentence quotes the damaged bytes."""


def _is_damage(error: Exception) -> bool:
    """Whether it is the file's content that is wrong, and not the disk or who else has it open."""
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(error, sqlite3.OperationalError) or code is None:
        return True  # malformed, not a database, a broken index, text that is no text
    return (
        code & 0xFF in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        or code == sqlite3.SQLITE_IOERR_SHORT_READ
    )


def _trouble_with(path: Path, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"The regions kept in {path} cannot be read ({error}); the file is left as it is."


_REASONS: Iterable[tuple[tuple[int, ...], tuple[int, ...], str, str]] = (
    ((sqlite3.SQLITE_FULL,), (errno.ENOSPC, errno.EDQUOT), "the disk is full", "free some space"),
    (
        (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN),
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "it cannot be written to",
        "make it writable",
    ),
    (
        (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
        (errno.EBUSY, errno.ETIMEDOUT),
        "another program holds the file",
        "close the other one",
    ),
    ((), (errno.ENOTDIR, errno.EEXIST, errno.EISDIR), "a file or folder is in the way", "move it away"),
    ((), (errno.ENOENT,), "it is gone", "check that the disk is there"),
)


@contextmanager
def _keeping_in(folder: Path) -> Iterator[None]:
    """Turn what SQLite and the system say while writing to `folder` into a sentence with the remedy."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            reasons = [reason[2:] for reason in _REASONS if code in reason[0]]
        else:
            number = errno.EBUSY if isinstance(error, TimeoutError) else error.errno
            reasons = [reason[2:] for reason in _REASONS if number in reason[1]]
        reason, remedy = reasons[0] if reasons else ("the system refused", "check the disk")
        msg = (
            f"Cannot keep your regions in {folder}: {reason} ({error}); {remedy},"
            " or set HISTOLATENT_DATA_DIR to another folder."
        )
        raise UserError(msg) from error
