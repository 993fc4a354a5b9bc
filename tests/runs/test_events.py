from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent.runs import RunEvent
from napari_histolatent.runs._events import KINDS, append_event, read_events

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def event(step: int, kind: str = "progress") -> RunEvent:
    return RunEvent(kind, step, 100, {"generator": 0.5 + step}, {"device": "cpu"}, "µ", time=1000.0 + step)


def test_events_come_back_as_they_went_in(file: Path) -> None:
    written = [event(i, kind) for i, kind in enumerate(KINDS)]
    for item in written:
        append_event(file, item)
    assert read_events(file) == (written, file.stat().st_size)


def test_each_event_is_one_line_of_json(file: Path) -> None:
    append_event(file, RunEvent("failed", message="two\nlines\u2028and a third"))
    append_event(file, event(1))
    lines = file.read_bytes().split(b"\n")
    assert [bool(line) for line in lines] == [True, True, False]
    assert json.loads(lines[0])["message"] == "two\nlines\u2028and a third"
    assert [v.message for v in read_events(file)[0]] == ["two\nlines\u2028and a third", "µ"]


def test_an_offset_goes_on_where_the_last_call_ended(file: Path) -> None:
    append_event(file, event(1))
    first, offset = read_events(file)
    assert read_events(file, offset) == ([], offset)
    append_event(file, event(2))
    append_event(file, event(3))
    second, end = read_events(file, offset)
    assert [v.step for v in first + second] == [1, 2, 3]
    assert end == file.stat().st_size


def test_no_file_is_no_events(file: Path) -> None:
    assert read_events(file) == ([], 0)
    assert read_events(file, 7) == ([], 7)


def test_a_torn_last_line_is_left_for_the_next_call(file: Path) -> None:
    append_event(file, event(1))
    whole = file.stat().st_size
    line = event(2).to_line().encode()
    for cut in range(1, len(line)):
        with file.open("r+b") as handle:
            handle.truncate(whole)
            handle.seek(whole)
            handle.write(line[:cut])
        events, offset = read_events(file)
        assert [v.step for v in events] == [1]
        assert offset == whole
    with file.open("ab") as handle:
        handle.write(line[-1:])
    assert read_events(file, whole) == ([event(2)], whole + len(line))


def test_a_torn_line_is_closed_by_the_next_append(file: Path) -> None:
    append_event(file, event(1))
    with file.open("ab") as handle:
        handle.write(event(2).to_line().encode()[:40])
    append_event(file, event(3))
    append_event(file, event(4))
    assert [v.step for v in read_events(file)[0]] == [1, 3, 4]
    assert b"\n\n" not in file.read_bytes()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_null_in_the_file_and_nan_after(file: Path, value: float) -> None:
    append_event(file, RunEvent("progress", 3, 9, {"generator": value, "discriminator": 1.5}))
    assert json.loads(file.read_text())["losses"] == {"generator": None, "discriminator": 1.5}
    (read,), _ = read_events(file)
    assert math.isnan(read.losses["generator"])
    assert read.losses["discriminator"] == 1.5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_no_number_is_null_too(file: Path, value: float) -> None:
    append_event(file, RunEvent("checkpoint", 3, 9, data={"metrics": {"kid": value, "n": 4}}))
    assert json.loads(file.read_text())["data"]["metrics"] == {"kid": None, "n": 4}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Epoch 3/10",
        "null",
        "3",
        "[]",
        "{}",
        '{"step": 3}',
        '{"kind": "epoch", "step": 3}',
        '{"kind": ["progress"]}',
        '{"kind": "progress", "step": null}',
        '{"kind": "progress", "step": "three"}',
        '{"kind": "progress", "losses": [0.5]}',
        '{"kind": "progress", "losses": {"generator": "low"}}',
        '{"kind": "progress", "data": [0.5]}',
        '{"kind": "progress", "time": "noon"}',
        '{"kind": "progress", "step": 1e999}',
        '{"kind": "progress", "time": ' + "1" * 400 + "}",
        "[" * 50_000,
        '{"kind": "progress", "step": "3"}',
        '{"kind": "progress", "step": true}',
        '{"kind": "progress", "step": 1.5}',
        '{"kind": "progress", "step": -1}',
        '{"kind": "progress", "step": 2147483648}',
        '{"kind": "progress", "steps": ' + "9" * 10_000 + "}",
        '{"kind": "progress", "losses": {"generator": "0.5"}}',
        '{"kind": "progress", "losses": {"generator": NaN}}',
        '{"kind": "progress", "losses": {"generator": 1e999}}',
        '{"kind": "progress", "message": ["no"]}',
        '{"kind": "progress", "message": "\\ud800"}',
        '{"kind": "progress", "time": NaN}',
        '{"kind": "progress", "time": -1}',
        '{"kind": "progress", "time": null}',
        '{"kind": "progress", "data": ' + '{"a": ' * 500 + "1" + "}" * 501,
        '{"kind": "progress", "message": "' + "a" * 2**24 + '"}',
    ],
    ids=lambda line: line[:60],
)
def test_lines_of_other_programs_are_passed_over(file: Path, line: str) -> None:
    append_event(file, event(1))
    with file.open("a") as handle:
        handle.write(line + "\n")
    append_event(file, event(2))
    assert [v.step for v in read_events(file)[0]] == [1, 2]


def test_bytes_that_are_no_text_are_passed_over(file: Path) -> None:
    append_event(file, event(1))
    with file.open("ab") as handle:
        handle.write(b"\xff\xfe\x00\n")
    append_event(file, event(2))
    assert [v.step for v in read_events(file)[0]] == [1, 2]


@pytest.mark.parametrize(
    "garbled",
    [
        {"metrics": "good"},
        {"metrics": [0.5]},
        {"report": 3},
        {"judges": ["a"]},
        {"sample": {"path": "a.png"}},
        {"checkpoint": 3},
        {"device": ["cpu"]},
        {"images_per_second": "90"},
        {"images_per_second": True},
        {"seconds_per_step": [1]},
        {"patches_per_second": {}},
    ],
    ids=lambda garbled: next(iter(garbled)),
)
def test_of_data_only_what_is_garbled_is_left_out(file: Path, garbled: dict[str, Any]) -> None:
    append_event(file, RunEvent("progress", 1, 9, data={"mine": [1], **garbled}))
    (read,), _ = read_events(file)
    assert (read.step, read.data) == (1, {"mine": [1]})


def test_data_of_the_right_types_are_passed_on(file: Path) -> None:
    data = {
        "metrics": {"kid": None, "warnings": ["low"]},
        "checkpoint": "checkpoints/step-00000001",
        "images_per_second": 90,
        "seconds_per_step": 0.5,
        "best": None,
    }
    append_event(file, RunEvent("progress", 1, 9, data=data))
    assert read_events(file)[0][0].data == data


def test_what_is_no_file_has_no_events_and_is_not_waited_for(file: Path) -> None:
    os.mkfifo(file)
    assert read_events(file) == ([], 0)
    file.unlink()
    file.mkdir()
    assert read_events(file, 5) == ([], 5)
