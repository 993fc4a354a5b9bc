"""What napari calls when a slide is dropped on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.utils.notifications import show_error

from napari_histolatent._napari._layers import slide_layer
from napari_histolatent.errors import SlideError
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from napari_histolatent._napari._layers import LayerData


def get_slide_reader(path: str | list[str]) -> Callable[[str | list[str]], list[Any]] | None:
    """Return the reader of slides; napari.yaml names the file patterns, so nothing is opened here."""
    return None if not path else read_slides


def read_slides(path: str | list[str]) -> list[LayerData] | list[tuple[Any]]:
    """Return the layers of the slides that can be read; a sentence is shown for each other file.

    Without any it is npe2's "nothing to add": napari answers an error with a dialog that asks for another reader.
    """
    layers = []
    for one in path if isinstance(path, list) else [path]:
        try:
            layers.append(slide_layer_of(one))
        except SlideError as error:
            show_error(str(error))
    return layers or [(None,)]


def slide_layer_of(path: str) -> LayerData:
    """Open a slide and return its layer.

    Raises
    ------
    SlideError
        If it cannot be opened, or its pixels cannot be read.
    """
    slide = open_slide(path)
    try:
        return slide_layer(slide)
    except SlideError:
        slide.close()
        raise
