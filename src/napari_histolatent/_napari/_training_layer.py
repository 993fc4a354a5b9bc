"""The sample pictures of a run as one image layer: its slider goes through training time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pint

from napari_histolatent._napari._dataset_layer import left_of
from napari_histolatent._napari._layers import KEY
from napari_histolatent._pictures import open_picture
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from napari_histolatent._napari._training_news import Frame

ROLE = "samples"
_MAX_BYTES = 192 << 20
"""Pictures in memory: of a long run some are left out, evenly."""


@dataclass(frozen=True)
class SampleStack:
    """Sample pictures of a run, oldest first."""

    run: Path
    frames: tuple[Frame, ...]
    pixels: NDArray[np.uint8]
    """Shape (n, height, width, 3)."""
    provenance: tuple[dict[str, Any], ...]
    """What each file says of itself."""


def read_stack(run: Path, frames: Sequence[Frame], known: SampleStack | None = None) -> SampleStack | None:
    """Read pictures, those that are known already excepted; None if none can be read. For a thread.

    Parameters
    ----------
    run
        Folder of the run.
    frames
        Its pictures, oldest first.
    known
        What was read of the run before.
    """
    _warm_units()
    before = {frame: i for i, frame in enumerate(known.frames)} if known is not None else {}
    chosen: list[Frame] = []
    pictures: list[NDArray[np.uint8]] = []
    provenance: list[dict[str, Any]] = []
    wanted = list(frames)
    while wanted:
        frame = wanted.pop(0)
        try:
            if frame in before and known is not None:
                picture, words = known.pixels[before[frame]], known.provenance[before[frame]]
            else:
                picture, words = open_picture(frame.path)
        except UserError:  # taken away meanwhile
            continue
        if not pictures:
            wanted = thinned(wanted, _MAX_BYTES // max(1, picture.nbytes))
        elif picture.shape != pictures[0].shape:
            continue
        chosen.append(frame)
        pictures.append(picture)
        provenance.append(words)
    if not pictures:
        return None
    return SampleStack(run, tuple(chosen), np.stack(pictures), tuple(provenance))


def _warm_units() -> None:
    """Have pint read its units here: the first layer that has some would do so on the UI thread, for 0.3 s."""
    registry = pint.get_application_registry()  # type: ignore[no-untyped-call]
    for name in ("pixel", "micrometer"):
        registry.Unit(name)


def thinned(frames: Sequence[Frame], most: int) -> list[Frame]:
    """Return at most so many frames, evenly over time, the newest among them."""
    if len(frames) <= most:
        return list(frames)
    places = np.unique(np.linspace(len(frames) - 1, 0, max(1, most)).round().astype(int))
    return [frames[i] for i in places]


class SampleLayer:
    """Shows a run's sample pictures in a viewer, and tells when another one is looked at.

    Parameters
    ----------
    viewer
        The viewer.
    on_moved
        Called with the frame that the viewer's slider was moved to.
    on_removed
        Called when the user took the layer away.
    """

    def __init__(
        self, viewer: Any, *, on_moved: Callable[[Frame], None], on_removed: Callable[[], None]
    ) -> None:
        self._viewer, self._on_moved, self._on_removed = viewer, on_moved, on_removed
        self._layer: Any = None
        self._stack: SampleStack | None = None
        self._given_name = ""
        self._is_quiet = False
        viewer.dims.events.current_step.connect(self._on_dims)
        viewer.layers.events.removed.connect(self._on_layer_removed)

    def close(self) -> None:
        """Hear no more; the layer stays, as what the user wanted to see."""
        self._viewer.dims.events.current_step.disconnect(self._on_dims)
        self._viewer.layers.events.removed.disconnect(self._on_layer_removed)

    @property
    def stack(self) -> SampleStack | None:
        """What is shown."""
        return self._stack if self._layer is not None else None

    def show(self, stack: SampleStack) -> None:
        """Show pictures: in the layer that is there, or a new one. The newest is followed, if it was looked at.

        A name that the user gave the layer stays, and so does the viewer's slider where another layer uses it.
        """
        was_last = self._stack is None or self._index() == len(self._stack.frames) - 1
        self._is_quiet = True
        try:
            if self._layer is None:
                self._add(stack)
            elif stack.pixels.shape != self._layer.data.shape or stack.frames != getattr(
                self._stack, "frames", None
            ):
                self._layer.data = stack.pixels
                if self._layer.name == self._given_name:
                    self._layer.name = _name(stack)
                    self._given_name = self._layer.name
                self._layer.metadata = _metadata(stack)
            self._stack = stack
            if was_last:
                self._go_to(len(stack.frames) - 1)
        finally:
            self._is_quiet = False

    def go_to(self, frame: Frame) -> None:
        """Show the picture of a frame, or the one before it where that was left out."""
        if self._stack is None or self._layer is None:
            return
        earlier = [i for i, known in enumerate(self._stack.frames) if known.step <= frame.step]
        self._is_quiet = True
        try:
            self._go_to(earlier[-1] if earlier else 0)
        finally:
            self._is_quiet = False

    def remove(self) -> None:
        """Take the layer away."""
        layer, self._layer, self._stack = self._layer, None, None
        if layer is not None and layer in self._viewer.layers:
            self._viewer.layers.remove(layer)

    def _add(self, stack: SampleStack) -> None:
        height, width = stack.pixels.shape[1:3]
        # Beside what is there, in its unit; of the patches' own size nothing is said: they lie on no slide.
        extent = self._viewer.layers.extent.world if len(self._viewer.layers) else None
        step = float(extent[1][-2] - extent[0][-2]) / height / 2 if extent is not None else 1.0
        units = str(self._viewer.layers[0].units[-1]) if len(self._viewer.layers) else "pixel"
        left = left_of(self._viewer, width * step)
        self._layer = self._viewer.add_image(
            stack.pixels,
            name=_name(stack),
            rgb=True,
            axis_labels=("sample", "y", "x"),
            scale=(1.0, step, step),
            translate=(0.0, step / 2, left + step / 2),
            units=("pixel", units, units),
            interpolation2d="nearest",
            contrast_limits=(0, 255),
            metadata=_metadata(stack),
        )
        self._given_name = self._layer.name  # with a number, where there is another of that name
        self._viewer.reset_view(layers=[self._layer])

    def _index(self) -> int:
        if self._layer is None or self._viewer.dims.ndim < 3:
            return 0
        point = self._viewer.dims.point[-3]
        return round(float(self._layer.world_to_data((point, 0, 0))[0]))

    def _go_to(self, index: int) -> None:
        if self._viewer.dims.ndim >= 3 and not self._is_shared():
            self._viewer.dims.set_point(self._viewer.dims.ndim - 3, float(index))

    def _is_shared(self) -> bool:
        """Return whether another layer lies along the slider too: it is then the user's alone."""
        return any(layer.ndim >= 3 for layer in self._viewer.layers if layer is not self._layer)

    def _on_dims(self, *_: object) -> None:
        if self._is_quiet or self._layer is None or self._stack is None:
            return
        index = self._index()
        if 0 <= index < len(self._stack.frames):
            self._on_moved(self._stack.frames[index])

    def _on_layer_removed(self, event: Any) -> None:
        if self._layer is not None and event.value is self._layer:
            self._layer, self._stack = None, None
            self._on_removed()


def _name(stack: SampleStack) -> str:
    return f"SYNTHETIC samples {stack.run.name}"


def _metadata(stack: SampleStack) -> dict[str, Any]:
    frames = [
        {"step": frame.step, **words} for frame, words in zip(stack.frames, stack.provenance, strict=True)
    ]
    return {KEY: {"role": ROLE, "synthetic": True, "run": str(stack.run), "frames": frames}}
