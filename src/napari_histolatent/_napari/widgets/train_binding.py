from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.utils.notifications import show_error
from PIL import Image
from superqt.utils import GeneratorWorker, create_worker

from napari_histolatent._napari._session import session_of
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.widgets.train_view import SAMPLE_PX
from napari_histolatent._pictures import marked
from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.jobs.extraction import EXTRACT
from napari_histolatent.jobs.follow import new_training, resume
from napari_histolatent.patches import PatchDataset
from napari_histolatent.runs import ENDED, Run, known_runs, launch
from napari_histolatent.training import ClassifierConfig, preset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from napari_histolatent._napari.widgets.train_view import TrainView
    from napari_histolatent.runs import RunEvent, RunStatus

_POLL_SECONDS = 0.3
_KIND_NAMES = {"train": "generator", "classifier": "classifier"}


class TrainBinding:
    """Starts, stops and watches runs. A run lives in its own process: closing the dock leaves it alone."""

    def __init__(self, viewer: Any, view: TrainView) -> None:
        self._view, self._session = view, session_of(viewer)
        self._run: Run | None = None
        self._watcher: GeneratorWorker[Any, Any, Any] | None = None
        self._starter = LatestWorker(on_error=lambda _: view.start_button.setEnabled(True))
        self._lister, self._dataset_reader = LatestWorker(), LatestWorker()
        self._suggester, self._opener, self._stopper = LatestWorker(), LatestWorker(), LatestWorker()
        view.dataset_chosen.connect(lambda path: self._session.set_dataset(Path(path)))
        view.start_requested.connect(self._start)
        view.stop_requested.connect(self._stop)
        view.resume_requested.connect(self._resume)
        view.run_selected.connect(lambda path: self.watch(Path(path)))
        view.kind_box.currentIndexChanged.connect(self._suggest_folder)
        self._session.dataset_changed.connect(self._show_dataset)
        view.closed.connect(self.close)
        view.destroyed.connect(self.close)
        if self._session.dataset:
            self._show_dataset(str(self._session.dataset))
        self._list_runs()

    def close(self, *_: object) -> None:
        """Stop watching; runs go on."""
        if self._watcher is not None:
            self._watcher.quit()
            self._watcher = None
        for worker in (
            self._starter,
            self._lister,
            self._dataset_reader,
            self._suggester,
            self._opener,
            self._stopper,
        ):
            worker.cancel()
        self._session.dataset_changed.disconnect(self._show_dataset, missing_ok=True)

    def _show_dataset(self, path: str) -> None:
        self._view.dataset_picker.set_path(Path(path))
        self._suggest_folder()

        def show(report: dict[str, Any]) -> None:
            classes = ", ".join(f"{n} {name}" for name, n in report["classes"].items())
            self._view.dataset_note.setText(
                f"{report['patches']} patches of {report['size_px']} px: {classes}"
            )

        self._dataset_reader.submit(lambda _: PatchDataset(path).report(), show)

    def _suggest_folder(self, *_: object) -> None:
        dataset = self._view.dataset_picker.path
        if dataset is None:
            return
        wants_generator = self._view.wants_generator
        self._view.out_picker.edit.clear()  # what was suggested before may be of the other kind

        def show(folder: Path) -> None:
            if self._view.out_picker.path is None:  # else the user has named one meanwhile
                self._view.out_picker.set_path(folder)

        self._suggester.submit(lambda _: _free_folder(dataset, wants_generator=wants_generator), show)

    def _start(self) -> None:
        values = self._view.form_values()
        dataset, out = self._view.dataset_picker.path, self._view.out_picker.path
        wants_generator, preset_name = self._view.wants_generator, self._view.preset
        self._view.start_button.setEnabled(False)

        def work(_: Callable[[], bool]) -> Path:
            if dataset is None:
                msg = "A run needs a dataset; cut one in the Patches dock, or choose its folder first."
                raise DatasetError(msg)
            # None where Start was quicker than the suggestion.
            folder = out or _free_folder(dataset, wants_generator=wants_generator)
            base = preset(preset_name) if wants_generator else ClassifierConfig()
            config = base.with_changes(size_px=PatchDataset(dataset).size_px, **values)
            run = new_training(dataset, folder, config)
            launch(run)
            return run.path

        def show(path: Path) -> None:
            self._view.start_button.setEnabled(True)
            self._suggest_folder()
            self.watch(path)
            self._session.runs_changed.emit()

        self._starter.submit(work, show)

    def _stop(self) -> None:
        run = self._run
        if run is not None:
            self._stopper.submit(lambda _: run.request_stop(), lambda _: None)

    def _resume(self) -> None:
        run = self._run
        # A second click, or one while a run is started, would take the first one's place and be refused.
        if run is not None and not self._starter.is_busy:
            self._starter.submit(lambda _: resume(run), lambda _: self.watch(run.path))

    def watch(self, path: Path) -> None:
        """Show a run, from its first event on."""
        if self._watcher is not None:
            self._watcher.quit()
        self._run, self._watcher = None, None
        self._view.plot.clear_losses()
        self._view.set_sample(None)
        self._view.set_progress(0, 1)
        self._view.set_state("", can_stop=False, can_resume=False)
        self._opener.submit(lambda _: Run(path), self._follow)

    def _follow(self, run: Run) -> None:
        self._run = run
        worker = create_worker(_watch, run)
        worker.yielded.connect(lambda news: self._show_news(worker, *news))
        self._watcher = worker
        worker.start()
        self._list_runs()

    def _show_news(
        self,
        worker: GeneratorWorker[Any, Any, Any],
        status: RunStatus,
        events: list[RunEvent],
        sample: NDArray[np.uint8] | None,
    ) -> None:
        if worker is not self._watcher or self._run is None:  # of a run that is no longer shown
            return
        for event in events:
            if event.losses:
                self._view.plot.add_losses(event.step, event.losses)
        self._view.plot.redraw()
        if sample is not None:
            self._view.set_sample(sample)
        ended = status.state in ENDED
        self._view.set_progress(status.step, status.steps or (1 if ended else 0))
        self._view.set_state(
            described(status),
            can_stop=status.state in ("running", "starting"),
            can_resume=ended and status.state != "finished",
        )
        if ended:
            if status.state == "failed":
                show_error(f"The run {self._run.path.name} failed: {status.message}")
            self._list_runs()
            self._session.runs_changed.emit()

    def _list_runs(self) -> None:
        current = str(self._run.path) if self._run else None

        def work(_: Callable[[], bool]) -> list[tuple[str, str]]:
            listed = []
            for path in known_runs():
                try:
                    run = Run(path)
                except UserError:
                    continue
                if run.kind == EXTRACT:  # the Patches dock's
                    continue
                listed.append(
                    (f"{path.name} ({_KIND_NAMES.get(run.kind, run.kind)}, {run.status().state})", str(path))
                )
            return listed

        self._lister.submit(work, lambda runs: self._view.set_runs(runs, current))


def _free_folder(dataset: Path, *, wants_generator: bool) -> Path:
    """Return a folder for a run beside its dataset, of a name that no other run has."""
    kind = "gan" if wants_generator else "classifier"
    taken, number = {path.name for path in known_runs()}, 1
    while (name := f"{dataset.name}-{kind}-{number}") in taken or (dataset.parent / name).exists():
        number += 1
    return dataset.parent / name


def _watch(run: Run) -> Iterator[tuple[RunStatus, list[RunEvent], NDArray[np.uint8] | None]]:
    """Yield what is new of a run until it has ended: in a thread, so that a slow disk holds up nothing."""
    offset, shown = 0, None
    while True:
        status = run.status()
        events, offset = run.events(offset)
        newest = status.data.get("sample")
        sample = None
        if newest and newest != shown:
            shown = newest
            try:
                sample = _shown_sample(run.path / newest)
            except OSError:  # taken away meanwhile: a picture less
                sample = None
        yield status, events, sample
        if status.state in ENDED or status.state == "new":
            return
        time.sleep(_POLL_SECONDS)


def _shown_sample(path: Path) -> NDArray[np.uint8]:
    """Return a sample picture as large as it is shown, with SYNTHETIC in its corner."""
    with Image.open(path) as image:
        # Before the word is drawn: scaled with the picture it could not be read.
        factor = SAMPLE_PX / max(image.size)
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX
        return marked(np.asarray(image.convert("RGB").resize(size, how)))


def described(status: RunStatus) -> str:
    """Return a run's state in words."""
    rate = status.data.get("images_per_second")
    losses = ", ".join(f"{name} {value:.2f}" for name, value in status.losses.items())
    metrics = status.data.get("metrics", {})
    parts = [
        f"{status.state.capitalize()}: step {status.step} of {status.steps}"
        if status.steps
        else status.state.capitalize()
    ]
    if losses:
        parts.append(losses)
    if rate and status.state == "running":
        parts.append(f"{rate:g} images/s on {status.data.get('device', '?')}")
    if "accuracy" in metrics:
        parts.append(f"accuracy {metrics['accuracy']:.3f} on {metrics['n']} held-out patches")
    if status.message:
        parts.append(status.message)
    return "; ".join(parts)
