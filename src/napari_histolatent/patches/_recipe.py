"""Everything that decides which patches are cut, as one value, and the named ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches._balance import BalanceSpec
from napari_histolatent.patches._grid import GridSpec
from napari_histolatent.patches._labels import LabelSpec
from napari_histolatent.patches._quality import QualitySpec
from napari_histolatent.patches._split import SplitSpec
from napari_histolatent.patches._stain import StainSpec
from napari_histolatent.patches._store import StoreSpec
from napari_histolatent.patches._tissue import TissueSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

_PARTS: dict[str, type] = {
    "grid": GridSpec,
    "tissue": TissueSpec,
    "labels": LabelSpec,
    "quality": QualitySpec,
    "balance": BalanceSpec,
    "split": SplitSpec,
    "stain": StainSpec,
    "store": StoreSpec,
}


@dataclass(frozen=True)
class Recipe:
    """How a dataset is made of slides and regions."""

    grid: GridSpec = field(default_factory=lambda: GridSpec(mpp=0.5))
    tissue: TissueSpec = field(default_factory=TissueSpec)
    labels: LabelSpec = field(default_factory=LabelSpec)
    quality: QualitySpec = field(default_factory=QualitySpec)
    balance: BalanceSpec = field(default_factory=BalanceSpec)
    split: SplitSpec = field(default_factory=SplitSpec)
    stain: StainSpec = field(default_factory=StainSpec)
    store: StoreSpec = field(default_factory=StoreSpec)

    def changed(self, **parts: Mapping[str, Any]) -> Recipe:
        """Return the recipe with some fields of some parts changed: `changed(grid={"size_px": 64})`.

        Raises
        ------
        DatasetError
            If a value is not possible.
        """
        return replace(
            self, **{name: replace(getattr(self, name), **values) for name, values in parts.items()}
        )

    def to_json(self) -> dict[str, Any]:
        """Return all fields as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `to_json` wrote; what it lacks has its default.

        Raises
        ------
        DatasetError
            If it names what this version does not know.
        """
        parts = {}
        for name, content in value.items():
            kind = _PARTS.get(name)
            known = {item.name for item in fields(kind)} if kind else set()
            if kind is None or not isinstance(content, dict) or not set(content) <= known:
                unknown = sorted(set(content) - known) if kind and isinstance(content, dict) else [name]
                what = ", ".join(unknown)
                msg = (
                    f"The recipe holds {what!r}, which this version does not know; update napari-histolatent."
                )
                raise DatasetError(msg)
            parts[name] = kind(**{key: _tupled(item) for key, item in content.items()})
        return cls(**parts)


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value


PRESETS: dict[str, tuple[str, Recipe]] = {
    "s1": (
        "256 px at zoom 0 and 1 of the slide; annotated tissue is positive, all other tissue negative; as many of one as of "
        "the other at each zoom; split by patient (Fernández et al., image editing in GAN latent space)",
        Recipe(
            grid=GridSpec(size_px=256, downsamples=(1.0, 2.0)),
            labels=LabelSpec(rule="area", threshold=0.75, annotated_as="positive", default_class="negative"),
            balance=BalanceSpec(method="smallest"),
        ),
    ),
}
"""Name to meaning and recipe."""


def recipe_named(name: str) -> Recipe:
    """Return a preset.

    Raises
    ------
    DatasetError
        If there is none of this name.
    """
    if name not in PRESETS:
        msg = f"There is no recipe {name!r}; choose one of {', '.join(PRESETS)}."
        raise DatasetError(msg)
    return PRESETS[name][1]
