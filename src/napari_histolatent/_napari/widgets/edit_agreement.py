from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.editing._agreement import Pair, UnrelatedMaps, all_words
from napari_histolatent._napari.editing._words import in_dock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_histolatent._napari._editing import Models, Seen
    from napari_histolatent._napari.widgets.agreement_note import AgreementNote

_LOOK_AGAIN_SECONDS = 0.05


class EditAgreement:
    """Says how much the heatmaps of tile, reconstruction and edit agree, and what chance would give.

    The figures are there at once; chance takes heatmaps of unrelated tiles, which are computed, once for each pair of
    networks, when nothing urgent is.

    Parameters
    ----------
    note
        Where it is said.
    is_urgent
        Asked in a thread: whether something is computed that the user waits for.
    """

    def __init__(self, note: AgreementNote, *, is_urgent: Callable[[], bool]) -> None:
        self._note, self._is_urgent = note, is_urgent
        self._unrelated = UnrelatedMaps()
        self.worker = LatestWorker(in_words=in_dock)

    def show(self, models: Models, seen: Mapping[str, Seen]) -> None:
        """Compare each picture with the next; those without a heatmap are passed over.

        Parameters
        ----------
        models
            Whose heatmaps they are.
        seen
            What is seen in each picture, by its name, in order.
        """
        shown = [(name, item.heatmap) for name, item in seen.items() if item.heatmap is not None]
        pairs = [
            Pair(first, second, a, b)
            for (first, a), (second, b) in pairwise(shown)
            if a is not None and b is not None
        ]
        if not pairs:
            self.clear()
            return
        unrelated, is_urgent = self._unrelated, self._is_urgent
        keys = {pair.key for pair in pairs if pair.is_of_one_class}

        def first(_: object) -> tuple[str, ...]:
            return all_words(pairs, {key: unrelated.known(models, key) for key in keys})

        def with_chance(should_stop: Callable[[], bool]) -> tuple[str, ...] | None:
            while not should_stop() and is_urgent():
                time.sleep(_LOOK_AGAIN_SECONDS)
            found = {key: unrelated.compute(models, key, should_stop=should_stop) for key in keys}
            return None if should_stop() else all_words(pairs, found)

        def show_first(lines: tuple[str, ...]) -> None:
            self._note.show_lines(lines)
            if not all(unrelated.known(models, key) for key in keys):
                self.worker.submit(with_chance, self._show)

        self.worker.submit(first, show_first)

    def clear(self) -> None:
        """Say nothing: what is shown now was not compared yet."""
        self.worker.cancel()
        self._note.show_lines(())

    def close(self) -> None:
        """Let go of running work; the note may be gone."""
        self.worker.cancel()

    def _show(self, lines: tuple[str, ...] | None) -> None:
        if lines is not None:
            self._note.show_lines(lines)
