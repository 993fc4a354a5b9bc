from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from napari_histolatent._files import data_folder
from napari_histolatent.errors import RunError, UserError
from napari_histolatent.runs import ENDED, Run, RunEvent, known_runs, launch
from napari_histolatent.runs import _launch as launching
from napari_histolatent.runs import _run as runs_module
from tests.runs.processes import wait_for_exit, wait_for_kind, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLDER = """
import sys, time
from napari_histolatent.runs import Run, RunEvent
run = Run(sys.argv[1])
with run.exclusively():
    run.append(RunEvent("started", steps=10))
    while not run.stop_requested:
        time.sleep(0.01)
    run.append(RunEvent("stopped", steps=10))
"""


@pytest.fixture
def run(folder: Path) -> Run:
    return Run.create(folder / "run", kind="train", spec={"a": 1})


@pytest.fixture(autouse=True)
def own_list(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty list of runs for each test."""
    monkeypatch.setenv("HISTOLATENT_DATA_DIR", str(tmp_path_factory.mktemp("user_data")))


@pytest.fixture
def gone_pid() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def holder(run: Run) -> Iterator[subprocess.Popen[bytes]]:
    """A second process that holds the run."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)])
    wait_for_kind(run, "started")
    yield process
    process.kill()
    process.wait()


def own(run: Run, **changes: Any) -> None:
    """Say in owner.json that this process works on the run, but for the changes."""
    process = psutil.Process()
    owner = {"pid": process.pid, "host": socket.gethostname(), "since": process.create_time()}
    (run.path / "owner.json").write_text(json.dumps(owner | changes))


# Create and open


def test_a_run_is_opened_as_it_was_created(run: Run) -> None:
    opened = Run(run.path)
    assert (opened.id, opened.kind, opened.spec, opened.created) == (run.id, "train", {"a": 1}, run.created)
    assert opened.path == run.path
    assert opened.status().state == "new"
    assert [path.name for path in run.path.iterdir()] == ["run.json"]


def test_a_relative_path_is_kept_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    made = Run.create("here", kind="train", spec={})
    assert made.path == folder / "here"
    assert known_runs() == [folder / "here"]


def test_a_folder_above_is_made_and_an_empty_one_is_taken(folder: Path) -> None:
    Run.create(folder / "a" / "b", kind="train", spec={})
    (folder / "empty").mkdir()
    Run.create(folder / "empty", kind="train", spec={})
    assert len(known_runs()) == 2


def test_a_folder_that_holds_a_run_is_refused(run: Run) -> None:
    with pytest.raises(RunError, match=r"run holds a run already; choose another folder"):
        Run.create(run.path, kind="classifier", spec={})
    assert Run(run.path).id == run.id


def test_a_folder_with_other_files_is_refused_and_untouched(folder: Path) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "thesis.docx").write_text("years of work")
    with pytest.raises(RunError, match="full is not empty; choose another folder"):
        Run.create(folder / "full", kind="train", spec={})
    assert [path.name for path in (folder / "full").iterdir()] == ["thesis.docx"]
    assert known_runs() == []


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_the_way_is_refused(folder: Path, name: str) -> None:
    (folder / "file").write_text("here first")
    with pytest.raises(UserError, match="choose another"):
        Run.create(folder / name, kind="train", spec={})
    assert (folder / "file").read_text() == "here first"
    assert known_runs() == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "run.json is missing"),
        ('{"format_version": 1, "id"', "run.json cannot be parsed"),
        ("[]", "(run.json holds no JSON object)"),
        ("[" * 100_000, "(run.json is nested too deeply)"),
        ('{"format_version": NaN}', "(run.json holds NaN, which is not JSON)"),
        ('{"id": "1"}', "run format None"),
        ('{"format_version": 99}', "run format 99, this version reads 1; update"),
        ('{"format_version": "' + "1" * 9999 + '"}', "has run format '1"),
        ('{"format_version": 1}', "run.json"),
        ('{"format_version": 1, "id": "1", "kind": "train", "spec": {}, "created": "noon"}', "run.json"),
    ],
)
def test_what_is_no_run_is_refused(folder: Path, text: str | None, words: str) -> None:
    if text is not None:
        (folder / "run.json").write_text(text)
    with pytest.raises(RunError) as caught:
        Run(folder)
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": 7},
        {"kind": ["train"]},
        {"kind": None},
        {"spec": [["config", 1]]},
        {"created": "5"},
        {"created": -1},
        {"created": True},
        {"spec": {"config": []}},
        {"spec": {"config": "modern"}},
        {"spec": {"dataset": ["lung"]}},
        {"spec": {"out": 3}},
        {"spec": {"forked_from": "run"}},
        {"spec": {"config": {"network": 3}}},
        {"spec": {"config": {"preset": {}}}},
        {"spec": {"config": {"steps": "many"}}},
    ],
    ids=str,
)
def test_a_run_with_fields_of_other_types_is_refused(run: Run, changes: dict[str, Any]) -> None:
    described = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(described | changes))
    with pytest.raises(
        RunError, match=r"run\.json lacks or garbles '\w+' \(.+\); choose another run folder\.$"
    ):
        Run(run.path)


def test_what_was_not_said_is_no_damage(folder: Path) -> None:
    spec = {"config": None, "dataset": None, "forked_from": None}
    assert Run.create(folder / "run", kind="train", spec=spec).spec == spec


def test_a_list_that_cannot_be_written_is_not_blamed_on_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "file").write_text("where a home folder should be")
    monkeypatch.setenv("HISTOLATENT_DATA_DIR", str(folder / "file" / "data"))
    refusal = ""
    try:
        Run.create(folder / "run", kind="train", spec={})
    except UserError as error:
        refusal = str(error)
    # To refuse is fair, if it names the right folder and leaves nothing behind.
    assert (str(folder / "file") in refusal) == bool(refusal)
    assert (folder / "run" / "run.json").exists() == (not refusal)


# State


def test_events_and_data_add_up_and_the_last_losses_stay(run: Run) -> None:
    own(run)
    run.append(RunEvent("started", 0, 10, data={"device": "cpu"}))
    run.append(RunEvent("progress", 5, 10, {"generator": 0.5}, {"images_per_second": 1}))
    run.append(RunEvent("checkpoint", 6, 10, data={"checkpoint": "a", "images_per_second": 2}, time=77.0))
    status = run.status()
    assert (status.state, status.step, status.steps, status.updated) == ("running", 6, 10, 77.0)
    assert status.losses == {"generator": 0.5}
    assert status.data == {"device": "cpu", "images_per_second": 2, "checkpoint": "a"}


def test_a_status_asked_for_again_is_that_of_a_run_opened_anew(run: Run) -> None:
    own(run)
    lines = [
        RunEvent("started", 0, 10, data={"device": "cpu"}).to_line(),
        RunEvent("progress", 5, 10, {"generator": 0.5}, {"device": "cuda"}).to_line(),
        RunEvent("sample", 5, 10, data={"sample": "a.png"}).to_line()[:20],  # torn by a kill
        "\n" + RunEvent("started", 4, 8).to_line(),
        RunEvent("failed", 6, 8, message="no").to_line(),
    ]
    seen = []
    for line in lines:
        with (run.path / "events.jsonl").open("a") as file:
            file.write(line)
        assert run.status() == Run(run.path).status() == run.status()
        seen.append((run.status().step, run.status().steps, run.status().message))
    assert seen == [(0, 10, ""), (5, 10, ""), (5, 10, ""), (4, 10, ""), (6, 10, "no")]
    assert run.status().losses == {"generator": 0.5}
    assert run.status().data == {"device": "cuda"}


@pytest.mark.parametrize(
    ("kinds", "alive", "stop", "state"),
    [
        ([], None, False, "new"),
        ([], True, False, "starting"),
        ([], False, False, "interrupted"),
        (["started"], True, False, "running"),
        (["started", "progress", "sample", "checkpoint"], True, False, "running"),
        (["started", "progress"], True, True, "stopping"),
        (["started", "progress"], False, False, "interrupted"),
        (["started", "progress"], False, True, "interrupted"),
        (["started", "checkpoint"], None, False, "interrupted"),
        (["started", "stopped"], False, True, "stopped"),
        (["started", "stopped"], True, True, "stopping"),  # it has said so, and is about to go
        (["started", "stopped"], True, False, "starting"),  # resumed, and has not said so yet
        (["started", "finished"], False, False, "finished"),
        (["started", "finished"], True, False, "finished"),
        (["failed"], False, False, "failed"),
        (["failed"], True, False, "starting"),
        (["started", "stopped", "started", "progress"], False, False, "interrupted"),
    ],
)
def test_the_state_follows_from_events_owner_and_stop_file(
    run: Run, gone_pid: int, kinds: list[str], alive: bool | None, stop: bool, state: str
) -> None:
    if alive is not None:
        own(run, **({} if alive else {"pid": gone_pid}))
    for kind in kinds:
        run.append(RunEvent(kind, message="no" if kind == "failed" else ""))
    if stop:
        run.request_stop()
    assert run.status().state == state
    assert run.status().message == ("no" if kinds[-1:] == ["failed"] else "")
    assert (state in ENDED) == (state in ("stopped", "finished", "failed", "interrupted"))


def test_an_owner_that_does_not_exist_is_dead(run: Run, gone_pid: int) -> None:
    own(run)
    assert run.is_alive()
    own(run, pid=gone_pid)
    assert not run.is_alive()


def test_a_number_that_was_used_again_is_another_process(run: Run) -> None:
    own(run, since=psutil.Process().create_time() - 60)
    assert not run.is_alive()
    run.append(RunEvent("progress", 3, 10))
    assert run.status().state == "interrupted"


def test_a_clock_that_was_set_does_not_end_a_run(run: Run) -> None:
    # BUG: `stop` then said "interrupted" and asked nobody to stop.
    own(run, since=psutil.Process().create_time() - 3600)
    beat = run.path / "heartbeat"
    beat.touch()
    assert run.is_alive()
    long_ago = time.time() - 60
    os.utime(beat, (long_ago, long_ago))
    assert not run.is_alive()


def test_a_zombie_is_dead(run: Run) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    try:
        run.claim(process.pid)
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE, "a zombie")
        assert not run.is_alive()
    finally:
        process.wait()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"pid": 1', "{}", "[" * 50_000, '{"pid": NaN}', " " * 2**17 + "{}"],
    ids=lambda text: text[:9],
)
def test_an_owner_that_cannot_be_read_is_none(run: Run, text: str) -> None:
    (run.path / "owner.json").write_text(text)
    assert not run.is_alive()


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": "one"},
        {"pid": -4},
        {"since": None},
        {"pid": [1]},
        {"pid": 2**62},
        {"pid": 10**30},
        {"pid": 1e300},
        {"pid": True},
        {"host": []},
        {"host": None},
        {"since": "now"},
    ],
    ids=str,
)
def test_an_owner_that_makes_no_sense_is_dead(run: Run, changes: dict[str, Any]) -> None:
    own(run, **changes)
    assert not run.is_alive()
    run.append(RunEvent("progress", 3, 10))
    assert run.status().state == "interrupted"


@pytest.mark.parametrize(("age", "state"), [(5, "running"), (100, "running"), (200, "interrupted")])
def test_a_run_of_another_host_lives_as_long_as_it_speaks(run: Run, age: float, state: str) -> None:
    own(run, host="elsewhere", pid=1)
    run.append(RunEvent("progress", 3, 10, time=time.time() - age))
    assert run.status().state == state


@pytest.mark.parametrize(("age", "state"), [(5, "running"), (100, "running"), (200, "interrupted")])
def test_a_run_of_another_host_lives_as_long_as_its_heart_beats(run: Run, age: float, state: str) -> None:
    own(run, host="elsewhere", pid=1)
    run.append(RunEvent("progress", 3, 10, time=time.time() - 5000))  # one step takes an hour
    (run.path / "heartbeat").touch()
    os.utime(run.path / "heartbeat", (time.time() - age, time.time() - age))
    assert run.status().state == state


@pytest.mark.parametrize("ahead", [60, 100])
def test_a_clock_of_another_host_may_be_ahead_by_a_minute(run: Run, ahead: float) -> None:
    own(run, host="elsewhere", pid=1)
    run.append(RunEvent("progress", 3, 10, time=time.time() + ahead))
    assert run.status().state == "running"


def test_a_sign_from_the_future_is_none_of_life(run: Run) -> None:
    # BUG: such a run could not be resumed before its own time had come.
    own(run, host="elsewhere", pid=1)
    beat, future = run.path / "heartbeat", time.time() + 86_400
    run.append(RunEvent("progress", 3, 10, time=future))
    beat.touch()
    os.utime(beat, (future, future))
    assert run.status().state == "interrupted"
    beat.touch()  # one that is true counts, whatever the event says
    assert run.status().state == "running"


@pytest.mark.parametrize("kind", ["stopped", "finished", "failed"])
def test_a_run_that_has_just_ended_on_another_host_has_ended(run: Run, kind: str) -> None:
    own(run, host="elsewhere", pid=1)
    run.append(RunEvent(kind, 3, 10))
    assert run.status().state == kind


def test_the_heart_beats_while_the_run_is_held(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "HEARTBEAT_SECONDS", 0.01)
    beat = run.path / "heartbeat"

    def beats() -> bool:
        os.utime(beat, (1000, 1000))
        wait_until(lambda: beat.stat().st_mtime > 1000, "another beat")
        return True

    with run.exclusively():
        wait_until(beat.exists, "the first beat")
        assert beats()
        assert beats()
    assert not beat.exists()


def test_a_run_that_another_host_holds_is_refused(run: Run) -> None:
    own(run, host="elsewhere", pid=4711)
    (run.path / "heartbeat").touch()
    in_use = pytest.raises(RunError, match="in use by process 4711 on elsewhere; stop it with")
    with in_use, run.exclusively():
        pytest.fail("both at once")
    assert json.loads((run.path / "owner.json").read_text())["host"] == "elsewhere"
    assert (run.path / "heartbeat").exists(), "it is theirs"


def test_what_another_host_left_behind_is_stale(run: Run) -> None:
    own(run, host="elsewhere", pid=4711)
    (run.path / "lock").touch()
    (run.path / "heartbeat").touch()
    os.utime(run.path / "heartbeat", (time.time() - 500, time.time() - 500))
    with run.exclusively():
        assert json.loads((run.path / "owner.json").read_text())["host"] == socket.gethostname()


def test_a_disk_without_locks_goes_by_the_owner(
    run: Run, holder: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise NotImplementedError("this file system has no locks")

    monkeypatch.setattr(runs_module.FileLock, "acquire", refuse)
    in_use = pytest.raises(RunError, match=f"in use by process {holder.pid} on")
    with in_use, run.exclusively():
        pytest.fail("both at once")
    holder.kill()
    holder.wait()
    with run.exclusively():
        assert json.loads((run.path / "owner.json").read_text())["pid"] == os.getpid()


def test_a_run_that_speaks_on_another_host_is_not_launched(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def popen(*_: Any, **__: Any) -> None:
        pytest.fail("a second process was started")

    monkeypatch.setattr(launching.subprocess, "Popen", popen)
    own(run, host="elsewhere", pid=1)
    run.append(RunEvent("progress", 3, 10))
    assert run.status().state == "running"
    with pytest.raises(RunError, match="running already"):
        launch(run)


def test_stop_can_be_asked_for_and_taken_back(run: Run) -> None:
    assert not run.stop_requested
    run.clear_stop()  # nothing to take back is no fault
    run.request_stop()
    run.request_stop()
    assert Run(run.path).stop_requested
    run.clear_stop()
    assert not run.stop_requested


# The list of runs


def test_a_run_that_starts_and_was_asked_to_stop_is_stopping(run: Run) -> None:
    run.claim()
    assert run.status().state == "starting"
    run.request_stop()
    assert run.status().state == "stopping"


def test_a_run_whose_folder_was_removed_is_gone(run: Run) -> None:
    run.append(RunEvent("progress", 5, 10))
    assert run.status().state == "interrupted"
    shutil.rmtree(run.path)
    assert (run.status().state, run.status().step) == ("gone", 5)
    assert "gone" in ENDED, "nobody waits for it"


def test_the_newest_run_comes_first_and_deleted_folders_are_forgotten(folder: Path) -> None:
    made = [Run.create(folder / name, kind="train", spec={}) for name in "abc"]
    for age, item in enumerate(made):
        os.utime(item.path / "run.json", (1000 - age, 1000 - age))
    assert known_runs() == [folder / "a", folder / "b", folder / "c"]
    shutil.rmtree(folder / "b")
    assert known_runs() == [folder / "a", folder / "c"]
    Run.create(folder / "b", kind="train", spec={})
    assert set(known_runs()) == {folder / "a", folder / "b", folder / "c"}
    shutil.rmtree(folder / "b")
    known_runs()
    (folder / "b").mkdir()
    (folder / "b" / "run.json").write_text("made by hand")
    assert folder / "b" not in known_runs()  # it was forgotten, not hidden


def test_an_entry_that_is_damaged_costs_no_other_its_place(folder: Path) -> None:
    made = Run.create(folder / "run", kind="train", spec={})
    entries = data_folder() / "runs"
    for i, content in enumerate((b"", b"\xff\xfe", b"/nul\0l", b"run", b"/" + b"x" * 5000)):
        (entries / f"{i}.path").write_bytes(content)
    assert known_runs() == [made.path]


def test_no_run_yet_is_an_empty_list() -> None:
    assert known_runs() == []


# The lock


def test_a_second_process_is_refused_until_the_first_is_killed(
    run: Run, holder: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "_LOCK_WAIT_SECONDS", 0.05)
    ran = []
    in_use = pytest.raises(RunError, match=f"in use by process {holder.pid} on {socket.gethostname()}")
    with in_use, run.exclusively():
        ran.append("both at once")
    assert ran == []
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with run.exclusively():
        assert run.is_alive()
        assert json.loads((run.path / "owner.json").read_text())["pid"] == os.getpid()
    with run.exclusively():
        ran.append("after the first let go")
    assert ran == ["after the first let go"]


def test_an_error_inside_passes_and_lets_go(run: Run) -> None:
    def fail() -> None:
        with run.exclusively():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with run.exclusively():
        assert run.is_alive()


@pytest.mark.parametrize("works", [True, False], ids=["works", "was only launched"])
def test_a_launch_that_comes_late_touches_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch, works: bool
) -> None:
    def popen(*_: Any, **__: Any) -> None:
        pytest.fail("a second process was started")

    monkeypatch.setattr(launching.subprocess, "Popen", popen)
    monkeypatch.setattr(runs_module, "_LOCK_WAIT_SECONDS", 0.05)
    late, status = Run(run.path), run.status()
    looks = iter([status])  # as it was before the winner claimed the run
    monkeypatch.setattr(late, "status", lambda: next(looks, None) or Run(run.path).status())
    with run.exclusively() if works else nullcontext(run.claim()):
        owner = (run.path / "owner.json").read_text()
        run.request_stop()
        with pytest.raises(RunError, match="in use by process" if works else "is running already"):
            launch(late)
        assert run.stop_requested
        assert (run.path / "owner.json").read_text() == owner
        assert run.is_alive()


def test_of_two_launches_at_once_one_works_and_is_the_owner(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "holder.py").write_text(HOLDER)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    monkeypatch.setattr(launching, "_JOBS_MODULE", "holder")
    popen = subprocess.Popen

    def slow(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        time.sleep(0.5)  # both have looked whether anybody works on the run by then
        return popen(*arguments, **options)

    def try_to_launch(_: int) -> int | None:
        try:
            return launch(Run(run.path))
        except RunError:  # to refuse is as good as a process that finds the run in use
            return None

    monkeypatch.setattr(launching.subprocess, "Popen", slow)
    with ThreadPoolExecutor(2) as pool:
        pids = [pid for pid in pool.map(try_to_launch, range(2)) if pid]
    wait_for_kind(run, "started")
    owner = json.loads((run.path / "owner.json").read_text())["pid"]
    assert owner in pids
    for pid in set(pids) - {owner}:
        wait_for_exit(pid)
    assert run.status().state == "running"
    assert [event.kind for event in run.events()[0]] == ["started"]
    run.request_stop()
    wait_for_exit(owner)
    assert run.status().state == "stopped"
