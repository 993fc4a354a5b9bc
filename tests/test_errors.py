from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from napari_histolatent import errors
from napari_histolatent.errors import UserError, passing_through, writing_to


@pytest.mark.parametrize(
    "name", ["SlideError", "AnnotationError", "DatasetError", "RunError", "CheckpointError"]
)
def test_every_fault_of_the_user_is_a_user_error(name: str) -> None:
    assert issubclass(getattr(errors, name), UserError)


@pytest.mark.parametrize(
    ("code", "reason", "remedy"),
    [
        (errno.EACCES, "it is read-only", "choose an output folder you may write to"),
        (errno.EPERM, "it is read-only", "choose an output folder you may write to"),
        (errno.EROFS, "it is read-only", "choose an output folder you may write to"),
        (errno.ENOSPC, "the disk is full", "free some space or choose another output folder"),
        (errno.EDQUOT, "the disk is full", "free some space or choose another output folder"),
        (errno.ENOTDIR, "a file is in the way", "choose another output folder"),
        (errno.EEXIST, "a file is in the way", "choose another output folder"),
    ],
)
def test_a_refusal_of_the_system_becomes_one_sentence(code: int, reason: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught, writing_to(Path("out")):
        raise OSError(code, os.strerror(code))
    assert str(caught.value) == f"Cannot write to out: {reason} ({os.strerror(code)}); {remedy}."
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("error", [ValueError("ours"), UserError("his")])
def test_other_errors_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, writing_to(Path("out")):
        raise error
    assert caught.value is error


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here first")
    with pytest.raises(UserError, match="a file is in the way"), writing_to(tmp_path / "file"):
        (tmp_path / "file" / "below").mkdir(parents=True)


def test_nothing_happens_when_nothing_fails(tmp_path: Path) -> None:
    with writing_to(tmp_path):
        (tmp_path / "a").write_text("written")
    assert (tmp_path / "a").read_text() == "written"


@pytest.mark.parametrize("error", [ConnectionResetError(errno.ECONNRESET, "gone"), PermissionError("theirs")])
def test_a_callers_own_errors_pass_unchanged_and_the_folders_do_not(error: OSError) -> None:
    def callback(done: int, *, of: int) -> int:
        if done == of:
            raise error
        return done + of

    with writing_to(Path("inner")), writing_to(Path("outer")):
        assert passing_through(callback)(1, of=2) == 3
    with pytest.raises(type(error)) as caught, writing_to(Path("outer")), writing_to(Path("inner")):
        passing_through(callback)(2, of=2)
    assert caught.value is error
    with pytest.raises(UserError, match="Cannot write to out"), writing_to(Path("out")):
        raise OSError(errno.ENOSPC, "full")
