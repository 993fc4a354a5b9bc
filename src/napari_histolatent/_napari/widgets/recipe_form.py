"""The controls of a recipe: what decides which patches are cut, to and from widgets."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QSizePolicy,
    QSpinBox,
    QWidget,
)
from superqt import QLabeledDoubleSlider

from napari_histolatent._config import help_of
from napari_histolatent._napari.widgets._qt import row
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import (
    BALANCE_METHODS,
    CODECS,
    EDGES,
    PRESETS,
    RULES,
    BalanceSpec,
    GridSpec,
    LabelSpec,
    QualitySpec,
    Recipe,
    SplitSpec,
    StainSpec,
    StoreSpec,
    TissueSpec,
)
from napari_histolatent.patches._pens import PEN_COLORS
from napari_histolatent.patches._split import WAYS
from napari_histolatent.patches._stain import STAIN_METHODS
from napari_histolatent.patches._store import KEEPS
from napari_histolatent.patches._tissue import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PRESET_TITLES = {"": "My own settings", "default": "Default", "s1": "S1: positive / negative"}
_MPP, _LEVEL, _ZOOM_0, _ZOOM_1, _BOTH_ZOOMS = "mpp", "level", "zoom 0", "zoom 1", "both"
_ZOOMS = {_ZOOM_0: (1.0,), _ZOOM_1: (2.0,), _BOTH_ZOOMS: (1.0, 2.0)}
_STEPS = {
    "stride_px": (
        "px step",
        "Step between patches, in patch pixels. “= size”: side by side, no overlap.",
    ),
    "overlap_px": ("px overlap", "Overlap of neighbours, in patch pixels."),
    "stride_um": ("µm step", "Step between patches, in µm on the slide."),
    "overlap_um": ("µm overlap", "Overlap of neighbours, in µm on the slide."),
}
_DENSITY_MOST = 2.4


class Limit(QWidget):
    """A number that may be left open."""

    changed = Signal()

    def __init__(
        self, title: str, *, value: float, highest: float, step: float, decimals: int = 0, tip: str = ""
    ) -> None:
        super().__init__()
        self.check = QCheckBox(title)
        self.spin = QDoubleSpinBox()
        self.spin.setRange(0, highest)
        self.spin.setSingleStep(step)
        self.spin.setDecimals(decimals)
        self.spin.setValue(value)
        self.spin.setEnabled(False)
        self.spin.setMinimumWidth(84)
        for widget in (self.check, self.spin):
            widget.setToolTip(tip)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.check, 1)
        layout.addWidget(self.spin)
        self.check.toggled.connect(self.spin.setEnabled)
        self.check.toggled.connect(lambda _: self.changed.emit())
        self.spin.valueChanged.connect(lambda _: self.changed.emit())

    def value(self) -> float | None:
        """Return the number, None if it is left open."""
        return float(self.spin.value()) if self.check.isChecked() else None

    def set_value(self, value: float | None) -> None:
        """Show a number, or that it is left open."""
        self.check.setChecked(value is not None)
        if value is not None:
            self.spin.setValue(value)


class RecipeForm(QObject):
    """Widgets of a recipe, and the recipe that they say."""

    changed = Signal()
    """Some value changed."""

    def __init__(self) -> None:
        super().__init__()
        self._is_quiet = False
        self.top = _form()
        self.sections: dict[str, QWidget] = {}
        self._make_top()
        self.sections["Tissue mask"] = self._make_tissue()
        self.sections["Labels in detail"] = self._make_labels()
        self.sections["Grid: origin and edge"] = self._make_grid()
        self.sections["Balance and split"] = self._make_split()
        self.sections["Quality limits"] = self._make_quality()
        self.sections["Stain"] = self._make_stain()
        self.sections["Store"] = self._make_store()
        self.set_recipe(Recipe())
        self.preset_box.activated.connect(self._take_preset)

    # -- widgets --------------------------------------------------------------------------------------------

    def _make_top(self) -> None:
        self.preset_box = QComboBox()
        for name, title in _PRESET_TITLES.items():
            self.preset_box.addItem(title, name)
        self.preset_box.setToolTip(
            "A recipe by name; it sets everything below.\n"
            + "\n".join(f"{_PRESET_TITLES.get(name, name)}: {text}" for name, (text, _) in PRESETS.items())
        )
        _keep_narrow(self.preset_box)
        self.size_spin = self._spin(16, 4096, 16, help_of(GridSpec, "size_px"), suffix=" px")
        self.resolution_box = self._box(
            {
                _MPP: "µm per px",
                _LEVEL: "level",
                _ZOOM_0: "zoom 0",
                _ZOOM_1: "zoom 1",
                _BOTH_ZOOMS: "zoom 0 and 1",
            },
            "At what the patches are read: micrometres per pixel, a pyramid level as it is stored, or a zoom of the "
            "slide (0: full resolution, 1: half of it).",
        )
        self.mpp_spin = self._double(0.05, 50, 0.05, 4, help_of(GridSpec, "mpp"))
        self.level_spin = self._spin(0, 20, 1, help_of(GridSpec, "level"))
        self.step_spin = self._double(0, 100_000, 16, 0, "")
        self.step_spin.setSpecialValueText("= size")
        self.step_box = self._box({name: title for name, (title, _) in _STEPS.items()}, "")
        self.rule_box = self._box({name: name for name in RULES}, "")
        self.rule_box.setToolTip(
            "What gives a patch its class\n" + "\n".join(f"{k}: {v}" for k, v in RULES.items())
        )
        self.threshold_slider = self._share(help_of(LabelSpec, "threshold"), lowest=0.01)
        self.default_edit = self._line(
            "gets no label",
            "Class of tissue that no region covers (S1: negative); empty: such patches are not cut.",
        )
        self.min_tissue_slider = self._share(help_of(TissueSpec, "min_tissue"))
        form = self.top.layout()
        form.addRow("Recipe", self.preset_box)
        form.addRow("Patch size", self.size_spin)
        form.addRow("Resolution", row(self.resolution_box, self.mpp_spin, self.level_spin))
        form.addRow("Step", row(self.step_spin, self.step_box))
        form.addRow("Label rule", self.rule_box)
        form.addRow("Least share", self.threshold_slider)
        form.addRow("Not annotated", self.default_edit)
        form.addRow("Least tissue", self.min_tissue_slider)
        self.resolution_box.currentIndexChanged.connect(self._show_needed)
        self.step_box.currentIndexChanged.connect(self._show_needed)
        self.rule_box.currentIndexChanged.connect(self._show_needed)

    def _make_tissue(self) -> QWidget:
        self.method_box = self._box({name: name for name in METHODS}, "")
        self.method_box.setToolTip(
            "How tissue is found\n" + "\n".join(f"{k}: {v}" for k, v in METHODS.items())
        )
        self.auto_check = QCheckBox("find it")
        self.auto_check.setToolTip("Find the threshold by Otsu's method; else it is where the slider stands.")
        self.tissue_slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        self.tissue_slider.setRange(0, 255)
        self.tissue_slider.setDecimals(1)
        self.tissue_slider.setToolTip(help_of(TissueSpec, "threshold"))
        self.found_label = QLabel()
        self.found_label.setToolTip(
            "The thresholds that were used, and the share of the slide that is tissue."
        )
        self.found_label.setWordWrap(True)
        self.holes_limit = self._limit(
            "Fill holes below (µm²)", 1000, 1e9, 500, 0, help_of(TissueSpec, "fill_holes_below_um2")
        )
        self.islands_limit = self._limit(
            "Drop islands below (µm²)", 5000, 1e9, 1000, 0, help_of(TissueSpec, "drop_islands_below_um2")
        )
        self.pen_checks = {name: QCheckBox(name) for name in PEN_COLORS}
        for check in self.pen_checks.values():
            check.setToolTip(help_of(TissueSpec, "pen_colors"))
            check.toggled.connect(self._emit)
        self.blur_limit = self._limit(
            "Leave out blur below", 8, 10_000, 1, 1, help_of(TissueSpec, "blur_threshold")
        )
        box = _form()
        form = box.layout()
        form.addRow("Found by", self.method_box)
        form.addRow("Threshold", row(self.auto_check, self.tissue_slider, stretch=1))
        form.addRow(self.found_label)
        form.addRow(self.holes_limit)
        form.addRow(self.islands_limit)
        pens = list(self.pen_checks.values())
        form.addRow("No pen", row(*pens[:2]))
        form.addRow("", row(*pens[2:]))
        form.addRow(self.blur_limit)
        self.auto_check.toggled.connect(self._show_needed)
        self.auto_check.toggled.connect(self._emit)
        self.tissue_slider.valueChanged.connect(self._emit)
        self.method_box.currentIndexChanged.connect(self._show_needed)
        return box

    def _make_labels(self) -> QWidget:
        self.annotated_edit = self._line("the classes' own names", help_of(LabelSpec, "annotated_as"))
        self.priority_edit = self._line("class, class, …", help_of(LabelSpec, "priority"))
        self.exclude_edit = self._line("class, class, …", help_of(LabelSpec, "exclude"))
        self.exclude_slider = self._share(help_of(LabelSpec, "exclude_above"))
        self.ignore_slider = self._share(help_of(LabelSpec, "ignore_above"))
        box = _form()
        form = box.layout()
        form.addRow("All regions are", self.annotated_edit)
        form.addRow("Priority", self.priority_edit)
        form.addRow("Exclude", self.exclude_edit)
        form.addRow("… above", self.exclude_slider)
        form.addRow("Bare up to", self.ignore_slider)
        return box

    def _make_grid(self) -> QWidget:
        tip = help_of(GridSpec, "origin_px")
        self.origin_spins = (self._double(-1e6, 1e6, 16, 1, tip), self._double(-1e6, 1e6, 16, 1, tip))
        self.edge_box = self._box({name: name for name in EDGES}, "")
        self.edge_box.setToolTip(
            "At the slide's right and lower edge\n" + "\n".join(f"{k}: {v}" for k, v in EDGES.items())
        )
        box = _form()
        box.layout().addRow("Origin x, y (px)", row(*self.origin_spins))
        box.layout().addRow("Edge", self.edge_box)
        return box

    def _make_split(self) -> QWidget:
        self.balance_box = self._box(
            {
                name: {"none": "no balancing", "smallest": "to the smallest class"}[name]
                for name in BALANCE_METHODS
            },
            help_of(BalanceSpec, "method"),
        )
        self.cap_limits = {
            name: self._limit(f"Most per {what}", 1000, 1e9, 100, 0, help_of(BalanceSpec, name))
            for name, what in (
                ("per_class", "class"),
                ("per_slide", "class and slide"),
                ("per_patient", "class and patient"),
            )
        }
        self.split_box = self._box({name: name for name in WAYS}, help_of(SplitSpec, "by"))
        tip = "Shares of the patches for validation and test, in %; the rest is for training."
        self.val_spin = self._double(0, 99, 1, 1, tip, suffix=" %")
        self.test_spin = self._double(0, 99, 1, 1, tip, suffix=" %")
        self.guard_spin = self._double(0, 100, 0.25, 2, help_of(SplitSpec, "guard_patches"))
        self.block_spin = self._double(1, 1000, 1, 1, help_of(SplitSpec, "block_patches"))
        self.seed_spin = self._spin(
            0, 2**31 - 1, 1, "Seed of the draws (split and balance); the same seed gives the same dataset."
        )
        box = _form()
        form = box.layout()
        form.addRow("Balance", self.balance_box)
        for limit in self.cap_limits.values():
            form.addRow(limit)
        form.addRow("Split by", self.split_box)
        form.addRow("Val, test", row(self.val_spin, self.test_spin))
        form.addRow("Block, gap", row(self.block_spin, self.guard_spin))
        form.addRow("Seed", self.seed_spin)
        return box

    def _make_quality(self) -> QWidget:
        self.quality_limits = {
            "min_focus": self._limit("Focus at least", 20, 1e6, 5, 1, help_of(QualitySpec, "min_focus")),
            "min_saturation": self._limit(
                "Saturation at least", 10, 255, 1, 1, help_of(QualitySpec, "min_saturation")
            ),
            "max_white": self._limit("White at most", 0.8, 1, 0.05, 2, help_of(QualitySpec, "max_white")),
            "max_pen": self._limit("Pen at most", 0.1, 1, 0.05, 2, help_of(QualitySpec, "max_pen")),
        }
        box = _form()
        for limit in self.quality_limits.values():
            box.layout().addRow(limit)
        return box

    def _make_stain(self) -> QWidget:
        self.stain_box = self._box(
            {name: "as it is" if name == "none" else name.capitalize() for name in STAIN_METHODS},
            help_of(StainSpec, "method"),
        )
        self.target_edit = self._line("standard", help_of(StainSpec, "target"))
        self.normalised_check = QCheckBox("Show normalised in the list below")
        self.normalised_check.setToolTip(
            "Show the patches below with the colours that the dataset will have."
        )
        box = _form()
        form = box.layout()
        form.addRow("Normalise", self.stain_box)
        form.addRow("Towards", self.target_edit)
        form.addRow(self.normalised_check)
        self.stain_box.currentIndexChanged.connect(self._show_needed)
        return box

    def _make_store(self) -> QWidget:
        self.codec_box = self._box({name: name for name in CODECS}, "")
        self.codec_box.setToolTip(
            "How pixels are stored\n" + "\n".join(f"{k}: {v}" for k, v in CODECS.items())
        )
        self.jpeg_spin = self._spin(1, 100, 1, help_of(StoreSpec, "jpeg_quality"))
        self.keep_box = self._box({name: name for name in KEEPS}, "")
        self.keep_box.setToolTip("Which patches are cut\n" + "\n".join(f"{k}: {v}" for k, v in KEEPS.items()))
        self.index_check = QCheckBox("Index only, no pixels")
        self.index_check.setToolTip(help_of(StoreSpec, "index_only"))
        self.index_check.toggled.connect(self._emit)
        box = _form()
        form = box.layout()
        form.addRow("Codec", row(self.codec_box, self.jpeg_spin, stretch=0))
        form.addRow("Keep", self.keep_box)
        form.addRow(self.index_check)
        self.codec_box.currentIndexChanged.connect(self._show_needed)
        return box

    # -- values ---------------------------------------------------------------------------------------------

    def recipe(self) -> Recipe:
        """Return what the controls say.

        Raises
        ------
        DatasetError
            If the values do not go together; one sentence.
        """
        return Recipe(
            grid=self._grid(),
            tissue=TissueSpec(
                method=self.method_box.currentData(),
                threshold=None if self.auto_check.isChecked() else self.tissue_slider.value(),
                fill_holes_below_um2=self.holes_limit.value(),
                drop_islands_below_um2=self.islands_limit.value(),
                reject_pen=any(check.isChecked() for check in self.pen_checks.values()),
                pen_colors=tuple(n for n, check in self.pen_checks.items() if check.isChecked()),
                reject_blur=self.blur_limit.value() is not None,
                blur_threshold=float(self.blur_limit.spin.value()),
                min_tissue=round(self.min_tissue_slider.value(), 4),
            ),
            labels=LabelSpec(
                rule=self.rule_box.currentData(),
                threshold=round(self.threshold_slider.value(), 4),
                priority=_names_in(self.priority_edit.text()),
                exclude=_names_in(self.exclude_edit.text()),
                exclude_above=round(self.exclude_slider.value(), 4),
                annotated_as=self.annotated_edit.text().strip(),
                default_class=self.default_edit.text().strip(),
                ignore_above=round(self.ignore_slider.value(), 4),
            ),
            quality=QualitySpec(**{name: limit.value() for name, limit in self.quality_limits.items()}),
            balance=BalanceSpec(
                method=self.balance_box.currentData(),
                seed=self.seed_spin.value(),
                **{name: _whole(limit.value()) for name, limit in self.cap_limits.items()},
            ),
            split=self._split(),
            stain=StainSpec(
                method=self.stain_box.currentData(), target=self.target_edit.text().strip() or "standard"
            ),
            store=StoreSpec(
                codec=self.codec_box.currentData(),
                jpeg_quality=self.jpeg_spin.value(),
                index_only=self.index_check.isChecked(),
                keep=self.keep_box.currentData(),
            ),
        )

    def _grid(self) -> GridSpec:
        kind, step = self.resolution_box.currentData(), self.step_box.currentData()
        value = float(self.step_spin.value())
        steps: dict[str, Any] = {}
        if value or step == "overlap_px":
            steps[step] = round(value) if step.endswith("px") else value
        if steps.get("overlap_px") == 0:
            steps = {}
        return GridSpec(
            size_px=self.size_spin.value(),
            mpp=round(self.mpp_spin.value(), 4) if kind == _MPP else None,
            level=self.level_spin.value() if kind == _LEVEL else None,
            downsamples=_ZOOMS.get(kind, ()),
            origin_px=(float(self.origin_spins[0].value()), float(self.origin_spins[1].value())),
            edge=self.edge_box.currentData(),
            **steps,
        )

    def _split(self) -> SplitSpec:
        val, test = (round(spin.value() / 100, 4) for spin in (self.val_spin, self.test_spin))
        return SplitSpec(
            by=self.split_box.currentData(),
            fractions=(round(1 - val - test, 4), val, test),
            block_patches=float(self.block_spin.value()),
            guard_patches=float(self.guard_spin.value()),
            seed=self.seed_spin.value(),
        )

    def set_recipe(self, recipe: Recipe) -> None:
        """Show a recipe, telling of it once."""
        with self._quietly():
            grid, tissue, labels = recipe.grid, recipe.tissue, recipe.labels
            self.size_spin.setValue(grid.size_px)
            kind = _MPP if grid.mpp is not None else _LEVEL if grid.level is not None else ""
            if not kind:
                kind = next((name for name, zooms in _ZOOMS.items() if zooms == grid.downsamples), _ZOOM_0)
            _choose(self.resolution_box, kind)
            self.mpp_spin.setValue(grid.mpp or self.mpp_spin.value())
            self.level_spin.setValue(grid.level or 0)
            step = next((name for name in _STEPS if getattr(grid, name) is not None), "stride_px")
            _choose(self.step_box, step)
            self._show_needed()
            self.step_spin.setValue(getattr(grid, step) or 0)
            for spin, value in zip(self.origin_spins, grid.origin_px, strict=True):
                spin.setValue(value)
            _choose(self.edge_box, grid.edge)
            _choose(self.method_box, tissue.method)
            self.auto_check.setChecked(tissue.threshold is None)
            self._show_needed()
            if tissue.threshold is not None:
                self.tissue_slider.setValue(tissue.threshold)
            self.holes_limit.set_value(tissue.fill_holes_below_um2)
            self.islands_limit.set_value(tissue.drop_islands_below_um2)
            for name, check in self.pen_checks.items():
                check.setChecked(tissue.reject_pen and name in tissue.pen_colors)
            self.blur_limit.spin.setValue(tissue.blur_threshold)
            self.blur_limit.set_value(tissue.blur_threshold if tissue.reject_blur else None)
            self.min_tissue_slider.setValue(tissue.min_tissue)
            _choose(self.rule_box, labels.rule)
            self.threshold_slider.setValue(labels.threshold)
            self.priority_edit.setText(", ".join(labels.priority))
            self.exclude_edit.setText(", ".join(labels.exclude))
            self.exclude_slider.setValue(labels.exclude_above)
            self.annotated_edit.setText(labels.annotated_as)
            self.default_edit.setText(labels.default_class)
            self.ignore_slider.setValue(labels.ignore_above)
            for name, limit in self.quality_limits.items():
                limit.set_value(getattr(recipe.quality, name))
            _choose(self.balance_box, recipe.balance.method)
            for name, limit in self.cap_limits.items():
                limit.set_value(getattr(recipe.balance, name))
            _choose(self.split_box, recipe.split.by)
            self.val_spin.setValue(100 * recipe.split.fractions[1])
            self.test_spin.setValue(100 * recipe.split.fractions[2])
            self.block_spin.setValue(recipe.split.block_patches)
            self.guard_spin.setValue(recipe.split.guard_patches)
            self.seed_spin.setValue(recipe.split.seed)
            _choose(self.stain_box, recipe.stain.method)
            self.target_edit.setText("" if recipe.stain.target == "standard" else recipe.stain.target)
            _choose(self.codec_box, recipe.store.codec)
            self.jpeg_spin.setValue(recipe.store.jpeg_quality)
            _choose(self.keep_box, recipe.store.keep)
            self.index_check.setChecked(recipe.store.index_only)
        self._show_needed()
        self._emit()

    def set_found(self, threshold: float | None, text: str) -> None:
        """Show the threshold that was found, and what came of it."""
        self.found_label.setText(text)
        if self.auto_check.isChecked() and threshold is not None and threshold == threshold:
            was = self.tissue_slider.blockSignals(True)
            self.tissue_slider.setValue(threshold)
            self.tissue_slider.blockSignals(was)

    # -- within ---------------------------------------------------------------------------------------------

    def _take_preset(self, *_: object) -> None:
        name = self.preset_box.currentData()
        if name:
            self.set_recipe(PRESETS[name][1] if name in PRESETS else Recipe())

    def _emit(self, *_: object) -> None:
        if not self._is_quiet:
            self._show_preset()
            self.changed.emit()

    def _show_preset(self) -> None:
        """Say which preset the values are, if any."""
        try:
            recipe = self.recipe()
        except DatasetError:
            name = ""
        else:
            presets = {"default": Recipe(), **{key: value for key, (_, value) in PRESETS.items()}}
            name = next((key for key, value in presets.items() if value == recipe), "")
        _choose(self.preset_box, name)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        self._is_quiet = True
        try:
            yield
        finally:
            self._is_quiet = False

    def _show_needed(self, *_: object) -> None:
        """Show only what has a meaning with what is chosen."""
        kind = self.resolution_box.currentData()
        self.mpp_spin.setVisible(kind == _MPP)
        self.level_spin.setVisible(kind == _LEVEL)
        step = self.step_box.currentData()
        is_px = step.endswith("px")
        self.step_spin.setDecimals(0 if is_px else 2)
        self.step_spin.setSingleStep(16 if is_px else 5)
        self.step_spin.setSpecialValueText("= size" if step.startswith("stride") else "")
        for widget in (self.step_spin, self.step_box):
            widget.setToolTip(_STEPS[step][1])
        if hasattr(self, "codec_box"):
            self.jpeg_spin.setVisible(self.codec_box.currentData() == "jpeg")
            self.target_edit.setEnabled(self.stain_box.currentData() != "none")
            self.normalised_check.setEnabled(self.stain_box.currentData() != "none")
        if hasattr(self, "auto_check"):
            method = self.method_box.currentData()
            self.auto_check.setEnabled(method not in ("none", "fixed"))
            self.tissue_slider.setEnabled(method != "none" and not self.auto_check.isChecked())
            most = _DENSITY_MOST if method == "density" else 255
            if self.tissue_slider.maximum() != most:
                self.tissue_slider.setDecimals(2 if method == "density" else 1)
                self.tissue_slider.setRange(0, most)
        self.threshold_slider.setEnabled(self.rule_box.currentData() in ("area", "priority"))

    def _spin(self, low: int, high: int, step: int, tip: str, *, suffix: str = "") -> QSpinBox:
        spin = QSpinBox()
        spin.setRange(low, high)
        spin.setSingleStep(step)
        return self._made(spin, tip, suffix)

    def _double(
        self, low: float, high: float, step: float, decimals: int, tip: str, *, suffix: str = ""
    ) -> QDoubleSpinBox:
        spin = QDoubleSpinBox()
        spin.setDecimals(decimals)
        spin.setRange(low, high)
        spin.setSingleStep(step)
        return self._made(spin, tip, suffix)

    def _made(self, spin: Any, tip: str, suffix: str) -> Any:
        spin.setToolTip(tip)
        spin.setSuffix(suffix)
        spin.setMinimumWidth(60)
        spin.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        spin.setStepType(QAbstractSpinBox.StepType.DefaultStepType)
        spin.valueChanged.connect(self._emit)
        return spin

    def _box(self, items: Mapping[str, str], tip: str) -> QComboBox:
        box = QComboBox()
        for name, title in items.items():
            box.addItem(title, name)
        box.setToolTip(tip)
        _keep_narrow(box)
        box.currentIndexChanged.connect(self._emit)
        return box

    def _share(self, tip: str, *, lowest: float = 0.0) -> QLabeledDoubleSlider:
        slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        slider.setDecimals(2)
        slider.setRange(lowest, 1)
        slider.setSingleStep(0.01)
        slider.setToolTip(tip)
        slider.valueChanged.connect(self._emit)
        return slider

    def _line(self, placeholder: str, tip: str) -> QLineEdit:
        line = QLineEdit()
        line.setPlaceholderText(placeholder)
        line.setToolTip(tip)
        line.textChanged.connect(self._emit)
        return line

    def _limit(self, title: str, value: float, highest: float, step: float, decimals: int, tip: str) -> Limit:
        limit = Limit(title, value=value, highest=highest, step=step, decimals=decimals, tip=tip)
        limit.changed.connect(self._emit)
        return limit


def _choose(box: QComboBox, data: str) -> None:
    index = box.findData(data)
    if index >= 0 and index != box.currentIndex():
        box.setCurrentIndex(index)


def _names_in(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _whole(value: float | None) -> int | None:
    return None if value is None else max(1, round(value))


def _keep_narrow(box: QComboBox) -> None:
    """Let a long choice not widen the dock."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(6)
    box.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)


def _form() -> QWidget:
    box = QWidget()
    form = QFormLayout(box)
    form.setContentsMargins(0, 0, 0, 0)
    form.setHorizontalSpacing(8)
    form.setVerticalSpacing(5)
    form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
    return box
