from __future__ import annotations

import hashlib
import json
import math
import os
import re
import reprlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent._files import (
    DamagedJsonError,
    data_folder,
    digest_of,
    digest_of_file,
    json_field,
    read_json_object,
    replacing,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_a_new_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    write_text(path, "new, with µm")
    assert path.read_bytes() == "new, with µm".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def crash() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        crash()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # else os.replace would cross file systems
    assert path.read_text() == "new"


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_arrives_whole_or_not_at_all(tmp_path: Path, fails: bool) -> None:
    path = tmp_path / "folder"
    try:
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / "inside").write_text("x")
            if fails:
                raise RuntimeError
    except RuntimeError:
        assert list(tmp_path.iterdir()) == []
    else:
        assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == [
            "folder",
            "folder/inside",
        ]


def test_threads_that_write_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    texts = [str(i) * 10_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_text(path, text), texts))
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_written_and_read_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None], "µ": "ü"}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


def test_a_number_that_json_has_not_becomes_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"kid": float("nan"), "all": [1.5, (float("inf"), "x")]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"kid": None, "all": [1.5, [None, "x"]]}


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"kid": 0.1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"kid": object()})
    assert json.loads(path.read_text()) == {"kid": 0.1}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}, True),
        ([1, 2], [2, 1], False),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": 1}, {"a": 1, "b": None}, False),
    ],
)
def test_the_digest_of_a_value_ignores_the_order_of_keys_alone(one: Any, other: Any, same: bool) -> None:
    assert (digest_of(one) == digest_of(other)) is same
    assert len(digest_of(one)) == 16


def test_the_digest_of_a_value_stays_the_same_in_later_versions() -> None:
    assert digest_of({"a": 1}) == hashlib.sha256(b'{"a": 1}').hexdigest()[:16]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(content[:size])
    assert digest_of_file(tmp_path / "a") == hashlib.sha256(content[:size]).hexdigest()


def test_the_data_folder_is_the_one_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HISTOLATENT_DATA_DIR", str(tmp_path))
    assert data_folder() == tmp_path


def test_the_data_folder_is_else_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HISTOLATENT_DATA_DIR")
    assert data_folder().name == "napari-histolatent"


def test_no_test_writes_into_the_users_own_folder(user_data_dir: Path) -> None:
    assert data_folder() == user_data_dir


# JSON that anybody may have written


def test_an_object_comes_back_as_it_was_written(tmp_path: Path) -> None:
    value = {"µ": [1, -2.5, None, True, "\U0001f52c"], "least": -(2**63), "most": 2**64 - 1, "in": {"in": {}}}
    write_json(tmp_path / "a.json", value)
    assert read_json_object(tmp_path / "a.json") == value


def nested(depth: int) -> str:
    return '{"a": ' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "cannot be parsed"),
        ('{"a": 1', "cannot be parsed"),
        ('\ufeff{"a": 1}', "cannot be parsed"),
        (b'{"a": "\xff"}', "is not UTF-8 text"),
        ('{"a": "\\ud800"}', "holds text that is not Unicode"),
        ('{"\\uDFFF": 1}', "holds text that is not Unicode"),
        ("[]", "holds no JSON object"),
        ("null", "holds no JSON object"),
        ("3", "holds no JSON object"),
        ('{"a": NaN}', "holds NaN, which is not JSON"),
        ('{"a": [-Infinity]}', "holds -Infinity, which is not JSON"),
        ('{"a": 1e999}', "holds a number that is too large"),
        (f'{{"a": {2**64}}}', "holds a number that is too large"),
        ('{"a": -' + "1" * 10_000 + "}", "holds a number that is too large"),
        (nested(65), "is nested too deeply"),
        (nested(100_000), "is nested too deeply"),
        ("[" * 100_000, "is nested too deeply"),
        (f'{{"a": "{"b" * 2**20}"}}', "is larger than 1 MB"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_no_sound_object_is_refused_and_said_why(
    tmp_path: Path, content: str | bytes, why: str
) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DamagedJsonError) as caught:
        read_json_object(file, max_bytes=2**20)
    assert str(caught.value) == why


def test_as_deep_and_as_large_as_allowed(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(nested(64))
    assert read_json_object(file, max_bytes=file.stat().st_size)
    file.write_text('{"a": [' + "[], " * 999 + "[]]}")  # many brackets, none of them deep
    assert len(read_json_object(file)["a"]) == 1000


def test_a_file_that_is_none_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for name, why in (
        ("pipe", "is not a file"),
        ("folder", "is not a file"),
        ("nowhere", "is missing"),
        ("file/a.json", "is missing"),
        ("nul\0l", "is missing"),
        ("x" * 300, "cannot be read: File name too long"),
    ):
        with pytest.raises(DamagedJsonError, match=f"^{why}$"):
            read_json_object(tmp_path / name)


def test_a_field_is_of_the_type_that_is_meant() -> None:
    values = {"n": 3, "x": 0.5, "yes": True, "s": "3", "l": [1], "d": {"a": 1}}
    assert json_field(values, "n", int, least=3, most=3) == 3
    assert json_field(values, "x", float, least=0) == 0.5
    assert type(json_field(values, "n", float)) is float
    assert json_field(values, "yes", bool) is True
    assert (json_field(values, "s", str), json_field(values, "l", list)) == ("3", [1])
    assert json_field(values, "d", dict) == {"a": 1}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("3", int),
        (3.0, int),
        (True, int),
        (False, float),
        (None, float),
        ("x", float),
        (math.nan, float),
        (math.inf, float),
        (10**400, float),
        (-1, int),
        (11.0, float),
        (3, str),
        (None, str),
        ([], dict),
        ({}, list),
        ("ab", list),
        (1, bool),
    ],
)
def test_a_field_of_another_type_or_size_is_refused_by_name(value: Any, kind: type) -> None:
    with pytest.raises(ValueError, match=rf"^'n' \({re.escape(reprlib.repr(value))}\)$"):
        json_field({"n": value}, "n", kind, least=0, most=10)


def test_a_field_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"^'n'$"):
        json_field({"m": 1}, "n", int)
