from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.editing._calibrating import (
    calibration_made,
    dataset_to_calibrate_on,
    followed,
    running_calibration,
    start_calibration,
)
from napari_histolatent._napari.editing._words import in_dock
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent._napari._editing import Models
    from napari_histolatent._napari.widgets.calibration_offer import CalibrationOffer
    from napari_histolatent.latent.verdict import Calibration
    from napari_histolatent.runs import Run, RunStatus


@dataclass(frozen=True)
class _Found:
    """What there is of a calibration that the dock does not have."""

    run: Run | None = None
    """That makes it now."""
    calibration: Calibration | None = None
    """That was made meanwhile."""
    dataset: Path | None = None
    """To make it on."""
    why_not: str = ""
    """It cannot be made now."""


class _Arrivals(QObject):
    """Carries from the thread how far a calibration is."""

    moved = Signal(object, int, int)
    """Its run, patches searched, patches in all."""


class EditCalibrating:
    """Offers to calibrate the verdict of a generator that has no calibration, and follows it; closing leaves it alone.

    A calibration that was begun elsewhere is followed, too.

    Parameters
    ----------
    offer
        The controls.
    dataset
        Returns the dataset that is open.
    on_calibrated
        Called with a new calibration of the generator that is shown.
    """

    def __init__(
        self,
        offer: CalibrationOffer,
        *,
        dataset: Callable[[], Path | None],
        on_calibrated: Callable[[Calibration], None],
    ) -> None:
        self._offer, self._dataset, self._on_calibrated = offer, dataset, on_calibrated
        self._models: Models | None = None
        self._found: Path | None = None
        """The dataset to calibrate on."""
        self._runs: dict[str, Run] = {}
        """Calibrations that were seen to run and have not been seen to end, by the generator's digest."""
        self._lost: set[Path] = set()
        """Folders of those that could not be followed to their end."""
        self._said = ""
        self._is_cancelled = False
        self.finder = LatestWorker(in_words=in_dock)
        self.starter = LatestWorker(on_error=lambda _: self._find(), in_words=in_dock)
        self.follower = LatestWorker(on_error=lambda _: self._lose(), in_words=in_dock)
        self._stopper = LatestWorker(in_turn=True, in_words=in_dock)
        self._arrivals = _Arrivals()
        self._arrivals.moved.connect(self._show_progress)
        offer.requested.connect(self._start)
        offer.cancelled.connect(self._cancel)

    def close(self) -> None:
        """Let go of running work; a calibration goes on, and is used when the generator is loaded again."""
        for worker in (self.finder, self.starter, self.follower):
            worker.cancel()

    def show(self, models: Models | None) -> None:
        """Offer what there is to offer for a generator; None: there is none."""
        for worker in (self.finder, self.starter, self.follower):
            worker.cancel()
        self._models, self._found, self._said = models, None, ""
        if models is None or models.calibration is not None:
            self._offer.hide_offer()
            return
        run = self._runs.get(models.generator.checkpoint.digest)
        if run is not None:
            self._follow(models, run)
        else:
            self._find()

    def dataset_changed(self) -> None:
        """Look again, whether the dataset that is open now will do."""
        if self._models is not None and not (self.starter.is_busy or self.follower.is_busy):
            self.show(self._models)

    def runs_changed(self) -> None:
        """Look again, whether a calibration was begun elsewhere, or has ended there."""
        if not (self.starter.is_busy or self.follower.is_busy):
            self._find()

    def _find(self) -> None:
        models, opened = self._models, self._dataset()
        if models is None or models.calibration is not None:
            return
        checkpoint, lost = models.generator.checkpoint, frozenset(self._lost)

        def work(_: object) -> _Found:
            try:
                run = running_calibration(checkpoint, but=lost)
                # After that: one that has ended by now has left its result.
                calibration = calibration_made(checkpoint) if run is None else None
                if run is not None or calibration is not None:
                    return _Found(run, calibration)
                return _Found(dataset=dataset_to_calibrate_on(checkpoint, opened))
            except UserError as error:  # the offer says it
                return _Found(why_not=in_dock(str(error)))

        def show(found: _Found) -> None:
            self._found = found.dataset
            if found.run is not None:
                self._runs[checkpoint.digest] = found.run
                self._follow(models, found.run)
            elif found.calibration is not None:
                self._take(models, found.calibration)
            else:
                self._offer.show_offer(found.why_not, said=self._said)

        self.finder.submit(work, show)

    def _start(self) -> None:
        models, dataset = self._models, self._found
        if models is None or dataset is None or self.starter.is_busy:
            return
        checkpoint, runs = models.generator.checkpoint, self._runs
        self._is_cancelled = False
        self.finder.cancel()
        self._offer.show_running("Starting the calibration…")

        def work(_: object) -> Run:
            # At once: the user may look at another generator by the time it runs.
            runs[checkpoint.digest] = start_calibration(checkpoint, dataset)
            return runs[checkpoint.digest]

        def show(run: Run) -> None:
            self._follow(models, run)
            if self._is_cancelled:  # before there was anything to stop
                self._cancel()

        self.starter.submit(work, show)

    def _follow(self, models: Models, run: Run) -> None:
        self._offer.show_running("Searching held-out patches, to know how far to believe a search…")
        arrivals, checkpoint = self._arrivals, models.generator.checkpoint

        def work(should_stop: Callable[[], bool]) -> tuple[RunStatus, Calibration | None] | None:
            from napari_histolatent.jobs.calibration import calibration_of

            status = followed(
                run,
                on_progress=lambda done, total: arrivals.moved.emit(run, done, total),
                should_stop=should_stop,
            )
            if status is None:
                return None
            return status, calibration_of(checkpoint) if status.state == "finished" else None

        self.follower.submit(work, self._end)

    def _end(self, ended: tuple[RunStatus, Calibration | None] | None) -> None:
        models = self._models
        if ended is None or models is None:
            return
        status, calibration = ended
        self._runs.pop(models.generator.checkpoint.digest, None)
        if calibration is not None:
            self._take(models, calibration)
            return
        if status.state == "stopped":
            self._said = "The calibration was cancelled; nothing is kept of it."
        else:
            why = in_dock(status.message) or "its process ended without a word."
            self._said = f"The verdict could not be calibrated: {why}"
        self._find()

    def _take(self, models: Models, calibration: Calibration) -> None:
        self._models = replace(models, calibration=calibration)  # from now on there is nothing to offer
        self._offer.hide_offer()
        self._on_calibrated(calibration)

    def _lose(self) -> None:
        """Give up a calibration that cannot be followed, or whose result cannot be read."""
        if self._models is not None:
            run = self._runs.pop(self._models.generator.checkpoint.digest, None)
            if run is not None:
                self._lost.add(run.path)
        self._find()

    def _cancel(self) -> None:
        models = self._models
        run = self._runs.get(models.generator.checkpoint.digest) if models is not None else None
        self._is_cancelled = True
        self._offer.show_stopping()
        if run is not None:
            self._stopper.submit(lambda _: run.request_stop(), lambda _: None)

    def _show_progress(self, run: Run, done: int, total: int) -> None:
        models = self._models
        if models is not None and self._runs.get(models.generator.checkpoint.digest) is run:
            self._offer.show_progress(done, total)
