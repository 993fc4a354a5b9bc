"""Which runs this user has, wherever their folders are."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from napari_histolatent._files import data_folder, write_text


def _folder() -> Path:
    return data_folder() / "runs"


def remember(path: Path) -> None:
    """Put a run folder on the list. One small file each, so that two programs never write the same one."""
    _folder().mkdir(parents=True, exist_ok=True)
    name = sha256(str(path).encode()).hexdigest()[:24]
    write_text(_folder() / f"{name}.path", str(path))


def known_runs() -> list[Path]:
    """Return the folders of all runs that are still there, newest first; forget those that are gone."""
    found: list[tuple[float, Path]] = []
    if not _folder().is_dir():
        return []
    for entry in _folder().glob("*.path"):
        path = Path(entry.read_text(encoding="utf-8"))
        try:
            found.append(((path / "run.json").stat().st_mtime, path))
        except OSError:
            entry.unlink(missing_ok=True)
    return [path for _, path in sorted(found, reverse=True)]
