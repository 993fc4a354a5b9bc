from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_histolatent._files import digest_of_file
from napari_histolatent.errors import CheckpointError, DatasetError, RunError, UserError
from napari_histolatent.patches import PatchDataset
from napari_histolatent.training import _onnx
from napari_histolatent.training import export as export_module
from napari_histolatent.training._encoder_task import train_encoder
from napari_histolatent.training.checkpoint import latest_checkpoint
from napari_histolatent.training.config import EncoderConfig
from napari_histolatent.training.export import export
from napari_histolatent.training.load import load_classifier, load_encoder, load_generator

if TYPE_CHECKING:
    from collections.abc import Callable


def newest(run: Path) -> Path:
    return latest_checkpoint(run / "checkpoints").path


def names_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def change(checkpoint: Path, **facts: Any) -> None:
    file = checkpoint / "checkpoint.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


@pytest.fixture
def run(gan_run: Path, tmp_path: Path) -> Path:
    """A run of the test's own."""
    return Path(shutil.copytree(gan_run, tmp_path / "run"))


@pytest.mark.parametrize(
    ("load", "fixture"), [(load_generator, "gan_run"), (load_classifier, "classifier_run")]
)
def test_an_exported_folder_stands_for_the_run(
    request: pytest.FixtureRequest, tmp_path: Path, load: Callable[..., Any], fixture: str
) -> None:
    source: Path = request.getfixturevalue(fixture)
    made = export(source, tmp_path / "out")
    assert names_below(made.folder) == {"model.safetensors", "checkpoint.json", "MODEL_CARD.md"}
    original, exported = load(source, device="cpu"), load(made.folder, device="cpu")
    assert exported.checkpoint.digest == original.checkpoint.digest == made.digest
    assert made.files == {name: digest_of_file(made.folder / name) for name in names_below(made.folder)}
    assert made.files["model.safetensors"] == made.digest
    assert made.onnx_difference is None
    for key, value in original.network.state_dict().items():
        assert torch.equal(value, exported.network.state_dict()[key]), key


def test_an_exported_folder_can_be_exported_again(gan_run: Path, tmp_path: Path) -> None:
    first = export(gan_run, tmp_path / "first")
    second = export(first.folder, tmp_path / "second")
    assert second.digest == first.digest
    assert second.files["model.safetensors"] == first.files["model.safetensors"]


def test_the_card_is_of_this_checkpoint(gan_run: Path, tmp_path: Path) -> None:
    older = sorted((gan_run / "checkpoints").iterdir())[0]
    step = int(older.name.removeprefix("step-"))
    made = export(gan_run, tmp_path / "out", step=step, licence="CC0-1.0", assumed_mpp=0.25)
    card = (made.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert made.step == step
    assert f"`{made.digest}`" in card
    assert f"{step} of 6 steps." in card
    assert "CC0-1.0" in card
    assert "8 x 8 µm" in card  # 16 px of the known 0.5, whatever is assumed
    assert "was not at hand" in card
    network = load_generator(older, device="cpu").network
    assert isinstance(network, torch.nn.Module)
    assert f"{sum(v.numel() for v in network.parameters()):,} weights" in card
    for name in ("model.safetensors", "checkpoint.json"):
        assert f"| {name} | `{made.files[name]}` |" in card


def test_the_data_are_those_of_the_run_or_those_that_are_named(
    run: Path, tmp_path: Path, tiny_dataset: Path
) -> None:
    dataset = PatchDataset(tiny_dataset)
    counts = dataset.settings["counts"]["train"]
    row = f"| {' | '.join(str(counts[name]) for name in dataset.classes)} | {sum(counts.values())} |"
    with pytest.raises(DatasetError, match="is not the dataset that the model learnt from"):
        export(run, tmp_path / "out", dataset=tiny_dataset)
    change(newest(run), dataset_digest=dataset.digest)
    assert row in (export(run, tmp_path / "named", dataset=tiny_dataset).folder / "MODEL_CARD.md").read_text()
    assert row not in (export(run, tmp_path / "unnamed").folder / "MODEL_CARD.md").read_text()
    description = json.loads((run / "run.json").read_text())
    description["spec"]["dataset"] = str(tiny_dataset)
    (run / "run.json").write_text(json.dumps(description))
    assert row in (export(run, tmp_path / "of the run").folder / "MODEL_CARD.md").read_text()


def test_calibration_and_encoder_go_along(run: Path, tmp_path: Path) -> None:
    checkpoint = newest(run)
    (checkpoint / "calibration.json").write_text('{"threshold": 0.5}')
    encoder = train_encoder(
        EncoderConfig(steps=1, batch_size=2, base_channels=4, device="cpu", real_weight=0.0),
        load_generator(run, device="cpu"),
        None,
        folder=run / "encoder",
        on_event=lambda _: None,
        should_stop=lambda: False,
    )
    made = export(run, tmp_path / "out")
    assert names_below(made.folder) == {
        "model.safetensors",
        "checkpoint.json",
        "calibration.json",
        "encoder/model.safetensors",
        "encoder/checkpoint.json",
        "MODEL_CARD.md",
    }
    assert (made.folder / "calibration.json").read_text() == '{"threshold": 0.5}'
    loaded = load_encoder(made.folder, device="cpu")
    assert loaded is not None
    assert loaded.checkpoint.digest == encoder.digest
    again = export(made.folder, tmp_path / "again")
    assert names_below(again.folder) == names_below(made.folder)

    # The encoder of other weights would find points that this generator draws something else from.
    change(encoder.path, config={"generator_digest": "0" * 64})
    assert "encoder/model.safetensors" not in export(run, tmp_path / "without").files


def test_a_fork_says_where_it_came_from(run: Path, tmp_path: Path) -> None:
    description = json.loads((run / "run.json").read_text())
    description["spec"]["forked_from"] = {"digest": "f" * 64, "step": 77}
    (run / "run.json").write_text(json.dumps(description))
    card = (export(run, tmp_path / "out").folder / "MODEL_CARD.md").read_text()
    assert f"`{'f' * 64}` at step 77" in card


# Refusals: one sentence, and nothing is left


def refused(named: Path, out: Path, words: str, kind: type[UserError] = UserError, **options: Any) -> None:
    there = set(out.parent.iterdir())
    with pytest.raises(kind, match=words) as error:
        export(named, out, **options)
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert set(out.parent.iterdir()) == there


def test_nothing_is_written_over(gan_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert export(gan_run, tmp_path / "empty").files
    refused(gan_run, tmp_path / "empty", "is there already; choose another --out", RunError)
    (tmp_path / "file").touch()
    refused(gan_run, tmp_path / "file", "is there already", RunError)


def test_what_cannot_be_exported(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(run, out, "no checkpoint of step 5", CheckpointError, step=5)
    refused(run, out, "pixel size of -1 µm is not possible", assumed_mpp=-1.0)
    refused(tmp_path / "nowhere", out, "is not a run folder")
    checkpoint = newest(run)
    change(checkpoint, kind="encoder")
    refused(checkpoint, out, "holds encoder weights", CheckpointError)


def test_a_damaged_checkpoint_is_not_handed_on(run: Path, tmp_path: Path) -> None:
    checkpoint = newest(run)
    file = checkpoint / "model.safetensors"
    state = load_file(file)
    save_file({key: value + 1 for key, value in state.items()}, file)
    refused(checkpoint, tmp_path / "out", "it is damaged", CheckpointError)
    file.write_bytes(file.read_bytes()[:-9])
    refused(checkpoint, tmp_path / "out", "cannot be read as safetensors", CheckpointError)


def test_a_failure_in_the_middle_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "model_card", full)
    refused(run, tmp_path / "out", "the disk is full")


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_onnx_without_its_packages(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None if name == missing else _onnx)
    refused(
        run,
        tmp_path / "out",
        r"needs onnx, onnxscript and onnxruntime \(.*napari-histolatent\[onnx\]",
        onnx=True,
    )


# ONNX


@pytest.fixture(scope="module")
def with_onnx(gan_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    return export(gan_run, tmp_path_factory.mktemp("onnx") / "out", onnx=True)


def session_of(made: Any) -> Any:
    import onnxruntime

    file = str(made.folder / "generator.onnx")
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_onnx_file_draws_what_torch_draws(with_onnx: Any, n: int) -> None:
    network = load_generator(with_onnx.folder, device="cpu").network
    chance = torch.Generator().manual_seed(11)
    z = torch.randn(n, network.z_dim, generator=chance)
    y = torch.rand(n, len(network.classes), generator=chance)
    session = session_of(with_onnx)
    assert [item.name for item in session.get_inputs()] == ["z", "y"]
    (drawn,) = session.run(["images"], {"z": z.numpy(), "y": y.numpy()})
    expected = network.synthesize(network.map(z, y))
    assert drawn.shape == (n, 3, 16, 16)
    assert float((torch.from_numpy(drawn) - expected).abs().max()) < 1e-4
    assert float(expected.std()) > 0.01  # not a constant, that anything would equal
    assert 0 <= with_onnx.onnx_difference < 1e-4


def test_the_onnx_file_and_the_card_tell_of_each_other(with_onnx: Any) -> None:
    import onnx

    properties = {
        item.key: item.value for item in onnx.load(with_onnx.folder / "generator.onnx").metadata_props
    }
    assert properties["synthetic"].startswith("SYNTHETIC")
    assert properties["model_digest"] == with_onnx.digest
    assert properties["classes"] == "epithelium, stroma"
    card = (with_onnx.folder / "MODEL_CARD.md").read_text()
    assert f"| generator.onnx | `{with_onnx.files['generator.onnx']}` |" in card
    assert "no pixel differs by more than" in card


def test_an_onnx_file_of_other_weights_is_told_apart(with_onnx: Any) -> None:
    loaded = load_generator(with_onnx.folder, device="cpu")
    assert _onnx.require_equal(with_onnx.folder / "generator.onnx", loaded) == with_onnx.onnx_difference
    assert isinstance(loaded.network, torch.nn.Module)
    with torch.no_grad():
        next(loaded.network.parameters()).mul_(1.01)
    with pytest.raises(UserError, match="The ONNX file differs from torch by"):
        _onnx.require_equal(with_onnx.folder / "generator.onnx", loaded)


def test_a_classifier_as_onnx_is_refused(classifier_run: Path, tmp_path: Path) -> None:
    refused(classifier_run, tmp_path / "out", "ONNX files are made of generators only", onnx=True)


@pytest.mark.parametrize("inside", ["model", "checkpoints/step-00000099"])
def test_not_into_a_run(run: Path, inside: str) -> None:
    with pytest.raises(CheckpointError, match="holds a run or a model of its own; choose a folder elsewhere"):
        export(run, run / inside)
    assert not (run / inside).exists()


def test_an_endless_pixel_size_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="A pixel size of inf µm is not possible"):
        export(run, tmp_path / "model", assumed_mpp=math.inf)
