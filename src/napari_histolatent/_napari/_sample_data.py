"""File > Open Sample: a small real slide, and a drawn one that needs no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import napari

from napari_histolatent._files import data_folder
from napari_histolatent._napari._opening import open_and_wait, prepare, wait_for
from napari_histolatent._napari.viewing import expected
from napari_histolatent.errors import SlideError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent._napari._layers import LayerData


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
    return _layers(_synthetic)


def _layers(get: Callable[[], Path]) -> list[LayerData]:
    viewer = napari.current_viewer()
    layers = open_and_wait([str(wait_for(get, "Getting the sample slide"))])
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
