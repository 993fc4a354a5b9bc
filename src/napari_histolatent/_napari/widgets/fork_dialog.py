from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import (
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QDoubleSpinBox,
    QFormLayout,
    QSpinBox,
    QWidget,
)

from napari_histolatent._napari.widgets._qt import note
from napari_histolatent._napari.widgets.path_picker import PathPicker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class ForkChoice:
    """A checkpoint that a new run can begin with."""

    step: int
    is_best: bool = False

    @property
    def title(self) -> str:
        """What is shown of it."""
        return f"step {self.step:,}" + (" (lowest KID)" if self.is_best else "")


class ForkDialog(QDialog):
    """From which checkpoint a new run begins, and what it does otherwise."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Fork a run")
        self.checkpoint_box = QComboBox()
        self.steps_spin, self.rate_spin = QSpinBox(), QDoubleSpinBox()
        self.steps_spin.setRange(1, 2**31 - 1)
        self.steps_spin.setSuffix(" steps")
        self.steps_spin.setToolTip("Steps of the new run, those up to the checkpoint counted.")
        self.rate_spin.setDecimals(6)
        self.rate_spin.setRange(1e-6, 10.0)
        self.rate_spin.setSingleStep(1e-4)
        self.out_picker = PathPicker("Run folder to make", is_folder=True)
        self.buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Ok | QDialogButtonBox.StandardButton.Cancel
        )
        self.buttons.button(QDialogButtonBox.StandardButton.Ok).setText("Start")
        form = QFormLayout(self)
        form.addRow(
            note("A new run begins with a checkpoint's weights; the run it comes from stays as it is.")
        )
        form.addRow("Checkpoint", self.checkpoint_box)
        form.addRow("Steps in all", self.steps_spin)
        form.addRow("Learning rate", self.rate_spin)
        form.addRow("Save to", self.out_picker)
        self.fault_note = note()
        self.fault_note.hide()
        form.addRow(self.fault_note)
        form.addRow(self.buttons)
        self._steps, self._has_own_steps, self._free = 1, False, Path()
        self.checkpoint_box.currentIndexChanged.connect(self._suggest_steps)
        self.steps_spin.valueChanged.connect(self._on_steps_set)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        self.setMinimumWidth(420)

    def set_choices(self, choices: Sequence[ForkChoice], config: Mapping[str, Any], out: Path) -> None:
        """Offer checkpoints, newest first, the settings of their run, and a free folder."""
        self._steps, self._has_own_steps, self._free = int(config.get("steps", 1)), False, out
        self.checkpoint_box.clear()
        for choice in choices:
            self.checkpoint_box.addItem(choice.title, choice.step)
        self.rate_spin.setValue(float(config.get("learning_rate", 1e-3)))
        self.out_picker.set_path(out)

    def _suggest_steps(self, *_: object) -> None:
        if self.checkpoint_box.currentIndex() < 0:
            return
        self.steps_spin.blockSignals(True)
        # One that has all its steps behind it would end where it begins.
        self.steps_spin.setMinimum(self.step + 1)
        if not self._has_own_steps:
            self.steps_spin.setValue(max(self._steps, 2 * self.step))
        self.steps_spin.blockSignals(False)

    def _on_steps_set(self) -> None:
        self._has_own_steps = True

    def accept(self) -> None:
        """Close, unless the folder cannot be taken: that is said, and what was entered stays."""
        fault = fault_of(self.out_picker.path or self._free)
        self.fault_note.setText(fault)
        self.fault_note.setVisible(bool(fault))
        if not fault:
            super().accept()

    @property
    def step(self) -> int:
        """Step of the checkpoint."""
        return int(self.checkpoint_box.currentData())

    @property
    def changes(self) -> dict[str, Any]:
        """What the new run does otherwise."""
        return {"steps": int(self.steps_spin.value()), "learning_rate": float(self.rate_spin.value())}


def fault_of(folder: Path) -> str:
    """Return why a run cannot be made in a folder, empty if it can."""
    try:
        is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        return f"{folder} cannot be read ({error}); choose another folder."
    return f"{folder} is not empty; choose a folder that does not exist yet." if is_taken else ""
