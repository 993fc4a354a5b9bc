from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer

from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.editing._expressions import column_of
from napari_histolatent._napari.editing._own_points import OwnPoints
from napari_histolatent._napari.editing._words import in_dock
from napari_histolatent._napari.widgets.library_binding import said_synthetic
from napari_histolatent.errors import UserError
from napari_histolatent.latent.arithmetic import combine

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent._napari.widgets.arithmetic_panel import ArithmeticPanel
    from napari_histolatent._napari.widgets.library_binding import LibraryBinding
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.latent.arithmetic import Combination
    from napari_histolatent.training.load import LoadedGenerator

_CHECK_MS = 300
_LONGEST = 400
EMPTY = "The library has no point of this generator yet: keep some tiles in it first, and name them here."


@dataclass(frozen=True)
class _Names:
    points: tuple[str, ...]
    groups: tuple[str, ...]


class ArithmeticBinding:
    """Checks an expression while it is typed, and draws it on request; both in threads.

    Parameters
    ----------
    panel
        To fill.
    generator
        The generator that is chosen, None while there is none.
    show
        Takes the result, to be worked on.
    library
        Whose points and tags have names.
    """

    def __init__(
        self,
        panel: ArithmeticPanel,
        *,
        generator: Callable[[], LoadedGenerator | None],
        show: Callable[[Tile], None],
        library: LibraryBinding,
    ) -> None:
        self._panel, self._generator, self._show, self._library = panel, generator, show, library
        self._has_names = False
        self._namer, self._checker = LatestWorker(in_words=in_dock), LatestWorker(in_words=in_dock)
        self._drawer = LatestWorker(in_words=in_dock)
        self._soon = QTimer()
        self._soon.setSingleShot(True)
        self._soon.setInterval(_CHECK_MS)
        self._soon.timeout.connect(self._check)
        panel.changed.connect(self._on_changed)
        panel.make_requested.connect(self._make)
        library.changed.connect(self._on_library)
        self.generator_changed()

    @property
    def is_busy(self) -> bool:
        """Whether something is being read, checked or drawn."""
        workers = (self._namer, self._checker, self._drawer)
        return self._soon.isActive() or any(worker.is_busy for worker in workers)

    def close(self, *_: object) -> None:
        """Stop."""
        with suppress(RuntimeError):  # the application may have gone before
            self._soon.stop()
        for worker in (self._namer, self._checker, self._drawer):
            worker.cancel()
        self._library.changed.disconnect(self._on_library, missing_ok=True)

    def generator_changed(self) -> None:
        """Take notice of another generator: other points have a meaning, and other classes."""
        generator = self._generator()
        self._drawer.cancel()
        self._panel.set_ready(has_generator=generator is not None)
        self._panel.set_classes(generator.checkpoint.classes if generator else ())
        self._panel.set_result(None, "")
        self._on_library()

    def tile_changed(self) -> None:
        """Nothing: an expression is of the library's points alone."""

    def _on_library(self) -> None:
        generator = self._generator()
        self._namer.cancel()
        if generator is None:
            self._panel.set_names((), ())
            self._panel.set_state("")
            return
        own = OwnPoints(self._library.library.folder, generator.checkpoint.digest)

        def show(names: _Names) -> None:
            self._has_names = bool(names.points)
            self._panel.set_names(names.points, names.groups)
            self._check()

        self._namer.submit(lambda _: _Names(tuple(own.points()), tuple(own.groups())), show)

    def _on_changed(self) -> None:
        self._soon.start()

    def _check(self) -> None:
        """Say what the expression comes to, without drawing it."""
        self._soon.stop()
        generator, expression, label = self._generator(), self._panel.expression, self._panel.label
        self._checker.cancel()
        if generator is None or not expression.strip():
            self._panel.set_state(EMPTY if generator is not None and not self._has_names else "")
            return
        own = OwnPoints(self._library.library.folder, generator.checkpoint.digest)
        classes, prior = generator.checkpoint.classes, generator.network.prior

        def work(_: object) -> tuple[Combination | None, str]:
            # A fault is no notification here: the user is in the middle of typing.
            try:
                found = combine(
                    expression,
                    points=own.points(),
                    groups=own.groups(),
                    prior=prior,
                    classes=classes,
                    label=label,
                )
            except UserError as error:
                return None, str(error)
            return found, _norm_words(found)

        def show(found: tuple[Combination | None, str]) -> None:
            combination, words = found
            self._panel.set_state(_short(words), None if combination else column_of(words))

        self._checker.submit(work, show)

    def _make(self) -> None:
        generator, expression, label = self._generator(), self._panel.expression, self._panel.label
        if generator is None:
            return
        if not expression.strip():
            self._panel.set_state("Write an expression of names first." if self._has_names else EMPTY)
            return
        own = OwnPoints(self._library.library.folder, generator.checkpoint.digest)
        self._soon.stop()
        self._checker.cancel()

        def work(_: object) -> tuple[Tile, Combination] | str:
            from napari_histolatent.jobs.edits import arithmetic_tile

            try:
                return arithmetic_tile(generator, expression, own, label=label)
            except UserError as error:  # beside the field, its place marked, not in a notification
                return str(error)

        def show(found: tuple[Tile, Combination] | str) -> None:
            if isinstance(found, str):
                self._panel.set_result(None, "")
                self._panel.set_state(_short(found), column_of(found))
                return
            tile, combination = found
            self._panel.set_state(_norm_words(combination))
            self._panel.set_result(said_synthetic(tile.pixels), _made_of(combination))
            if self._generator() is generator:
                self._show(tile)

        self._drawer.submit(work, show)


def _norm_words(found: Combination) -> str:
    """Return how long the latent vector came out, and what was made of it."""
    before, after = found.norm_before, found.norm_after
    if abs(before - after) < 0.005 * after:
        return f"Its latent vector has the length {after:.2f}, which is usual for this generator."
    way = "shortened" if after < before else "lengthened"
    return (
        f"Its latent vector came out {before:.2f} long and is {way} to {after:.2f}, the length that the generator "
        "knows: farther out or in it draws no tissue."
    )


def _short(sentence: str) -> str:
    """Return an error in the dock's words; one that lists all names of a large library is cut."""
    said = in_dock(sentence)
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]} …"


def _made_of(found: Combination) -> str:
    return f"SYNTHETIC, made of {', '.join(found.names)}."
