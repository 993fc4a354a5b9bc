from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.widgets.run_compare_view import RunCompareView
from napari_histolatent._napari.widgets.training_words import in_dock, standing_words
from napari_histolatent.runs import Run
from napari_histolatent.training.compare import compared

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qtpy.QtWidgets import QWidget

    from napari_histolatent.training.compare import RunComparison

_RENEW_SECONDS = 2.0


@dataclass(frozen=True)
class PairNews:
    """Where two runs stand, and what is new of their curves."""

    comparison: RunComparison
    standing: tuple[Mapping[str, str], Mapping[str, str]]
    """What `standing_words` says of each."""
    points: tuple[Sequence[tuple[int, Mapping[str, float], Mapping[str, Any]]], ...]
    """Of each run (step, losses, metrics) of the events since the last news."""


class PairReader:
    """Reads two runs, each event once. Of one thread at a time.

    Parameters
    ----------
    paths
        The two run folders.

    Raises
    ------
    RunError
        If one of them is no run.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._runs = [Run(path) for path in paths]
        self._offsets = [0, 0]
        self._metrics: list[dict[str, Any]] = [{}, {}]

    def read(self) -> PairNews | None:
        """Return what is new; None where a disk does not answer now."""
        try:
            # The states are asked first: what an ended run wrote is then all there.
            statuses = [run.status() for run in self._runs]
            found = [run.events(offset) for run, offset in zip(self._runs, self._offsets, strict=True)]
        except OSError:
            return None
        self._offsets = [offset for _, offset in found]
        points = tuple(
            [(event.step, event.losses, event.data.get("metrics") or {}) for event in events]
            for events, _ in found
        )
        for i, news in enumerate(points):
            for _, _, metrics in news:
                self._metrics[i] |= metrics
        standing = [
            standing_words(status, metrics, run.spec.get("config") or {})
            for run, status, metrics in zip(self._runs, statuses, self._metrics, strict=True)
        ]
        a, b = ((str(run.path), run.spec, status) for run, status in zip(self._runs, statuses, strict=True))
        return PairNews(compared(a, b), (standing[0], standing[1]), points)


class RunCompareBinding:
    """Shows two runs side by side, and what is new of them as long as the window is open.

    Parameters
    ----------
    parent
        The dock, above which the window lies.
    """

    def __init__(self, parent: QWidget) -> None:
        self._parent = parent
        self._view: RunCompareView | None = None
        self._pair: PairReader | None = None
        self.worker = LatestWorker(in_words=in_dock)
        self._timer = QTimer()
        self._timer.timeout.connect(self._renew)

    @property
    def view(self) -> RunCompareView | None:
        """The window, once there was one."""
        return self._view

    @property
    def is_renewing(self) -> bool:
        """Whether the runs are being looked at again and again."""
        return bool(self._timer.isActive())

    def compare(self, paths: Sequence[str]) -> None:
        """Show two runs, given by their folders."""
        self._rest()

        def work(_: object) -> tuple[PairReader, PairNews | None]:
            pair = PairReader(paths)
            return pair, pair.read()

        def show(found: tuple[PairReader, PairNews | None]) -> None:
            self._pair, news = found
            if self._view is None:
                self._view = RunCompareView(self._parent)
                self._view.finished.connect(self._rest)
            self._view.begin(paths)
            self._show(news)
            self._view.show()
            self._view.raise_()
            self._timer.start(round(1000 * _RENEW_SECONDS))

        self.worker.submit(work, show)

    def close(self) -> None:
        """Close the window and look no more."""
        self._rest()
        view, self._view = self._view, None
        if view is not None:
            with suppress(RuntimeError):  # it has gone with the dock
                view.close()
                view.deleteLater()

    def _rest(self, *_: object) -> None:
        with suppress(RuntimeError):  # the application may have gone before
            self._timer.stop()
        self.worker.cancel()
        self._pair = None

    def _renew(self) -> None:
        pair = self._pair
        # A disk that takes long is not asked again meanwhile: each event is read once, in turn.
        if pair is not None and not self.worker.is_busy:
            self.worker.submit(lambda _: pair.read(), self._show)

    def _show(self, news: PairNews | None) -> None:
        if news is None or self._view is None:
            return
        self._view.set_comparison(news.comparison, news.standing)
        for name, points in zip(self._view.names, news.points, strict=True):
            self._view.add_points(name, points)
        if any(news.points):
            self._view.redraw()
