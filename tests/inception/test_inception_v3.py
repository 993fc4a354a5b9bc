from __future__ import annotations

import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from napari_histolatent.errors import UserError
from napari_histolatent.explain.gradcam import grad_cam
from napari_histolatent.models import build_classifier
from napari_histolatent.models.protocols import Classifier
from napari_histolatent.training import ClassifierConfig
from napari_histolatent.training._classifier_task import ClassifierTask
from napari_histolatent.training.checkpoint import save_checkpoint
from napari_histolatent.training.load import load_classifier

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.inception, pytest.mark.filterwarnings("default")]

CPU = torch.device("cpu")
CLASSES = ("normal", "tumour")


class Patches:
    """Patches of two colours in memory."""

    classes, size_px, mpp, digest = CLASSES, 32, None, "d" * 64

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.labels = np.arange(24) % 2
        base = np.array([(220, 130, 170), (120, 70, 150)])[self.labels][:, None, None]
        self.pixels = np.clip(base + rng.normal(0, 9, (24, 32, 32, 3)), 0, 255).astype(np.uint8)

    def rows_of(self, split: str) -> np.ndarray:
        return {"train": np.arange(16), "val": np.arange(16, 24)}.get(split, np.arange(0))

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.pixels[rows]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, dict[str, torch.Tensor]]:
    """Path, digest and content of a file as torchvision names weights, auxiliary classifier and 1,000 classes included."""
    torch.manual_seed(1)
    state = torchvision.models.inception_v3(weights=None, init_weights=False, aux_logits=True).state_dict()
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return str(path), sha256(path.read_bytes()).hexdigest(), state


def inception(**options: Any) -> Any:
    torch.manual_seed(0)
    return build_classifier("inception_v3", classes=CLASSES, size_px=64, **options)


def random_images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_it_is_a_classifier_with_the_weights_that_the_papers_network_has() -> None:
    network = inception().eval()
    assert isinstance(network, Classifier)
    logits = network(random_images())
    assert logits.shape == (2, 2)
    # 21,785,568 without auxiliary classifier and head (torchvision's count of 27,161,264 less both).
    assert sum(v.numel() for v in network.parameters()) == 21_785_568 + 2 * 2048 + 2


def test_every_weight_of_the_file_but_the_heads_arrives(
    weights: tuple[str, str, dict[str, torch.Tensor]],
) -> None:
    path, digest, state = weights
    network = inception(weights=path, weights_sha256=digest)
    own = network.network.state_dict()
    features = {name for name in own if not name.startswith("fc.")}
    assert features == {name for name in state if not name.startswith(("fc.", "AuxLogits."))}
    for name in features:
        assert torch.equal(own[name], state[name]), name
    assert own["fc.weight"].shape == (2, 2048)


def test_what_timm_makes_of_an_image_is_what_we_give_it(
    weights: tuple[str, str, dict[str, torch.Tensor]],
) -> None:
    """timm states mean and SD of 0.5 for its pixels of 0 to 1, which is our [-1, 1]."""
    config = timm.create_model("inception_v3", pretrained=False).pretrained_cfg
    assert tuple(config["mean"]) == tuple(config["std"]) == (0.5, 0.5, 0.5)
    assert tuple(config["input_size"]) == (3, 299, 299)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"Mixed_7c.branch1x1.conv.weight": None},
            r"other\.safetensors lacks 1 of the weights of an InceptionV3;",
        ),
        (
            {"Mixed_7c.branch1x1.conv.weight": torch.ones(3)},
            r"other\.safetensors are not those of an InceptionV3;",
        ),
    ],
)
def test_weights_of_another_network_are_refused(
    weights: tuple[str, str, dict[str, torch.Tensor]],
    tmp_path: Path,
    change: dict[str, torch.Tensor | None],
    sentence: str,
) -> None:
    path = tmp_path / "other.safetensors"
    save_file({name: value for name, value in {**weights[2], **change}.items() if value is not None}, path)
    with pytest.raises(UserError, match=sentence):
        inception(weights=str(path), weights_sha256=sha256(path.read_bytes()).hexdigest())


def test_grad_cam_sees_the_last_block() -> None:
    network = inception().eval()
    (heatmap,) = grad_cam(network, random_images()[:1], ["tumour"])
    assert heatmap.layer == "network.Mixed_7c"
    assert heatmap.values.shape == (64, 64)
    assert np.isfinite(heatmap.values).all()


def test_transfer_learning_saves_and_loads(
    weights: tuple[str, str, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    path, digest, state = weights
    config = ClassifierConfig(
        network="inception_v3",
        size_px=32,
        steps=4,
        batch_size=4,
        device="cpu",
        augmentation="plain",
        weights=path,
        weights_sha256=digest,
        learning_rate=0.01,
    )
    patches: Any = Patches()
    task = ClassifierTask(config, patches, CPU)
    losses = [task.step(index)["cross_entropy"] for index in range(4)]
    assert all(np.isfinite(losses))
    own = task.model.state_dict()
    for name in ("network.Mixed_7c.branch1x1.conv.weight", "network.Mixed_7c.branch1x1.bn.running_mean"):
        assert torch.equal(own[name], state[name.removeprefix("network.")]), name
    metrics = task.finish()
    assert metrics["n"] == 8
    facts = {
        "kind": "classifier",
        "steps": 4,
        "config": config.to_json(),
        "classes": list(CLASSES),
        "size_px": 32,
        "mpp": None,
        "dataset_digest": patches.digest,
        "metrics": metrics,
    }
    saved = save_checkpoint(tmp_path / "checkpoints", task, step=4, facts=facts)
    assert json.loads((saved.path / "checkpoint.json").read_text())["config"]["weights_sha256"] == digest
    loaded = load_classifier(saved.path, device="cpu")
    images = random_images()[:, :, :32, :32]
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(images), task.model(images))
