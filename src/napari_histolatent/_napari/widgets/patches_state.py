"""What the parts of the Patches dock share: the slide, its plan, and what the user decided by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psygnal import Signal

from napari_histolatent._napari._session import session_of, slide_layers_of
from napari_histolatent._napari.patches._facts import NO_CLASS_COLOR
from napari_histolatent._napari.patches._hand_marks import MarkKey
from napari_histolatent._napari.patches._planner import PatchPlanner
from napari_histolatent.annotations import ClassTable
from napari_histolatent.errors import DatasetError, SlideError
from napari_histolatent.patches import LabelSpec

if TYPE_CHECKING:
    from napari_histolatent._napari.patches._marks_keeper import MarksKeeper
    from napari_histolatent._napari.patches._planner import Planned, Settled
    from napari_histolatent._napari.widgets.patches_view import PatchesView
    from napari_histolatent.annotations import RegionClass
    from napari_histolatent.patches import Recipe, TissueMask
    from napari_histolatent.slides import Slide

RGB = tuple[int, int, int]

_ANNOTATED: RGB = (230, 150, 40)
_BARE: RGB = (30, 110, 220)


class PatchesState:
    """The dock's slide and plan. For the UI thread."""

    slide_changed = Signal()
    plan_wanted = Signal()
    """Something that a plan is made from changed."""
    planned_changed = Signal()
    settled_changed = Signal()
    marks_changed = Signal(str, tuple)
    """Digest of a slide, and the keys of the patches whose decisions changed."""

    def __init__(self, viewer: Any, view: PatchesView) -> None:
        self.viewer = getattr(viewer, "__wrapped__", viewer)
        self.view = view
        self.session = session_of(viewer)
        self.slide: Slide | None = None
        self.planned: Planned | None = None
        """The newest plan of `slide`."""
        self.settlement: Settled | None = None
        self.qualities: dict[Any, dict[str, float]] = {}
        """Values measured on single patches, by patch."""
        self._planners: dict[str, PatchPlanner] = {}
        self._keepers: dict[str, tuple[MarksKeeper, Any]] = {}

    def close(self) -> None:
        """Let go of the marks."""
        for keeper, listener in self._keepers.values():
            keeper.marks.changed.disconnect(listener, missing_ok=True)
        self._keepers.clear()

    def require_slide(self) -> Slide:
        """Return the current slide.

        Raises
        ------
        SlideError
            If there is none.
        """
        if self.slide is None:
            msg = "There is no slide open; drop a slide on the window first."
            raise SlideError(msg)
        return self.slide

    def recipe(self) -> Recipe:
        """Return what the controls say, as far as the slide allows: one without a pixel size is cut at level 0.

        Raises
        ------
        DatasetError
            If the values do not go together.
        """
        recipe = self.view.recipe()
        if self.slide is None or self.slide.info.mpp_x is not None or recipe.grid.mpp is None:
            return recipe
        return replace(recipe, grid=replace(recipe.grid, mpp=None, level=0))

    def slides(self) -> dict[str, Slide]:
        """Return the slides that are shown, by digest."""
        slides = (layer.data[0].slide for layer in slide_layers_of(self.viewer))
        return {slide.info.digest: slide for slide in slides}

    def follow(self) -> bool:
        """Take the slide that is current now; return whether it is another."""
        there = self.slides()
        for digest in list(self._keepers):
            if digest not in there:
                keeper, listener = self._keepers.pop(digest)
                keeper.marks.changed.disconnect(listener, missing_ok=True)
                self._planners.pop(digest, None)
        for digest, one in there.items():
            if digest not in self._keepers:
                self._listen(digest, self.session.marks_of(one))
        slide = self.session.slide()
        if slide is self.slide:
            return False
        self.slide, self.planned, self.settlement = slide, None, None
        self.slide_changed.emit()
        return True

    def _listen(self, digest: str, keeper: MarksKeeper) -> None:
        def tell(keys: tuple[MarkKey, ...]) -> None:
            self.marks_changed.emit(digest, keys)

        keeper.marks.changed.connect(tell)
        self._keepers[digest] = keeper, tell
        if len(keeper.marks):
            tell(tuple(key for key, _ in keeper.marks.items()))

    def keepers(self) -> dict[str, MarksKeeper]:
        """Return the marks of all slides that are shown, by digest."""
        return {digest: keeper for digest, (keeper, _) in self._keepers.items()}

    def keeper(self, digest: str | None = None) -> MarksKeeper | None:
        """Return the marks of a slide, by default the current one; None if it is not shown."""
        if digest is None and self.slide is not None:
            digest = self.slide.info.digest
        found = self._keepers.get(digest or "")
        return found[0] if found else None

    def planner(self) -> PatchPlanner:
        """Return what plans the current slide."""
        digest = self.require_slide().info.digest
        return self._planners.setdefault(digest, PatchPlanner())

    @property
    def own_mask(self) -> TissueMask | None:
        """The user's own tissue mask of the current slide."""
        return None if self.slide is None else self.session.own_masks.get(self.slide.info.digest)

    # Classes

    def classes(self) -> ClassTable:
        """Return the classes that patches may have by the recipe, with colours and number keys."""
        table, labels = ClassTable(), self._labels()
        if self.slide is not None:
            table = self.session.regions_of(self.slide).document.classes
        # Of what no region has: colours that neither eosin nor haematoxylin has.
        colors = {labels.annotated_as: _ANNOTATED, labels.default_class: _BARE}
        colors |= {item.name: item.color for item in table}
        names = [name for name in (labels.annotated_as, labels.default_class) if name]
        names += [] if self.planned is None else list(self.planned.label_names)
        for keeper in self.keepers().values():
            names += [decision.label for _, decision in keeper.marks.items() if decision.label]
        if labels.annotated_as:  # the regions' own classes are no classes of patches
            table = ClassTable()
        else:
            table = ClassTable(tuple(item for item in table if item.name not in labels.exclude))
        return table.completed(dict.fromkeys(names), colors)

    def stray_classes(self) -> dict[str, int]:
        """Return the classes given by hand on the slide that regions and recipe do not have (any more), with numbers."""
        keeper, slide = self.keeper(), self.slide
        if keeper is None or slide is None:
            return {}
        labels, table = self._labels(), self.session.regions_of(slide).document.classes
        known = {*table.names, labels.annotated_as, labels.default_class, ""}
        return dict(Counter(d.label for _, d in keeper.marks.items() if d.label not in known))

    def _labels(self) -> LabelSpec:
        try:
            return self.view.recipe().labels
        except DatasetError:  # the plan says what is wrong
            recipe = self.session.recipe
            return LabelSpec() if recipe is None else recipe.labels

    def class_of_key(self, digit: int) -> RegionClass | None:
        """Return the class that a number key picks."""
        return next((item for item in self.classes() if item.key == str(digit)), None)

    def colors(self) -> dict[str, RGB]:
        """Return colour by class."""
        return {item.name: item.color for item in self.classes()}

    def color_of(self, name: str) -> RGB:
        """Return the colour of a class."""
        item = self.classes().get(name)
        return item.color if item is not None else NO_CLASS_COLOR

    def key_at(self, row: int) -> MarkKey:
        """Return the key of a patch of the plan."""
        assert self.planned is not None
        positions = self.planned.grid.positions
        x, y = positions.level0_xy[row].tolist()
        return MarkKey(x, y, positions.size_px, positions.resolution.downsample[0])
