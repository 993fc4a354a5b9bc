from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.QtCore import QObject, QTimer
from qtpy.QtCore import Signal as QtSignal

from napari_histolatent._files import data_folder
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.editing._words import in_dock
from napari_histolatent._napari.widgets.library_panel import NEIGHBOURS, Shelf, tags_of
from napari_histolatent._pictures import enlarged, marked
from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.latent.library import Library

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from napari_histolatent._napari.widgets.library_panel import LibraryPanel
    from napari_histolatent.jobs.neighbours import KnownPatches, Neighbour
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.latent.library import LibraryEntry
    from napari_histolatent.latent.tuned import TunedWeights
    from napari_histolatent.training.load import LoadedGenerator

_SEARCH_MS = 150
_PICTURES_AT_ONCE = 24
_MARKED_PX = 96
_MOST_PICTURES = 2000
_COPY_SHARE = 0.25
"""A picture nearer to a real patch than this share of what is usual between real patches may be a copy."""
_TRAY_METHOD = "fast"


def own_library() -> Path:
    """Return the folder of the latent library that the program keeps for the user."""
    return data_folder() / "library"


class _Arrivals(QObject):
    """Carries what comes bit by bit from a thread to the panel."""

    pictures = QtSignal(object, object)
    """The library they are of, and pixels by the point's id."""
    progress = QtSignal(int, int, int)
    """Which of the long works, steps done, steps in all."""


@dataclass(frozen=True)
class _Listing:
    entries: tuple[LibraryEntry, ...]
    tags: dict[str, int]


@dataclass(frozen=True)
class _Removed:
    """What is needed to put a point back."""

    entry: LibraryEntry
    pixels: NDArray[np.uint8] | None
    """Its picture; None where its files were damaged, and it cannot be put back."""
    tuned: TunedWeights | None


class LibraryBinding:
    """Lists a latent library, changes it, and opens its points in the dock.

    The panel is told what to show; all files are read and written in threads.

    Parameters
    ----------
    panel
        To fill.
    generator
        The generator that is chosen, None while there is none.
    current
        The tile that is worked on.
    show
        Takes a tile with a point, to be worked on.
    dataset
        Where to look for real patches if the generator does not say what it learnt from.
    tray
        Tiles that were picked, which can be kept all at once.
    folder
        The library; None: the one that the program keeps.
    """

    changed = Signal()
    """Points, tags or directions of the library are others now, or it is another library."""

    def __init__(
        self,
        panel: LibraryPanel,
        *,
        generator: Callable[[], LoadedGenerator | None],
        current: Callable[[], Tile | None],
        show: Callable[[Tile], None],
        dataset: Callable[[], Path | str | None] = lambda: None,
        tray: Callable[[], Sequence[Tile]] = tuple,
        folder: Path | None = None,
    ) -> None:
        self._panel, self._generator, self._current, self._show = panel, generator, current, show
        self._dataset, self._tray = dataset, tray
        self._library = Library(folder or own_library())
        self._entries: dict[str, LibraryEntry] = {}
        self._pictures: dict[str, NDArray[np.uint8]] = {}
        self._removed: list[list[_Removed]] = []
        self._known: tuple[str, KnownPatches] | None = None
        self._patches: dict[str, str] = {}
        """Folders of real patches that the user chose, by the generator's digest."""
        self._job, self._is_finding, self._is_closed = 0, False, False
        self._reader, self._painter = LatestWorker(in_words=in_dock), LatestWorker(in_words=in_dock)
        self._writer = LatestWorker(in_turn=True, in_words=in_dock, on_error=self._on_unwritten)
        self._opener = LatestWorker(in_words=in_dock)
        self._finder = LatestWorker(in_words=in_dock, on_error=self._not_found)
        self._keeper = LatestWorker(in_words=in_dock, on_error=self._end_long)
        self._asker = LatestWorker(in_words=in_dock)
        self._arrivals = _Arrivals()
        self._arrivals.pictures.connect(self._on_pictures)
        self._arrivals.progress.connect(self._on_progress)
        self._soon = QTimer()
        self._soon.setSingleShot(True)
        self._soon.setInterval(_SEARCH_MS)
        self._soon.timeout.connect(self._list)
        panel.search_changed.connect(self._soon.start)
        panel.add_requested.connect(self._add)
        panel.tray_requested.connect(self._add_tray)
        panel.cancel_requested.connect(self._cancel)
        panel.opened.connect(self._open)
        panel.selection_changed.connect(self._forget_neighbours)
        panel.renamed.connect(self._rename)
        panel.retagged.connect(self._retag)
        panel.remove_requested.connect(self._remove)
        panel.undo_requested.connect(self._put_back)
        panel.neighbours_requested.connect(self._find_neighbours)
        panel.patches_chosen.connect(self._find_among)
        panel.folder_chosen.connect(self._choose)
        self._say_folder()
        self.generator_changed()
        self.tray_changed()

    @property
    def library(self) -> Library:
        """The library that is shown."""
        return self._library

    @property
    def is_busy(self) -> bool:
        """Whether something is being read, written or drawn."""
        return self._soon.isActive() or any(worker.is_busy for worker in self._workers())

    def close(self, *_: object) -> None:
        """Stop; what is being written is written."""
        self._is_closed = True
        with suppress(RuntimeError):  # the application may have gone before
            self._soon.stop()
        for worker in self._workers():
            if worker is not self._writer:
                worker.cancel()

    def generator_changed(self) -> None:
        """Take notice of another generator: which points can be opened, and what can be kept."""
        self._list()
        self.tile_changed()
        self._ask_for_patches()

    def tile_changed(self) -> None:
        """Take notice of another tile that is worked on."""
        tile, generator = self._current(), self._generator()
        can_add = tile is not None and tile.point is not None
        self._panel.set_ready(has_generator=generator is not None, can_add=can_add)

    def tray_changed(self) -> None:
        """Take notice of other tiles in the tray."""
        self._panel.set_tray(len(self._tray()))

    def dataset_changed(self, *_: object) -> None:
        """Take notice of another dataset: there may be real patches to compare with."""
        self._ask_for_patches()

    def directions_changed(self) -> None:
        """Tell everybody that a direction was kept or removed."""
        self.changed.emit()

    def _workers(self) -> tuple[LatestWorker, ...]:
        return (
            self._reader,
            self._painter,
            self._writer,
            self._opener,
            self._finder,
            self._keeper,
            self._asker,
        )

    # Which library

    def _choose(self, folder: str) -> None:
        self._library = Library(Path(folder) if folder else own_library())
        self._entries, self._pictures, self._removed = {}, {}, []
        self._panel.set_undo(None)
        self._panel.say("")
        self._say_folder()
        self._changed()

    def _say_folder(self) -> None:
        folder = self._library.folder
        self._panel.set_folder(str(folder), is_own=folder == own_library())

    # The list

    def _changed(self) -> None:
        self._list()
        self.changed.emit()

    def _list(self) -> None:
        library, text, tag = self._library, self._panel.search_edit.text(), self._panel.tag

        def show(found: _Listing) -> None:
            generator = self._generator()
            digest = generator.checkpoint.digest if generator else ""
            self._entries = {item.id: item for item in found.entries}
            shelves = [_shelf_of(item, digest) for item in found.entries]
            self._panel.set_tags(found.tags)
            if tag is not None and tag not in found.tags:  # its last point lost it: nothing is asked for now
                self._list()
                return
            self._panel.set_entries(shelves, is_searched=bool(text.strip() or tag))
            self._panel.set_thumbnails(self._pictures)
            self._paint()

        self._reader.submit(lambda _: _Listing(library.search(text, tag=tag), library.tags()), show)

    def _paint(self) -> None:
        """Read the pictures that are not there yet, some at a time."""
        library, arrivals = self._library, self._arrivals
        missing = [item for item in self._entries.values() if item.id not in self._pictures]
        if not missing:
            return

        def work(should_stop: Callable[[], bool]) -> None:
            found: dict[str, NDArray[np.uint8]] = {}
            for i, item in enumerate(missing[:_MOST_PICTURES]):
                if should_stop():
                    return
                try:
                    found[item.id] = said_synthetic(library.thumbnail(item))
                except UserError:  # the point is whole without its picture
                    continue
                if len(found) == _PICTURES_AT_ONCE or i == len(missing) - 1:
                    arrivals.pictures.emit(library, found)
                    found = {}
            if found:
                arrivals.pictures.emit(library, found)

        self._painter.submit(work, lambda _: None)

    def _on_pictures(self, library: Library, found: dict[str, NDArray[np.uint8]]) -> None:
        if library is self._library and not self._is_closed:
            self._pictures |= found
            self._panel.set_thumbnails(found)

    # Changes

    def _write(self, work: Callable[[object], Any], done: Callable[[Any], None]) -> None:
        """Change the library in a thread, one change after the other; a dock that was closed is told nothing."""
        self._writer.submit(work, lambda result: None if self._is_closed else done(result))

    def _on_unwritten(self, _: Exception) -> None:
        if not self._is_closed:
            self._offer_undo()
            self._list()

    def _offer_undo(self) -> None:
        self._panel.set_undo(_names(self._removed[-1]) if self._removed else None)

    def _add(self) -> None:
        tile = self._current()
        panel, library = self._panel, self._library
        if tile is None or tile.point is None:
            panel.say("The tile has no latent vector yet: press Reverse search first.")
            return
        name, tags = panel.name_edit.text(), tags_of(panel.tags_edit.text())
        if not name.strip():
            panel.say("Give it a name first.")
            panel.name_edit.setFocus()
            return

        def work(_: object) -> LibraryEntry:
            from napari_histolatent.jobs.edits import add_to_library

            return add_to_library(library, tile, name=name, tags=tags)

        def done(entry: LibraryEntry) -> None:
            panel.name_edit.clear()
            said = f"{entry.name} is in the library."
            if tile.residual is not None:
                # The picture kept is the edit, the point draws it without the tissue's own detail.
                said += " Its vector is kept, without what was taken over from the real tile."
            panel.say(said)
            self._changed()

        self._write(work, done)

    def _add_tray(self) -> None:
        tiles, generator, library = list(self._tray()), self._generator(), self._library
        if generator is None or not tiles:
            return
        tags, progress = tags_of(self._panel.tags_edit.text()), self._begin_long(len(tiles))

        def work(should_stop: Callable[[], bool]) -> list[LibraryEntry]:
            return _kept(library, generator, tiles, tags, progress, should_stop)

        def done(added: list[LibraryEntry]) -> None:
            self._end_long()
            left = len(tiles) - len(added)
            self._panel.say(
                f"{_count(len(added), 'tile')} of the tray {_are(len(added))} in the library"
                + (f"; {left} had the name of a point that is there already." if left else ".")
            )
            self._changed()

        self._keeper.submit(work, done)

    def _rename(self, identity: str, name: str) -> None:
        entry, library = self._entries.get(identity), self._library
        if entry is not None:
            self._write(lambda _: library.change(entry, name=name), lambda _: self._changed())

    def _retag(self, identities: list[str], added: list[str], removed: list[str]) -> None:
        library = self._library
        entries = [self._entries[i] for i in identities if i in self._entries]

        def work(_: object) -> None:
            for entry in entries:
                library.change(entry, tags=[*(tag for tag in entry.tags if tag not in removed), *added])

        self._write(work, lambda _: self._changed())

    def _remove(self, identities: list[str]) -> None:
        library = self._library
        entries = [self._entries[i] for i in identities if i in self._entries]

        def work(_: object) -> list[_Removed]:
            kept = [_copy_of(library, entry) for entry in entries]
            for entry in entries:
                library.remove(entry)
            return kept

        def done(kept: list[_Removed]) -> None:
            whole = [item for item in kept if item.pixels is not None]
            if library is self._library and whole:
                self._removed.append(whole)
                self._offer_undo()
            lost = len(kept) - len(whole)
            self._panel.say(
                f"{_names(kept)} {_are(len(kept))} out of the library"
                + (f"; {lost} cannot be put back, as the files were damaged." if lost else ".")
            )
            self._changed()

        self._write(work, done)

    def _put_back(self) -> None:
        if not self._removed:
            return
        library, kept = self._library, self._removed[-1]
        self._panel.set_undo(None)  # until it is done

        def work(_: object) -> None:
            for item in kept:
                entry = item.entry
                assert item.pixels is not None
                x, y = entry.centre or (None, None)
                facts = {"source": entry.source, "slide_digest": entry.slide_digest, "x": x, "y": y}
                library.add(
                    entry.name, entry.point, item.pixels, tags=entry.tags, tuned=item.tuned, provenance=facts
                )

        def done(_: object) -> None:
            self._removed = [item for item in self._removed if item is not kept]
            self._offer_undo()
            self._panel.say(f"{_names(kept)} {_are(len(kept))} back.")
            self._changed()

        self._write(work, done)

    # A point

    def _open(self, identity: str) -> None:
        entry, generator, library = self._entries.get(identity), self._generator(), self._library
        if entry is None:
            return
        if generator is None:
            self._panel.say("Choose a generator under Models first: it draws the point.")
            return

        def work(_: object) -> Tile:
            from napari_histolatent.jobs.edits import tile_of_entry

            return tile_of_entry(generator, library, entry)

        def done(tile: Tile) -> None:
            if self._generator() is generator:
                self._show(tile)

        self._opener.submit(work, done)

    def _patches_of(self, generator: LoadedGenerator) -> Path | str | None:
        return self._patches.get(generator.checkpoint.digest) or self._dataset()

    def _ask_for_patches(self) -> None:
        """Find out whether there are real patches to compare with."""
        generator = self._generator()
        self._asker.cancel()
        if generator is None:
            return
        otherwise = self._patches_of(generator)

        def work(_: object) -> tuple[bool, bool]:
            from napari_histolatent.jobs.neighbours import has_dataset

            return has_dataset(generator, otherwise), has_dataset(generator)

        def show(found: tuple[bool, bool]) -> None:
            has_patches, are_own = found
            self._panel.set_has_patches(has_patches, are_own=are_own)

        self._asker.submit(work, show)

    def _find_among(self, identity: str, folder: str) -> None:
        generator = self._generator()
        if generator is not None:
            self._patches[generator.checkpoint.digest] = folder
            self._find_neighbours(identity)

    def _not_found(self, error: Exception) -> None:
        """Say why, and ask for another dataset the next time."""
        generator = self._generator()
        if generator is not None and isinstance(error, DatasetError):
            self._patches.pop(generator.checkpoint.digest, None)
        self._end_long()
        if isinstance(error, UserError):
            self._panel.set_neighbours([], in_dock(str(error)))
        self._ask_for_patches()

    def _find_neighbours(self, identity: str) -> None:
        entry, generator, library = self._entries.get(identity), self._generator(), self._library
        if entry is None or generator is None:
            return
        otherwise, before, progress = self._patches_of(generator), self._known, self._begin_long(1)
        self._is_finding = True

        def work(should_stop: Callable[[], bool]) -> tuple[str, KnownPatches, list[Neighbour]]:
            from napari_histolatent.jobs.edits import tile_of_entry
            from napari_histolatent.jobs.neighbours import known_to

            named = f"{generator.checkpoint.digest} {otherwise}"
            tile = tile_of_entry(generator, library, entry)
            if before is not None and before[0] == named:
                known = before[1]
            else:
                known = known_to(generator, otherwise, on_progress=progress, should_stop=should_stop)
            return named, known, known.nearest(tile.pixels, NEIGHBOURS)

        def done(found: tuple[str, KnownPatches, list[Neighbour]]) -> None:
            self._end_long()
            named, known, neighbours = found
            self._known = (named, known)
            shown = [(item.pixels, _caption(item), _place(item)) for item in neighbours]
            self._panel.set_neighbours(shown, _neighbour_words(entry.name, known, neighbours))
            self._ask_for_patches()

        self._panel.set_neighbours([], "Looking through the training patches …")
        self._finder.submit(work, done)

    def _forget_neighbours(self) -> None:
        if self._is_finding:
            self._cancel()
        self._panel.set_neighbours([], "")

    # Long work: one at a time, with the one progress bar

    def _begin_long(self, total: int) -> Callable[[int, int], None]:
        """Give up what long work was going on, and return what tells how far the next one is."""
        self._cancel()
        job, progress = self._job, self._arrivals.progress
        self._panel.set_progress((0, total))
        return lambda done, total: progress.emit(job, done, total)

    def _cancel(self) -> None:
        for worker in (self._finder, self._keeper):
            worker.cancel()
        self._end_long()

    def _end_long(self, *_: object) -> None:
        self._job += 1
        self._is_finding = False
        self._panel.set_progress(None)
        self._panel.set_neighbours([], "")

    def _on_progress(self, job: int, done: int, total: int) -> None:
        # A last word of what was cancelled may still be on its way.
        if job == self._job and not self._is_closed:
            self._panel.set_progress((done, total))


def said_synthetic(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a generator's picture with the word SYNTHETIC in its corner, enlarged so far that it can be read."""
    side = max(1, min(pixels.shape[:2]))
    return marked(enlarged(pixels, max(1, -(-_MARKED_PX // side))))


def _kept(
    library: Library,
    generator: LoadedGenerator,
    tiles: Sequence[Tile],
    tags: Sequence[str],
    on_progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> list[LibraryEntry]:
    """Search tiles, those of one class together, and keep all whose name is free; none if it was stopped."""
    from napari_histolatent.jobs.companions import encoder_of
    from napari_histolatent.jobs.edits import add_to_library, has_point_of, reverse_search

    taken = {item.name for item in library.entries()}
    wanted: dict[str, Tile] = {}
    for tile in tiles:
        if tile.name not in taken:
            wanted.setdefault(tile.name, tile)
    encoder, _ = encoder_of(generator)
    classes, drawn = generator.checkpoint.classes, {}
    groups: dict[str | None, list[Tile]] = {}
    for tile in wanted.values():
        if has_point_of(generator, tile):
            drawn[tile.name] = tile
        else:
            groups.setdefault(tile.label if tile.label in classes else None, []).append(tile)
    for label, group in groups.items():
        on_progress(len(drawn), len(wanted))
        found = reverse_search(
            generator, group, label=label, method=_TRAY_METHOD, encoder=encoder, should_stop=should_stop
        )
        if should_stop():
            return []
        drawn |= {item.tile.name: item.reconstruction for item in found}
    added = []
    for name, tile in wanted.items():
        own = [*tags, *([tile.label] if tile.label else [])]
        added.append(add_to_library(library, replace(drawn[name], label=tile.label), name=name, tags=own))
    return added


def _shelf_of(entry: LibraryEntry, digest: str) -> Shelf:
    is_own = not digest or entry.point.checkpoint_digest == digest
    return Shelf(entry.id, entry.name, entry.tags, entry.source, entry.added, is_own=is_own)


def _copy_of(library: Library, entry: LibraryEntry) -> _Removed:
    """Return what is needed to put a point back."""
    try:
        return _Removed(entry, library.thumbnail(entry), library.tuned(entry))
    except UserError:
        return _Removed(entry, None, None)


def _names(kept: Sequence[_Removed]) -> str:
    return kept[0].entry.name if len(kept) == 1 else _count(len(kept), "point")


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _caption(item: Neighbour) -> str:
    return f"real, {item.label or 'no class'}\nunlike by {item.distance:.2f}"


def _place(item: Neighbour) -> str:
    return f"{item.slide}, x {item.xy[0]:,}, y {item.xy[1]:,}"


def _neighbour_words(name: str, known: KnownPatches, found: Sequence[Neighbour]) -> str:
    words = (
        f"Real patches most alike to {name}, among {len(known):,} of the dataset "
        f"{known.dataset.path.name}. A copy would be unlike by 0; a real patch and the real patch most alike to it "
        f"are unlike by about {known.usual_distance:.2f}."
    )
    if found and found[0].distance < _COPY_SHARE * known.usual_distance:
        words += " The first is so near that the picture may be a copy of it."
    return words
