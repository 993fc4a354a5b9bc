from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QLabel, QProgressBar, QPushButton
from superqt import QCollapsible

from napari_histolatent._napari._forms import form_of, values_of
from napari_histolatent._napari.widgets._qt import ScrollingDock, native, note, pixmap_of, row, section
from napari_histolatent._napari.widgets.loss_plot import LossPlot
from napari_histolatent._napari.widgets.path_picker import PathPicker
from napari_histolatent.training import PRESETS, ClassifierConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

GENERATOR, CLASSIFIER = "Generator (draws tissue of each class)", "Classifier (tells the classes apart)"
SAMPLE_PX = 320


class TrainView(ScrollingDock):
    """Controls of the Train dock."""

    dataset_chosen = Signal(str)
    start_requested = Signal()
    stop_requested = Signal()
    resume_requested = Signal()
    run_selected = Signal(str)

    def __init__(self) -> None:
        self.dataset_picker = PathPicker("Dataset folder", is_folder=True)
        self.dataset_note = note("No dataset yet: cut one in the Patches dock, or choose a folder.")
        self.kind_box = QComboBox()
        self.kind_box.addItems([GENERATOR, CLASSIFIER])
        self.preset_box = QComboBox()
        self.preset_box.addItem("demo: about 2 minutes on 2 cores", "demo")
        self.preset_box.addItem("lean: about 8 minutes on 2 cores", "lean")
        options: dict[str, dict[str, Any]] = {
            "steps": {"min": 1, "max": 1_000_000},
            "device": {"choices": ["auto", "cpu", "cuda", "mps"]},
            "seed": {"min": 0, "max": 2**31 - 1},
        }
        self.form = form_of(PRESETS["demo"], {"steps": "Steps"}, options)
        self.more_form = form_of(PRESETS["demo"], {"device": "Device", "seed": "Seed"}, options)
        self.out_picker = PathPicker("Run folder to make", is_folder=True)
        self.start_button = QPushButton("Start training")
        self.runs_box = QComboBox()
        self.runs_box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.runs_box.setMinimumContentsLength(20)
        self.state_note = note("No run selected.")
        self.progress = QProgressBar()
        self.stop_button, self.resume_button = QPushButton("Stop and keep"), QPushButton("Resume")
        self.plot = LossPlot()
        self.sample_label = QLabel()
        self.sample_label.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        more = QCollapsible("More")
        more.layout().setContentsMargins(0, 0, 0, 0)
        more.addWidget(native(self.more_form))
        more.addWidget(self.out_picker)
        super().__init__(
            section("Dataset", self.dataset_picker, self.dataset_note),
            section("New run", self.kind_box, self.preset_box, native(self.form), more, self.start_button),
            section(
                "Run",
                self.runs_box,
                self.state_note,
                self.progress,
                row(self.stop_button, self.resume_button),
                self.sample_label,
                self.plot,
            ),
        )
        self.dataset_picker.picked.connect(self.dataset_chosen)
        self.start_button.clicked.connect(self.start_requested)
        self.stop_button.clicked.connect(self.stop_requested)
        self.resume_button.clicked.connect(self.resume_requested)
        self.runs_box.activated.connect(lambda i: self.run_selected.emit(self.runs_box.itemData(i)))
        self.kind_box.currentIndexChanged.connect(self._show_defaults)
        self.preset_box.currentIndexChanged.connect(self._show_defaults)
        self._show_defaults()
        self.set_state("", can_stop=False, can_resume=False)

    @property
    def wants_generator(self) -> bool:
        """Whether a generator is to be trained, not a classifier."""
        return bool(self.kind_box.currentText() == GENERATOR)

    @property
    def preset(self) -> str:
        """Name of the preset."""
        return str(self.preset_box.currentData())

    def form_values(self) -> dict[str, Any]:
        """Return steps, device and seed as they are set."""
        return values_of(self.form) | values_of(self.more_form)

    def set_runs(self, runs: Sequence[tuple[str, str]], current: str | None) -> None:
        """Show (caption, path) of the runs there are."""
        self.runs_box.blockSignals(True)
        self.runs_box.clear()
        for caption, path in runs:
            self.runs_box.addItem(caption, path)
        self.runs_box.setCurrentIndex(self.runs_box.findData(current) if current else -1)
        self.runs_box.blockSignals(False)

    def set_state(self, text: str, *, can_stop: bool, can_resume: bool) -> None:
        """Say where the run stands, and which buttons have a meaning."""
        self.state_note.setText(text or "No run selected.")
        self.stop_button.setEnabled(can_stop)
        self.resume_button.setEnabled(can_resume)

    def set_progress(self, step: int, steps: int) -> None:
        """Show how many steps are done; unknown as long as the process starts."""
        self.progress.setRange(0, steps)
        self.progress.setValue(step)
        self.progress.setFormat("%v of %m steps")

    def set_sample(self, pixels: NDArray[np.uint8] | None) -> None:
        """Show what the network draws now."""
        if pixels is None:
            self.sample_label.clear()
        else:
            self.sample_label.setPixmap(pixmap_of(pixels, SAMPLE_PX))
            self.sample_label.setToolTip("SYNTHETIC: a row a class, the same latent vector in each column")

    def _show_defaults(self) -> None:
        self.preset_box.setEnabled(self.wants_generator)
        config = PRESETS[self.preset] if self.wants_generator else ClassifierConfig()
        self.form["steps"].value = config.steps
