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
    from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """Another file of the same slide, left by a second process that had it open at the same time."""

    path: Path
    time: float
    """When it was last changed, seconds since 1970."""


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

    Safe to use from any thread, one call at a time. If another live process has the file, this one gets a
    file of its own beside it (`-2`, `-3`, ...) that starts as a copy: two sessions never mix. If none is
    live, the file that was changed last is opened, and the others are listed by `others`.

    A file that is damaged is moved aside, and an empty one is begun; `notice` says so. After that `is_empty`
    is true: what is saved then is a `snapshot_of` the whole document, not the last change.

    Parameters
    ----------
    path
        The file; its folder is made.
    slide
        What is known of the slide (its name, path, digest), kept in the file for whoever finds it.

    Raises
    ------
    UserError
        If the folder cannot be written to or the disk is full.
    """

    def __init__(self, path: Path, slide: Mapping[str, str] | None = None) -> None:
        self._asked = path
        self._lock = threading.RLock()
        self._session = uuid4().hex
        self._notices: list[str] = []
        self._others: tuple[StoredFile, ...] = ()
        self._was_interrupted = self._is_open_elsewhere = False
        self._has_saved = False
        self._orders: dict[str, int] | None = None
        self._next_order = 0
        self._offset = 0
        with _keeping_in(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two programs that open the same slide at once must not both find it free.
            with FileLock(path.with_name(f".{path.name}.lock"), timeout=60):
                self._path, self._connection = self._choose()
                try:
                    self._sign_in(slide)
                except BaseException:
                    self._connection.close()
                    raise
        _open_sessions.add(self._session)
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
        """Return the slide's other files that were there at opening, the newest first."""
        return list(self._others)

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
            where = "" if version is None else "WHERE version = ?"
            row = connection.execute(
                f"SELECT version, time FROM versions {where} ORDER BY version DESC LIMIT 1",
                () if version is None else (version,),
            ).fetchone()
            if row is None:
                return None
            found, when = int(row[0]), _number(row[1])
            rows = connection.execute(_STATE, (found,)).fetchall()
            classes = connection.execute(
                "SELECT json FROM classes WHERE version <= ? ORDER BY version DESC LIMIT 1", (found,)
            ).fetchone()
            regions, n_skipped = _regions_of(rows)
            if n_skipped:
                self._tell(
                    f"{n_skipped} of {len(rows)} regions are damaged in {self._path} and were left out; look over the slide."
                )
            return Stored(
                regions,
                ClassTable.from_json(_from_json(classes[0] if classes else None)),
                str(_meta(connection, "hole_class") or "exclusion"),
                found,
                when,
                n_skipped,
            )
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
            is_needless = self._is_open_elsewhere and not self._has_saved
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
        """Return the file to work in, opened: the one last changed, or a branch if one is in use."""
        candidates: list[_Candidate] = []
        try:
            for path in (self._asked, *_branches_of(self._asked)):
                candidates.append(self._looked_at(path))
            in_use = [candidate for candidate in candidates if candidate.is_live]
            chosen = max(in_use or candidates, key=lambda candidate: candidate.changed)
            if in_use:
                self._is_open_elsewhere = True
                path = _free_branch_of(self._asked)
                connection = _branched(chosen.connection, path)
            else:
                self._was_interrupted = chosen.was_interrupted
                path, connection = chosen.path, chosen.connection
                candidates.remove(chosen)
        finally:
            for candidate in candidates:
                candidate.connection.close()
        files = [StoredFile(item.path, item.changed) for item in candidates if item.changed > 0]
        self._others = tuple(sorted(files, key=lambda file: -file.time))
        return path, connection

    def _looked_at(self, path: Path) -> _Candidate:
        try:
            return _Candidate.of(path, _opened(path))
        except _FAULTS as error:
            if not _is_damage(error):
                raise
            self._tell(_moved_aside(path, error))
        return _Candidate.of(path, _opened(path))

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
    changed: float
    """When it was last changed; 0 if it is empty."""
    is_live: bool
    was_interrupted: bool

    @classmethod
    def of(cls, path: Path, connection: sqlite3.Connection) -> _Candidate:
        try:
            changed = _number(connection.execute("SELECT MAX(time) FROM versions").fetchone()[0])
            sessions = connection.execute("SELECT id, pid, host, started, seen FROM sessions").fetchall()
        except BaseException:
            connection.close()
            raise
        is_live = any(_is_alive(*session) for session in sessions)
        here = socket.gethostname()
        was_interrupted = not is_live and any(session[2] == here for session in sessions)
        return cls(path, connection, changed, is_live, was_interrupted)


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
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -32000")
        if connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None:
            # Counts only before the first page is written, and would write to a file that is there.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID};"
                f" PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            )
        if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
            msg = "file is not a store of regions"
            raise sqlite3.DatabaseError(msg)
        made_by = connection.execute("PRAGMA user_version").fetchone()[0]
        if made_by > _SCHEMA_VERSION:
            msg = f"The regions in {path} were kept by a newer version of napari-histolatent (format {made_by}); update it."
            raise UserError(msg)
        fault = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if fault != "ok":
            raise sqlite3.DatabaseError(fault)
    except BaseException:
        connection.close()
        raise
    return connection


def _branched(source: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    """Return a new store that starts as a copy of another."""
    with closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as copy:
        source.backup(copy)
    connection = _opened(path)
    try:
        connection.execute("DELETE FROM sessions")
    except BaseException:
        connection.close()
        raise
    return connection


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
    return f"The regions kept in {path} cannot be read ({error}); the file is now {aside.name}, and a new one is begun."


def _remove_database(path: Path) -> None:
    for file in (path, path.with_name(f"{path.name}-journal")):
        with suppress(OSError):  # it holds nothing that another file lacks
            file.unlink(missing_ok=True)


# Rows


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
