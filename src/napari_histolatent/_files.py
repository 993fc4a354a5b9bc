"""Write files so that a crash leaves either the old one or the new one, never half of one."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import platformdirs

if TYPE_CHECKING:
    from collections.abc import Iterator


def _temporary_beside(path: Path) -> Path:
    # The process id tells a later run whose leftover this is; the rest keeps threads apart.
    return path.with_name(f".{path.name}.{os.getpid()}-{uuid4().hex[:8]}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, else it is removed.

    Works for a file, and for a folder as long as `path` does not exist yet.
    """
    temporary = _temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


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
