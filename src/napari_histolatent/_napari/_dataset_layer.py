"""A patch dataset as a stack in napari: a slider goes through the patches, each read when it is shown."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import napari
import numpy as np
from napari.utils.notifications import show_error
from qtpy.QtWidgets import QFileDialog

from napari_histolatent._napari._layers import KEY
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.patches import PatchDataset

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_histolatent._napari._layers import LayerData

ROLE = "dataset"

_UNREADABLE = 128
"""Grey in place of a patch that cannot be read."""
_MAX_BYTES = 2 << 30
"""So much of a stack may be read at once; more is a mistake of whoever asks, not a wish."""

_captions: weakref.WeakKeyDictionary[Any, PatchCaption] = weakref.WeakKeyDictionary()
_openers: weakref.WeakKeyDictionary[Any, LatestWorker] = weakref.WeakKeyDictionary()


class PatchStack:
    """The patches of a dataset as an array: uint8, shape (n, size_px, size_px, 3), read when indexed.

    Parameters
    ----------
    dataset
        The dataset.
    on_error
        Told the sentence where patches cannot be read, which are then grey: napari's slicing knows no errors.
        None: the error is raised.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, dataset: PatchDataset, *, on_error: Callable[[str], None] | None = None) -> None:
        self.dataset = dataset
        self.shape = (len(dataset), dataset.size_px, dataset.size_px, 3)
        self._on_error = on_error

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        keys = key if isinstance(key, tuple) else (key,)
        if Ellipsis in [k for k in keys if k is Ellipsis]:
            at = next(i for i, k in enumerate(keys) if k is Ellipsis)
            keys = (*keys[:at], *(slice(None),) * (self.ndim - len(keys) + 1), *keys[at + 1 :])
        first, rest = (keys[0], keys[1:]) if keys else (slice(None), ())
        rows = np.arange(len(self))[first]
        pixels = self._read(np.atleast_1d(rows).ravel())
        pixels = pixels.reshape(*rows.shape, *self.shape[1:])
        return pixels[(slice(None),) * rows.ndim + tuple(rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        pixels = self[:]
        return pixels if dtype is None else pixels.astype(dtype, copy=False)

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        n_bytes = len(rows) * math.prod(self.shape[1:])
        if n_bytes > _MAX_BYTES:
            msg = f"{len(rows):,} patches at once are {n_bytes / 1e9:.1f} GB; read fewer."
            raise DatasetError(msg)
        try:
            return self.dataset.read(rows)
        except UserError as error:
            if self._on_error is None:
                raise
            self._on_error(str(error))
            return np.full((len(rows), *self.shape[1:]), _UNREADABLE, np.uint8)

    def caption(self, row: int) -> str:
        """Return what is known of a patch, in two lines: number, label and split; slide and level-0 corner."""
        columns = self.dataset.columns
        label, split, digest = (str(columns[name][row]) for name in ("label", "split", "slide"))
        names = {entry["digest"]: entry.get("name") for entry in self.dataset.settings["slides"]}
        where = names.get(digest) or ""
        if where and math.isfinite(columns["width_level0_px"][row]):
            where = f"{where} at x {columns['x'][row]:,}, y {columns['y'][row]:,}"
        first = f"patch {row:,}: " + ", ".join(part for part in (label or "no label", split) if part)
        return f"{first}\n{where}".rstrip()


def dataset_layer(dataset: PatchDataset) -> LayerData:
    """Return a dataset as a layer of three axes, patch, y and x.

    It lies on no slide; its world is in micrometres where the dataset has a pixel size. The index is read here,
    the pixels are not.

    Raises
    ------
    DatasetError
        If the index cannot be read, or the dataset has no patches.
    """
    if len(dataset) == 0:
        msg = f"{dataset.path} has no patches to show; cut or relabel it first."
        raise DatasetError(msg)
    columns = dataset.columns
    step = dataset.mpp or 1.0
    unit = "um" if dataset.mpp else "pixel"
    options = {
        "name": dataset.path.absolute().name,
        "rgb": True,
        "multiscale": False,
        "axis_labels": ("patch", "y", "x"),
        "scale": (1.0, step, step),
        # napari puts a pixel's centre at its number.
        "translate": (0.0, step / 2, step / 2),
        "units": ("pixel", unit, unit),
        "interpolation2d": "nearest",
        "metadata": {
            KEY: {"role": ROLE, "path": str(dataset.path.absolute()), "digest": dataset.digest},
            "label": columns["label"],
            "split": columns["split"],
            "slide": columns["slide"],
        },
    }
    return PatchStack(dataset, on_error=_Once(show_error)), options, "image"


class _Once:
    """Says each sentence once: a slider over patches of a slide that is gone would say it at every step."""

    def __init__(self, say: Callable[[str], Any]) -> None:
        self._say, self._said = say, set[str]()

    def __call__(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self._say(sentence)


class PatchCaption:
    """Says on the canvas which patch of the topmost visible stack is shown."""

    def __init__(self, viewer: Any) -> None:
        # Weak: the viewer is the key that keeps this.
        self._viewer = weakref.ref(viewer)
        self._before: dict[str, Any] | None = None
        """The text of somebody else, which comes back when no stack is shown."""
        viewer.dims.events.current_step.connect(self._show)
        viewer.layers.events.inserted.connect(self._on_inserted)
        viewer.layers.events.removed.connect(self._show)
        viewer.layers.events.reordered.connect(self._show)
        for layer in viewer.layers:
            self._follow(layer)
        self._show()

    def _on_inserted(self, event: Any) -> None:
        self._follow(event.value)
        self._show()

    def _follow(self, layer: Any) -> None:
        if is_stack(layer):
            layer.events.visible.connect(self._show)

    def _show(self, *_: object) -> None:
        viewer = self._viewer()
        if viewer is None:
            return
        overlay = viewer.canvas.overlays.text
        shown = [layer for layer in viewer.layers if is_stack(layer) and layer.visible]
        if not shown:
            self._write(overlay, self._before or {})
            self._before = None
            return
        if self._before is None:
            self._before = {name: getattr(overlay, name) for name in ("text", "visible", "position")}
        layer = shown[-1]
        # The layer's first axis is the last but two of the world.
        step = viewer.dims.point[-3] if viewer.dims.ndim >= 3 else 0
        row = round(float(layer.world_to_data((step, 0, 0))[0]))
        text = layer.data.caption(row) if 0 <= row < len(layer.data) else ""
        self._write(overlay, {"text": text, "visible": True, "position": "top_left"})

    @staticmethod
    def _write(overlay: Any, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(overlay, name, value)


def is_stack(layer: Any) -> bool:
    """Return whether a layer shows a dataset."""
    return isinstance(layer.data, PatchStack)


def caption_stacks(viewer: Any) -> None:
    """Have a viewer say which patch is shown. Once is enough."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    if viewer not in _captions:
        _captions[viewer] = PatchCaption(viewer)


def open_dataset(viewer: Any, path: Path) -> LatestWorker:
    """Open a dataset beside the UI thread, put its stack beside what is there, and look at it."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    worker = _openers.setdefault(viewer, LatestWorker(in_turn=True))

    def show(layer: LayerData) -> None:
        caption_stacks(viewer)
        stack, options, _ = layer
        step = options["scale"][-1]
        left = left_of(viewer, stack.shape[2] * step)
        options["translate"] = (*options["translate"][:2], left + step / 2)
        added = viewer.add_image(stack, **options)
        viewer.dims.set_current_step(viewer.dims.ndim - 3, 0)
        viewer.reset_view(layers=[added])

    worker.submit(lambda _: dataset_layer(PatchDataset(path)), show)
    return worker


def left_of(viewer: Any, width: float) -> float:
    """Return where a stack of this width begins so that it covers nothing: left of all that is there."""
    if len(viewer.layers) == 0:
        return 0.0
    return float(viewer.layers.extent.world[0][-1]) - 1.25 * width


def choose_dataset() -> None:
    """Ask for a dataset's folder and open it as a stack."""
    viewer = napari.current_viewer()
    path = QFileDialog.getExistingDirectory(None, "Open a patch dataset as a stack")
    if viewer is not None and path:
        open_dataset(viewer, Path(path))
