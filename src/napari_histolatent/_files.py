"""Write files so that a crash leaves either the old one or the new one, never half of one; read JSON that may be damaged."""

from __future__ import annotations

import glob
import json
import math
import os
import re
import reprlib
import shutil
import socket
import stat
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import platformdirs
import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_JSON_BYTES = 64 * 2**20
"""A larger file is none of ours: parsed, it would take some twenty times as much memory."""
_MAX_DEPTH = 64
"""Lists and objects within each other. Ours have six at most, and each level costs whatever walks them a frame."""

Value = TypeVar("Value")


def _temporary_beside(path: Path) -> Path:
    # Host and process tell whose it is, and whether it was left over; the rest keeps threads apart.
    return path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{uuid4().hex[:8]}.tmp")


def _host() -> str:
    return re.sub(r"[^\w]+", "_", socket.gethostname())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, else it is removed.

    Works for a file, and for a folder as long as `path` does not exist yet. What is there afterwards is on the
    disk itself, also after a power cut.
    """
    _remove_leftovers(path)
    temporary = _temporary_beside(path)
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """Remove what a killed process began to write here."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        host, *process = left.name.removeprefix(f".{path.name}.").split("-")
        # Of another host's processes nothing is known: the disk may be shared.
        if (
            host == _host()
            and process[:1]
            and process[0].isdigit()
            and not psutil.pid_exists(int(process[0]))
        ):
            _remove(left)


def _flush(path: Path) -> None:
    """Have the system put a file, or the files directly in a folder, onto the disk."""
    for file in path.iterdir() if path.is_dir() else (path,):
        if file.is_file():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n")


class DamagedJsonError(ValueError):
    """Why a JSON file or text cannot be used, to follow its name: "is missing", "cannot be parsed"."""


def read_json_object(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file, which anybody may have written.

    All numbers in it are finite and of 64 bits at most, all text is Unicode. Which fields there are, and of what
    type, is not looked at: see `json_field`.

    Raises
    ------
    DamagedJsonError
        If there is no such file, it cannot be read, is larger than `max_bytes`, or holds anything else. It says why
        in words that follow the file's name.
    """
    try:
        # A pipe or a device would be waited for, or have no end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise DamagedJsonError("is not a file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedJsonError("is missing") from None
    except OSError as error:
        raise DamagedJsonError(f"cannot be read: {error.strerror or error}") from error
    except DamagedJsonError:
        raise
    except ValueError as error:  # a null character in the path
        raise DamagedJsonError("is missing") from error
    if len(data) > max_bytes:
        raise DamagedJsonError(f"is larger than {max_bytes / 2**20:g} MB")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise DamagedJsonError("is not UTF-8 text") from error
    return parse_json_object(text)


def parse_json_object(text: str) -> dict[str, Any]:
    """Return the JSON object in a text, under the conditions of `read_json_object`.

    Raises
    ------
    DamagedJsonError
        If it holds anything else.
    """
    try:
        value = _DECODER.decode(text)
        # JSON may escape half of a pair of surrogates, which no file and no terminal takes.
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except DamagedJsonError:
        raise
    except RecursionError:
        raise DamagedJsonError("is nested too deeply") from None
    except UnicodeEncodeError as error:
        raise DamagedJsonError("holds text that is not Unicode") from error
    except ValueError as error:
        raise DamagedJsonError("cannot be parsed") from error
    if not isinstance(value, dict):
        raise DamagedJsonError("holds no JSON object")
    # Whatever is nested deeper than this has more brackets, and that is quick to see.
    if text.count("[") + text.count("{") > _MAX_DEPTH and _is_deep(value):
        raise DamagedJsonError("is nested too deeply")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            item
            for outer in level
            for item in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return False
    return True


def _whole(digits: str) -> int:
    # By length first: Python refuses some thousands of digits, and takes long over somewhat fewer.
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**64:
        raise DamagedJsonError("holds a number that is too large")
    return value


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise DamagedJsonError("holds a number that is too large")
    return value


def _no_number(name: str) -> Any:
    raise DamagedJsonError(f"holds {name}, which is not JSON")


_DECODER = json.JSONDecoder(parse_float=_finite, parse_int=_whole, parse_constant=_no_number)


def json_field(
    values: Mapping[str, Any],
    name: str,
    kind: type[Value],
    *,
    least: float = -math.inf,
    most: float = math.inf,
) -> Value:
    """Return a field of a JSON object, of exactly the type that is meant.

    A whole number does for a float; else nothing stands for another type: true is not 1, "3" is not 3.

    Raises
    ------
    ValueError
        If it is not there, of another type, or a number below `least` or above `most`. The message is its name in
        quotes, and what is there instead.
    """
    if name not in values:
        raise ValueError(f"{name!r}")
    value: Any = values[name]
    if kind is float and type(value) is int and abs(value) < 2**64:
        value = float(value)
    is_in_range = not isinstance(value, (int, float)) or (
        -math.inf < value < math.inf and least <= value <= most
    )
    if type(value) is not kind or not is_in_range:
        raise ValueError(f"{name!r} ({reprlib.repr(values[name])})")
    return value


def without_nan(value: Any) -> Any:
    """Return a JSON value with null for every number that is not finite: JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return value


def digest_of(value: Any) -> str:
    """Return the first 16 hex digits of the sha256 of `value` as canonical JSON."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def digest_of_file(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        hasher = sha256()
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def data_folder() -> Path:
    """Return the folder for what the program keeps between sessions (HISTOLATENT_DATA_DIR overrides it)."""
    chosen = os.environ.get("HISTOLATENT_DATA_DIR")
    return Path(chosen) if chosen else platformdirs.user_data_path("napari-histolatent", appauthor=False)


def file_name_of(text: str) -> str:
    """Return a text (a class name, a tile's name) as a file name that every system takes, within its folder."""
    return re.sub(r"[^\w.+~-]+", "_", text).strip("._")[:100] or "unnamed"
