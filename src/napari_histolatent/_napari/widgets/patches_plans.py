"""The live plan of the Patches dock: grid on the slide, counts, bytes and minutes, while the user turns knobs."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QTimer

from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.patches import GridPreview
from napari_histolatent._napari.patches._planner import (
    Cost,
    PlanRequest,
    measured_cost,
    picture_of,
    settled,
)
from napari_histolatent._napari.widgets.patches_view import CountRow
from napari_histolatent.errors import UserError
from napari_histolatent.patches import CancelledError, resolutions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from napari_histolatent._napari.patches import GridPicture
    from napari_histolatent._napari.patches._planner import Planned, Settled
    from napari_histolatent._napari.widgets.patches_state import PatchesState
    from napari_histolatent.patches import StainSpec

_EVERY_MS = 80
_PATIENCE_S = 1.0
"""A plan that takes longer gives way to a newer request; a faster one is shown first, else nothing would move."""
_SETTLE_MS, _COST_MS = 250, 500
"""After the last change: splitting 200,000 patches is a third of a second of work, too much for each step of a slider."""


_MEASURE_AGAIN = 4
"""More patches by this factor may lie elsewhere on the slide, where reading takes longer."""
_LEAST_OF_A_RUN = 100


class PlansPart:
    """Plans the current slide again whenever something changed, and shows what comes of it."""

    def __init__(self, state: PatchesState) -> None:
        self._state, self._view = state, state.view
        self._planner_worker, self._settler, self._timer_worker = (
            LatestWorker(),
            LatestWorker(),
            LatestWorker(),
        )
        self._since = 0.0
        self._preview: GridPreview | None = None
        self._costs: dict[Any, tuple[Cost, float]] = {}
        """What a patch takes, and how many there were when it was measured (infinity: taken from a real run)."""
        self._expected: Any = None
        self._error = ""
        self._pace = _timer(_EVERY_MS, self._plan)
        self._settle_soon = _timer(_SETTLE_MS, self._settle)
        self._cost_soon = _timer(_COST_MS, self._measure)
        self._view.preview_check.setChecked(state.session.shows_preview)
        state.slide_changed.connect(self._on_slide)
        state.plan_wanted.connect(self.want)
        state.marks_changed.connect(self._on_marks)
        self._view.preview_switched.connect(self._switch_preview)

    @property
    def is_busy(self) -> bool:
        """Whether something is being planned, or will be in a moment."""
        timers = (self._pace, self._settle_soon, self._cost_soon)
        workers = (self._planner_worker, self._settler, self._timer_worker)
        return any(t.isActive() for t in timers) or any(w.is_busy for w in workers)

    @property
    def preview(self) -> GridPreview | None:
        """The grid on the slide."""
        return self._preview

    def close(self) -> None:
        """Stop, and take the grid off the slide."""
        for timer in (self._pace, self._settle_soon, self._cost_soon):
            timer.stop()
        for worker in (self._planner_worker, self._settler, self._timer_worker):
            worker.cancel()
        if self._preview is not None:
            self._preview.close()
            self._preview = None

    def want(self) -> None:
        """Plan anew in a moment."""
        if not self._pace.isActive():
            self._pace.start()
        for timer in (self._settle_soon, self._cost_soon):
            if timer.isActive():
                timer.start()

    def _on_slide(self) -> None:
        self._settle_soon.stop()
        self._cost_soon.stop()
        self._planner_worker.cancel()
        self._settler.cancel()
        self._timer_worker.cancel()
        if self._preview is not None:
            self._preview.close()
            self._preview = None
        slide = self._state.slide
        if slide is not None:
            self._preview = GridPreview(self._state.viewer, slide)
            self.want()
        self._show_counts()

    def _on_marks(self, digest: str, _: object) -> None:
        if self._state.slide is not None and digest == self._state.slide.info.digest:
            self.want()

    def _switch_preview(self, on: bool) -> None:
        self._state.session.shows_preview = on
        if not on and self._preview is not None:
            self._preview.remove()
        self.want()

    def _plan(self) -> None:
        if self._planner_worker.is_busy and perf_counter() - self._since < _PATIENCE_S:
            self._pace.start()
            return
        state = self._state
        if state.slide is None:
            return
        try:
            request = self.request()
        except UserError as error:
            self._planner_worker.cancel()
            self._fail(str(error))
            return
        planner, colors = state.planner(), state.colors()
        has_grid = self._shows_grid(request)

        def work(should_stop: Callable[[], bool]) -> tuple[Planned, GridPicture | None, str] | str | None:
            # What cannot be planned is said in the dock: a notification at each step of a slider would be a flood.
            try:
                planned = planner.plan(request, should_stop)
            except CancelledError:
                return None
            except UserError as error:
                return str(error)
            try:
                fault = missing_target(request.recipe.stain)
                return planned, picture_of(planned, colors) if has_grid else None, fault
            except UserError as error:
                return planned, None, str(error)

        self._since = perf_counter()
        self._planner_worker.submit(work, self._on_planned)

    def request(self) -> PlanRequest:
        """Return what the dock is set to.

        Raises
        ------
        UserError
            If that is not possible.
        """
        state = self._state
        slide, recipe = state.require_slide(), state.recipe()
        request = PlanRequest(slide, state.session.annotations_of(slide), recipe, (), state.own_mask)
        keeper = state.keeper()
        if keeper is None or not len(keeper.marks):
            return request
        downsample = resolutions(slide, recipe.grid)[0].downsample[0]
        marks = keeper.marks.fitting(recipe.grid.size_px, downsample)
        return PlanRequest(slide, request.annotations, recipe, marks, request.own_mask)

    def _shows_grid(self, request: PlanRequest) -> bool:
        """Return whether there is something to see: a grid without a class would only grey the tissue."""
        has_regions = request.annotations is not None and bool(request.annotations.regions)
        return bool(
            self._view.preview_check.isChecked()
            and (has_regions or request.recipe.labels.default_class or request.marks)
        )

    def _on_planned(self, found: tuple[Planned, GridPicture | None, str] | str | None) -> None:
        if found is None:
            return
        if isinstance(found, str):
            self._fail(found)
            return
        planned, picture, fault = found
        state = self._state
        if planned.request.slide is not state.slide:
            return
        state.planned, state.settlement = planned, None
        self._error = fault
        self._show_picture(picture, is_passing=True)
        self._show_counts()
        self._settle_soon.start()
        state.planned_changed.emit()

    def _fail(self, sentence: str) -> None:
        self._error = sentence
        self._state.planned = self._state.settlement = None
        if self._preview is not None:
            self._preview.hide()
        self._show_counts()
        self._state.planned_changed.emit()

    def _show_picture(self, picture: GridPicture | None, *, is_passing: bool = False) -> None:
        if self._preview is None:
            return
        if picture is None:
            self._preview.hide()
        else:
            self._preview.show(picture, is_passing=is_passing)

    def _settle(self) -> None:
        planned = self._state.planned
        if planned is None:
            return
        colors, has_grid = self._state.colors(), self._shows_grid(planned.request)

        def work(_: object) -> tuple[Planned, Settled, GridPicture | None] | str:
            try:
                settlement = settled(planned)
                return planned, settlement, picture_of(planned, colors, settlement) if has_grid else None
            except UserError as error:
                return str(error)

        self._settler.submit(work, self._on_settled)

    def _on_settled(self, found: tuple[Planned, Settled, GridPicture | None] | str) -> None:
        if isinstance(found, str):
            self._error = found
            self._show_counts()
            return
        planned, settlement, picture = found
        if planned is not self._state.planned:
            return
        self._state.settlement = settlement
        if picture is not None:
            self._show_picture(picture)
        self._show_counts()
        self._state.settled_changed.emit()
        _, n_then = self._costs.get(self._cost_key(planned), (None, 0.0))
        if settlement.n_members >= _MEASURE_AGAIN * n_then:
            self._cost_soon.start()

    # Bytes and minutes

    def _cost_key(self, planned: Planned) -> Any:
        store = planned.request.recipe.store
        zooms = tuple(grid.positions.resolution for grid in planned.grids)
        return (
            planned.request.slide.info.digest,
            planned.grid.positions.size_px,
            zooms,
            store.codec,
            store.jpeg_quality,
            store.index_only,
        )

    def expect_rate(self, *, is_of_slide: bool) -> None:
        """Know what the extraction that is started now is of: the current plan, or something else."""
        planned = self._state.planned
        self._expected = self._cost_key(planned) if is_of_slide and planned is not None else None

    def take_rate(self, report: Mapping[str, Any]) -> None:
        """Take the time a patch really took from an extraction that has finished."""
        n = report.get("patches", 0) - report.get("taken_up", 0)
        seconds, key = report.get("seconds", 0), self._expected
        self._expected = None
        if key not in self._costs or n < _LEAST_OF_A_RUN or not seconds > 0:
            return
        self._costs[key] = replace(self._costs[key][0], seconds=seconds / n), inf
        self._show_counts()

    def _measure(self) -> None:
        planned, settlement = self._state.planned, self._state.settlement
        if planned is None or not any(planned.totals.values()):
            return
        key, n = self._cost_key(planned), 0 if settlement is None else settlement.n_members

        def work(should_stop: Callable[[], bool]) -> Cost:
            try:
                return measured_cost(planned, should_stop)
            except (CancelledError, UserError):
                return Cost()

        def show(cost: Cost) -> None:
            if isfinite(cost.seconds):
                self._costs[key] = cost, max(n, 1)
                self._show_counts()

        self._timer_worker.submit(work, show)

    def _show_counts(self) -> None:
        state, planned, settlement = self._state, self._state.planned, self._state.settlement
        if planned is None:
            self._view.set_counts([], self._error)
            return
        table = state.classes()
        rows = []
        totals = planned.totals
        # In the order of their keys, then what has none.
        names = [name for name in table.names if name in totals]
        for name in dict.fromkeys((*names, *planned.label_names)):
            item = table.get(name)
            splits = (None, None, None) if settlement is None else settlement.counts.get(name, (0, 0, 0))
            color, key = ((128, 128, 128), "") if item is None else (item.color, item.key)
            rows.append(CountRow(name, color, key, totals[name], splits))
        self._view.set_counts(rows, self._error or self._summary(planned, settlement, sum(totals.values())))

    def _summary(self, planned: Planned, settlement: Settled | None, n_labelled: int) -> str:
        n = settlement.n_members if settlement is not None else n_labelled
        unknown = unknown_classes(planned)
        unknown += [
            f"“{name}” ({count} by hand) is no class of the regions or the recipe any more; give these patches another "
            "class, or press 0 for the rule's own."
            for name, count in self._state.stray_classes().items()
        ]
        if not n:
            return "\n".join([why_none(planned, settlement, n_labelled), *unknown])
        lines = [f"{n:,} patch{'es' if n != 1 else ''}"]
        cost, _ = self._costs.get(self._cost_key(planned), (None, 0.0))
        if cost is not None:
            lines[0] += f", about {bytes_text(n * cost.n_bytes)}, {time_text(n * cost.seconds)}"
            lines[0] += f" ({1000 * cost.seconds:.3g} ms a patch)"
        if settlement is not None and settlement.reasons:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in settlement.reasons.items())
            by_hand = len(settlement.hand_left_out)
            lines.append(
                f"Left out: {reasons}"
                + (f" ({by_hand} of them picked or labelled by hand)" if by_hand else "")
            )
        quality = planned.request.recipe.quality
        if any(value is not None for value in vars(quality).values()):
            lines.append("Quality limits are applied while cutting; they are not counted here.")
        if len(planned.grids) > 1:
            lines.append("The slide shows the grid of the first zoom; both are counted.")
        return "\n".join([*lines, *unknown])


def missing_target(spec: StainSpec) -> str:
    """Return what is to be said where the reference of the stain is not there, else "". Looks at the disk."""
    if spec.method == "none" or spec.target == "standard" or Path(spec.target).exists():
        return ""
    return f"The stain reference {spec.target} does not exist; name a picture or a slide, or leave the field empty."


def why_none(planned: Planned, settlement: Settled | None, n_labelled: int) -> str:
    """Return why a plan has no patch to cut, and what to do about it."""
    n_all = sum(len(grid) for grid in planned.grids)
    if not n_all:
        return (
            "No patch of the grid shows enough tissue; lower “Least tissue”, or the threshold of the tissue mask "
            "(In detail)."
        )
    if n_labelled and settlement is not None:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in settlement.reasons.items())
        return f"All patches are left out: {reasons}. Loosen balance and split (In detail), or take some in by hand."
    some = f"{n_all:,} patch{'es' if n_all != 1 else ''} of the grid show{'s' if n_all == 1 else ''} enough tissue; "
    annotations = planned.request.annotations
    if annotations is not None and any(region.is_area for region in annotations.regions):
        return some + "none has a class by the label rule. Lower “Least share”, or choose another rule."
    return (
        some + "none has a class. Draw or import regions, or name a class for tissue that is not annotated."
    )


def unknown_classes(planned: Planned) -> list[str]:
    """Return a sentence for each class that the label rule names and no region has."""
    labels, annotations = planned.request.recipe.labels, planned.request.annotations
    there = annotations.classes if annotations is not None else ()
    return [
        f"No region has the class “{name}” that “{where}” names; the classes are: {', '.join(there) or 'none'}."
        for where, names in (("Priority", labels.priority), ("Exclude", labels.exclude))
        for name in names
        if name not in there
    ]


def bytes_text(n: float) -> str:
    """Return a number of bytes in words: `450 MB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n:.0f} B"


def time_text(seconds: float) -> str:
    """Return a time in words: `3 min`."""
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _timer(ms: int, slot: Callable[[], None]) -> QTimer:
    timer = QTimer()
    timer.setSingleShot(True)
    timer.setInterval(ms)
    timer.timeout.connect(slot)
    return timer
