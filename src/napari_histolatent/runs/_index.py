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
        try:
            path = Path(entry.read_text(encoding="utf-8"))
            if not path.is_absolute():  # emptied, or none of ours
                continue
            found.append(((path / "run.json").stat().st_mtime, path))
        except FileNotFoundError:
            # Gone for good only if its folder's folder is there: a drive that is not mounted comes back.
            if path.parent.is_dir():
                entry.unlink(missing_ok=True)
        except (OSError, ValueError):  # also what is no text, and what cannot be a path
            continue
    return [path for _, path in sorted(found, reverse=True)]
