from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.editing._own_points import OwnPoints
from napari_histolatent._napari.editing._strengths import combined
from napari_histolatent._napari.editing._words import in_dock
from napari_histolatent._napari.widgets.directions_panel import (
    BOUNDARY,
    COMPONENTS,
    MEASURE,
    DirectionLine,
)
from napari_histolatent.latent.directions import boundary, mean_difference
from napari_histolatent.latent.measured import FEATURES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from napari_histolatent._napari.widgets.directions_panel import DirectionsPanel, MakeRequest
    from napari_histolatent._napari.widgets.library_binding import LibraryBinding
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.latent import LatentPoint
    from napari_histolatent.latent.directions import Direction, Monotonicity
    from napari_histolatent.training.load import LoadedGenerator


class _Arrivals(QObject):
    """Carries from the thread how far it is."""

    progress = Signal(int, int, int)
    """Which work, steps done, steps in all."""


class DirectionsBinding:
    """Makes, tries and keeps directions, and moves the tile that is worked on along them.

    All that is drawn, read or written is so in threads. While a slider moves, the image that is being drawn is shown
    before the next is begun: a hand that never rests still sees the tile change.

    Parameters
    ----------
    panel
        To fill.
    generator
        The generator that is chosen, None while there is none.
    current
        The tile that is worked on.
    show
        Takes the moved tile.
    library
        Where tags come from, and where directions are kept.
    """

    def __init__(
        self,
        panel: DirectionsPanel,
        *,
        generator: Callable[[], LoadedGenerator | None],
        current: Callable[[], Tile | None],
        show: Callable[[Tile], None],
        library: LibraryBinding,
    ) -> None:
        self._panel, self._generator, self._library = panel, generator, library
        self._current, self._show = current, show
        self._kept: tuple[Direction, ...] = ()
        self._new: dict[str, Direction] = {}
        """Made, and not kept yet, by key."""
        self._made = 0
        self._base: Tile | None = None
        """What the sliders move: the tile as it was when the first left 0."""
        self._shown: LatentPoint | None = None
        self._is_wanted, self._is_drawing, self._is_closed, self._job = False, False, False, 0
        self._reader, self._writer = (
            LatestWorker(in_words=in_dock),
            LatestWorker(in_turn=True, in_words=in_dock),
        )
        self._mover = LatestWorker(in_words=in_dock, on_error=self._on_unmoved)
        self._worker = LatestWorker(in_words=in_dock, on_error=self._end)
        self._arrivals = _Arrivals()
        self._arrivals.progress.connect(self._on_progress)
        panel.set_features(FEATURES)
        panel.make_requested.connect(self._make)
        panel.cancel_requested.connect(self._cancel)
        panel.strengths_changed.connect(self._move)
        panel.reset_requested.connect(self._reset)
        panel.save_requested.connect(self._save)
        panel.remove_requested.connect(self._remove)
        panel.test_requested.connect(self._test)
        library.changed.connect(self._read)
        self.generator_changed()

    @property
    def is_busy(self) -> bool:
        """Whether something is being read, made, tried or drawn."""
        return any(worker.is_busy for worker in self._workers())

    def close(self, *_: object) -> None:
        """Stop; what is being written is written."""
        self._is_closed = True
        for worker in self._workers():
            if worker is not self._writer:
                worker.cancel()
        self._library.changed.disconnect(self._read, missing_ok=True)

    def generator_changed(self) -> None:
        """Take notice of another generator: it has other directions."""
        generator = self._generator()
        self._cancel()
        self._new = {}
        self._panel.set_classes(generator.checkpoint.classes if generator else ())
        self._panel.set_table(None, [])
        self._panel.say("")
        self._forget_base()
        self._read()
        self.tile_changed()

    def tile_changed(self) -> None:
        """Take notice of another tile: the sliders begin anew from it."""
        tile = self._current()
        point = tile.point if tile is not None else None
        self._panel.set_ready(has_generator=self._generator() is not None, has_point=point is not None)
        # What a slider showed comes back from the dock as the tile that is worked on: that is no other tile.
        if point is None or point != self._shown:
            self._forget_base()

    def _workers(self) -> tuple[LatestWorker, ...]:
        return (self._reader, self._writer, self._mover, self._worker)

    def _forget_base(self) -> None:
        self._mover.cancel()
        self._base, self._shown = None, None
        self._is_wanted = self._is_drawing = False
        self._panel.set_strengths(0.0)

    # What there is

    def _own(self) -> OwnPoints | None:
        generator = self._generator()
        if generator is None:
            return None
        return OwnPoints(self._library.library.folder, generator.checkpoint.digest)

    def _read(self) -> None:
        own = self._own()
        self._reader.cancel()
        if own is None:
            self._kept = ()
            self._panel.set_tags([])
            self._list()
            return

        def show(found: tuple[list[str], tuple[Direction, ...]]) -> None:
            tags, self._kept = found
            self._panel.set_tags(tags)
            self._list()

        self._reader.submit(lambda _: (list(own.tags()), own.directions()), show)

    def _list(self) -> None:
        lines = [DirectionLine(f"kept {item.name}", item.name, _facts_of(item), True) for item in self._kept]
        lines += [DirectionLine(key, item.name, _facts_of(item), False) for key, item in self._new.items()]
        self._panel.set_lines(lines)

    def _directions(self) -> dict[str, Direction]:
        return {f"kept {item.name}": item for item in self._kept} | self._new

    # Making

    def _make(self) -> None:
        generator, own, request = self._generator(), self._own(), self._panel.request
        if generator is None or own is None:
            return
        taken = {item.name for item in self._directions().values()}

        def done(found: list[Direction]) -> None:
            self._end()
            for direction in found:
                self._made += 1
                key = f"new {self._made}"
                self._new[key] = replace(direction, name=_free(direction.name, taken))
                taken.add(self._new[key].name)
            self._panel.name_edit.clear()
            self._list()
            self._panel.choose(key)
            self._panel.say(
                _facts_of(found[0]) if len(found) == 1 else f"{len(found)} directions were found."
            )

        progress, job = self._arrivals.progress, self._begin()

        def work(should_stop: Callable[[], bool]) -> list[Direction]:
            return _made(
                generator,
                own,
                request,
                on_progress=lambda done, total: progress.emit(job, done, total),
                should_stop=should_stop,
            )

        self._worker.submit(work, done)

    # Trying

    def _test(self, key: str) -> None:
        generator, direction = self._generator(), self._directions().get(key)
        if generator is None or direction is None:
            return
        progress, job = self._arrivals.progress, self._begin()

        def work(should_stop: Callable[[], bool]) -> dict[str, Monotonicity]:
            from napari_histolatent.jobs.steering import tried_on

            return tried_on(
                generator,
                direction,
                FEATURES,
                on_progress=lambda done, total: progress.emit(job, done, total),
                should_stop=should_stop,
            )

        def done(found: dict[str, Monotonicity]) -> None:
            self._end()
            rows = [(feature, item.median, item.share_monotone) for feature, item in found.items()]
            self._panel.set_table(_trial_words(direction, found), rows)

        self._worker.submit(work, done)

    def _begin(self) -> int:
        self._job += 1
        self._panel.say("")
        self._panel.set_table(None, [])
        self._panel.set_working(True)
        return self._job

    def _cancel(self) -> None:
        self._worker.cancel()
        self._end()

    def _end(self, *_: object) -> None:
        self._job += 1
        self._panel.set_working(False)

    def _on_progress(self, job: int, done: int, total: int) -> None:
        if job == self._job and not self._is_closed:
            self._panel.set_working(True, total, done)

    # Keeping

    def _save(self, key: str, name: str) -> None:
        direction, library = self._new.get(key), self._library.library
        if direction is None:
            return
        named = replace(direction, name=name)

        def done(_: object) -> None:
            if self._is_closed:
                return
            self._new.pop(key, None)
            self._panel.name_edit.clear()
            self._panel.say(f"{name} is in the library.")
            self._library.directions_changed()

        self._writer.submit(lambda _: library.add_direction(named), done)

    def _remove(self, key: str) -> None:
        if key in self._new:
            gone = self._new.pop(key)
            self._list()
            self._panel.say(f"{gone.name} is gone.")
            return
        direction, library = self._directions().get(key), self._library.library
        if direction is None:
            return

        def done(_: object) -> None:
            if self._is_closed:
                return
            # Nothing is lost by a slip: it is as new as when it was made.
            self._made += 1
            self._new[f"new {self._made}"] = direction
            self._panel.say(f"{direction.name} is out of the library; press Keep to put it back.")
            self._library.directions_changed()

        self._writer.submit(lambda _: library.remove_direction(direction.name), done)

    # Moving the tile

    def _reset(self) -> None:
        base = self._base
        self._panel.set_strengths(0.0)
        if base is not None:
            self._move()

    def _move(self) -> None:
        if self._base is None:
            self._base = self._current()
        if self._base is None or self._base.point is None:
            self._panel.say("The tile has no latent vector yet: press Reverse search first.")
            return
        self._is_wanted = True
        if not self._is_drawing:
            self._draw()

    def _draw(self) -> None:
        base, generator, known = self._base, self._generator(), self._directions()
        parts = [(known[key], s) for key, s in self._panel.strengths.items() if s and key in known]
        self._is_wanted = False
        if base is None or generator is None:
            return

        def work(_: object) -> Tile:
            if not parts:
                return base
            from napari_histolatent.jobs.steering import steered

            direction, strength = combined(parts)
            return steered(generator, base, direction, [strength])[0]

        def done(tile: Tile) -> None:
            self._is_drawing = False
            self._shown = tile.point
            self._show(tile)
            if self._is_wanted:
                self._draw()

        self._is_drawing = True
        self._mover.submit(work, done)

    def _on_unmoved(self, _: Exception) -> None:
        self._is_drawing = False
        if self._is_wanted and not self._is_closed:
            self._draw()


def _made(
    generator: LoadedGenerator,
    own: OwnPoints,
    request: MakeRequest,
    *,
    on_progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> list[Direction]:
    """Return the directions that are asked for."""
    from napari_histolatent.jobs.steering import direction_of_measure, main_directions

    drawing: dict[str, Any] = {
        "label": request.label,
        "on_progress": on_progress,
        "should_stop": should_stop,
    }
    if request.way == MEASURE:
        feature = request.feature or FEATURES[0]
        return [direction_of_measure(generator, feature, name=request.name, **drawing)]
    if request.way == COMPONENTS:
        return main_directions(generator, request.n, name=request.name or "change", **drawing)
    groups = own.groups()
    first, second = (groups.get(tag or "", []) for tag in (request.from_tag, request.to_tag))
    name = request.name or f"{request.from_tag} to {request.to_tag}"
    if request.way == BOUNDARY:
        direction = boundary(name, first, second, should_stop=should_stop)
    else:
        direction = mean_difference(name, first, second)
    tags: dict[str, Any] = {"from": request.from_tag, "to": request.to_tag}
    return [replace(direction, facts={**direction.facts, **tags})]


def _free(name: str, taken: set[str]) -> str:
    """Return the name, or one with a number that nothing else has."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name} ({number})"
    return found


def _facts_of(direction: Direction) -> str:
    """Return what is known of a direction, in a sentence."""
    facts, n = direction.facts, direction.facts.get("n")
    if direction.kind == "measured":
        return f"Along it the {facts.get('feature', 'feature')} grows; {_explained(facts)} (from {n} images)."
    if direction.kind == "component":
        share = facts.get("variance_explained")
        said = f", {share:.0%} of how the images differ" if isinstance(share, float) else ""
        return (
            f"One of the ways in which the images differ most{said} (from {n} images); {_explained(facts)}."
        )
    of = f"{n[0]} and {n[1]} points" if isinstance(n, list) and len(n) == 2 else "two groups"
    ends = f"From {facts['from']} to {facts['to']}" if "from" in facts else "From one group to another"
    if direction.kind == "boundary":
        right = facts.get("accuracy_left_out")
        if isinstance(right, float):
            return f"{ends}, from {of}; of points left out {right:.0%} lie on their side (by chance 50%)."
        return f"{ends}, from {of}: too few to say how well it parts others."
    return f"{ends}, from {of}."


def _explained(facts: Mapping[str, Any]) -> str:
    r2 = facts.get("r2_left_out")
    if not isinstance(r2, float):
        return "how well is not known"
    return f"it explains {max(0.0, r2):.0%} of the differences in images left out"


def _trial_words(direction: Direction, found: Mapping[str, Monotonicity]) -> str:
    feature, best = max(found.items(), key=lambda item: abs(item[1].median))
    n = len(best.correlations)
    if abs(best.median) < 0.5:
        return f"{direction.name}, tried on {n} points: none of the features follows the slider."
    way = "grows" if best.median > 0 else "shrinks"
    sure = "nearly always" if abs(best.median) >= 0.9 else "mostly"
    return f"{direction.name}, tried on {n} points: the {feature} {sure} {way} with the slider."
