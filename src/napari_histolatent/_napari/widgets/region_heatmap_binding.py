from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error, show_info
from qtpy.QtCore import QTimer
from superqt.utils import GeneratorWorker, create_worker

from napari_histolatent._napari._layers import KEY, level0_of
from napari_histolatent._napari._region_layer import (
    colors_of,
    lay_above_slide,
    levels_in_reach,
    region_layer,
    region_layers_of,
)
from napari_histolatent._napari._session import session_of, slide_layers_of
from napari_histolatent._napari._workers import LatestWorker, start_beside
from napari_histolatent._napari.editing._words import in_dock
from napari_histolatent._napari.widgets.extraction_binding import counted, time_left
from napari_histolatent._napari.widgets.region_heatmap_panel import (
    IDLE,
    RUNNING,
    SCREEN,
    SELECTED,
    STARTING,
    STOPPING,
)
from napari_histolatent.errors import UserError
from napari_histolatent.jobs.follow import resume
from napari_histolatent.jobs.region_heatmap import (
    RegionHeatmap,
    RegionHeatmapConfig,
    earlier_region_heatmap,
    is_mapped,
    new_region_heatmap,
    open_region_heatmap,
    region_heatmaps_of,
    region_request,
)
from napari_histolatent.jobs.region_plan import areas_of, plan_region, probe_region
from napari_histolatent.patches import tissue_mask
from napari_histolatent.runs import ENDED, Run, RunStatus, launch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from shapely.geometry.base import BaseGeometry

    from napari_histolatent._napari._editing import Models
    from napari_histolatent._napari.editing._scene import Look
    from napari_histolatent._napari.widgets.region_heatmap_panel import RegionHeatmapPanel
    from napari_histolatent.annotations import Region
    from napari_histolatent.jobs.region_plan import Box, RegionProbe
    from napari_histolatent.patches import TissueMask
    from napari_histolatent.slides import Slide
    from napari_histolatent.training.load import LoadedClassifier

_REST_MS = 300
"""A region is counted once slide, camera and selection have stood still for so long."""
_POLL_SECONDS = 0.3
_START_SECONDS = 5.0
"""What its process takes before the first tile."""


@dataclass(frozen=True)
class _Asked:
    """What the dock is set to, taken on the UI thread."""

    slide: Slide
    classifier: LoadedClassifier
    box: Box | None
    regions: tuple[Region, ...]
    config: RegionHeatmapConfig
    """Its target is empty where the class is the one that the classifier sees."""


@dataclass(frozen=True)
class _Planned:
    """What is known of a region before it is mapped."""

    asked: _Asked
    areas: BaseGeometry | None
    n_tiles: int
    probe: RegionProbe
    earlier: Run | None
    is_mapped: bool

    @property
    def target(self) -> str:
        """The class whose evidence is mapped."""
        return self.asked.config.target


class RegionHeatmapBinding:
    """Maps a region in a process of its own, and shows what comes of it: closing the dock leaves the process alone.

    Parameters
    ----------
    viewer
        The viewer.
    panel
        The controls.
    models
        The networks that are loaded.
    evidence
        The class and the layer that heatmaps are made for; None: what the classifier sees, and its own.
    look
        How heatmaps are shown.
    """

    def __init__(
        self,
        viewer: Any,
        panel: RegionHeatmapPanel,
        *,
        models: Callable[[], Models | None],
        evidence: Callable[[], tuple[str | None, str | None]],
        look: Callable[[], Look],
    ) -> None:
        self._viewer, self._panel, self._session = viewer, panel, session_of(viewer)
        self._models, self._evidence, self._look = models, evidence, look
        self._masks: dict[str, TissueMask] = {}
        self._run: Run | None = None
        self._watcher: GeneratorWorker[Any, Any, Any] | None = None
        self._since: tuple[float, int] | None = None
        """When it was first seen to go on, and at which tile."""
        self._shown_look = look()
        self._listed = ""
        """Digest of the slide whose heatmaps are offered."""
        self._is_closed = False
        self._planner, self._lister = LatestWorker(in_words=in_dock), LatestWorker(in_words=in_dock)
        self._starter = LatestWorker(on_error=self._on_not_started, in_words=in_dock)
        self._opener = LatestWorker(on_error=self._on_not_started, in_words=in_dock)
        self._stopper = LatestWorker(in_turn=True)
        self._rest = QTimer()
        self._rest.setSingleShot(True)
        self._rest.setInterval(_REST_MS)
        self._rest.timeout.connect(self._plan)
        panel.opened.connect(self._on_opened)
        panel.where_chosen.connect(self.inputs_changed)
        panel.map_requested.connect(self._map)
        panel.cancel_requested.connect(self._cancel)
        panel.show_requested.connect(lambda folder: self._open(folder))
        self._session.annotations_changed.connect(self._on_regions)
        for event, slot in self._connections():
            event.connect(slot)

    def _connections(self) -> list[tuple[Any, Callable[..., None]]]:
        layers, camera = self._viewer.layers, self._viewer.scene.camera
        return [
            (layers.events.inserted, self._on_layers),
            (layers.events.removed, self._on_layers),
            (layers.selection.events.active, self._on_layers),
            (camera.events.center, self._on_camera),
            (camera.events.zoom, self._on_camera),
        ]

    def close(self, *_: object) -> None:
        """Let go of the viewer, and stop watching; what is being mapped goes on."""
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(RuntimeError):  # the application may have gone before
            self._rest.stop()
        self._stop_watching()
        for worker in (self._planner, self._lister, self._starter, self._opener):
            worker.cancel()
        self._session.annotations_changed.disconnect(self._on_regions, missing_ok=True)
        for event, slot in self._connections():
            event.disconnect(slot)

    @property
    def is_busy(self) -> bool:
        """Whether anything is counted, listed, started, watched or opened."""
        workers = (self._planner, self._lister, self._starter, self._opener, self._stopper)
        return self._rest.isActive() or self._watcher is not None or any(worker.is_busy for worker in workers)

    # What is asked for

    def inputs_changed(self, *_: object) -> None:
        """Count again, soon: another slide, region, class or classifier."""
        if not self._is_closed and self._panel.isVisible() and self._run is None:
            self._rest.start()

    generator_changed = inputs_changed

    def _on_opened(self) -> None:
        self._list()
        self.inputs_changed()

    def _on_layers(self, *_: object) -> None:
        slide = self._session.slide()
        if self._panel.isVisible() and (slide.info.digest if slide is not None else "") != self._listed:
            self._list()
        self.inputs_changed()

    def _on_camera(self, *_: object) -> None:
        if self._panel.where == SCREEN:
            self.inputs_changed()

    def _on_regions(self) -> None:
        if self._panel.where == SELECTED:
            self.inputs_changed()

    def _asked(self) -> _Asked:
        """Return what the dock is set to.

        Raises
        ------
        UserError
            With what is missing.
        """
        slide, models = self._session.slide(), self._models()
        if slide is None:
            msg = "Open a slide first."
            raise UserError(msg)
        if models is None or models.classifier is None:
            msg = "Choose a classifier above: it is what looks at the tiles."
            raise UserError(msg)
        target, layer = self._evidence()
        box: Box | None = None
        regions: tuple[Region, ...] = ()
        if self._panel.where == SCREEN:
            box = self._on_screen(slide)
        elif self._panel.where == SELECTED:
            regions = self._selected()
        return _Asked(slide, models.classifier, box, regions, RegionHeatmapConfig(target or "", layer or ""))

    def _on_screen(self, slide: Slide) -> Box:
        camera, (height, width) = self._viewer.scene.camera, self._viewer.canvas.size
        y, x = camera.center[-2:]
        half_y, half_x = height / 2 / camera.zoom, width / 2 / camera.zoom
        left, top = level0_of((y - half_y, x - half_x), slide.info)
        right, bottom = level0_of((y + half_y, x + half_x), slide.info)
        return left, top, right, bottom

    def _selected(self) -> tuple[Region, ...]:
        regions = self._session.regions()
        known = regions.document.regions if regions is not None else {}
        selected = regions.selected if regions is not None else ()
        found = tuple(known[own] for own in selected if own in known and known[own].is_area)
        if not found:
            msg = "No region is selected on the slide; select one or more, or choose another part."
            raise UserError(msg)
        return found

    # Counting

    def _plan(self) -> None:
        try:
            asked = self._asked()
        except UserError as error:
            self._planner.cancel()
            self._panel.set_evidence("")
            self._panel.set_plan(str(error), can_map=False)
            return
        self._panel.set_plan("Counting tiles…", can_map=True)

        def work(_: object) -> _Planned | str:
            try:
                return self._planned(asked)
            except UserError as error:  # said in the dock, while the slide is moved about
                return str(error)

        def show(found: _Planned | str) -> None:
            if isinstance(found, str):
                self._panel.set_evidence("")
                self._panel.set_plan(in_dock(found), can_map=False)
                return
            self._panel.set_evidence(_evidence_words(asked, found))
            self._panel.set_plan(_plan_words(found), can_map=True)

        self._planner.submit(work, show)

    def _planned(self, asked: _Asked) -> _Planned:
        """Count the tiles of a region, and look at some: in a thread."""
        slide, digest = asked.slide, asked.slide.info.digest
        if digest not in self._masks:
            self._masks = {digest: tissue_mask(slide)}
        areas = areas_of(asked.regions) if asked.regions else None
        mask = self._masks[digest]
        plan = plan_region(slide, asked.classifier, asked.box, asked.config, areas=areas, mask=mask)
        probe = probe_region(slide, asked.classifier, plan)
        config = asked.config if asked.config.target else replace(asked.config, target=probe.seen[0][0])
        asked = replace(asked, config=config)
        earlier = earlier_region_heatmap(region_request(*_request_of(asked), **_options_of(asked, areas)))
        return _Planned(asked, areas, plan.n_tiles, probe, earlier, is_mapped(earlier) if earlier else False)

    # Mapping

    def _map(self) -> None:
        if self._starter.is_busy or self._run is not None:
            return
        try:
            asked = self._asked()
        except UserError as error:
            self._panel.set_plan(str(error), can_map=False)
            return
        self._planner.cancel()
        self._rest.stop()
        self._panel.set_state(STARTING, "Starting…")

        def work(_: object) -> Run:
            planned = self._planned(asked)
            run = planned.earlier
            if run is None or run.status().state == "gone":
                run = new_region_heatmap(
                    *_request_of(planned.asked), **_options_of(planned.asked, planned.areas)
                )
                launch(run)
            elif not planned.is_mapped and run.status().state in (*ENDED, "new"):
                if run.status().state == "finished":  # its file was taken away
                    run = new_region_heatmap(
                        *_request_of(planned.asked), **_options_of(planned.asked, planned.areas)
                    )
                    launch(run)
                else:
                    resume(run)
            return run

        self._starter.submit(work, self._watch)

    def _on_not_started(self, error: Exception) -> None:
        if not self._is_closed:
            self._panel.set_state(IDLE, in_dock(str(error)))

    def _watch(self, run: Run) -> None:
        self._stop_watching()
        self._run = run
        worker = create_worker(_statuses_of, run)
        worker.yielded.connect(lambda status: self._show_status(worker, status))
        self._watcher = worker
        start_beside(worker)

    def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.quit()
        self._run, self._watcher, self._since = None, None, None

    def _show_status(self, worker: GeneratorWorker[Any, Any, Any], status: RunStatus) -> None:
        run = self._run
        if worker is not self._watcher or run is None or self._is_closed:
            return
        if status.state not in ENDED:
            is_going = status.state in ("starting", "running")
            self._panel.set_state(RUNNING if is_going else STOPPING, self._progress_words(status))
            self._panel.set_progress(status.step, status.steps)
            return
        self._stop_watching()
        if status.state == "finished":
            self._panel.set_state(IDLE, "Opening the heatmap…")
            self._open(str(run.path), is_news=True)
            self._list()
        elif status.state == "failed":
            said = in_dock(status.message)
            self._panel.set_state(IDLE, said)
            show_error(said)
        elif status.state == "gone":
            self._panel.set_state(IDLE, "The folder of this heatmap is gone; map the region again.")
        else:
            done = (
                f" after {status.step:,} of {counted(status.steps, 'tile', 'tiles')}" if status.step else ""
            )
            self._panel.set_state(IDLE, f"Stopped{done}. The same region goes on from there.")
        self.inputs_changed()

    def _progress_words(self, status: RunStatus) -> str:
        if status.state == "stopping":
            return "Stopping; what is mapped is kept."
        if not status.step:
            return "Opening the slide and the classifier…"
        now = time.monotonic()
        if self._since is None:
            self._since = (now, status.step)
        since, first = self._since
        if status.step <= first:
            return "Mapping…"
        left = (status.steps - status.step) * (now - since) / (status.step - first)
        return f"Mapping; about {time_left(left)} left."

    def _cancel(self) -> None:
        run = self._run
        if run is not None:
            self._panel.set_state(STOPPING, "Stopping; what is mapped is kept.")
            self._stopper.submit(lambda _: run.request_stop(), lambda _: None)

    # What there is

    def _list(self) -> None:
        """Offer what was mapped on this slide, and go on watching what is being mapped."""
        slide = self._session.slide()
        digest = slide.info.digest if slide is not None else ""
        if slide is None or digest != self._listed:
            self._panel.set_made([])  # what lies on another slide is not offered any more
        self._listed = digest
        if slide is None:
            self._lister.cancel()
            return

        def work(_: object) -> tuple[list[tuple[str, str]], Run | None]:
            runs = region_heatmaps_of(digest)
            going = (run for run in runs if run.status().state not in (*ENDED, "new"))
            return [(_caption_of(run), str(run.path)) for run in runs if is_mapped(run)], next(going, None)

        def show(found: tuple[list[tuple[str, str]], Run | None]) -> None:
            made, going = found
            self._panel.set_made(made)
            if going is not None and self._run is None and not self._starter.is_busy:
                self._watch(going)

        self._lister.submit(work, show)

    # Showing

    def _open(self, folder: str, *, is_news: bool = False) -> None:
        def work(_: object) -> tuple[RegionHeatmap, list[Any]]:
            found = open_region_heatmap(folder)
            return found, levels_in_reach(found)

        self._opener.submit(work, lambda found: self._show(*found, is_news=is_news))

    def _show(self, heatmap: RegionHeatmap, levels: Sequence[Any], *, is_news: bool) -> None:
        for layer in region_layers_of(self._viewer):
            if layer.metadata[KEY].get("path") == str(heatmap.path):
                layer.visible = True
                self._panel.set_result(f"{layer.name} is among the layers.")
                return
        slides = [layer.data[0].slide for layer in slide_layers_of(self._viewer)]
        slide = next((item for item in slides if item.info.digest == heatmap.slide_digest), None)
        if slide is None:
            self._panel.set_result(
                f"The heatmap of {heatmap.slide} is finished; open that slide again to see it."
            )
            return
        look = self._look()
        data, options, _ = region_layer(
            heatmap, list(levels), slide.info, colormap=look.colormap, opacity=look.heatmap_opacity
        )
        active = self._viewer.layers.selection.active
        added = self._viewer.add_image(data, **options)
        lay_above_slide(self._viewer, added)
        if active is not None and active in self._viewer.layers:
            # The user's own selection stays: picking goes on working on the slide that was chosen.
            self._viewer.layers.selection.active = active
        said = f"{added.name} is shown over the slide."
        self._panel.set_result(said)
        if is_news:
            show_info(said)

    def look_changed(self) -> None:
        """Show the heatmaps of regions as the others are shown; what did not change stays as the user set it."""
        was, look = self._shown_look, self._look()
        self._shown_look = look
        for layer in region_layers_of(self._viewer):
            if look.heatmap_opacity != was.heatmap_opacity:
                layer.opacity = look.heatmap_opacity
            if look.colormap != was.colormap:
                layer.colormap = colors_of(look.colormap)
            if look.shows_heatmaps != was.shows_heatmaps:
                layer.visible = look.shows_heatmaps


def _request_of(asked: _Asked) -> tuple[Any, ...]:
    return asked.slide.info.path, asked.classifier.checkpoint.path, asked.box, asked.config


def _options_of(asked: _Asked, areas: BaseGeometry | None) -> dict[str, Any]:
    info = asked.slide.info
    return {"areas": areas, "slide_mpp": info.mpp_x if "user" in (info.mpp_source or "") else None}


def _evidence_words(asked: _Asked, planned: _Planned) -> str:
    if asked.config.target:
        return f"Evidence for {planned.target}, as chosen above."
    seen = planned.probe.seen
    return (
        f"Evidence for {planned.target}: the classifier sees it in {seen[0][1]} of "
        f"{counted(sum(n for _, n in seen), 'tile', 'tiles')} looked at. Choose another class at “Evidence for”."
    )


def _plan_words(planned: _Planned) -> str:
    tiles = counted(planned.n_tiles, "tile", "tiles")
    if planned.is_mapped:
        return f"{tiles}; this was mapped before, and is opened at once."
    seconds = _START_SECONDS + planned.n_tiles * planned.probe.seconds_per_tile
    return f"{tiles}, about {time_left(seconds)}."


def _caption_of(run: Run) -> str:
    report = run.status().data.get("report", {})
    target = run.spec.get("config", {}).get("target", "")
    when = time.strftime("%d %b %H:%M", time.localtime(run.created))
    return f"{target}, {counted(int(report.get('tiles', 0)), 'tile', 'tiles')}, {when}"


def _statuses_of(run: Run) -> Iterator[RunStatus]:
    """Yield where a run stands until it has ended: in a thread, so that a slow disk holds up nothing."""
    status = RunStatus("starting")
    while True:
        with suppress(OSError):  # a disk that is away for a moment: it stands where it stood
            status = run.status()
        yield status
        if status.state in ENDED or status.state == "new":
            return
        time.sleep(_POLL_SECONDS)
