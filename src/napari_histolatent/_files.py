"""Write files so that a crash leaves either the old one or the new one, never half of one."""

from __future__ import annotations

import glob
import json
import math
import os
import re
import shutil
import socket
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import platformdirs
import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator


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
