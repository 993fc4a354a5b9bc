"""Opening slides: in a thread, with the window alive, and whatever hangs or fails said in one sentence."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from napari.utils import progress
from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QEventLoop, QObject, QThread, QTimer, Signal
from qtpy.QtWidgets import QApplication

from napari_histolatent._napari._layers import KEY, slide_layers
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari._settings import apply_cache_cap
from napari_histolatent._napari.viewing import add_slide, attach
from napari_histolatent.errors import UserError
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_histolatent._napari._layers import LayerData

SLIDE_FILES = "Slides (*.svs *.ndpi *.mrxs *.scn *.bif *.vms *.vmu *.svslide *.tif *.tiff *.btf *.qptiff *.dcm);;All files (*)"
"""What file dialogs offer."""

_OVERVIEW_SECONDS = 0.6
"""For so long an overview is waited for; what is missing of it then appears bit by bit."""
_SLOW_MS = 3000
_LONGEST_WAIT_MS = 10_000
_PROGRESS_MS = 400
"""What is opened sooner needs no progress bar: drawing one costs more than that takes."""

_openings: set[Opening] = set()
Found = TypeVar("Found")


@dataclass(frozen=True)
class Opened:
    """A slide that was opened, as layers, or why it was not."""

    location: str
    layers: tuple[LayerData, ...] = ()
    digest: str = ""
    error: Exception | None = None


def opened(location: str, *, overview_seconds: float = _OVERVIEW_SECONDS) -> Opened:
    """Open one slide. What the user can mend, and what cannot, are both in the result."""
    try:
        slide = open_slide(location)
        layers = slide_layers(slide, overview_seconds=overview_seconds)
    except Exception as error:  # noqa: BLE001  # raised again on the UI thread, by `layers_of`
        return Opened(location, error=error)
    return Opened(location, tuple(layers), digest=slide.info.digest)


class Opening(QObject):
    """Slides being opened, each in a daemon thread: one that hangs on a lost disk holds up nothing else."""

    _one_done = Signal(object)

    def __init__(
        self, locations: Sequence[str], on_opened: Callable[[Opened], None], *, on_end: Callable[[], None]
    ) -> None:
        super().__init__()
        self._waiting = list(locations)
        self._on_opened, self._on_end = on_opened, on_end
        self._digests: set[str] = set()
        self._cancelled = False
        self._progress: Any = None
        self._one_done.connect(self._take)
        self._slow = QTimer(self)
        self._slow.setSingleShot(True)
        self._slow.timeout.connect(self._say_slow)
        self._slow.start(_SLOW_MS)
        self._bar = QTimer(self)
        self._bar.setSingleShot(True)
        self._bar.timeout.connect(self._show_progress)
        self._bar.start(_PROGRESS_MS)
        _openings.add(self)
        for location in locations:
            threading.Thread(
                target=self._open, args=(location,), name="histolatent-opener", daemon=True
            ).start()
        if not self._waiting:
            self._finish()

    @property
    def is_going_on(self) -> bool:
        """Whether anything is still being opened."""
        return self in _openings

    @property
    def names(self) -> list[str]:
        """What is still being opened."""
        return [_names([location]) for location in self._waiting]

    def cancel(self) -> None:
        """Forget what is still being opened."""
        self._cancelled = True
        self._finish()

    def _open(self, location: str) -> None:
        result = opened(location)
        try:
            self._one_done.emit(result)
        except RuntimeError:  # the window went away meanwhile
            return

    def _take(self, result: Opened) -> None:
        if self._cancelled:
            return
        self._waiting.remove(result.location)
        try:
            if not _is_repeated(result, self._digests):
                self._on_opened(result)
        finally:
            if not self._waiting:
                self._finish()

    def _finish(self) -> None:
        if self in _openings:
            _openings.discard(self)
            self._slow.stop()
            self._bar.stop()
            if self._progress is not None:
                self._progress.close()
            self._on_end()

    def _show_progress(self) -> None:
        shown = progress(total=0, desc=f"Opening {_names(self._waiting)}")
        # napari draws while it makes one: the last slide may have come meanwhile.
        if self.is_going_on:
            self._progress = shown
        else:
            shown.close()

    def _say_slow(self) -> None:
        show_info(
            f"Still opening {_names(self._waiting)}: a slow network disk, or one that is gone? "
            "The window stays usable; the slide appears when it comes."
        )


def layers_of(result: Opened) -> list[LayerData]:
    """Return the layers, after a notification none; a fault of ours is raised."""
    if result.error is None:
        return list(result.layers)
    if not isinstance(result.error, UserError):
        raise result.error
    show_error(str(result.error))
    return []


def prepare(viewer: Any) -> None:
    """Have a viewer look after slides, and show their size: one without a scale bar says nothing of it."""
    attach(viewer)
    session_of(viewer)  # brings back the regions that were drawn on a slide before
    apply_cache_cap()
    viewer.canvas.overlays.scale_bar.visible = True


def open_in(viewer: Any, locations: Sequence[str], *, on_end: Callable[[], None] = lambda: None) -> Opening:
    """Open slides beside the UI thread and add them to a viewer."""
    prepare(viewer)

    return Opening(locations, lambda result: _add(viewer, result), on_end=on_end)


def _add(viewer: Any, result: Opened) -> None:
    if _is_there(viewer):
        layers = layers_of(result)
        if layers:
            add_slide(viewer, layers)


def open_and_wait(locations: Sequence[str], *, viewer: Any = None) -> list[LayerData]:
    """Return the layers of slides; where there is a window it goes on drawing meanwhile.

    After some seconds the window is given back to the user, and what comes later is added to `viewer`.
    """
    if QApplication.instance() is None:
        digests: set[str] = set()
        found = [opened(location, overview_seconds=math.inf) for location in locations]
        return [one for result in found if not _is_repeated(result, digests) for one in layers_of(result)]
    results: list[Opened] = []
    loop = QEventLoop()

    def take(result: Opened) -> None:
        if loop.isRunning() or viewer is None:
            results.append(result)
        else:
            _add(viewer, result)

    opening = Opening(locations, take, on_end=loop.quit)
    if opening in _openings:
        if viewer is not None:
            QTimer.singleShot(_LONGEST_WAIT_MS, loop.quit)
        loop.exec(QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents)
    results.sort(key=lambda result: list(locations).index(result.location))
    return [layer for result in results for layer in layers_of(result)]


def wait_for(work: Callable[[], Found], description: str | None) -> Found:
    """Return `work()`, done in a thread; where there is a window it goes on drawing meanwhile.

    Without a description there is no bar: for work that shows its own. A bar without an end is drawn all the time, and
    the canvas with it: where software draws, it took four times the processor of the work.
    """
    if QApplication.instance() is None:
        return work()
    loop, shown = QEventLoop(), progress(total=0, desc=description) if description else None
    results: list[tuple[Any, Exception | None]] = []
    done = _Done()
    done.arrived.connect(loop.quit)

    def run() -> None:
        try:
            results.append((work(), None))
        except Exception as error:  # noqa: BLE001  # raised again below
            results.append((None, error))
        done.arrived.emit()

    threading.Thread(target=run, name="histolatent-waited-for", daemon=True).start()
    loop.exec(QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents)
    if shown is not None:
        shown.close()
    ((result, error),) = results
    if error is not None:
        raise error
    return cast("Found", result)


class _Done(QObject):
    arrived = Signal()


def is_loop_running() -> bool:
    """Return whether the user is at the mouse: napari's event loop runs, and nobody waits for a result."""
    thread = QThread.currentThread() if QApplication.instance() is not None else None
    return thread is not None and thread.loopLevel() > 0


def _is_there(viewer: Any) -> bool:
    """Return whether a viewer's window was not closed; a viewer that never had one counts as there."""
    window = getattr(getattr(viewer, "__wrapped__", viewer), "window", None)
    if window is None:
        return True
    try:
        window.geometry()
    except (AttributeError, RuntimeError):  # napari's own words for a window that was closed
        return False
    return True


def _is_repeated(result: Opened, digests: set[str]) -> bool:
    """Return whether a slide was met before, and remember it: several files of one DICOM series are one slide."""
    if not result.layers:
        return False
    ours = result.layers[-1][1]["metadata"][KEY]
    is_repeated = ours["vendor"] == "dicom" and result.digest in digests
    digests.add(result.digest)
    return is_repeated


def _names(locations: Sequence[str]) -> str:
    return ", ".join(Path(location).name or location for location in locations)
