from __future__ import annotations

from dataclasses import fields
from html import escape
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QPushButton, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_histolatent._napari._forms import form_of, values_of
from napari_histolatent._napari.widgets._qt import note
from napari_histolatent._napari.widgets.path_picker import PathPicker
from napari_histolatent.models import CLASSIFIERS, GENERATORS
from napari_histolatent.training import PRESETS, ClassifierConfig, TrainingConfig
from napari_histolatent.training.config import DESIGNS, PRECISIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from magicgui.widgets import Container

GENERATOR, CLASSIFIER = "Generator (draws tissue of each class)", "Classifier (tells the classes apart)"

PRESET_TITLES = {"modern": "modern: learns best", "demo": "demo: two minutes", "s1": "s1: as in the paper"}
PRESET_NOTES = {
    "modern": "The recipe that learns on small data: plausible tissue of 64 px in about 8 minutes on two cores. Begin here.",
    "demo": "modern, cut to about two minutes on two cores: shows how everything works, not how good it gets.",
    "s1": "Networks, batch of 64, label smoothing and noise as Fernández et al. describe them: for comparison. Slow without a GPU, and learns less in equal time.",
}
_CLASSIFIER_NOTE = (
    "A small network that tells the classes apart: needed for Grad-CAM and to judge what a generator draws."
)
_AUTO = "auto"
_EXPANDED, _COLLAPSED = "▼", "▶"

_GROUPS: Mapping[str, tuple[str, ...]] = {
    "": ("steps", "batch_size"),
    "Network": ("network", "design", "z_dim", "base_channels"),
    "Learning": (
        "learning_rate",
        "beta1",
        "beta2",
        "generator_steps",
        "ema_decay",
        "r1_weight",
        "r1_every",
        "label_smoothing",
        "instance_noise",
        "condition_ramp_steps",
        "continuous_labels",
        "encoder_steps",
    ),
    "Augmentation": ("symmetries", "augment", "stain_jitter"),
    "Machine": (
        "precision",
        "devices",
        "channels_last",
        "compile",
        "halve_batch_if_out_of_memory",
        "seed",
    ),
    "Keeping and measuring": (
        "checkpoint_every",
        "keep_checkpoints",
        "milestone_every",
        "metrics_every",
        "judge",
        "log_every",
        "tensorboard",
        "calibrate",
    ),
}
_OTHERS = "Others"
_ELSEWHERE = ("size_px", "preset", "device", "nodes")
"""No row of the form: the dataset's, the preset box's, the device box's; a window cannot start other machines."""

_LABELS = {
    "steps": "Steps",
    "batch_size": "Batch",
    "size_px": "Patch size",
    "z_dim": "Latent length",
    "base_channels": "Finest width",
    "learning_rate": "Learning rate",
    "beta1": "Adam beta 1",
    "beta2": "Adam beta 2",
    "generator_steps": "G steps per D step",
    "ema_decay": "EMA decay",
    "r1_weight": "R1 weight",
    "r1_every": "R1 every",
    "instance_noise": "Noise on D's input",
    "condition_ramp_steps": "Class ramp",
    "continuous_labels": "Area shares as classes",
    "encoder_steps": "Encoder afterwards",
    "symmetries": "Eight symmetries",
    "augment": "Augment what D sees",
    "devices": "Processes",
    "channels_last": "Channels last",
    "compile": "Compile first",
    "halve_batch_if_out_of_memory": "Halve batch at need",
    "checkpoint_every": "Checkpoint every",
    "keep_checkpoints": "Keep",
    "milestone_every": "Keep for good every",
    "metrics_every": "Measure every",
    "log_every": "Report every",
    "tensorboard": "TensorBoard files",
    "calibrate": "Calibrate the verdict",
    "nodes": "Machines",
    "fine_tune": "All layers learn",
    "weights_sha256": "SHA-256 of the weights",
}
_UNITS = {
    **dict.fromkeys(
        (
            "r1_every",
            "condition_ramp_steps",
            "encoder_steps",
            "checkpoint_every",
            "milestone_every",
            "metrics_every",
            "log_every",
        ),
        "steps",
    ),
    "batch_size": "patches",
    "size_px": "px",
    "keep_checkpoints": "newest",
}
"""What is written behind a label."""
_AUTO_AT_0 = ("z_dim", "base_channels")
"""Where 0, if it is allowed, leaves the choice to the network."""
_DECIMALS = {"learning_rate": 6}
"""Where four are too few."""


class OptionsForm:
    """Every option of a config as a row of magicgui's: the first few, and groups of the others."""

    def __init__(self, config: TrainingConfig | ClassifierConfig) -> None:
        self.config_class = type(config)
        names = [item.name for item in fields(config) if item.name not in _ELSEWHERE]
        known = {name for group in _GROUPS.values() for name in group}
        groups = {title: [name for name in group if name in names] for title, group in _GROUPS.items()} | {
            _OTHERS: [name for name in names if name not in known]
        }
        self.groups: dict[str, Container[Any]] = {
            title: _form(config, group) for title, group in groups.items() if group
        }
        self.rows = {title: _rows(group) for title, group in self.groups.items()}
        self.set_config(config)

    def __getitem__(self, name: str) -> Any:
        """Return the widget of a field."""
        for form in self.groups.values():
            for widget in form:
                if widget.name == name:
                    return widget
        raise KeyError(name)

    def __iter__(self) -> Iterator[Any]:
        for form in self.groups.values():
            yield from form

    def values(self) -> dict[str, Any]:
        """Return field name -> value as it is set."""
        merged: dict[str, Any] = {}
        for form in self.groups.values():
            merged |= values_of(form)
        return merged

    def set_config(self, config: TrainingConfig | ClassifierConfig) -> None:
        """Show a config's values; each row's tooltip then says that they are the default."""
        helps = {item.name: str(item.metadata.get("help", "")) for item in fields(config)}
        for widget in self:
            value = getattr(config, widget.name)
            widget.value = value
            widget.tooltip = f"{helps[widget.name]}\nDefault here: {shown(value)}"


class TrainingForm(QWidget):
    """What is to be trained: kind, preset and what it means, device, steps; everything else under More."""

    changed = Signal()
    """Some option changed: what was estimated holds no more."""

    def __init__(self) -> None:
        super().__init__()
        self._is_quiet = True
        self.kind_box, self.preset_box, self.device_box = QComboBox(), QComboBox(), QComboBox()
        for box in (self.kind_box, self.preset_box, self.device_box):
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(12)
        self.kind_box.addItems([GENERATOR, CLASSIFIER])
        for name in sorted(PRESETS, key=lambda name: [*PRESET_TITLES, name].index(name)):
            self.preset_box.addItem(PRESET_TITLES.get(name, name), name)
        self.preset_note, self.device_note, self.changes_note = note(), note(), note()
        self.forms = {
            GENERATOR: OptionsForm(PRESETS[self.preset]),
            CLASSIFIER: OptionsForm(ClassifierConfig()),
        }
        self.out_picker = PathPicker("Run folder to make", is_folder=True)
        self.out_picker.setToolTip("A folder that does not exist yet; checkpoints and pictures go there.")
        self.reset_button = QPushButton("Back to the preset")
        self.reset_button.setToolTip("Set every option to what the preset says.")
        self.more = QCollapsible("More options", expandedIcon=_EXPANDED, collapsedIcon=_COLLAPSED)
        self.more.layout().setContentsMargins(0, 0, 0, 0)
        self._columns = {kind: self._column(form) for kind, form in self.forms.items()}
        for column in self._columns.values():
            self.more.addWidget(column)
        self.more.addWidget(self.reset_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(6)
        layout.addWidget(self.kind_box)
        layout.addWidget(self.preset_box)
        layout.addWidget(self.preset_note)
        for form in self.forms.values():
            layout.addWidget(form.rows[""])
        device_row = QWidget()
        rows = QFormLayout(device_row)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addRow("Device", self.device_box)
        out_row = QWidget()
        rows = QFormLayout(out_row)
        rows.setContentsMargins(0, 0, 0, 0)
        rows.addRow("Save to", self.out_picker)
        for widget in (device_row, self.device_note, self.more, self.changes_note, out_row):
            layout.addWidget(widget)
        self.set_devices([(_AUTO, "auto: the best there is")], "")
        for form in self.forms.values():
            for widget in form:
                widget.changed.connect(self._on_changed)
        self.kind_box.currentIndexChanged.connect(self._show_kind)
        self.preset_box.currentIndexChanged.connect(self._take_preset)
        self.device_box.currentIndexChanged.connect(self._on_changed)
        self.reset_button.clicked.connect(self._take_preset)
        self._is_quiet = False
        self._show_kind()

    def changeEvent(self, event: QEvent) -> None:
        """Follow the theme."""
        super().changeEvent(event)
        # Qt sends the first ones while the widget is still being made.
        if event.type() in (QEvent.Type.PaletteChange, QEvent.Type.StyleChange) and hasattr(self, "more"):
            self._draw_arrows()

    def showEvent(self, event: QEvent) -> None:
        """Draw the arrows in the colour of the theme, which is known now."""
        super().showEvent(event)
        self._draw_arrows()

    def _draw_arrows(self) -> None:
        # They are pictures of the characters, in the colour that the text had when they were made.
        self.more.toggleButton().ensurePolished()
        self.more.setExpandedIcon(_EXPANDED)
        self.more.setCollapsedIcon(_COLLAPSED)

    @staticmethod
    def _column(form: OptionsForm) -> QWidget:
        column = QWidget()
        layout = QVBoxLayout(column)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        for title, rows in form.rows.items():
            if title:
                heading = QLabel(title)
                heading.setStyleSheet("font-weight: bold; margin-top: 6px;")
                layout.addWidget(heading)
                layout.addWidget(rows)
        return column

    @property
    def wants_generator(self) -> bool:
        """Whether a generator is to be trained, not a classifier."""
        return bool(self.kind_box.currentText() == GENERATOR)

    @property
    def form(self) -> OptionsForm:
        """The options of the kind that is chosen."""
        return self.forms[self.kind_box.currentText()]

    @property
    def preset(self) -> str:
        """Name of the preset."""
        return str(self.preset_box.currentData())

    @property
    def base(self) -> TrainingConfig | ClassifierConfig:
        """What the options started from."""
        return PRESETS[self.preset] if self.wants_generator else ClassifierConfig()

    def values(self) -> dict[str, Any]:
        """Return every option as it is set, the device too."""
        return self.form.values() | {"device": str(self.device_box.currentData())}

    def config(self, *, size_px: int) -> TrainingConfig | ClassifierConfig:
        """Return the config that is set, for patches of a size.

        Raises
        ------
        UserError
            If an option has no meaning.
        """
        return self.base.with_changes(size_px=size_px, **self.values())

    def set_devices(self, devices: Sequence[tuple[str, str]], why: str) -> None:
        """Offer devices as (name, title), the first being chosen by default for the reason given."""
        current = self.device_box.currentData()
        self.device_box.blockSignals(True)
        self.device_box.clear()
        for name, title in devices:
            self.device_box.addItem(title, name)
        self.device_box.setCurrentIndex(max(0, self.device_box.findData(current)))
        self.device_box.blockSignals(False)
        self.device_box.setToolTip(escape(self.device_box.currentText()))
        self.device_note.setText(why)
        self.device_note.setVisible(bool(why))

    def _show_kind(self) -> None:
        for kind, form in self.forms.items():
            is_shown = kind == self.kind_box.currentText()
            form.rows[""].setVisible(is_shown)
            self._columns[kind].setVisible(is_shown)
        self.preset_box.setVisible(self.wants_generator)
        self._describe()
        self._on_changed()

    def _describe(self) -> None:
        self.preset_note.setText(
            PRESET_NOTES.get(self.preset, "") if self.wants_generator else _CLASSIFIER_NOTE
        )

    def _take_preset(self, *_: object) -> None:
        self._describe()
        self._is_quiet = True
        self.form.set_config(self.base)
        self._is_quiet = False
        self._on_changed()

    def _on_changed(self, *_: object) -> None:
        if not self._is_quiet:
            text = changes_text(self.base, self.form.values())
            self.changes_note.setText(text)
            self.changes_note.setVisible(bool(text))
            self.reset_button.setEnabled(bool(text))
            self.changed.emit()


def changes_text(base: TrainingConfig | ClassifierConfig, values: Mapping[str, Any]) -> str:
    """Return which options differ from what they started from, in words; empty if none does."""
    changed = [
        f"{label_of(name)} {shown(value)} ({shown(getattr(base, name))})"
        for name, value in values.items()
        if value != getattr(base, name)
    ]
    return f"Changed: {', '.join(changed)}." if changed else ""


def label_of(name: str) -> str:
    """Return a field's label."""
    return _LABELS.get(name, name.replace("_", " ").capitalize())


def with_unit(name: str, value: Any) -> str:
    """Return a field's value as it is written in a table, with its unit."""
    if name in _AUTO_AT_0 and value == 0:
        return "auto"
    unit = _UNITS.get(name)
    return f"{shown(value)} {unit}" if unit else shown(value)


def _label_with_unit(name: str, config: TrainingConfig | ClassifierConfig) -> str:
    unit = "0: auto" if name in _AUTO_AT_0 and name in config.may_be_0 else _UNITS.get(name)
    return f"{label_of(name)} ({unit})" if unit else label_of(name)


def shown(value: Any) -> str:
    """Return an option's value as it is written in a sentence."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value) or "none"


def _rows(form: Container[Any]) -> QWidget:
    """Return a form's widgets with their labels in one column: a form that is hidden at first does not do so."""
    box = QWidget()
    rows = QFormLayout(box)
    rows.setContentsMargins(0, 0, 0, 0)
    rows.setVerticalSpacing(4)
    for widget in form:
        if isinstance(widget.value, bool):
            rows.addRow(widget.native)
        else:
            rows.addRow(widget.label, widget.native)
    return box


def _form(config: TrainingConfig | ClassifierConfig, names: Sequence[str]) -> Container[Any]:
    choices: dict[str, Sequence[str]] = {
        "network": tuple(GENERATORS if isinstance(config, TrainingConfig) else CLASSIFIERS),
        "design": DESIGNS,
        "precision": PRECISIONS,
        "augmentation": ClassifierConfig.augmentations,
    }
    options: dict[str, dict[str, Any]] = {}
    for name in names:
        value = getattr(config, name)
        if name in choices:
            options[name] = {"choices": list(choices[name])}
        elif isinstance(value, bool):
            options[name] = {}
        elif isinstance(value, int):
            lowest = 0 if name in config.may_be_0 else 1
            options[name] = {"min": lowest, "max": 2**31 - 1}
        elif isinstance(value, float):
            highest = 0.999999 if name in config.below_1 else 1e6
            options[name] = {
                "min": 0.0,
                "max": highest,
                "step": 0.05 if value >= 0.05 or value == 0 else value / 10,
            }
    form = form_of(config, {name: _label_with_unit(name, config) for name in names}, options)
    for widget in form:
        box = widget.native
        if widget.name in _DECIMALS:
            box.setDecimals(_DECIMALS[widget.name])
        if hasattr(box, "setMinimumContentsLength"):
            box.setMinimumContentsLength(6)
    return form
