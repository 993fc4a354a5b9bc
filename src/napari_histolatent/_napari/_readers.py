"""What napari calls when a slide is dropped on it, or opened from its menu or a script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import napari

from napari_histolatent._napari._opening import is_loop_running, open_and_wait, open_in, prepare
from napari_histolatent._napari.viewing import expected

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent._napari._layers import LayerData

NOTHING_TO_ADD: list[tuple[Any]] = [(None,)]
"""npe2's own word for it: napari answers an empty list with an error."""


def get_slide_reader(path: str | list[str]) -> Callable[[str | list[str]], list[Any]] | None:
    """Return the reader of slides; napari.yaml names the file patterns, so nothing is opened here."""
    return None if not path else read_slides


def read_slides(path: str | list[str]) -> list[LayerData] | list[tuple[Any]]:
    """Return the layers of the slides that can be read; a sentence is shown for each other file.

    Where the user dropped them on the window they are opened beside it, and added when they are there: the
    window may not stand still for a slow disk. A script gets its layers at once.
    """
    paths = path if isinstance(path, list) else [path]
    viewer = napari.current_viewer()
    if viewer is not None and is_loop_running():
        open_in(viewer, paths)
        return NOTHING_TO_ADD
    if viewer is not None:
        prepare(viewer)
        return expected(open_and_wait(paths, viewer=viewer)) or NOTHING_TO_ADD
    return open_and_wait(paths) or NOTHING_TO_ADD
