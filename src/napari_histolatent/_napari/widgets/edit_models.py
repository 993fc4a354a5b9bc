from __future__ import annotations

from typing import TYPE_CHECKING

from napari.utils.notifications import show_error

from napari_histolatent._napari._editing import (
    ModelRun,
    Models,
    judge_name,
    load_models,
    paired_classifier,
    runs_with_models,
)
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.editing._words import in_dock
from napari_histolatent._napari.widgets.edit_view import NO_CLASSIFIER

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent._napari.widgets.edit_view import EditView


class EditModels:
    """Lists the networks there are, and loads those that are chosen.

    Parameters
    ----------
    view
        Whose lists are filled.
    on_change
        Called when networks were loaded, and when those that were are let go: none answers while another is named.
    """

    def __init__(self, view: EditView, *, on_change: Callable[[], None]) -> None:
        self._view, self._on_change = view, on_change
        self.models: Models | None = None
        """What is loaded."""
        self._runs: dict[str, ModelRun] = {}
        self._named: tuple[ModelRun | None, ModelRun | None] = (None, None)
        self._wants_no_classifier = False
        self.judge = ""
        """Which classifier is loaded, in words; empty without one."""
        self.lister = LatestWorker(in_words=in_dock)
        self.loader = LatestWorker(on_error=self._show_no_models, in_words=in_dock)
        view.generator_chosen.connect(self._choose_generator)
        view.classifier_chosen.connect(self._choose_classifier)

    def close(self) -> None:
        """Let go of running work."""
        self.lister.cancel()
        self.loader.cancel()

    def list_again(self) -> None:
        """Look for runs with a checkpoint."""
        self.lister.submit(lambda _: runs_with_models(), self._offer)

    def required(self) -> Models | None:
        """Return what is loaded; where nothing is, say so."""
        if self.models is None:
            show_error("There is no generator yet; train one in the Train dock, or wait until it is loaded.")
        return self.models

    def _offer(self, found: tuple[list[ModelRun], list[ModelRun]]) -> None:
        generators, classifiers = found
        self._runs = {run.path: run for run in (*generators, *classifiers)}
        before = self._view.generator_box.currentData()
        current = before if before in self._runs else (generators[0].path if generators else None)
        self._view.set_models(
            self._view.generator_box, [(run.caption, run.path) for run in generators], current
        )
        self._offer_classifiers()
        self._load()

    def _offer_classifiers(self) -> None:
        """Name a classifier that fits the generator, unless the user wants none."""
        box = self._view.classifier_box
        generator = self._runs.get(self._view.generator_box.currentData())
        classifiers = [run for run in self._runs.values() if run.kind == "classifier"]
        before = self._runs.get(box.currentData())
        paired = None
        if generator is not None and not self._wants_no_classifier:
            paired = paired_classifier(generator.classes, classifiers, before)
        entries = [*((run.caption, run.path) for run in classifiers), (NO_CLASSIFIER, "")]
        self._view.set_models(box, entries, paired.path if paired else "")

    def _choose_generator(self, *_: object) -> None:
        self._named = (None, None)  # chosen by hand it is loaded again, even the same
        self._offer_classifiers()
        self._load()

    def _choose_classifier(self, path: str) -> None:
        self._wants_no_classifier = not path
        self._named = (None, None)
        self._load()

    def _load(self) -> None:
        """Load the networks that are named, if they are not the loaded ones, or have learnt on since."""
        generator, classifier = (
            self._runs.get(box.currentData() or "")
            for box in (self._view.generator_box, self._view.classifier_box)
        )
        if generator is None:
            self._forget()
            self._named = (None, None)
            self._view.models_note.setText("Train a generator first, in the Train dock.")
            return
        if (generator, classifier) == self._named:
            return
        self._forget()
        self._named = (generator, classifier)
        self._view.models_note.setText("Loading…")
        classifier_path = classifier.path if classifier else None
        self.loader.submit(lambda _: load_models(generator.path, classifier_path), self._show)

    def _forget(self) -> None:
        self.loader.cancel()
        self.models = None
        self._on_change()

    def _show(self, models: Models) -> None:
        self.models = models
        view, checkpoint = self._view, models.generator.checkpoint
        mpp = f" at {checkpoint.mpp:g} µm per px" if checkpoint.mpp else ""
        without = "" if models.classifier else "; no classifier, so no Grad-CAM"
        draws = ", ".join(checkpoint.classes) or "tiles without a class"
        said = [f"Draws {draws}, {checkpoint.size_px} px{mpp}, step {checkpoint.step}{without}."]
        view.models_note.setText("\n".join([*said, *map(in_dock, models.remarks)]))
        judge = self._named[1]
        known = models.classifier.checkpoint.classes if models.classifier else ()
        self.judge = judge_name(judge) if models.classifier and judge else ""
        view.bars.set_judge(self.judge or None, known)
        view.set_search_classes(checkpoint.classes)
        view.set_classes(checkpoint.classes)
        view.set_heatmap_classes(checkpoint.classes or known)
        view.set_layers(models.layers)
        self._on_change()

    def _show_no_models(self, _: Exception) -> None:
        self.models = None
        self._view.models_note.setText("These could not be loaded; choose another generator or classifier.")
