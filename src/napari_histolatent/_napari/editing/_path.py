"""The images along a path and what a classifier sees in them, some at a time: no Qt and no napari, run in a thread."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
    """A real tile onto which each image's change is put."""
    residual_from: Tile | None = None
    """The generator's image of that tile, from which the change counts; None: the path's first image."""

    def is_same_as(self, other: PathRequest | None) -> bool:
        """Whether another asks for the very same; by identity, for pixels are not compared on the UI thread."""
        return (
            other is not None
            and self.has_images_of(other)
            and self.classifier is other.classifier
            and (self.evidence_for, self.layer) == (other.evidence_for, other.layer)
        )

    def has_images_of(self, other: PathRequest | None) -> bool:
        """Whether another asks for the very same images, whatever is to be seen in them."""
        return (
            other is not None
            and len(self.keys) == len(other.keys)
            and all(a is b for a, b in zip(self.keys, other.keys, strict=True))
            and self.generator is other.generator
            and self.residual_on is other.residual_on
            and self.residual_from is other.residual_from
            and (self.kind, self.timing) == (other.kind, other.timing)
            and (self.timing != "probability" or self.classifier is other.classifier)
        )


@dataclass(frozen=True, eq=False)
class Frame:
    """One image of a path."""

    tile: Tile
    seen: Seen
    index: int
    t: float
    """Its place on the path, from 0 to 1."""


@dataclass(eq=False)
class _Drawn:
    """What drawers of the same images share."""

    ts: list[float] = field(default_factory=list)
    first: Tile | None = None
    tiles: dict[int, Tile] = field(default_factory=dict)


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
    before
        A drawer that is asked no more. If it was of the same images, what it has drawn is not drawn again.
    """

    def __init__(
        self,
        request: PathRequest,
        n_frames: int = FRAMES,
        *,
        should_stop: Callable[[], bool] | None = None,
        before: PathDrawer | None = None,
    ) -> None:
        self._request, self._n_frames, self._should_stop = request, n_frames, should_stop
        self._kind = None if request.kind == AUTO else request.kind
        self._drawn: _Drawn = _Drawn()
        if before is not None and before._n_frames == n_frames and request.has_images_of(before._request):
            self._drawn = before._drawn

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
        known = self._drawn.tiles
        missing = {index: t for index, t in zip(indices, ts, strict=True) if index not in known}
        drawn = edits.drawn_tiles(request.generator, request.keys, [*missing.values()], kind=self._kind)
        for index, tile in zip(missing, drawn, strict=True):
            name = f"{request.keys[0].name}_frame_{index:03d}"
            known[index] = replace(self._onto_the_tile(tile), name=name)
        tiles = [known[index] for index in indices]
        models = Models(request.generator, request.classifier)
        seen = seen_in(models, tiles, request.evidence_for, layer=request.layer)
        return [Frame(*parts) for parts in zip(tiles, seen, indices, ts, strict=True)]

    def _places(self, indices: Sequence[int]) -> list[float]:
        """Return where the frames lie, from 0 to 1; fewer if stopped. The ends are where they are in any timing."""
        from napari_histolatent.jobs import edits

        ends = {0: 0.0, self._n_frames - 1: 1.0}
        if not self._drawn.ts and all(index in ends for index in indices):
            return [ends[index] for index in indices]
        if not self._drawn.ts:
            request = self._request
            self._drawn.ts = edits.path_times(
                request.generator,
                request.keys,
                frames=self._n_frames,
                kind=self._kind,
                timing=request.timing,
                classifier=request.classifier,
                should_stop=self._should_stop,
            )
        return [self._drawn.ts[index] for index in indices] if self._drawn.ts else []

    def _onto_the_tile(self, tile: Tile) -> Tile:
        from napari_histolatent.jobs import edits
        from napari_histolatent.latent.blend import residual_edit

        request = self._request
        if request.residual_on is None:
            return tile
        before = request.residual_from
        if before is not None and before is not request.keys[0]:
            # A slider moved the start away from what the tile looks like drawn: that is a part of the edit.
            pixels = residual_edit(request.residual_on.pixels, before.pixels, tile.pixels)
            return replace(tile, pixels=pixels, residual=1.0)
        if self._drawn.first is None:
            (self._drawn.first,) = edits.drawn_tiles(request.generator, request.keys, [0.0], kind=self._kind)
        pixels = residual_edit(request.residual_on.pixels, self._drawn.first.pixels, tile.pixels)
        return replace(tile, pixels=pixels, residual=1.0)
