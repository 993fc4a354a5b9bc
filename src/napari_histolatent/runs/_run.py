from __future__ import annotations

import os
import reprlib
import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psutil
from filelock import FileLock, Timeout

from napari_histolatent._files import DamagedJsonError, json_field, read_json_object, write_json
from napari_histolatent.errors import RunError, writing_to
from napari_histolatent.runs._events import RunEvent, append_event, read_events
from napari_histolatent.runs._index import remember

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FORMAT_VERSION = 1
ENDED = ("stopped", "finished", "failed", "interrupted", "gone")
"""States in which no process works on the run."""

_LAST_KINDS = ("stopped", "finished", "failed")
"""Kinds of events after which a process ends."""

_FOREIGN_SILENCE_SECONDS = 120.0
"""A run of another host is taken for dead after this long without an event or a heartbeat: its processes cannot be
seen. Twelve beats, as the clocks of two hosts may differ by a minute."""
HEARTBEAT_SECONDS = 10.0
_LOCK_WAIT_SECONDS = 3.0
_MAX_OWNER_BYTES = 2**16

_SPEC_TYPES: Mapping[str, type] = {
    "config": dict,
    "dataset": str,
    "dataset_digest": str,
    "forked_from": dict,
    "out": str,
    "run": str,
}
_CONFIG_TYPES: Mapping[str, type] = {
    "network": str,
    "preset": str,
    "steps": int,
    "batch_size": int,
}
"""What lists of runs of any kind count on, where a spec and its config have it; the rest is for the work to see to."""


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands."""

    state: str
    """new, starting, running, stopping, stopped, finished, failed, interrupted (killed, power lost), or gone (its
    folder was removed)."""
    step: int = 0
    steps: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    """The data of all events so far, later over earlier."""
    message: str = ""
    updated: float = 0.0
    """Time of the last event, seconds since 1970."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `--json` reports."""
        return asdict(self)


class Run:
    """A run directory of any kind of work.

    run.json says what to do and never changes; events.jsonl says what happened; checkpoints/ holds what to go
    on from; owner.json names the process that works on it; heartbeat is touched while it lives; STOP asks it to
    stop; log.txt is its output.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a run directory.

        Raises
        ------
        RunError
            If it is not one, or was written by a newer version.
        """
        self.path = Path(path).absolute()
        try:
            description = read_json_object(self.path / "run.json")
        except DamagedJsonError as error:
            msg = f"{path} is not a run folder (run.json {error}); `histolatent runs` lists those there are."
            raise RunError(msg) from error
        version = description.get("format_version")
        if version != FORMAT_VERSION:
            msg = f"{path} has run format {reprlib.repr(version)}, this version reads {FORMAT_VERSION}; update napari-histolatent."
            raise RunError(msg)
        try:
            self.id = json_field(description, "id", str)
            self.kind = json_field(description, "kind", str)
            self.spec: dict[str, Any] = json_field(description, "spec", dict)
            self.created = json_field(description, "created", float, least=0)
            _require_types(self.spec, _SPEC_TYPES)
            _require_types(self.spec.get("config") or {}, _CONFIG_TYPES)
        except ValueError as error:
            msg = f"{self.path / 'run.json'} lacks or garbles {error}; choose another run folder."
            raise RunError(msg) from error
        self._read = 0
        self._last: RunEvent | None = None
        self._sum = RunStatus("new")

    @classmethod
    def create(cls, path: str | Path, *, kind: str, spec: dict[str, Any]) -> Run:
        """Make a run directory that says what to do; nothing is started.

        Parameters
        ----------
        path
            Folder to make; it must not hold a run yet.
        kind
            The kind of work, as `jobs` names it.
        spec
            What the work needs to know, JSON.

        Raises
        ------
        RunError
            If the folder holds a run or other files already.
        UserError
            If the folder cannot be written.
        """
        path = Path(path).absolute()
        with writing_to(path):
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                what = "holds a run already" if (path / "run.json").exists() else "is not empty"
                msg = f"{path} {what}; choose another folder, or go on with `histolatent resume`."
                raise RunError(msg)
            path.mkdir(parents=True, exist_ok=True)
            description = {
                "format_version": FORMAT_VERSION,
                "id": uuid4().hex,
                "kind": kind,
                "created": time.time(),
                "spec": spec,
            }
            write_json(path / "run.json", description)
        with suppress(OSError):  # a home that cannot be written costs the list its entry, not the run
            remember(path)
        return cls(path)

    @property
    def checkpoints_folder(self) -> Path:
        """Where checkpoints go."""
        return self.path / "checkpoints"

    @property
    def log_file(self) -> Path:
        """Output and errors of the process."""
        return self.path / "log.txt"

    def append(self, event: RunEvent) -> None:
        """Add an event; it is on disk as a whole line when this returns."""
        append_event(self.path / "events.jsonl", event)

    def events(self, offset: int = 0) -> tuple[list[RunEvent], int]:
        """Return the events after a byte offset, and the offset to go on from."""
        return read_events(self.path / "events.jsonl", offset)

    def status(self) -> RunStatus:
        """Return where the run stands, from its events and whether its process lives."""
        self._fold_new_events()
        alive = self.is_alive(last_event=self._last_sign())
        if not alive:
            # Its last word may have come between the two looks.
            self._fold_new_events()
            if not (self.path / "run.json").exists():  # the process may go on until it has to write
                return replace(self._sum, state="gone")
        last = self._last
        if last is None:
            if alive:
                return RunStatus("stopping" if self.stop_requested else "starting")
            return RunStatus("interrupted" if self._owner() else "new")
        ended = last.kind in _LAST_KINDS
        if alive and last.kind != "finished":
            # A resumed process has not said so yet, or one that has ended is about to go.
            state = "stopping" if self.stop_requested else "starting" if ended else "running"
        else:
            state = last.kind if ended else "interrupted"
        return replace(self._sum, state=state)

    def _fold_new_events(self) -> None:
        """Bring the summary up to date; each line is read once, however long the run is."""
        events, self._read = self.events(self._read)
        for event in events:
            self._last = event
            self._sum = RunStatus(
                state="",
                step=event.step,
                steps=max(self._sum.steps, event.steps),
                losses=event.losses or self._sum.losses,
                data=self._sum.data | event.data,
                message=event.message,
                updated=event.time,
            )

    def request_stop(self) -> None:
        """Ask the process to stop after its current step and keep a checkpoint."""
        with writing_to(self.path):
            (self.path / "STOP").touch()

    @property
    def stop_requested(self) -> bool:
        """Whether the process was asked to stop."""
        return (self.path / "STOP").exists()

    def clear_stop(self) -> None:
        """Take the request to stop back; done when a run is resumed."""
        (self.path / "STOP").unlink(missing_ok=True)

    def claim(self, pid: int | None = None) -> None:
        """Write down which process works on the run."""
        process = psutil.Process(pid or os.getpid())
        owner = {"pid": process.pid, "host": socket.gethostname(), "since": process.create_time()}
        write_json(self.path / "owner.json", owner)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Hold the run, so that no second process works on it; the system lets go when the process dies.

        Raises
        ------
        RunError
            If another process holds it.
        """
        try:
            with self._lock():
                owner = self._owner()
                # The lock of a disk that hosts share may hold on one of them only.
                if owner and owner["host"] != socket.gethostname() and self.is_alive():
                    raise self._in_use()
                self.claim()
                with self._beating():
                    yield
        except Timeout as error:
            raise self._in_use() from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run without working on it, while a process that will is started: nobody else can claim it then.

        Raises
        ------
        RunError
            If another process holds it.
        """
        try:
            with self._lock():
                yield
        except Timeout as error:
            raise self._in_use() from error

    @contextmanager
    def _lock(self) -> Iterator[None]:
        lock = FileLock(self.path / "lock", timeout=_LOCK_WAIT_SECONDS)
        try:
            lock.acquire()
        except NotImplementedError:
            # A disk without locks: who owns it is all that can be known.
            owner = self._owner() or {}
            if owner.get("pid") != os.getpid() and self.is_alive():
                raise self._in_use() from None
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def _in_use(self) -> RunError:
        owner = self._owner() or {}
        return RunError(
            f"{self.path} is in use by process {owner.get('pid', '?')} on {owner.get('host', '?')}; "
            "stop it with `histolatent stop`, or wait until it has ended."
        )

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Touch the heartbeat every few seconds, whatever the work does meanwhile."""
        ended = Event()

        def beat() -> None:
            while True:
                with suppress(OSError):  # a full disk is for the work to tell of
                    (self.path / "heartbeat").touch()
                if ended.wait(HEARTBEAT_SECONDS):
                    return

        thread = Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(OSError):
                (self.path / "heartbeat").unlink(missing_ok=True)

    def _last_sign(self) -> float:
        """Return when the last event was that says that work goes on."""
        return self._last.time if self._last and self._last.kind not in _LAST_KINDS else 0.0

    def _last_beat(self) -> float:
        try:
            return (self.path / "heartbeat").stat().st_mtime
        except OSError:
            return 0.0

    def is_alive(self, *, last_event: float = 0.0) -> bool:
        """Return whether the process that works on the run is there (as far as this host can tell)."""
        owner = self._owner()
        if owner is None:
            return False
        now = time.time()
        if owner["host"] != socket.gethostname():
            # A sign from the future is none of life: it would be one for ever.
            signs = (last_event, self._last_beat())
            return any(abs(now - sign) < _FOREIGN_SILENCE_SECONDS for sign in signs)
        try:
            process = psutil.Process(owner["pid"])
            # Process numbers are used again: the start time tells whose it is. Where the clock was set meanwhile it
            # is another, and the heartbeat tells.
            same = abs(process.create_time() - owner["since"]) < 1
            same = same or abs(now - self._last_beat()) < 3 * HEARTBEAT_SECONDS
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False

    def _owner(self) -> dict[str, Any] | None:
        """Return pid, host and since, or None where nobody has claimed the run or it cannot be read."""
        try:
            said = read_json_object(self.path / "owner.json", max_bytes=_MAX_OWNER_BYTES)
            return {
                "pid": json_field(said, "pid", int, least=1, most=2**31 - 1),
                "host": json_field(said, "host", str),
                "since": json_field(said, "since", float, least=0),
            }
        except ValueError:
            return None


def _require_types(values: Mapping[str, Any], types: Mapping[str, type]) -> None:
    for name, kind in types.items():
        if values.get(name) is not None:
            json_field(values, name, kind)
