from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save

from napari_histolatent._files import digest_of_file
from napari_histolatent.errors import CheckpointError, DatasetError, UserError
from napari_histolatent.evaluation.gates import Gates, real_images, sampled
from napari_histolatent.jobs import shipping
from napari_histolatent.jobs.shipping import ShippedModels, halved, ship
from napari_histolatent.patches import PatchDataset
from napari_histolatent.training import shipped
from napari_histolatent.training.checkpoint import Checkpoint, latest_checkpoint
from napari_histolatent.training.load import find_checkpoint, load_classifier, load_generator

if TYPE_CHECKING:
    from napari_histolatent.training.load import LoadedClassifier

PARTS = {"generator", "colour_judge", "robust_judge"}


@dataclass(frozen=True)
class Sources:
    run: Path
    colour_judge: Path
    robust_judge: Path
    dataset: Path

    def ship(self, out: Path, **changes: Any) -> ShippedModels:
        options: dict[str, Any] = {
            "colour_judge": self.colour_judge,
            "robust_judge": self.robust_judge,
            "dataset": self.dataset,
            "licence": "BSD-3-Clause",
            "calibration_tiles": 0,
            **changes,
        }
        return ship(options.pop("run", self.run), out=out, **options)


@pytest.fixture(scope="module")
def sources(
    gan_run: Path,
    classifier: LoadedClassifier,
    tiny_dataset: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Sources:
    robust = Path(shutil.copytree(classifier.checkpoint.path, tmp_path_factory.mktemp("robust") / "other"))
    state = load_file(robust / "model.safetensors")
    state["head.bias"] = state["head.bias"] + 0.125  # another opinion, and another digest
    (robust / "model.safetensors").write_bytes(save(state))
    facts = json.loads((robust / "checkpoint.json").read_text())
    facts["digest"] = digest_of_file(robust / "model.safetensors")
    (robust / "checkpoint.json").write_text(json.dumps(facts))
    return Sources(gan_run, classifier.checkpoint.path, robust, tiny_dataset)


@pytest.fixture(scope="module")
def made(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> ShippedModels:
    out = tmp_path_factory.mktemp("package") / "shipped"
    out.mkdir()
    (out / "README.md").write_text("stays")
    return sources.ship(out)


def test_three_folders_beside_what_was_there(made: ShippedModels) -> None:
    assert {path.name for path in made.folder.iterdir()} == PARTS | {"README.md"}
    for part in PARTS:
        files = {path.name for path in (made.folder / part).iterdir()}
        assert files == {"model.safetensors", "checkpoint.json", "MODEL_CARD.md"}
    on_disk = [path for part in PARTS for path in (made.folder / part).iterdir()]
    assert made.n_bytes == sum(path.stat().st_size for path in on_disk)


def test_weights_are_half_on_disk_and_single_in_use(made: ShippedModels, gan_run: Path) -> None:
    before = load_file(latest_checkpoint(gan_run / "checkpoints").path / "model.safetensors")
    stored = load_file(made.folder / "generator" / "model.safetensors")
    assert stored.keys() == before.keys()
    kinds = {(value.ndim >= 2, value.dtype.name) for value in stored.values()}
    assert kinds - {(False, "int64")} == {(True, "float16"), (False, "float32")}
    network = load_generator(made.folder / "generator", device="cpu").network
    for name, value in network.state_dict().items():
        assert value.dtype in (torch.float32, torch.int64), name
        np.testing.assert_allclose(value.numpy(), before[name], rtol=1e-3, atol=1e-6, err_msg=name)


def test_the_digest_is_that_of_the_file_and_names_its_origin(made: ShippedModels, gan_run: Path) -> None:
    folder = made.folder / "generator"
    facts = json.loads((folder / "checkpoint.json").read_text())
    assert facts["digest"] == made.digests["generator"] == digest_of_file(folder / "model.safetensors")
    assert facts["trained_digest"] == latest_checkpoint(gan_run / "checkpoints").digest
    assert facts["digest"] != facts["trained_digest"]


def test_the_figures_are_of_what_is_shipped(made: ShippedModels, tiny_dataset: Path) -> None:
    data = PatchDataset(tiny_dataset)
    held_out = real_images(data, "val")
    gates = Gates(
        train=real_images(data, "train").images,
        held_out=held_out,
        colour_judge=load_classifier(made.folder / "colour_judge", device="cpu"),
        robust_judge=load_classifier(made.folder / "robust_judge", device="cpu"),
    )
    generator = load_generator(made.folder / "generator", device="cpu")
    assert gates.measure(sampled(generator, held_out.labels, seed=1)) == made.figures
    assert generator.checkpoint.metrics["gates"] == made.figures.to_json()


def test_the_cards_say_what_they_have_to(made: ShippedModels) -> None:
    card = (made.folder / "generator" / "MODEL_CARD.md").read_text()
    assert "SYNTHETIC" in card
    assert "BSD-3-Clause" in card
    assert made.digests["generator"] in card
    assert f"`{made.digests['colour_judge']}`" in card
    assert f"`{made.digests['robust_judge']}`" in card
    assert digest_of_file(made.folder / "generator" / "checkpoint.json") in card
    assert "classifier" in (made.folder / "robust_judge" / "MODEL_CARD.md").read_text()


def test_no_path_of_the_machine_that_trained_is_shipped(sources: Sources, tmp_path: Path) -> None:
    newest = latest_checkpoint(sources.run / "checkpoints")
    trained = Path(shutil.copytree(newest.path, tmp_path / "trained"))
    facts = json.loads((trained / "checkpoint.json").read_text())
    facts["config"]["judge"] = "/home/somebody/judge"
    (trained / "checkpoint.json").write_text(json.dumps(facts))
    out = sources.ship(tmp_path / "out", run=trained).folder
    said = [path.read_text() for path in out.rglob("*") if path.suffix in {".json", ".md"}]
    assert len(said) == 6
    assert not any("somebody" in text for text in said)


def test_the_word_shipped_names_them(made: ShippedModels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "_root", lambda: made.folder)
    assert load_generator("shipped", device="cpu").checkpoint.digest == made.digests["generator"]
    assert load_classifier("shipped", device="cpu").checkpoint.digest == made.digests["robust_judge"]
    assert find_checkpoint("shipped").kind == "gan"
    assert shipped.shipped_folder("colour_judge") == made.folder / "colour_judge"


def test_an_assumed_pixel_size_is_used_and_called_assumed(sources: Sources, tmp_path: Path) -> None:
    unknown = Path(shutil.copytree(latest_checkpoint(sources.run / "checkpoints").path, tmp_path / "gan"))
    facts = json.loads((unknown / "checkpoint.json").read_text())
    (unknown / "checkpoint.json").write_text(json.dumps({**facts, "mpp": None}))
    made = sources.ship(tmp_path / "out", run=unknown, assumed_mpp=2.0)
    checkpoint = Checkpoint.open(made.folder / "generator")
    assert checkpoint.mpp == 2.0
    assert checkpoint.metrics["mpp_is_assumed"] is True
    card = (made.folder / "generator" / "MODEL_CARD.md").read_text()
    assert "unknown, assumed 2 µm per px; field of view then 64 x 64 µm" in card
    # The judges' own was stated.
    assert Checkpoint.open(made.folder / "colour_judge").mpp == 1.0


def test_shipping_again_replaces_the_parts(made: ShippedModels, sources: Sources, tmp_path: Path) -> None:
    out = Path(shutil.copytree(made.folder, tmp_path / "shipped"))
    (out / "generator" / "old").write_text("left over")
    again = sources.ship(out)
    assert again.digests == made.digests
    assert {path.name for path in out.iterdir()} == PARTS | {"README.md"}
    assert not (out / "generator" / "old").exists()
    for part in PARTS:
        for path in (out / part).iterdir():
            assert path.read_bytes() == (made.folder / part / path.name).read_bytes(), path


def test_too_much_is_refused_and_the_old_stays(
    made: ShippedModels, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(made.folder, tmp_path / "shipped"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(shipping, "MOST_BYTES", 10_000)
    with pytest.raises(UserError, match=r"take 0\.\d MB together, more than 0 MB; train narrower"):
        sources.ship(out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        (
            {"colour_judge": "run"},
            CheckpointError,
            "holds a gan, where a classifier is needed for colour_judge",
        ),
        ({"run": "robust_judge"}, CheckpointError, "holds a classifier, where a gan is needed for generator"),
    ],
)
def test_runs_in_the_wrong_place_are_refused(
    sources: Sources, tmp_path: Path, changes: dict[str, str], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        sources.ship(tmp_path / "out", **{key: getattr(sources, value) for key, value in changes.items()})
    assert not (tmp_path / "out").exists()


def test_another_dataset_is_refused(sources: Sources, tmp_path: Path) -> None:
    judge = Path(shutil.copytree(sources.colour_judge, tmp_path / "judge"))
    facts = json.loads((judge / "checkpoint.json").read_text())
    (judge / "checkpoint.json").write_text(json.dumps({**facts, "classes": ["fat", "stroma"]}))
    with pytest.raises(
        DatasetError, match="knows fat, stroma at 32 px, the dataset epithelium, stroma at 32 px"
    ):
        sources.ship(tmp_path / "out", colour_judge=judge)


def test_an_encoder_goes_along_and_names_the_halved_generator(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = latest_checkpoint(sources.run / "checkpoints")
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    weights = {"weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)}
    (encoder / "model.safetensors").write_bytes(save(weights))
    facts = json.loads((generator.path / "checkpoint.json").read_text())
    config = {"generator_digest": generator.digest, "z_dim": 8}
    facts |= {
        "kind": "encoder",
        "config": config,
        "digest": digest_of_file(encoder / "model.safetensors"),
    }
    (encoder / "checkpoint.json").write_text(json.dumps(facts))

    @dataclass
    class Loaded:
        checkpoint: Checkpoint

    monkeypatch.setattr(shipping, "load_encoder", lambda *_, **__: Loaded(Checkpoint.open(encoder)))
    made = sources.ship(tmp_path / "out")
    shipped_one = Checkpoint.open(made.folder / "generator" / "encoder")
    assert shipped_one.config == {"generator_digest": made.digests["generator"], "z_dim": 8}
    assert shipped_one.digest == made.digests["encoder"]
    assert "encoder/model.safetensors" in (made.folder / "generator" / "MODEL_CARD.md").read_text()


def test_weights_beyond_half_precision_are_refused(sources: Sources, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(latest_checkpoint(sources.run / "checkpoints").path, tmp_path / "gan"))
    state = load_file(folder / "model.safetensors")
    state["seed.weight"][0, 0] = 1e6
    (folder / "model.safetensors").write_bytes(save(state))
    with pytest.raises(CheckpointError, match=r"weights seed\.weight of .* reach 1e\+06, more than half"):
        halved(Checkpoint.open(folder), tmp_path / "half")
