"""What napari calls when a slide is dropped on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histolatent._napari._layers import slide_layer
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent._napari._layers import LayerData


def get_slide_reader(path: str | list[str]) -> Callable[[str | list[str]], list[LayerData]] | None:
    """Return the reader of slides; napari.yaml names the file patterns, so nothing is opened here."""
    return None if not path else read_slides


def read_slides(path: str | list[str]) -> list[LayerData]:
    """Return the layers of one or more slides.

    Raises
    ------
    SlideError
        If a file cannot be opened; napari shows the sentence as a notification.
    """
    paths = path if isinstance(path, list) else [path]
    return [slide_layer(open_slide(one)) for one in paths]
