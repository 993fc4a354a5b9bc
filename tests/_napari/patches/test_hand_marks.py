from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from napari_histolatent._napari.patches._hand_marks import (
    Decision,
    HandMarks,
    MarkKey,
    marks_file,
    marks_json,
    read_marks,
    write_marks,
)
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import HandMark

if TYPE_CHECKING:
    from pathlib import Path

A, B = MarkKey(10, 20, 64, 1.0), MarkKey(74, 20, 64, 1.0)
LARGER = MarkKey(10, 20, 64, 2.0)


def test_each_step_is_undone_and_done_again() -> None:
    marks = HandMarks()
    told: list[tuple[MarkKey, ...]] = []
    marks.changed.connect(told.append)
    marks.put({A: Decision("tumour")}, "class tumour")
    marks.put({A: Decision(is_in=False), B: Decision()}, "2 patches")
    assert (marks.undo_title, marks.redo_title) == ("2 patches", "")
    assert marks.undo() == "2 patches"
    assert dict(marks.items()) == {A: Decision("tumour")}
    assert marks.undo() == "class tumour"
    assert len(marks) == 0
    assert marks.undo() == ""
    assert marks.redo() == "class tumour"
    assert marks.redo() == "2 patches"
    assert dict(marks.items()) == {A: Decision(is_in=False), B: Decision()}
    assert told == [(A,), (A, B), (A, B), (A,), (A,), (A, B)]


def test_a_class_of_another_name_is_followed_in_what_can_be_undone_too() -> None:
    marks = HandMarks()
    marks.put({A: Decision("tumour"), B: Decision("stroma")}, "classes")
    marks.put({A: Decision("stroma")}, "class stroma")
    told: list[tuple[MarkKey, ...]] = []
    marks.changed.connect(told.append)
    marks.rename("tumour", "carcinoma")
    assert told == [], "no patch has it now"
    marks.rename("stroma", "rest")
    assert told == [(A, B)]
    assert dict(marks.items()) == {A: Decision("rest"), B: Decision("rest")}
    marks.undo()
    assert dict(marks.items()) == {A: Decision("carcinoma"), B: Decision("rest")}
    marks.redo()
    assert marks.get(A) == Decision("rest")


def test_what_changes_nothing_is_no_step() -> None:
    marks = HandMarks()
    marks.put({A: None}, "nothing")
    assert marks.undo_title == ""


def test_a_new_step_ends_what_could_be_done_again() -> None:
    marks = HandMarks()
    marks.put({A: Decision()}, "one")
    marks.undo()
    marks.put({B: Decision()}, "two")
    assert marks.redo() == ""
    assert dict(marks.items()) == {B: Decision()}


def test_only_patches_of_the_size_are_planned() -> None:
    marks = HandMarks()
    marks.put({A: Decision("tumour"), LARGER: Decision(is_in=False)}, "both")
    assert marks.fitting(64, 1.0) == (HandMark(10, 20, "tumour", True),)
    assert marks.fitting(64, 2.0) == (HandMark(10, 20, "", False),)
    assert marks.fitting(64, 1.001) == (HandMark(10, 20, "tumour", True),), "0.06 level-0 px wider"
    assert marks.fitting(32, 2.0) == (), "as wide, but of other pixels"


def test_what_was_kept_comes_below_what_was_decided_meanwhile() -> None:
    marks = HandMarks()
    marks.put({A: Decision("new")}, "new")
    marks.fill([(A, Decision("old")), (B, Decision("kept"))])
    assert dict(marks.items()) == {A: Decision("new"), B: Decision("kept")}
    marks.undo()
    assert dict(marks.items()) == {A: Decision("old"), B: Decision("kept")}


def test_a_file_keeps_them(tmp_path: Path) -> None:
    items = ((A, Decision("tumour", True, True)), (LARGER, Decision(is_in=False)))
    write_marks(tmp_path / "x" / "a.json", marks_json(items, "a.svs"))
    assert read_marks(tmp_path / "x" / "a.json") == items
    assert read_marks(tmp_path / "none.json") == ()


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"version": 1, "marks": [[1, 2]]}', '{"version": 99, "marks": []}']
)
def test_a_damaged_file_is_moved_aside(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match="moved to"):
        read_marks(path)
    assert not path.exists()
    (aside,) = tmp_path.glob("a.damaged-*.json")
    assert aside.read_text() == content
    assert read_marks(path) == ()


def test_marks_of_a_killed_process_are_on_the_disk() -> None:
    """A real process that dies without a word, right after it wrote."""
    code = (
        "import os, signal\n"
        "from napari_histolatent._napari.patches._hand_marks import *\n"
        "marks = HandMarks()\n"
        "for i in range(50):\n"
        "    marks.put({MarkKey(i, 0, 64, 1.0): Decision(f'class {i}')}, 'x')\n"
        "    write_marks(marks_file('d'), marks_json(marks.items(), 'a.svs'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    kept = read_marks(marks_file("d"))
    assert [decision.label for _, decision in kept] == [f"class {i}" for i in range(50)]
    assert json.loads(marks_file("d").read_text())["slide"] == "a.svs"
