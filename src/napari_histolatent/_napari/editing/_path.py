"""The images along a path and what a classifier sees in them, some at a time: no Qt and no napari, run in a thread."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_histolatent._napari._editing import Models, seen_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari_histolatent._napari._editing import Seen
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator

FRAMES = 33
"""Images along the slider, both ends included."""

AUTO = "auto"
"""The kind of path that suits the generator's prior."""


@dataclass(frozen=True, eq=False)
class PathRequest:
    """A path through latent points, and what is to be seen of it."""

    generator: LoadedGenerator
    keys: tuple[Tile, ...]
    """Two tiles or more that have a point of the generator. Their pixels are not looked at."""
    kind: str = AUTO
    """`AUTO`, or one of `latent.paths.PATHS`."""
    timing: str = "pixels"
    """One of `latent.blend.TIMINGS`."""
    classifier: LoadedClassifier | None = None
    """Whose heatmaps and probabilities go with the images."""
    evidence_for: str | None = None
    """Class whose evidence is mapped; None: the one that is seen in each image."""
    layer: str | None = None
    """Of the classifier, for Grad-CAM; None: its own."""
    residual_on: Tile | None = None
    """A real tile onto which each image's change from the first is put."""

    def is_same_as(self, other: PathRequest | None) -> bool:
        """Whether another asks for the very same; by identity, for pixels are not compared on the UI thread."""
        return (
            other is not None
            and len(self.keys) == len(other.keys)
            and all(a is b for a, b in zip(self.keys, other.keys, strict=True))
            and self.generator is other.generator
            and self.classifier is other.classifier
            and self.residual_on is other.residual_on
            and (self.kind, self.timing, self.evidence_for, self.layer)
            == (other.kind, other.timing, other.evidence_for, other.layer)
        )


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a path."""

    tile: Tile
    seen: Seen
    index: int
    t: float
    """Its place on the path, from 0 to 1."""


class PathDrawer:
    """Draws the images of one path, as many and in such an order as it is asked. Of one thread at a time.

    Where the images lie so that they change evenly is found out once, before the first image between the ends.

    Parameters
    ----------
    request
        Which path.
    n_frames
        How many images it has, both ends included.
    should_stop
        Asked while the path is looked at; a drawer that was stopped returns no more frames.
    """

    def __init__(
        self, request: PathRequest, n_frames: int = FRAMES, *, should_stop: Callable[[], bool] | None = None
    ) -> None:
        self._request, self._n_frames, self._should_stop = request, n_frames, should_stop
        self._kind = None if request.kind == AUTO else request.kind
        self._ts: list[float] = []
        self._first: Tile | None = None

    def __call__(self, indices: Sequence[int]) -> list[Frame]:
        """Return frames of the path.

        Raises
        ------
        UserError
            If the request is no path (`jobs.edits.path_tiles`), or the classifier cannot look at its images.
        """
        from napari_histolatent.jobs import edits

        request = self._request
        ts = self._places(indices)
        if len(ts) < len(indices):
            return []
        tiles = edits.drawn_tiles(request.generator, request.keys, ts, kind=self._kind)
        tiles = [
            replace(self._onto_the_tile(tile), name=f"{request.keys[0].name}_frame_{index:03d}")
            for index, tile in zip(indices, tiles, strict=True)
        ]
        models = Models(request.generator, request.classifier)
        seen = seen_in(models, tiles, request.evidence_for, layer=request.layer)
        return [Frame(*parts) for parts in zip(tiles, seen, indices, ts, strict=True)]

    def _places(self, indices: Sequence[int]) -> list[float]:
        """Return where the frames lie, from 0 to 1; fewer if stopped. The ends are where they are in any timing."""
        from napari_histolatent.jobs import edits

        ends = {0: 0.0, self._n_frames - 1: 1.0}
        if not self._ts and all(index in ends for index in indices):
            return [ends[index] for index in indices]
        if not self._ts:
            request = self._request
            self._ts = edits.path_times(
                request.generator,
                request.keys,
                frames=self._n_frames,
                kind=self._kind,
                timing=request.timing,
                classifier=request.classifier,
                should_stop=self._should_stop,
            )
        return [self._ts[index] for index in indices] if self._ts else []

    def _onto_the_tile(self, tile: Tile) -> Tile:
        from napari_histolatent.jobs import edits
        from napari_histolatent.latent.blend import residual_edit

        request = self._request
        if request.residual_on is None:
            return tile
        if self._first is None:
            (self._first,) = edits.drawn_tiles(request.generator, request.keys, [0.0], kind=self._kind)
        pixels = residual_edit(request.residual_on.pixels, self._first.pixels, tile.pixels)
        return replace(tile, pixels=pixels, residual=1.0)
