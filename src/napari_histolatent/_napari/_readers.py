"""What napari calls when a slide or a dataset is dropped on it, or opened from its menu or a script."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari

from napari_histolatent._napari._dataset_layer import caption_stacks, dataset_layer, open_dataset
from napari_histolatent._napari._opening import is_loop_running, open_and_wait, open_in, prepare, wait_for
from napari_histolatent._napari._workers import run_safely
from napari_histolatent._napari.viewing import expected
from napari_histolatent.patches import PatchDataset

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


def get_dataset_reader(path: str | list[str]) -> Callable[[str | list[str]], list[Any]] | None:
    """Return the reader of patch datasets, named by their dataset.json.

    A folder cannot be told from another before it is opened: napari would ask at every folder which reader to take.
    """
    return None if not path else read_datasets


def read_datasets(path: str | list[str]) -> list[LayerData] | list[tuple[Any]]:
    """Return a stack for each dataset.json that can be read; a sentence is shown for each other."""
    folders = [Path(one).absolute().parent for one in (path if isinstance(path, list) else [path])]
    viewer = napari.current_viewer()
    if viewer is not None and is_loop_running():
        for folder in folders:
            open_dataset(viewer, folder)
        return NOTHING_TO_ADD
    if viewer is not None:
        caption_stacks(viewer)
    found = [_stack_of(folder) for folder in folders]
    return [layer for layer in found if layer is not None] or NOTHING_TO_ADD


def _stack_of(folder: Path) -> LayerData | None:
    layer: LayerData | None = run_safely(
        lambda: wait_for(lambda: dataset_layer(PatchDataset(folder)), f"Opening {folder.name}")
    )
    return layer
