"""File > Open Sample: a small real slide, and two that need no network: a drawn one, and a generator's samples."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import napari
from napari.utils import progress
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication

from napari_histolatent._files import data_folder
from napari_histolatent._napari._layers import KEY
from napari_histolatent._napari._opening import open_and_wait, prepare, wait_for
from napari_histolatent._napari.viewing import expected
from napari_histolatent.errors import SlideError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari_histolatent._napari._layers import LayerData

_LOOK_MS = 200


def cmu_slide() -> list[LayerData]:
    """Return CMU-1-Small-Region (OpenSlide, CC0; 2 MB), downloaded once.

    Raises
    ------
    SlideError
        If it cannot be downloaded.
    """
    return _layers(_cmu)


def synthetic_slide() -> list[LayerData]:
    """Return a slide that the program draws, named SYNTHETIC."""
    return _marked(_layers(_synthetic))


def generated_slide() -> list[LayerData]:
    """Return a slide of the shipped generator's samples, named SYNTHETIC; it is written when first asked for.

    Raises
    ------
    CheckpointError
        If this version ships no generator.
    """
    rows = _RowsDone()
    with rows.shown("Drawing a synthetic slide"):
        layers = _layers(lambda: _generated(rows), description=None)
    return _marked(layers)


class _RowsDone:
    """How far a slide is drawn: set by the thread that draws, looked at now and then by the window."""

    def __init__(self) -> None:
        self.done, self.total = 0, 0

    def __call__(self, done: int, total: int) -> None:
        self.done, self.total = done, total

    @contextmanager
    def shown(self, title: str) -> Iterator[None]:
        """Show a bar while something is being drawn; none where there is no window, or it was drawn before."""
        if QApplication.instance() is None:
            yield
            return
        bars: list[Any] = []

        def look() -> None:
            if not bars:
                bars.append(progress(total=self.total or 1, desc=title))
            for bar in bars:
                if self.total and bar.total != self.total:
                    bar.total = self.total
                bar.update(self.done - bar.n)

        timer = QTimer()
        timer.timeout.connect(look)
        timer.start(_LOOK_MS)
        try:
            yield
        finally:
            timer.stop()
            for bar in bars:
                bar.close()


def _marked(layers: list[LayerData]) -> list[LayerData]:
    for _, options, _ in layers:
        options["metadata"][KEY]["synthetic"] = True
    return layers


def _layers(
    get: Callable[[], Path], *, description: str | None = "Getting the sample slide"
) -> list[LayerData]:
    viewer = napari.current_viewer()
    layers = open_and_wait([str(wait_for(get, description))])
    if viewer is None:
        return layers
    prepare(viewer)
    return expected(layers)


def _cmu() -> Path:
    from napari_histolatent.jobs.demo_slide import downloaded_slide

    try:
        return downloaded_slide()
    except (OSError, ValueError) as error:
        msg = (
            f"The sample slide could not be downloaded ({type(error).__name__}); check the network, "
            "or open the sample Synthetic slide, which needs none."
        )
        raise SlideError(msg) from error


def _synthetic() -> Path:
    from napari_histolatent.slides import write_synthetic_slide

    path = data_folder() / "samples" / "SYNTHETIC-slide.tif"
    if not path.exists():
        write_synthetic_slide(path)
    return path


def _generated(on_progress: Callable[[int, int], None]) -> Path:
    from napari_histolatent.training.checkpoint import Checkpoint
    from napari_histolatent.training.shipped import shipped_of_kind

    folder = shipped_of_kind("gan")
    # Another version of the package draws another slide; what was drawn on the old one stays with it.
    path = data_folder() / "samples" / f"SYNTHETIC-lung-{Checkpoint.open(folder).digest[:8]}.tif"
    if not path.exists():
        from napari_histolatent.jobs.sample_slide import write_generated_slide
        from napari_histolatent.training.load import load_generator

        write_generated_slide(path, load_generator(folder, device="cpu"), on_progress=on_progress)
    return path
