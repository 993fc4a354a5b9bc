from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_histolatent.runs import Run, RunEvent, RunStatus
from napari_histolatent.training import ClassifierConfig, TrainingConfig
from napari_histolatent.training.compare import Difference, compare_runs, compared

if TYPE_CHECKING:
    from pathlib import Path


def side(name: str, config: Any, status: RunStatus | None = None, **spec: Any) -> Any:
    return name, {"config": config.to_json(), **spec}, status or RunStatus("new")


def test_only_the_settings_that_differ_are_listed_in_the_order_of_the_config() -> None:
    a, b = TrainingConfig(), TrainingConfig(learning_rate=5e-4, batch_size=32)
    found = compared(side("a", a), side("b", b))
    assert (found.a, found.b) == ("a", "b")
    assert found.settings == (
        Difference("batch_size", a.batch_size, 32),
        Difference("learning_rate", a.learning_rate, 5e-4),
    )


def test_settings_of_one_kind_only_stand_against_none() -> None:
    found = compared(side("a", TrainingConfig()), side("b", ClassifierConfig()))
    lines = {line.name: line for line in found.settings}
    assert lines["ema_decay"] == Difference("ema_decay", 0.998, None)
    assert (lines["network"].a, lines["network"].b) == ("cdcgan", "convnet")


def test_results_are_listed_whether_they_differ_or_not() -> None:
    def status(kid: float) -> RunStatus:
        data = {"metrics": {"kid": kid, "per_class": {"x": 1}}, "images_per_second": 90.0, "device": "cpu"}
        return RunStatus("finished", 50, 50, {"generator": 0.5}, data)

    found = compared(side("a", TrainingConfig(), status(0.1)), side("b", TrainingConfig(), status(0.2)))
    assert found.settings == ()
    assert found.results == (
        Difference("state", "finished", "finished"),
        Difference("step", 50, 50),
        Difference("steps", 50, 50),
        Difference("images_per_second", 90.0, 90.0),
        Difference("generator loss", 0.5, 0.5),
        Difference("kid", 0.1, 0.2),
    )


def test_two_datasets_cannot_be_compared() -> None:
    config = TrainingConfig()

    def same(a: str | None, b: str | None) -> bool | None:
        return compared(side("a", config, dataset_digest=a), side("b", config, dataset_digest=b)).same_dataset

    assert same("d1", "d1") is True
    assert same("d1", "d2") is False
    assert same("d1", None) is None
    found = compared(side("a", config, dataset_digest="d1"), side("b", config, dataset_digest="d2"))
    assert found.settings == (Difference("dataset_digest", "d1", "d2"),)


def test_two_folders(tmp_path: Path) -> None:
    forked = {"digest": "d", "step": 3}
    first = Run.create(tmp_path / "a", kind="train", spec={"config": TrainingConfig().to_json()})
    second = Run.create(
        tmp_path / "b",
        kind="train",
        spec={"config": TrainingConfig(steps=7).to_json(), "forked_from": forked},
    )
    first.append(RunEvent("finished", 9, 9, data={"metrics": {"kid": 0.5}}))
    found = compare_runs(first, second)
    assert (found.a, found.b) == (str(first.path), str(second.path))
    assert found.settings == (
        Difference("steps", TrainingConfig().steps, 7),
        Difference("forked_from", None, forked),
    )
    assert Difference("kid", 0.5, None) in found.results
    assert Difference("state", "finished", "new") in found.results
    assert found.to_json()["settings"][0] == {"name": "steps", "a": TrainingConfig().steps, "b": 7}


def test_kids_of_two_judges_cannot_be_compared() -> None:
    config = TrainingConfig()

    def status(**metrics: Any) -> RunStatus:
        return RunStatus("finished", data={"metrics": metrics})

    judged = status(kid=0.1, kid_random=0.2, kid_features="j", kid_space="judge")
    alone = status(kid=0.2, kid_random=0.2, kid_features="r", kid_space="random")
    found = compared(side("a", config, judged), side("b", config, alone))
    assert Difference("kid_space", "judge", "random") in found.results
    assert found.same_kid_features is False
    assert compared(side("a", config, alone), side("b", config, alone)).same_kid_features is True
    assert compared(side("a", config, alone), side("b", config)).same_kid_features is None
