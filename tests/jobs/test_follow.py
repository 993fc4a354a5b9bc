from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file

from napari_histolatent._files import digest_of_file
from napari_histolatent.errors import CheckpointError, DatasetError, RunError, UserError
from napari_histolatent.jobs import follow
from napari_histolatent.jobs.follow import fork, new_training, resume
from napari_histolatent.jobs.kinds import KINDS
from napari_histolatent.patches import PatchDataset
from napari_histolatent.runs import Run, RunEvent
from napari_histolatent.training import TrainingConfig
from napari_histolatent.training.checkpoint import checkpoints_in, latest_checkpoint
from tests.jobs.tiny import CLASSIFIER, GAN, one_thread, trained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHORT = GAN.with_changes(steps=4, checkpoint_every=2, base_channels=4)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def finished(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps with checkpoints after two and four; read it, do not change it."""
    return trained(tiny_dataset, tmp_path_factory.mktemp("runs") / "run", SHORT)


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Run:
    """A run of the test's own."""
    return Run(shutil.copytree(finished, tmp_path / "own"))


def work_on(run: Run) -> None:
    KINDS[run.kind](run)


def refused(words: str, kind: type[UserError], run: Run, out: Path, **options: Any) -> None:
    with pytest.raises(kind, match=words) as error:
        fork(run, out, **options)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
    assert not out.exists()


def test_a_fork_without_changes_ends_as_its_run_did_bit_for_bit(finished: Path, tmp_path: Path) -> None:
    original = latest_checkpoint(finished / "checkpoints")
    made = fork(Run(finished), tmp_path / "fork", step=2)
    assert made.status().state == "new"
    start = latest_checkpoint(made.checkpoints_folder)
    assert (start.step, start.steps) == (2, 4)
    assert made.spec["forked_from"] == {
        "run": str(finished),
        "step": 2,
        "digest": start.digest,
        "dataset_digest": start.dataset_digest,
    }
    work_on(made)
    end = latest_checkpoint(made.checkpoints_folder)
    assert (end.step, end.digest) == (4, original.digest)
    first, second = (load_file(item.path / "training.safetensors") for item in (original, end))
    assert first.keys() == second.keys()
    assert all(first[key].equal(second[key]) for key in first)


def test_a_changed_setting_takes_effect_and_the_run_stays_as_it_was(finished: Path, tmp_path: Path) -> None:
    before = {path: digest_of_file(path) for path in finished.rglob("*") if path.is_file()}
    made = fork(
        Run(finished), tmp_path / "fork", step=2, learning_rate=0.01, batch_size=4, steps=5, seed=None
    )
    config = TrainingConfig.from_json(made.spec["config"])
    assert config == SHORT.with_changes(learning_rate=0.01, batch_size=4, steps=5)
    assert latest_checkpoint(made.checkpoints_folder).config == config.to_json()
    work_on(made)
    end = latest_checkpoint(made.checkpoints_folder)
    assert end.step == 5
    assert 4 in [int(path.name[5:]) for path in checkpoints_in(made.checkpoints_folder)]
    at_four = json.loads((made.checkpoints_folder / "step-00000004" / "checkpoint.json").read_text())
    assert at_four["digest"] != latest_checkpoint(finished / "checkpoints").digest
    assert {path: digest_of_file(path) for path in finished.rglob("*") if path.is_file()} == before


def test_another_seed_goes_on_from_the_weights_with_other_chance(finished: Path, tmp_path: Path) -> None:
    same = fork(Run(finished), tmp_path / "same", step=2, seed=GAN.seed)
    other = fork(Run(finished), tmp_path / "other", step=2, seed=GAN.seed + 1)
    states = [
        load_file(latest_checkpoint(run.checkpoints_folder).path / "training.safetensors")
        for run in (same, other)
    ]
    assert {key for key in states[0] if not states[0][key].equal(states[1][key])} == {"rng"}


def test_the_newest_is_forked_and_has_to_be_given_steps(finished: Path, tmp_path: Path) -> None:
    refused(
        "has done 4 steps of 4 already; give more --steps than 4", RunError, Run(finished), tmp_path / "x"
    )
    refused("give more --steps than 4", RunError, Run(finished), tmp_path / "x", steps=3)
    assert fork(Run(finished), tmp_path / "fork", steps=6).spec["forked_from"]["step"] == 4


@pytest.mark.parametrize(
    ("name", "value"),
    [("network", "dcgan"), ("base_channels", 8), ("z_dim", 9), ("design", "s1"), ("size_px", 64)],
)
def test_the_network_stays_what_it_is(finished: Path, tmp_path: Path, name: str, value: Any) -> None:
    old = getattr(SHORT, name)
    words = f"keeps its checkpoint's {name} {old!r}, it cannot become {value!r}"
    refused(words, RunError, Run(finished), tmp_path / "x", steps=9, **{name: value})


def view_of(dataset: Path, out: Path, **settings: Any) -> Path:
    """Return a copy of a dataset that says something else of itself."""
    shutil.copytree(dataset, out)
    file = out / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return out


def test_another_dataset_needs_the_same_classes_and_size(
    finished: Path, tmp_path: Path, tiny_dataset: Path
) -> None:
    run, out = Run(finished), tmp_path / "x"
    other = view_of(tiny_dataset, tmp_path / "other", classes=["stroma", "epithelium"], digest="e" * 64)
    refused("needs the same in the same order", DatasetError, run, out, step=2, dataset=other)
    large = view_of(tiny_dataset, tmp_path / "large", size_px=64)
    refused("patches of 64 px, the training is set to 32 px", DatasetError, run, out, step=2, dataset=large)
    refused("is not a patch dataset", DatasetError, run, out, step=2, dataset=tmp_path)
    new = view_of(tiny_dataset, tmp_path / "new", digest="e" * 64)
    made = fork(run, out, step=2, dataset=new)
    assert made.spec["dataset_digest"] == "e" * 64
    assert made.spec["forked_from"]["dataset_digest"] == PatchDataset(tiny_dataset).digest
    work_on(made)  # is not taken for a run whose dataset was exchanged
    assert made.status().step == 4


def test_a_dataset_that_was_cut_anew_is_not_gone_on_with_unasked(
    own: Run, tmp_path: Path, tiny_dataset: Path
) -> None:
    new = view_of(tiny_dataset, tmp_path / "new", digest="e" * 64)
    own.spec["dataset"] = str(new)
    refused("is not what the run learnt from", DatasetError, own, tmp_path / "x", step=2)


def test_what_cannot_be_forked(own: Run, tmp_path: Path) -> None:
    out = tmp_path / "x"
    refused("no checkpoint of step 3", CheckpointError, own, out, step=3)
    refused("cuda:99", UserError, own, out, step=2, device="cuda:99")
    (own.checkpoints_folder / "step-00000002" / "training.safetensors").unlink()
    refused("training.safetensors is missing", CheckpointError, own, out, step=2)
    extraction = Run.create(tmp_path / "extraction", kind="extract", spec={})
    refused("has no training to go on with", RunError, extraction, out)


def test_a_full_disk_leaves_no_half_of_a_fork(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(follow, "fork_checkpoint", full)
    refused("the disk is full", UserError, Run(finished), tmp_path / "x", step=2)


@pytest.mark.parametrize("config", [SHORT, CLASSIFIER.with_changes(steps=4)])
def test_a_finished_run_is_extended(
    config: Any, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(trained(tiny_dataset, tmp_path / "run", config))
    monkeypatch.setattr(follow, "launch", work_on)
    with pytest.raises(RunError, match="has finished; there is nothing to resume"):
        resume(run)
    with pytest.raises(RunError, match=r"has done 4 steps already; give more --steps than that, not 4\.$"):
        resume(run, steps=4)
    assert Run(run.path).spec["config"] == config.to_json()
    offset = resume(run, steps=6)
    assert Run(run.path).spec["config"] == config.with_changes(steps=6).to_json()
    assert (run.id, run.created) == (Run(run.path).id, Run(run.path).created)
    events, _ = run.events(offset)
    assert (events[0].kind, events[0].step) == ("started", 4)
    assert (run.status().state, run.status().step, run.status().steps) == ("finished", 6, 6)


def test_what_cannot_be_extended(own: Run, tmp_path: Path) -> None:
    spec = json.loads((own.path / "run.json").read_text())["spec"]
    own.append(RunEvent("progress", 3, 4))
    own.claim()  # this process, which lives
    with pytest.raises(RunError, match="is running already; stop it first"):
        resume(own, steps=9)
    with pytest.raises(RunError, match="has no training to go on with"):
        resume(Run.create(tmp_path / "extraction", kind="extract", spec={}), steps=9)
    assert json.loads((own.path / "run.json").read_text())["spec"] == spec


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": ["epithelium"]}, "has one class only"),
        ({"classes": []}, "has no classes"),
        ({"patches": 0}, "has no patches"),
    ],
)
def test_a_dataset_that_cannot_be_trained_on_is_refused_before_anything_is_made(
    tiny_dataset: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    dataset = view_of(tiny_dataset, tmp_path / "dataset", **settings)
    for config in (GAN, CLASSIFIER):
        with pytest.raises(DatasetError, match=words):
            new_training(dataset, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    if settings.get("classes"):
        without = GAN.with_changes(network="dcgan")
        assert new_training(dataset, tmp_path / "run", without).status().state == "new"


@pytest.mark.parametrize("steps", [None, 9])
def test_a_run_whose_data_are_not_what_they_were_is_not_started(
    own: Run, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, steps: int | None
) -> None:
    monkeypatch.setattr(follow, "launch", lambda _: pytest.fail("nothing may be started"))
    own.append(RunEvent("stopped", 4, 4))
    before = (own.path / "run.json").read_bytes()
    own.spec["dataset"] = str(view_of(tiny_dataset, tmp_path / "new", digest="e" * 64))
    with pytest.raises(DatasetError, match=r"is not what .* learnt from .*histolatent fork .*\.$"):
        resume(own, steps=steps)
    own.spec["dataset"] = str(tmp_path / "gone")
    with pytest.raises(DatasetError, match=r"The dataset of .* is gone \(.*gone\); bring it back"):
        resume(own, steps=steps)
    own.spec |= {"dataset": str(tiny_dataset), "config": own.spec["config"] | {"device": "cuda:99"}}
    with pytest.raises(UserError, match="cuda:99"):
        resume(own, steps=steps)
    assert (own.path / "run.json").read_bytes() == before
    assert own.status().state == "stopped"


def test_a_finished_run_says_so_whatever_became_of_its_data(own: Run, tmp_path: Path) -> None:
    own.spec["dataset"] = str(tmp_path / "gone")
    with pytest.raises(RunError, match="has finished; there is nothing to resume"):
        resume(own)


def test_a_classifier_has_no_best_checkpoint_to_fork(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "judge", kind="classifier", spec={"config": CLASSIFIER.to_json()})
    refused("lowest KID, which generators have", RunError, run, tmp_path / "x", best=True)


def test_what_would_fail_in_the_process_is_refused_before_a_folder_is_made(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    config = GAN.with_changes(judge=str(tmp_path / "nowhere"))
    with pytest.raises(RunError, match=r"The judge .* cannot be used"):
        new_training(tiny_dataset, tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
