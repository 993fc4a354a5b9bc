"""What two runs have done differently, and what came of it: for the command line and the Train dock. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from napari_histolatent.training._keeping import kid_space

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_histolatent.runs import Run, RunStatus


@dataclass(frozen=True)
class Difference:
    """One line of a comparison; None where a run does not have the value."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class RunComparison:
    """Two runs side by side."""

    a: str
    """Folder of the first run."""
    b: str
    settings: tuple[Difference, ...]
    """The settings in which they differ, in the order of the config; those of one kind of training only last."""
    results: tuple[Difference, ...]
    """Where both stand: state, steps, speed, last losses and metrics, whether they differ or not."""
    same_dataset: bool | None
    """None where a run does not say what it learnt from. Metrics of two datasets cannot be compared."""
    same_kid_features: bool | None = None
    """Whether both runs' KIDs are measured in the features of the same network: others cannot be compared. None where
    one has none, or does not say."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `--json` reports."""
        return asdict(self)


def compare_runs(a: Run, b: Run) -> RunComparison:
    """Compare two runs as they stand now."""
    return compared(
        (str(a.path), a.spec, a.status()),
        (str(b.path), b.spec, b.status()),
    )


def compared(
    a: tuple[str, Mapping[str, Any], RunStatus], b: tuple[str, Mapping[str, Any], RunStatus]
) -> RunComparison:
    """Compare two runs, each given as (folder, spec, status); reads nothing."""
    (name_a, spec_a, status_a), (name_b, spec_b, status_b) = a, b
    digests = spec_a.get("dataset_digest"), spec_b.get("dataset_digest")
    features = _metrics_of(status_a).get("kid_features"), _metrics_of(status_b).get("kid_features")
    return RunComparison(
        a=name_a,
        b=name_b,
        settings=tuple(line for line in _lines(_settings(spec_a), _settings(spec_b)) if line.a != line.b),
        results=_lines(_results(status_a), _results(status_b)),
        same_dataset=digests[0] == digests[1] if all(digests) else None,
        same_kid_features=features[0] == features[1] if all(features) else None,
    )


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    # What stands beside the config (the dataset's digest, the checkpoint of a fork) tells runs apart as well.
    beside = {name: value for name, value in spec.items() if name not in ("config", "dataset")}
    return {**(spec.get("config") or {}), **beside}


def _results(status: RunStatus) -> dict[str, Any]:
    metrics = _metrics_of(status)
    space = kid_space(metrics)
    return {
        "state": status.state,
        "step": status.step,
        "steps": status.steps,
        "images_per_second": status.data.get("images_per_second"),
        **{f"{name} loss": value for name, value in status.losses.items()},
        **{name: value for name, value in metrics.items() if isinstance(value, (int, float, str))},
        **({} if space is None else {"kid_space": space}),
    }


def _metrics_of(status: RunStatus) -> Mapping[str, Any]:
    metrics = status.data.get("metrics")
    return metrics if isinstance(metrics, dict) else {}


def _lines(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Difference, ...]:
    names = [*a, *(name for name in b if name not in a)]
    return tuple(Difference(name, a.get(name), b.get(name)) for name in names)
