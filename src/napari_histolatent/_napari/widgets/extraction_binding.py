from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QObject, Signal
from superqt.utils import GeneratorWorker, create_worker

from napari_histolatent._napari._dataset_layer import open_dataset
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari._workers import LatestWorker, run_safely, start_beside
from napari_histolatent._napari.widgets.extraction_panel import IDLE, PAUSED, PREPARING, RUNNING, STOPPING
from napari_histolatent.errors import DatasetError
from napari_histolatent.jobs.extraction import (
    batch_sources,
    forget,
    mark_told,
    new_extraction,
    open_extractions,
    out_of,
)
from napari_histolatent.jobs.follow import resume
from napari_histolatent.patches import PatchDataset, Recipe, working_folder
from napari_histolatent.patches.formats import export_format
from napari_histolatent.runs import ENDED, RunStatus, launch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from napari_histolatent._napari.widgets.extraction_panel import ExtractionPanel
    from napari_histolatent.patches import SlideSource
    from napari_histolatent.runs import Run

_POLL_SECONDS = 0.3


class Request(Protocol):
    """What a dock is set to, taken on the UI thread."""

    def resolve(self) -> tuple[SlideSource, Recipe]:
        """Write what the extraction needs to a file, in a thread, and return it.

        Raises
        ------
        UserError
            If nothing can be cut as it is set.
        """
        ...


class _Progress(QObject):
    """Carries progress from the thread to the panel."""

    moved = Signal(int, int)


class ExtractionBinding:
    """Starts, pauses and watches extractions, each in a process of its own: closing the dock leaves it alone.

    Parameters
    ----------
    viewer
        The viewer, whose session gets the dataset.
    panel
        The controls.
    request
        Returns what is to be cut; called on the UI thread, may raise UserError.
    recipe
        Returns the recipe alone, for a batch while no slide is open; by default the request's.
    on_finished
        Called with the report of an extraction that has finished.
    """

    def __init__(
        self,
        viewer: Any,
        panel: ExtractionPanel,
        request: Callable[[], Request],
        *,
        recipe: Callable[[], Recipe] | None = None,
        on_finished: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._viewer, self._panel, self._session = viewer, panel, session_of(viewer)
        self._request, self._recipe, self._on_finished = request, recipe, on_finished
        self._run: Run | None = None
        self._is_cancelled = self._is_news = False
        self._watcher: GeneratorWorker[Any, Any, Any] | None = None
        self._starter = LatestWorker(on_error=lambda _: self._find_open())
        self._finder, self._stopper = LatestWorker(), LatestWorker(in_turn=True)
        self._exporter = LatestWorker(on_error=lambda _: panel.set_exporting(False))
        self._progress = _Progress()
        self._progress.moved.connect(panel.set_export_progress)
        panel.extract_requested.connect(self._extract)
        panel.batch_requested.connect(self._extract_batch)
        panel.pause_requested.connect(self._pause)
        panel.resume_requested.connect(self._resume)
        panel.cancel_requested.connect(self._cancel)
        panel.forget_requested.connect(self._forget)
        panel.open_requested.connect(self._open)
        panel.export_requested.connect(self._export)
        panel.export_cancelled.connect(self._cancel_export)
        panel.destroyed.connect(self.close)
        self._session.dataset_changed.connect(self._show_dataset)
        self._show_dataset()
        self._find_open()

    def close(self, *_: object) -> None:
        """Stop watching; an extraction goes on."""
        self._stop_watching()
        for worker in (self._starter, self._finder, self._stopper, self._exporter):
            worker.cancel()
        self._session.dataset_changed.disconnect(self._show_dataset, missing_ok=True)

    # Starting

    def _extract(self) -> None:
        captured = run_safely(self._request)
        if captured is not None:

            def resolve() -> tuple[list[SlideSource], Recipe, list[str]]:
                source, recipe = captured.resolve()
                return [source], recipe, []

            self._start(resolve)

    def _extract_batch(self) -> None:
        slides, annotations = self._panel.batch
        if slides is None:
            show_error("A batch needs slides; choose a folder of slides or a CSV table first.")
            return
        # Without a recipe of its own the batch takes the request's, which may have to be resolved in the thread.
        captured = run_safely(self._recipe or self._request)
        if captured is None:
            return

        def resolve() -> tuple[list[SlideSource], Recipe, list[str]]:
            sources, failed = batch_sources(slides, annotations)
            recipe = captured if isinstance(captured, Recipe) else captured.resolve()[1]
            return sources, recipe, failed

        self._start(resolve)

    def _start(self, resolve: Callable[[], tuple[Sequence[SlideSource], Recipe, list[str]]]) -> None:
        out, overwrite = self._panel.out, self._panel.overwrite
        if out is None:
            show_error("The dataset has no folder yet; name one that does not exist, such as patches.")
            return
        if self._starter.is_busy:
            return
        self._stop_watching()
        self._finder.cancel()
        self._panel.set_result("")
        self._panel.set_state(PREPARING, "Writing down what is to be cut…")

        def work(_: Callable[[], bool]) -> Run:
            sources, recipe, failed = resolve()
            try:
                run = new_extraction(sources, out, recipe, overwrite=overwrite, failed=failed)
            except DatasetError as error:
                raise DatasetError(in_panel(str(error))) from error
            launch(run)
            return run

        self._starter.submit(work, lambda run: self._watch(run, is_news=True))

    # Watching

    def _find_open(self) -> None:
        """Attach to what runs; tell what has finished meanwhile; offer what can go on."""
        self._stop_watching()
        self._panel.set_state(IDLE)

        def show(runs: list[Run]) -> None:
            if runs:
                self._watch(runs[0], is_news=False)

        self._finder.submit(lambda _: open_extractions(), show)

    def _find_more(self) -> None:
        if self._run is None and not self._starter.is_busy:
            self._find_open()

    def _watch(self, run: Run, *, is_news: bool) -> None:
        """Show a run; `is_news`: its failure is not known to the user yet."""
        self._stop_watching()
        self._run, self._is_news = run, is_news
        if self._panel.out is None:
            self._panel.out_picker.set_path(out_of(run))
        worker = create_worker(_statuses_of, run)
        worker.yielded.connect(lambda status: self._show(worker, status))
        self._watcher = worker
        start_beside(worker)

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.quit()
        self._run, self._watcher, self._is_cancelled = None, None, False

    def _show(self, worker: GeneratorWorker[Any, Any, Any], status: RunStatus) -> None:
        run = self._run
        if worker is not self._watcher or run is None:  # of a run that is no longer shown
            return
        if status.state == "finished":
            self._finish(run, status.data.get("report", {}))
            return
        if status.state == "gone":
            self._stop_watching()
            self._panel.set_state(IDLE, f"{out_of(run).name}: the folder of its extraction is gone.")
            return
        if status.state not in ENDED:
            is_wanted = status.state in ("starting", "running") and not self._is_cancelled
            self._is_news = True
            self._panel.set_state(RUNNING if is_wanted else STOPPING, described(status, out_of(run)))
            self._panel.set_progress(status.step, status.steps if status.step else 0)
            return
        if status.state == "failed" and self._is_news:
            show_error(in_panel(status.message))
        if self._is_cancelled:
            self._end_cancelled(run, status)
        elif status.state == "failed" and not status.step:  # there is nothing to go on with
            self._stop_watching()
            self._panel.set_state(IDLE, in_panel(status.message))
        else:
            self._panel.set_state(PAUSED, described(status, out_of(run)))
            self._panel.set_progress(status.step, max(1, status.steps))

    def _finish(self, run: Run, report: Mapping[str, Any]) -> None:
        out = out_of(run)
        self._stop_watching()
        self._panel.set_state(IDLE)
        self._panel.set_result(result_text(out, report))
        if self._on_finished is not None:
            self._on_finished(report)
        self._session.set_dataset(out)
        self._session.runs_changed.emit()
        self._stopper.submit(lambda _: mark_told(run), lambda _: self._find_more())
        n_failed = len(report.get("failed", []))
        n = report.get("patches", 0)
        done = f"{out.name}: {counted(n)} {'is' if n == 1 else 'are'} cut."
        if n_failed:
            slides = "slide was" if n_failed == 1 else "slides were"
            show_warning(f"{done} {n_failed} {slides} left out; the Patches dock says why.")
        else:
            show_info(done)

    # Pausing

    def _pause(self) -> None:
        run = self._run
        if run is not None:
            self._panel.set_state(STOPPING, "Stopping…")
            self._stopper.submit(lambda _: run.request_stop(), lambda _: None)

    def _cancel(self) -> None:
        self._is_cancelled = self._run is not None
        self._pause()

    def _end_cancelled(self, run: Run, status: RunStatus) -> None:
        self._stop_watching()
        self._panel.set_state(IDLE)
        self._panel.set_result(cancelled_text(status, out_of(run)))
        self._stopper.submit(lambda _: forget(run), lambda _: None)

    def _resume(self) -> None:
        run = self._run
        # A second click, or one while a run is started, would take the first one's place and be refused.
        if run is not None and not self._starter.is_busy:
            self._panel.set_result("")
            self._panel.set_state(PREPARING, "Going on…")
            self._starter.submit(lambda _: resume(run), lambda _: self._watch(run, is_news=True))

    def _forget(self) -> None:
        run = self._run
        if run is not None:
            self._stopper.submit(lambda _: forget(run), lambda _: self._find_open())

    # The dataset

    def _show_dataset(self, *_: object) -> None:
        self._panel.set_dataset(self._session.dataset)

    def _open(self) -> None:
        if self._session.dataset is not None:
            open_dataset(self._viewer, self._session.dataset)

    def _export(self) -> None:
        dataset, (name, out) = self._session.dataset, self._panel.export
        if dataset is None:
            return
        if out is None:
            show_error(
                f"The export has no folder yet; name one that does not exist, such as {dataset.name}-{name}."
            )
            return
        self._panel.set_exporting(True)

        def work(should_stop: Callable[[], bool]) -> dict[str, Any]:
            return export_format(name).function(
                PatchDataset(dataset),
                out.absolute(),
                on_progress=self._progress.moved.emit,
                should_stop=should_stop,
            )

        def show(report: dict[str, Any]) -> None:
            messages = "".join(f"\n{message}" for message in report.get("messages", []))
            self._panel.set_exporting(
                False,
                f"{counted(report['patches'])} in {counted(report['files'], 'file', 'files')}: {report['path']}{messages}",
            )

        self._exporter.submit(work, show)

    def _cancel_export(self) -> None:
        self._exporter.cancel()
        self._panel.set_exporting(False, "Export cancelled; nothing was kept.")


def _statuses_of(run: Run) -> Iterator[RunStatus]:
    """Yield where a run stands until it has ended: in a thread, so that a slow disk holds up nothing."""
    status = RunStatus("starting")
    while True:
        with suppress(OSError):  # a disk that is away for a moment: it stands where it stood
            status = run.status()
        yield status
        if status.state in ENDED or status.state == "new":
            return
        time.sleep(_POLL_SECONDS)


def described(status: RunStatus, out: Path) -> str:
    """Return where an extraction stands, in words."""
    done = f"after {status.step:,} of {status.steps:,} patches" if status.steps else "before the first patch"
    if status.state == "stopped":
        return f"{out.name} is paused {done}."
    if status.state == "interrupted":
        return f"{out.name} was interrupted {done}: its process ended. What is cut is kept."
    if status.state == "failed":
        return f"{out.name} failed {done}. {in_panel(status.message)}"
    if status.state == "stopping":
        return f"{out.name}: stopping; what is cut is kept."
    rate = status.data.get("patches_per_second")
    if not status.step or not rate:
        return f"{out.name}: looking at tissue and regions…" if not status.step else f"{out.name}: cutting…"
    return f"{out.name}: {rate:,.0f} patches/s, {time_left((status.steps - status.step) / rate)} left"


def in_panel(sentence: str) -> str:
    """Return a sentence with the panel's own words where it names an option of the command line."""
    tick = "tick “Replace it if it is there”"
    return sentence.replace("allow it to be replaced with --overwrite", tick).replace(
        "begin anew with --overwrite", f"{tick} to begin anew"
    )


def counted(n: int, what: str = "patch", many: str = "patches") -> str:
    """Return a number of things in words: `1 patch`, `1,234 patches`."""
    return f"{n:,} {what if n == 1 else many}"


def time_left(seconds: float) -> str:
    """Return a duration as a person says it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def cancelled_text(status: RunStatus, out: Path) -> str:
    """Return what a cancelled extraction left behind, and how to go on with it."""
    if not status.step:
        return f"Cancelled before the first patch of {out.name} was cut."
    return (
        f"Cancelled after {status.step:,} of {status.steps:,} patches. They are kept in {working_folder(out)}: Extract into the "
        "same folder with the same settings goes on; remove that folder if you do not want them."
    )


def result_text(out: Path, report: Mapping[str, Any]) -> str:
    """Return what was cut, a line for each split, and what was left out and why."""
    seconds = f" in {report['seconds']:,.0f} s" if report.get("seconds", 0) >= 1 else ""
    before = f" ({report['taken_up']:,} were cut before)" if report.get("taken_up") else ""
    lines = [f"{out.name}: {counted(report.get('patches', 0))}{seconds}{before}"]
    for split, classes in report.get("counts", {}).items():
        lines.append(f"{split or 'no split'}: " + ", ".join(f"{n:,} {name}" for name, n in classes.items()))
    if report.get("left_out"):
        lines.append(
            "left out: " + ", ".join(f"{n:,} ({reason})" for reason, n in report["left_out"].items())
        )
    failed = report.get("failed", [])
    if failed:
        lines.append(f"{len(failed)} of {len(failed) + report.get('slides', 0)} slides left out:")
        lines.extend(f"  {sentence}" for sentence in failed)
    lines.extend(report.get("messages", []))
    return "\n".join(lines)
