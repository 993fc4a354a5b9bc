from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QTimer, Signal
from qtpy.QtWidgets import QComboBox, QProgressBar, QPushButton, QSizePolicy

from napari_histolatent._napari.widgets._qt import ScrollingDock, WheelScrolls, note, row, section
from napari_histolatent._napari.widgets.path_picker import PathPicker
from napari_histolatent._napari.widgets.runs_list import RunsList
from napari_histolatent._napari.widgets.sample_history import SampleHistory
from napari_histolatent._napari.widgets.training_form import OptionsForm, TrainingForm
from napari_histolatent._napari.widgets.training_plots import TrainingPlots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent._napari.widgets.loss_plot import LossPlot

_WARNING_MARK = "⚠"
_DISTANCE = "The samples' distance from real patches: {value} ({name}; lower is better)."
_WARNING_ON_DARK, _WARNING_ON_LIGHT = "#e8963f", "#8a4500"
"""Both at a contrast of 5 or more to the themes' backgrounds."""


class TrainView(ScrollingDock):
    """Controls of the Train dock: what to train, the runs there are, and the one that is looked at."""

    dataset_chosen = Signal(str)
    estimate_requested = Signal()
    start_requested = Signal()
    pause_requested = Signal()
    stop_requested = Signal()
    resume_requested = Signal()
    fork_requested = Signal()
    compare_requested = Signal()
    run_selected = Signal(str)
    shown = Signal()
    """The dock can be seen."""

    def __init__(self) -> None:
        self.dataset_picker = PathPicker("Dataset folder", is_folder=True, picks_on_leaving=True)
        self.dataset_note = note("No dataset yet: cut one in the Patches dock, or choose a folder.")
        self.options = TrainingForm()
        self.estimate_button, self.start_button = QPushButton("Estimate"), QPushButton("Start training")
        self.estimate_button.setToolTip(
            "Take a few steps with these settings in a process of its own, and say how long the run will take."
        )
        self.start_button.setToolTip("Train in a process of its own, which goes on when napari is closed.")
        self.estimate_note = note()
        self.runs_list = RunsList()
        self.compare_button = QPushButton("Compare the two")
        self.state_note, self.health_note, self.warnings_note = note("No run selected."), note(), note()
        self.progress = QProgressBar()
        self.pause_button, self.stop_button = QPushButton("Pause"), QPushButton("Stop")
        self.resume_button, self.fork_button = QPushButton("Resume"), QPushButton("Fork…")
        self.pause_button.setToolTip(
            "Stop for now after this step: processor and memory are free, and Resume goes on as if nothing had been."
        )
        self.stop_button.setToolTip(
            "End it here, with a checkpoint of the last step. It can still be resumed."
        )
        self.resume_button.setToolTip("Go on from the newest checkpoint.")
        self.fork_button.setToolTip("Begin a new run with the weights of one of this run's checkpoints.")
        for button in (self.pause_button, self.stop_button, self.resume_button, self.fork_button):
            # Four in a row: they share what width there is.
            button.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.plots, self.samples = TrainingPlots(), SampleHistory()
        self._runs_section = section("Runs", self.runs_list, self.compare_button)
        super().__init__(
            section("Dataset", self.dataset_picker, self.dataset_note),
            section(
                "New run",
                self.options,
                row(self.estimate_button, self.start_button, stretch=1),
                self.estimate_note,
            ),
            self._runs_section,
            section(
                "Run",
                self.state_note,
                self.progress,
                row(self.pause_button, self.stop_button, self.resume_button, self.fork_button),
                self.warnings_note,
                self.health_note,
                self.samples,
                self.plots,
            ),
        )
        self._wheel = WheelScrolls()
        self._wheel.watch(self.widget())
        self._apply_palette()
        self.dataset_picker.picked.connect(self.dataset_chosen)
        self.estimate_button.clicked.connect(self.estimate_requested)
        self.start_button.clicked.connect(self.start_requested)
        self.pause_button.clicked.connect(self.pause_requested)
        self.stop_button.clicked.connect(self.stop_requested)
        self.resume_button.clicked.connect(self.resume_requested)
        self.fork_button.clicked.connect(self.fork_requested)
        self.compare_button.clicked.connect(self.compare_requested)
        self.runs_list.run_selected.connect(self.run_selected)
        self.runs_list.pair_selected.connect(self.compare_button.setVisible)
        self.compare_button.setVisible(False)
        self._scroller = QTimer(self)
        self._scroller.setSingleShot(True)
        self._scroller.setInterval(100)
        self._scroller.timeout.connect(self._scroll)
        self.set_estimate("")
        self.set_health("", [])
        self.set_state("", can_stop=False, can_resume=False)

    @property
    def kind_box(self) -> QComboBox:
        """Generator or classifier."""
        return self.options.kind_box

    @property
    def preset_box(self) -> QComboBox:
        """The preset."""
        return self.options.preset_box

    @property
    def out_picker(self) -> PathPicker:
        """The run folder to make."""
        return self.options.out_picker

    @property
    def form(self) -> OptionsForm:
        """The options of the kind that is chosen, by field name."""
        return self.options.form

    @property
    def wants_generator(self) -> bool:
        """Whether a generator is to be trained, not a classifier."""
        return self.options.wants_generator

    @property
    def plot(self) -> LossPlot:
        """The losses."""
        return self.plots.losses

    def scroll_to_runs(self) -> None:
        """Bring the list of runs and what is below it into view: a run was started."""
        # When what was shown or hidden meanwhile has its place.
        self._scroller.start()

    def _scroll(self) -> None:
        self.verticalScrollBar().setValue(self._runs_section.y())

    def set_runs(self, rows: Sequence[Any], current: str | None) -> None:
        """Show the runs there are, and which one is looked at."""
        self.runs_list.set_rows(rows, current)

    def set_state(self, text: str, *, can_stop: bool, can_resume: bool, can_fork: bool = False) -> None:
        """Say where the run stands, and which buttons have a meaning."""
        self.state_note.setText(text or "No run selected.")
        self.progress.setVisible(bool(text))
        for button, has_meaning in (
            (self.pause_button, can_stop),
            (self.stop_button, can_stop),
            (self.resume_button, can_resume),
            (self.fork_button, can_fork),
        ):
            button.setEnabled(has_meaning)

    def set_progress(self, step: int, steps: int) -> None:
        """Show how many steps are done; unknown as long as the process starts."""
        self.progress.setRange(0, steps)
        self.progress.setValue(step)
        self.progress.setFormat(f"{step:,} of {steps:,} steps")

    def set_health(self, text: str, warnings: Sequence[str]) -> None:
        """Show how good and how healthy the network is, and what is wrong, a sentence each.

        Of several numbers the first is put into a sentence, and all are its tooltip.
        """
        first, *others = text.split("; ")
        if first.startswith("KID"):
            name, _, value = first.rpartition(" ")
            self.health_note.setText(_DISTANCE.format(name=name, value=value))
            self.health_note.setToolTip("<br>".join(escape(part) for part in (first, *others)))
        else:
            self.health_note.setText(text)
            self.health_note.setToolTip("")
        self.health_note.setVisible(bool(text))
        self.warnings_note.setText("\n".join(f"{_WARNING_MARK} {sentence}" for sentence in warnings))
        self.warnings_note.setVisible(bool(warnings))

    def set_estimate(self, text: str, *, is_busy: bool = False) -> None:
        """Show what a run would take, or that it is being measured: the button then cancels that."""
        self.estimate_note.setText(text)
        self.estimate_note.setVisible(bool(text))
        self.estimate_button.setText("Cancel" if is_busy else "Estimate")

    def changeEvent(self, event: QEvent) -> None:
        """Follow the theme."""
        super().changeEvent(event)
        # Qt sends the first ones while the widget is still being made.
        if event.type() in (QEvent.Type.PaletteChange, QEvent.Type.StyleChange) and hasattr(self, "_wheel"):
            self._apply_palette()

    def _apply_palette(self) -> None:
        is_dark = self.palette().window().color().lightness() < 128
        color = _WARNING_ON_DARK if is_dark else _WARNING_ON_LIGHT
        if color not in self.warnings_note.styleSheet():  # to set it is a change of style, too
            self.warnings_note.setStyleSheet(f"color: {color};")

    def showEvent(self, event: QEvent) -> None:
        """Say that the dock can be seen."""
        super().showEvent(event)
        self.shown.emit()
