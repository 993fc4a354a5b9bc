from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from weakref import ref

from napari.utils.notifications import show_error
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QDialog
from superqt.utils import GeneratorWorker, create_worker

from napari_histolatent._napari._training_layer import SampleLayer, read_stack
from napari_histolatent._napari._training_news import Frame, News, neighbours_of, news_of, shown_picture
from napari_histolatent._napari._workers import LatestWorker, start_beside
from napari_histolatent._napari.widgets.fork_dialog import ForkChoice, ForkDialog
from napari_histolatent._napari.widgets.sample_history import SAMPLE_PX
from napari_histolatent._napari.widgets.training_words import described, health_text, in_dock
from napari_histolatent.jobs import follow
from napari_histolatent.jobs.kinds import TRAIN
from napari_histolatent.runs import ENDED, Run, launch
from napari_histolatent.training._keeping import BEST_FILE
from napari_histolatent.training.checkpoint import checkpoints_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent._napari._training_layer import SampleStack
    from napari_histolatent._napari.widgets.train_view import TrainView


class RunBinding:
    """Watches one run and does to it what its buttons say. The run lives in its own process.

    Parameters
    ----------
    viewer
        The viewer, which may show the sample pictures as a layer.
    view
        The dock.
    on_followed
        Called when a run is looked at: the list is out of date.
    on_ended
        Called when the run has ended while it was looked at.
    on_started
        Called with a run that this window has started (resumed, forked).
    free_folder
        Returns a folder for a run beside another path; called in a thread.
    poll_seconds
        Returns how often to look.
    """

    def __init__(
        self,
        viewer: Any,
        view: TrainView,
        *,
        on_followed: Callable[[], None],
        on_ended: Callable[[], None],
        on_started: Callable[[Run], None],
        free_folder: Callable[[Path], Path],
        poll_seconds: Callable[[], float],
    ) -> None:
        self._view, self._on_followed, self._on_ended = view, on_followed, on_ended
        self._on_started = on_started
        self._free_folder, self._poll_seconds = free_folder, poll_seconds
        self._run: Run | None = None
        self._path: Path | None = None
        self._watcher: GeneratorWorker[Any, Any, Any] | None = None
        self._frames: list[Frame] = []
        self._wants_layer = self._was_alive = False
        self._last_state = ""
        self._paused: set[Path] = set()
        """Runs that were stopped by Pause, in this window."""
        self._opener, self._starter = LatestWorker(in_words=in_dock), LatestWorker(in_words=in_dock)
        self._stopper = LatestWorker(in_turn=True, in_words=in_dock)  # no request may take another's place
        self._picturer, self._stacker = LatestWorker(), LatestWorker()
        self._finder = LatestWorker(in_words=in_dock)
        self._layer = SampleLayer(
            getattr(viewer, "__wrapped__", viewer),
            on_moved=self._on_layer_moved,
            on_removed=self._on_layer_removed,
        )
        view.pause_requested.connect(self._pause)
        view.stop_requested.connect(self._stop)
        view.resume_requested.connect(self._resume)
        view.fork_requested.connect(self._fork)
        view.runs_list.itemClicked.connect(self._on_clicked)
        view.samples.frame_chosen.connect(self._on_frame_chosen)
        view.samples.layer_switched.connect(self._switch_layer)

    @property
    def run(self) -> Run | None:
        """The run that is looked at."""
        return self._run

    @property
    def path(self) -> Path | None:
        """Its folder, also while it is being opened."""
        return self._path

    @property
    def watcher(self) -> GeneratorWorker[Any, Any, Any] | None:
        """The thread that reads the run."""
        return self._watcher

    @property
    def workers(self) -> tuple[LatestWorker, ...]:
        """What works beside the UI thread."""
        return (self._opener, self._stopper, self._starter, self._picturer, self._stacker, self._finder)

    def close(self) -> None:
        """Stop watching; the run goes on."""
        self._stop_watching()
        for worker in self.workers:
            worker.cancel()
        self._layer.close()

    def watch(self, path: Path) -> None:
        """Show a run, from its first event on."""
        self._stop_watching()
        self._picturer.cancel()  # a picture of the run that was looked at before
        self._finder.cancel()
        self._run, self._path, self._frames = None, path, []
        self._was_alive, self._last_state = False, ""
        self._stacker.cancel()
        self._show_nothing()
        self._opener.submit(lambda _: Run(path), self._follow)

    # Watching

    def _show_nothing(self) -> None:
        self._view.plots.clear()
        self._view.samples.set_steps([])
        self._view.set_health("", [])
        self._view.set_progress(0, 1)
        self._view.set_state("", can_stop=False, can_resume=False)

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.quit()
        self._watcher = None

    def _follow(self, run: Run) -> None:
        self._stop_watching()
        self._run = run
        if run.kind != TRAIN and self._wants_layer:  # it draws no samples that could take the others' place
            self._switch_layer(False)
            self._view.samples.set_has_layer(False)
        worker = create_worker(news_of, run, poll_seconds=self._poll_seconds())
        # Held weakly: a thread without an end would keep the dock and its viewer.
        binding = ref(self)

        def show(news: News | None) -> None:
            if (alive := binding()) is not None:
                alive._show(worker, news)
            else:
                worker.quit()

        def fail(_: Exception) -> None:
            if (alive := binding()) is not None:
                alive._on_watcher_failed(worker)

        worker.yielded.connect(show)
        worker.errored.connect(fail)
        self._watcher = worker
        start_beside(worker)
        self._on_followed()

    def _on_watcher_failed(self, worker: GeneratorWorker[Any, Any, Any]) -> None:
        # A bug of ours, which napari shows; what is shown of the run no longer follows it.
        if worker is self._watcher and self._run is not None:
            self._watcher = None
            self._view.set_state(
                f"{self._run.path.name} could not be read on. Click it in the list to look again.",
                can_stop=True,
                can_resume=True,
            )

    def _on_clicked(self, item: Any, _: int) -> None:
        # The line of the run that is looked at selects nothing new: a click on it looks anew where that ended.
        path = self._path
        if path is None or str(path) != item.data(0, Qt.ItemDataRole.UserRole):
            return
        has_ended = self._watcher is None and not self._opener.is_busy
        if has_ended or self._last_state == "gone":
            self.watch(path)

    def _show(self, worker: GeneratorWorker[Any, Any, Any], news: News | None) -> None:
        run = self._run
        if worker is not self._watcher or run is None:  # of a run that is no longer shown
            return
        if news is None:
            return
        status = news.status
        ended = status.state in ENDED
        goes_on = self._last_state in ENDED and not ended
        if goes_on or status.state in ("finished", "failed", "interrupted"):
            self._paused.discard(run.path)
        self._last_state = status.state
        for event in news.events:
            self._view.plots.add(event.step, event.losses, event.data.get("metrics") or {})
        if news.events:
            self._view.plots.redraw()
        if news.frames:
            self._take_frames(news.frames)
        warnings = [str(sentence) for sentence in news.metrics.get("warnings") or ()]
        self._view.set_health(
            health_text(news.metrics), [*warnings, *([news.message] if news.message else [])]
        )
        # Without an end only while a process is at work.
        self._view.set_progress(status.step, status.steps or (1 if ended or status.state == "new" else 0))
        self._view.set_state(
            described(status, run.spec.get("config") or {}, is_paused=run.path in self._paused),
            can_stop=status.state in ("running", "starting"),
            can_resume=status.state in ("stopped", "failed", "interrupted", "new"),
            can_fork=run.kind == TRAIN and "checkpoint" in status.data and status.state != "gone",
        )
        if ended and self._was_alive:
            if status.state == "failed":
                show_error(f"The run {run.path.name} failed: {in_dock(status.message)}")
            self._on_ended()
        self._was_alive = not ended

    # Samples

    def _take_frames(self, new: Any) -> None:
        first = min(frame.step for frame in new)
        # A run that was set back to a checkpoint draws later pictures anew.
        self._frames = [frame for frame in self._frames if frame.step < first] + list(new)
        samples = self._view.samples
        samples.set_steps([frame.step for frame in self._frames])
        self._show_frame(samples.index)
        if self._wants_layer:
            self._read_layer()

    def _on_frame_chosen(self, index: int) -> None:
        self._show_frame(index)
        stack, run = self._layer.stack, self._run
        if 0 <= index < len(self._frames) and stack is not None and run is not None and stack.run == run.path:
            self._layer.go_to(self._frames[index])

    def _show_frame(self, index: int) -> None:
        if not 0 <= index < len(self._frames):
            return
        frame = self._frames[index]

        def work(_: Callable[[], bool]) -> tuple[Any, Any]:
            return (
                shown_picture(frame.path, side_px=SAMPLE_PX, synthetic=True),
                shown_picture(neighbours_of(frame), side_px=SAMPLE_PX, synthetic=False),
            )

        def show(pictures: tuple[Any, Any]) -> None:
            self._view.samples.set_picture(pictures[0])
            self._view.samples.set_neighbours(pictures[1])

        self._picturer.submit(work, show)

    def _switch_layer(self, wanted: bool) -> None:
        self._wants_layer = wanted
        if wanted:
            self._read_layer()
        else:
            self._stacker.cancel()
            self._layer.remove()

    def _read_layer(self) -> None:
        run, frames, known = self._run, list(self._frames), self._layer.stack
        if run is None:
            return

        def show(stack: SampleStack | None) -> None:
            if stack is not None and self._wants_layer and run is self._run:
                self._layer.show(stack)

        self._stacker.submit(lambda _: read_stack(run.path, frames, known), show)

    def _on_layer_moved(self, frame: Frame) -> None:
        if frame in self._frames:
            index = self._frames.index(frame)
            self._view.samples.set_index(index)
            self._show_frame(index)

    def _on_layer_removed(self) -> None:
        self._wants_layer = False
        self._view.samples.set_has_layer(False)

    # What the buttons do

    def _pause(self) -> None:
        if self._run is not None:
            self._paused.add(self._run.path)
        self._ask_to_stop()

    def _stop(self) -> None:
        if self._run is not None:
            self._paused.discard(self._run.path)
        self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        run = self._run
        if run is not None:
            self._stopper.submit(lambda _: run.request_stop(), lambda _: None)

    def _resume(self) -> None:
        run = self._run
        # A second click, or one while a run is started, would take the first one's place and be refused.
        if run is None or self._starter.is_busy:
            return

        def show(_: object) -> None:
            self._on_started(run)
            self._paused.discard(run.path)
            if self._run is run:
                # What was shown stays: the watcher reads from the first event on again.
                self._view.plots.clear()
                self._frames = []
                self._follow(run)

        self._starter.submit(lambda _: follow.resume(run), show)

    def _fork(self) -> None:
        run = self._run
        if run is None:
            return

        def show(found: tuple[list[ForkChoice], Path]) -> None:
            choices, out = found
            if not choices:
                show_error(
                    f"{run.path.name} keeps no checkpoint that a new run could begin with; let it train on."
                )
                return
            dialog = ForkDialog(self._view)
            dialog.set_choices(choices, run.spec.get("config") or {}, out)
            if dialog.exec_() == QDialog.DialogCode.Accepted:
                self._start_fork(run, dialog.out_picker.path or out, dialog.step, dialog.changes)
            dialog.deleteLater()

        self._finder.submit(lambda _: (choices_of(run), self._free_folder(run.path)), show)

    def _start_fork(self, run: Run, out: Path, step: int, changes: dict[str, Any]) -> None:
        def work(_: Callable[[], bool]) -> Run:
            made = follow.fork(run, out, step=step, **changes)
            launch(made)
            return made

        def show(made: Run) -> None:
            self._on_started(made)
            self.watch(made.path)

        self._starter.submit(work, show)


def choices_of(run: Run) -> list[ForkChoice]:
    """Return the checkpoints that a run keeps, newest first."""
    try:
        best = json.loads((run.path / BEST_FILE).read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError):
        best = None
    steps = [int(path.name.removeprefix("step-")) for path in checkpoints_in(run.checkpoints_folder)]
    return [ForkChoice(step, is_best=step == best) for step in reversed(steps)]
