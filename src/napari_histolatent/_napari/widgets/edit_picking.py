from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error

from napari_histolatent._napari._layers import level0_of
from napari_histolatent._napari._picking import CanvasClicks
from napari_histolatent._napari._session import slide_layers_of
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.editing._edits import sample_of, tile_for
from napari_histolatent._napari.editing._searching import checked_tile
from napari_histolatent._napari.editing._words import in_dock

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent._napari._editing import Models
    from napari_histolatent._napari._session import Session
    from napari_histolatent._napari.widgets.edit_view import EditView
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.slides import Slide

NO_SLIDE = "There is no slide open; drop a slide on the window first."


class EditPicking:
    """Takes a tile to work on: under a click, from the tray, or drawn at random.

    Parameters
    ----------
    viewer, view, session
        Where clicks happen, the dock's controls, and what the user works on.
    models
        Returns the networks, or says that there are none.
    on_tile
        Called with a tile that was cut, the slide it lies on, and whether its colours were changed.
    on_sample
        Called with a tile that was drawn, and what was drawn, in words.
    """

    def __init__(
        self,
        viewer: Any,
        view: EditView,
        session: Session,
        *,
        models: Callable[[], Models | None],
        on_tile: Callable[[Tile, Slide, bool], None],
        on_sample: Callable[[Tile, str], None],
    ) -> None:
        self._viewer, self._view, self._session = viewer, view, session
        self._models, self._on_tile, self._on_sample = models, on_tile, on_sample
        self._samples = 0
        self.worker = LatestWorker(in_words=in_dock)
        self.clicks = CanvasClicks(viewer, self._pick)
        view.picking_switched.connect(self.clicks.switch)
        view.from_tray_requested.connect(self._take_from_tray)
        view.random_requested.connect(self._draw)

    def close(self) -> None:
        """Let go of the viewer and of running work."""
        self.clicks.switch(False)
        self.worker.cancel()

    def slide_of(self, tile: Tile) -> Slide | None:
        """Return the open slide that a tile lies on, or None."""
        layers = slide_layers_of(self._viewer)
        slides: list[Slide] = [layer.data[0].slide for layer in layers]
        return next((slide for slide in slides if slide.info.digest == tile.slide_digest), None)

    def cut(self, models: Models, slide: Slide, centre: tuple[float, float]) -> None:
        """Cut the tile around a level-0 point at the model's own size and resolution."""
        checkpoint, annotations = models.generator.checkpoint, self._session.annotations_of(slide)
        normalises = self._view.normalise_check.isChecked()

        def work(_: object) -> tuple[Tile, bool]:
            tile = tile_for(checkpoint, slide, annotations, centre)
            checked = checked_tile(models, tile, normalises=normalises)
            return checked, checked.pixels is not tile.pixels

        self.worker.submit(work, lambda found: self._on_tile(found[0], slide, found[1]))

    def _pick(self, world: tuple[float, ...]) -> None:
        models, slide = self._models(), self._session.slide()
        if models is None:
            return
        if slide is None:
            show_error(NO_SLIDE)
            return
        self.cut(models, slide, level0_of(world, slide.info))

    def _take_from_tray(self) -> None:
        models, slide = self._models(), self._session.slide()
        if models is None:
            return
        if slide is None:
            show_error(NO_SLIDE)
            return
        mine = [tile for tile in self._session.tray if tile.slide_digest == slide.info.digest and tile.centre]
        if not mine:
            show_error("The tray holds no patch of this slide; pick one in the Patches dock.")
            return
        centre = mine[-1].centre
        assert centre is not None
        self.cut(models, slide, centre)

    def _draw(self) -> None:
        models = self._models()
        if models is None:
            return
        label = self._view.random_box.currentText() if models.generator.checkpoint.classes else None
        seed, self._samples = self._samples, self._samples + 1
        of_class = f" of {label}" if label else ""
        said = f"A new tile{of_class}, drawn at random (seed {seed})"
        self.worker.submit(
            lambda _: sample_of(models, label=label, seed=seed), lambda tile: self._on_sample(tile, said)
        )
