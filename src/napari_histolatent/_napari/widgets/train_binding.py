from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_histolatent._napari._closing_question import closing_question_of
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.widgets.run_binding import RunBinding
from napari_histolatent._napari.widgets.run_compare_binding import RunCompareBinding
from napari_histolatent._napari.widgets.runs_list import row_of
from napari_histolatent._napari.widgets.training_words import device_titles, estimate_text, in_dock
from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.jobs import probe
from napari_histolatent.jobs.follow import new_training
from napari_histolatent.jobs.kinds import CLASSIFIER, ENCODER, TRAIN
from napari_histolatent.patches import PatchDataset
from napari_histolatent.runs import ENDED, Run, known_runs, launch

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent._napari._closing_question import ClosingQuestion
    from napari_histolatent._napari.widgets.runs_list import RunRow
    from napari_histolatent._napari.widgets.train_view import TrainView
    from napari_histolatent.jobs.probe import Device, Estimate

_POLL_SECONDS = 0.3
_LIST_SECONDS = 2.0
_SPLITS = {"train": "to learn from", "val": "held out (val)", "test": "held out (test)"}

_devices: list[tuple[Device, ...]] = []
"""What this machine has, once it was asked: it does not change while napari runs."""


class TrainBinding:
    """Starts runs, lists those there are, and has one of them watched. A run lives in its own process."""

    def __init__(self, viewer: Any, view: TrainView) -> None:
        self._view, self._session = view, session_of(viewer)
        self._known: dict[Path, Run] = {}
        """Runs of the list, each of which remembers what it has read. Of the list's thread."""
        self._is_first_list = True
        self._comparer = RunCompareBinding(view)
        self._question: ClosingQuestion | None = None
        self._opened: Path | None = None
        """The dataset that could be opened."""
        self._suggested: Path | None = None
        """The run folder that was offered: any other is the user's."""
        self._starter = LatestWorker(on_error=lambda _: view.start_button.setEnabled(True), in_words=in_dock)
        self._estimator = LatestWorker(on_error=lambda _: view.set_estimate(""), in_words=in_dock)
        self._lister, self._dataset_reader = LatestWorker(), LatestWorker()
        self._suggester, self._prober = LatestWorker(), LatestWorker()
        self._runs = RunBinding(
            viewer,
            view,
            on_followed=self._list_runs,
            on_ended=self._on_ended,
            on_started=self._ask_about,
            free_folder=lambda path: _free_folder(path, "fork"),
            poll_seconds=lambda: _POLL_SECONDS,
        )
        view.dataset_chosen.connect(lambda path: self._session.set_dataset(Path(path)))
        view.estimate_requested.connect(self._estimate)
        view.start_requested.connect(self._start)
        for starts in (view.start_requested, view.resume_requested, view.fork_requested):
            starts.connect(self._have_starts_asked_about)
        view.run_selected.connect(lambda path: self.watch(Path(path)))
        view.compare_requested.connect(self._compare)
        view.options.kind_box.currentIndexChanged.connect(self._suggest_folder)
        view.options.changed.connect(self._forget_estimate)
        view.shown.connect(self._look_for_devices)
        self._session.dataset_changed.connect(self._show_dataset)
        view.closed.connect(self.close)
        view.destroyed.connect(self.close)
        self._timer = QTimer()
        self._timer.setInterval(round(1000 * _LIST_SECONDS))
        self._timer.timeout.connect(self._list_runs_again)
        self._timer.start()
        if self._session.dataset:
            self._show_dataset(str(self._session.dataset))
        self._list_runs()

    @property
    def workers(self) -> tuple[LatestWorker, ...]:
        """What works beside the UI thread."""
        own = (
            self._starter,
            self._estimator,
            self._lister,
            self._dataset_reader,
            self._suggester,
            self._prober,
            self._comparer.worker,
        )
        return (*own, *self._runs.workers)

    @property
    def comparer(self) -> RunCompareBinding:
        """What shows two runs side by side."""
        return self._comparer

    @property
    def runs(self) -> RunBinding:
        """What watches the run that is looked at."""
        return self._runs

    def close(self, *_: object) -> None:
        """Stop watching; runs go on."""
        with suppress(RuntimeError):  # it has gone with the view
            self._timer.stop()
        for worker in self.workers:
            worker.cancel()
        self._runs.close()
        self._comparer.close()
        if self._question is not None:
            self._question.remove_starts(self._is_starting)
        self._session.dataset_changed.disconnect(self._show_dataset, missing_ok=True)

    def watch(self, path: Path) -> None:
        """Show a run, from its first event on."""
        self._runs.watch(path)

    # The dataset and the devices

    def _show_dataset(self, path: str) -> None:
        self._view.dataset_picker.set_path(Path(path))
        self._view.dataset_note.setText("Opening…")
        self._opened = None
        self._offer(None)
        self._forget_estimate()

        def work(_: Callable[[], bool]) -> str | UserError | OSError:
            try:
                return dataset_text(PatchDataset(path).report())
            except (UserError, OSError) as error:
                return error

        def show(found: str | UserError | OSError) -> None:
            self._view.dataset_note.setText(in_dock(str(found)))
            if isinstance(found, str):
                self._opened = Path(path)
                self._suggest_folder()

        self._dataset_reader.submit(work, show)

    def _take_what_is_typed(self) -> None:
        """Open the dataset that is typed, if it is another than the one that is described."""
        typed = self._view.dataset_picker.path
        if typed is not None and typed != self._session.dataset:
            self._session.set_dataset(typed)

    def _look_for_devices(self) -> None:
        if _devices:
            self._view.options.set_devices(*device_titles(_devices[0]))
            return
        if self._prober.is_busy:
            return

        def work(should_stop: Callable[[], bool]) -> tuple[Device, ...]:
            try:
                return probe.devices_here(should_stop)
            except UserError:  # a list that is short is no trouble: auto works without it
                return ()

        def show(found: tuple[Device, ...]) -> None:
            if found:
                _devices[:] = [found]
                self._view.options.set_devices(*device_titles(found))

        self._prober.submit(work, show)

    # Estimating and starting

    def _forget_estimate(self) -> None:
        self._estimator.cancel()
        self._view.set_estimate("")

    def _estimate(self) -> None:
        if self._estimator.is_busy:
            self._forget_estimate()
            return
        self._take_what_is_typed()
        dataset, out, form = self._view.dataset_picker.path, self._view.out_picker.path, self._view.options
        base, values = form.base, form.values()
        self._view.set_estimate("Taking a few steps to see how long they take…", is_busy=True)

        def work(should_stop: Callable[[], bool]) -> tuple[Estimate | None, int | None]:
            opened = _opened(dataset)
            config = base.with_changes(size_px=opened.size_px, **values)
            found = probe.estimate(opened.path, config, should_stop=should_stop)
            return found, _free_bytes(out or opened.path)

        def show(found: tuple[Estimate | None, int | None]) -> None:
            estimate, free = found
            self._view.set_estimate(estimate_text(estimate, free_bytes=free) if estimate else "")

        self._estimator.submit(work, show)

    def _suggest_folder(self, *_: object) -> None:
        dataset = self._opened
        self._offer(None)  # what was offered before may be of the other kind
        if dataset is None:
            return
        kind = "gan" if self._view.wants_generator else "classifier"
        self._suggester.submit(lambda _: _free_folder(dataset, kind), self._offer)

    @property
    def _own_folder(self) -> Path | None:
        """The run folder that the user has named, not one that was offered."""
        path = self._view.out_picker.path
        return None if path == self._suggested else path

    def _offer(self, folder: Path | None) -> None:
        """Offer a run folder, or none, unless the user has named one."""
        if folder is None:
            self._suggester.cancel()
        if self._own_folder is not None:
            return
        self._suggested = folder
        if folder is None:
            self._view.out_picker.edit.clear()
        else:
            self._view.out_picker.set_path(folder)

    def _start(self) -> None:
        self._take_what_is_typed()
        # One that was offered may be taken meanwhile, or be beside another dataset.
        dataset, out, form = self._view.dataset_picker.path, self._own_folder, self._view.options
        base, values = form.base, form.values()
        kind = "gan" if form.wants_generator else "classifier"
        self._view.start_button.setEnabled(False)
        self._forget_estimate()  # it would take the processor from the run

        def work(_: Callable[[], bool]) -> Run:
            opened = _opened(dataset)
            folder = out or _free_folder(opened.path, kind)
            run = new_training(opened.path, folder, base.with_changes(size_px=opened.size_px, **values))
            launch(run)
            return run

        def show(run: Run) -> None:
            self._view.start_button.setEnabled(True)
            self._ask_about(run)
            self._suggested = self._view.out_picker.path  # it is taken now, whoever named it
            self._suggest_folder()
            self.watch(run.path)
            self._view.scroll_to_runs()
            self._session.runs_changed.emit()

        self._starter.submit(work, show)

    def _ask_about(self, run: Run) -> None:
        """Have the window ask what becomes of a run that was started in it."""
        question = closing_question_of(self._view)
        if question is not None:
            question.add(run)

    def _is_starting(self) -> bool:
        return self._starter.is_busy or self._runs._starter.is_busy

    def _have_starts_asked_about(self) -> None:
        """Have the window wait for a run that is being started, before it asks."""
        if self._question is None:
            self._question = closing_question_of(self._view)
            if self._question is not None:
                self._question.add_starts(self._is_starting)

    # The list

    def _on_ended(self) -> None:
        self._list_runs()
        self._session.runs_changed.emit()

    def _list_runs_again(self) -> None:
        if not self._lister.is_busy:
            self._list_runs()

    def _list_runs(self) -> None:
        def show(rows: list[RunRow]) -> None:
            if self._is_first_list and self._runs.path is None:
                # A dock that is opened again goes on watching what is going on.
                alive = [row for row in rows if row.state not in (*ENDED, "new")]
                if alive:
                    self.watch(alive[0].path)
            self._is_first_list = False
            current = self._runs.path
            self._view.set_runs(rows, str(current) if current else None)

        self._lister.submit(lambda _: self._rows(), show)

    def _rows(self) -> list[RunRow]:
        now, paths = time.time(), known_runs()
        for gone in set(self._known) - set(paths):
            del self._known[gone]
        rows = []
        for path in paths:
            try:
                run = self._known[path] = self._known.get(path) or Run(path)
                if run.kind in (TRAIN, CLASSIFIER, ENCODER):  # others are the Patches and the Edit dock's
                    rows.append(row_of(run, run.status(), now=now))
            except (UserError, OSError, AttributeError, KeyError, TypeError, ValueError):
                # Gone, or garbled: a run that cannot be read hides none of the others.
                self._known.pop(path, None)
        return rows

    def _compare(self) -> None:
        selected = self._view.runs_list.selected
        if len(selected) == 2:
            self._comparer.compare(selected)


def dataset_text(report: dict[str, Any]) -> str:
    """Return what a dataset holds, in words."""
    classes = ", ".join(f"{n:,} {name}" for name, n in report["classes"].items())
    text = f"{report['patches']:,} patches of {report['size_px']} px: {classes}"
    splits = ", ".join(
        f"{n:,} {_SPLITS.get(name, name)}" for name, n in (report.get("splits") or {}).items() if n
    )
    return f"{text}\n{splits}" if splits else text


def _opened(dataset: Path | None) -> PatchDataset:
    if dataset is None:
        msg = "A run needs a dataset; cut one in the Patches dock, or choose its folder first."
        raise DatasetError(msg)
    return PatchDataset(dataset)


def _free_folder(beside: Path, kind: str) -> Path:
    """Return a folder for a run beside its dataset (or the run it comes from), of a name that no other run has."""
    taken, number = {path.name for path in known_runs()}, 1
    while (name := f"{beside.name}-{kind}-{number}") in taken or (beside.parent / name).exists():
        number += 1
    return beside.parent / name


def _free_bytes(path: Path) -> int | None:
    """Return how much of the disk is free on which a folder is, or will be."""
    for folder in (path, *path.absolute().parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return None
