"""The latent library: a folder of named, tagged points with their thumbnails, and of named directions.

    library/index.json                what there is
    library/points/<id>/thumbnail.png what the point looks like, marked as synthetic
    library/points/<id>/tuned.safetensors  where the point is drawn by a tuned copy

Everything is written whole or not at all, and two programs may write at once.
"""

from __future__ import annotations

import re
import reprlib
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from filelock import FileLock, Timeout

from napari_histolatent._files import DamagedJsonError, json_field, read_json_object, replacing, write_json
from napari_histolatent._pictures import open_picture, save_picture
from napari_histolatent.errors import UserError, writing_to
from napari_histolatent.latent.directions import Direction
from napari_histolatent.latent.points import LatentPoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_histolatent.latent.tuned import TunedWeights

FORMAT_VERSION = 1
INDEX_FILE, THUMBNAIL_FILE, TUNED_FILE = "index.json", "thumbnail.png", "tuned.safetensors"
_POINTS = "points"
_ID = re.compile(r"[0-9a-f]{12}")
_LOCK_WAIT_SECONDS = 10.0
_MAX_NAME = 200


@dataclass(frozen=True)
class LibraryEntry:
    """A point of the library."""

    id: str
    name: str
    """Unique in its library."""
    tags: tuple[str, ...]
    """Points of one tag make a group in arithmetic and directions."""
    point: LatentPoint
    source: str = ""
    """The tile it came from: a place on a slide, a file, a seed."""
    slide_digest: str | None = None
    centre: tuple[float, float] | None = None
    """Of its tile on the slide, level-0 pixels, (x, y)."""
    added: str = ""
    """When, ISO 8601, UTC."""

    def to_json(self) -> dict[str, Any]:
        """Return the entry as JSON."""
        return {
            "id": self.id,
            "name": self.name,
            "tags": list(self.tags),
            "point": self.point.to_json(),
            "source": self.source,
            "slide_digest": self.slide_digest,
            "centre": list(self.centre) if self.centre else None,
            "added": self.added,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LibraryEntry:
        """Return the entry of JSON fields; ValueError or UserError if it is none."""
        identity, centre = json_field(values, "id", str), values.get("centre")
        # It becomes the name of a folder.
        if not _ID.fullmatch(identity):
            raise ValueError(f"'id' ({identity!r})")
        if centre is not None and not (
            isinstance(centre, list) and len(centre) == 2 and all(type(v) in (int, float) for v in centre)
        ):
            raise ValueError(f"'centre' ({reprlib.repr(centre)})")
        digest = values.get("slide_digest")
        return cls(
            id=identity,
            name=_named(json_field(values, "name", str)),
            tags=tuple(_named(str(tag)) for tag in json_field(values, "tags", list)),
            point=LatentPoint.from_json(json_field(values, "point", dict)),
            source=str(values.get("source", "")),
            slide_digest=digest if isinstance(digest, str) else None,
            centre=(float(centre[0]), float(centre[1])) if centre else None,
            added=str(values.get("added", "")),
        )


_Named = TypeVar("_Named", LibraryEntry, Direction)


@dataclass(frozen=True)
class _Index:
    entries: tuple[LibraryEntry, ...] = ()
    directions: tuple[Direction, ...] = ()


class Library:
    """A library's folder. Each question reads it anew, so that another program's changes are seen.

    Parameters
    ----------
    folder
        The library; made when something is first added.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    @property
    def exists(self) -> bool:
        """Whether there is a library yet."""
        return (self.folder / INDEX_FILE).is_file()

    def entries(self) -> tuple[LibraryEntry, ...]:
        """Return all points, oldest first; () where there is no library yet.

        Raises
        ------
        UserError
            If the index is damaged, or of a newer version.
        """
        return self._read().entries

    def directions(self) -> tuple[Direction, ...]:
        """Return all directions, oldest first.

        Raises
        ------
        UserError
            As `entries`.
        """
        return self._read().directions

    def entry(self, name: str) -> LibraryEntry:
        """Return the point of a name.

        Raises
        ------
        UserError
            If there is none, or as `entries`.
        """
        return _only(self.entries(), name, "point", self.folder)

    def direction(self, name: str) -> Direction:
        """Return the direction of a name.

        Raises
        ------
        UserError
            If there is none, or as `entries`.
        """
        return _only(self.directions(), name, "direction", self.folder)

    def search(self, text: str = "", *, tag: str | None = None) -> tuple[LibraryEntry, ...]:
        """Return the points whose name, tags and source hold every word of a text, and that have a tag."""
        words = text.casefold().split()
        return tuple(
            item
            for item in self.entries()
            if (tag is None or tag in item.tags)
            and all(word in " ".join([item.name, *item.tags, item.source]).casefold() for word in words)
        )

    def tags(self) -> dict[str, int]:
        """Return how many points each tag has."""
        counts: dict[str, int] = {}
        for item in self.entries():
            for tag in item.tags:
                counts[tag] = counts.get(tag, 0) + 1
        return counts

    def points(self) -> dict[str, LatentPoint]:
        """Return the points by name, as `latent.arithmetic` takes them."""
        return {item.name: item.point for item in self.entries()}

    def groups(self) -> dict[str, list[LatentPoint]]:
        """Return the points by tag, as `latent.arithmetic` takes them."""
        groups: dict[str, list[LatentPoint]] = {}
        for item in self.entries():
            for tag in item.tags:
                groups.setdefault(tag, []).append(item.point)
        return groups

    def add(
        self,
        name: str,
        point: LatentPoint,
        pixels: NDArray[np.uint8],
        *,
        tags: Sequence[str] = (),
        tuned: TunedWeights | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> LibraryEntry:
        """Add a point.

        Parameters
        ----------
        name
            Not in the library yet.
        point
            The point.
        pixels
            The generator's image of it, uint8, shape (H, W, 3); kept as its thumbnail.
        tags
            The groups it belongs to.
        tuned
            What the point is drawn with, where that is not the checkpoint itself.
        provenance
            Of the tile (`Tile.provenance`): source, slide_digest, x, y, seed.

        Raises
        ------
        UserError
            If the name is taken or empty, the tuned weights are missing or others, or nothing can be written.
        """
        if point.tuned_digest != (tuned.digest if tuned else ""):
            msg = f"The point {name!r} is drawn by a tuned copy of its generator ({point.tuned_digest[:12] or 'none'}), whose weights have to be given with it; search the tile again."
            raise UserError(msg)
        facts = dict(provenance or {})
        x, y = facts.get("x"), facts.get("y")
        digest = facts.get("slide_digest")
        entry = LibraryEntry(
            id=uuid4().hex[:12],
            name=_checked(name, "point"),
            tags=tuple(dict.fromkeys(_checked(tag, "tag") for tag in tags)),
            point=point,
            source=str(facts.get("source") or point.origin),
            slide_digest=digest if isinstance(digest, str) else None,
            centre=None if x is None or y is None else (float(x), float(y)),
            added=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with self._changing() as index:
            _refuse_taken(index.entries, entry.name, "point", self.folder)
            with replacing(self._folder_of(entry)) as temporary:
                temporary.mkdir()
                says = facts | {
                    "synthetic": True,
                    "name": name,
                    "model_digest": point.checkpoint_digest,
                    "latent_point": point.to_json(),
                }
                save_picture(temporary / THUMBNAIL_FILE, pixels, says)
                if tuned is not None:
                    tuned.save(temporary / TUNED_FILE)
            self._write(replace(index, entries=(*index.entries, entry)))
        return entry

    def change(
        self, entry: LibraryEntry, *, name: str | None = None, tags: Sequence[str] | None = None
    ) -> LibraryEntry:
        """Give a point another name or other tags, and return it as it is now.

        Raises
        ------
        UserError
            If the name is taken or empty, or the point is gone.
        """
        changed = replace(
            entry,
            name=entry.name if name is None else _checked(name, "point"),
            tags=entry.tags if tags is None else tuple(dict.fromkeys(_checked(tag, "tag") for tag in tags)),
        )
        with self._changing() as index:
            others = tuple(item for item in index.entries if item.id != entry.id)
            if len(others) == len(index.entries):
                msg = f"The point {entry.name!r} is no longer in {self.folder}; add it again."
                raise UserError(msg)
            _refuse_taken(others, changed.name, "point", self.folder)
            entries = tuple(changed if item.id == entry.id else item for item in index.entries)
            self._write(replace(index, entries=entries))
        return changed

    def remove(self, entry: LibraryEntry) -> None:
        """Take a point and its files out of the library; one that is gone already is no error."""
        with self._changing() as index:
            kept = tuple(item for item in index.entries if item.id != entry.id)
            self._write(replace(index, entries=kept))
            # After the index: a point without its files would be worse than files without a point.
            shutil.rmtree(self._folder_of(entry), ignore_errors=True)

    def add_direction(self, direction: Direction) -> None:
        """Add a direction under its name.

        Raises
        ------
        UserError
            If the name is taken or empty, or nothing can be written.
        """
        _checked(direction.name, "direction")
        with self._changing() as index:
            _refuse_taken(index.directions, direction.name, "direction", self.folder)
            self._write(replace(index, directions=(*index.directions, direction)))

    def remove_direction(self, name: str) -> None:
        """Take a direction out of the library; one that is gone already is no error."""
        with self._changing() as index:
            kept = tuple(item for item in index.directions if item.name != name)
            self._write(replace(index, directions=kept))

    def thumbnail(self, entry: LibraryEntry) -> NDArray[np.uint8]:
        """Return the picture of a point, uint8, shape (H, W, 3).

        Raises
        ------
        UserError
            If it is missing or damaged.
        """
        return open_picture(self._folder_of(entry) / THUMBNAIL_FILE)[0]

    def tuned(self, entry: LibraryEntry) -> TunedWeights | None:
        """Return what a point is drawn with, or None where that is the checkpoint itself.

        Raises
        ------
        UserError
            If the file is missing, damaged, or holds other weights.
        """
        if not entry.point.tuned_digest:
            return None
        from napari_histolatent.latent.tuned import TunedWeights

        path = self._folder_of(entry) / TUNED_FILE
        tuned = TunedWeights.load(path, checkpoint_digest=entry.point.checkpoint_digest)
        if tuned.digest != entry.point.tuned_digest:
            msg = f"{path} holds other weights ({tuned.digest[:12]}) than the point {entry.name!r} was found with ({entry.point.tuned_digest[:12]}); search its tile again."
            raise UserError(msg)
        return tuned

    def _folder_of(self, entry: LibraryEntry) -> Path:
        return self.folder / _POINTS / entry.id

    def _read(self) -> _Index:
        path = self.folder / INDEX_FILE
        if not path.exists():
            return _Index()
        try:
            saved = read_json_object(path)
            version = saved.get("format_version")
            if version != FORMAT_VERSION:
                msg = f"The library {self.folder} has format {reprlib.repr(version)}, this version reads {FORMAT_VERSION}; update napari-histolatent."
                raise UserError(msg)
            entries = tuple(LibraryEntry.from_json(_object(v)) for v in json_field(saved, "entries", list))
            directions = tuple(Direction.from_json(_object(v)) for v in json_field(saved, "directions", list))
            if len({item.name for item in entries}) < len(entries) or len({v.id for v in entries}) < len(
                entries
            ):
                raise ValueError("two points of one name")
        except (DamagedJsonError, ValueError) as error:
            msg = f"The library {self.folder} cannot be read: {INDEX_FILE} {error} is not as it should be; restore it from a backup, or choose another folder."
            raise UserError(msg) from error
        except UserError as error:
            if "update napari-histolatent" in str(error):
                raise
            msg = f"The library {self.folder} cannot be read: {INDEX_FILE} holds something else than points and directions ({error})"
            raise UserError(msg) from error
        return _Index(entries, directions)

    @contextmanager
    def _changing(self) -> Iterator[_Index]:
        """Yield the index as it is; nobody else changes it meanwhile."""
        with writing_to(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _POINTS).mkdir(exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=_LOCK_WAIT_SECONDS)
            try:
                lock.acquire()
            except Timeout as error:
                msg = f"The library {self.folder} is being changed by another program; try again."
                raise UserError(msg) from error
            try:
                yield self._read()
            finally:
                lock.release()

    def _write(self, index: _Index) -> None:
        write_json(
            self.folder / INDEX_FILE,
            {
                "format_version": FORMAT_VERSION,
                "entries": [item.to_json() for item in index.entries],
                "directions": [item.to_json() for item in index.directions],
            },
        )


def _only(items: Sequence[_Named], name: str, what: str, folder: Path) -> _Named:
    for item in items:
        if item.name == name:
            return item
    there = ", ".join(item.name for item in items[:20]) or "none"
    msg = f"The library {folder} has no {what} named {name!r}; its {what}s are: {there}."
    raise UserError(msg)


def _refuse_taken(items: Sequence[_Named], name: str, what: str, folder: Path) -> None:
    if any(item.name == name for item in items):
        msg = f"The library {folder} has a {what} named {name!r} already; choose another name."
        raise UserError(msg)


def _checked(name: str, what: str) -> str:
    """Return a name without needless spaces, as expressions write it."""
    plain = " ".join(name.split())
    if not plain or len(plain) > _MAX_NAME or '"' in plain or not plain.isprintable():
        msg = f"{reprlib.repr(name)} is no name for a {what}; give 1 to {_MAX_NAME} letters, without double quotes."
        raise UserError(msg)
    return plain


def _named(name: str) -> str:
    if not name or len(name) > _MAX_NAME:
        raise ValueError(f"'name' ({reprlib.repr(name)})")
    return name


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"the entry {reprlib.repr(value)}")
    return value
