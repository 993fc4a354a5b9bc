"""What is ours around timm's network, with one of a few weights in its place; the real one: tests/inception."""

from __future__ import annotations

import pickle
import sys
from hashlib import sha256
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from napari_histolatent.errors import UserError
from napari_histolatent.models import build_classifier
from napari_histolatent.models.protocols import Classifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Small(nn.Module):
    """Named as timm's network is."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.Mixed_7c = nn.Sequential(nn.Conv2d(3, 4, 9, stride=20), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4, num_classes)
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return self.fc(self.Mixed_7c(images).mean((2, 3)))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What timm is asked for, by (name, options)."""
    calls: list[Any] = []

    def create_model(name: str, **options: Any) -> Small:
        calls.append((name, options))
        if "broken" in str(options["pretrained_cfg_overlay"]):
            msg = "Error(s) in loading state_dict for InceptionV3: Missing key(s)"
            raise RuntimeError(msg)
        return Small(options["num_classes"])

    timm = ModuleType("timm")
    timm.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    return calls


def inception(size_px: int = 32, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_classifier("inception_v3", classes=("a", "b", "c"), size_px=size_px, **options)


def random_images(size_px: int = 32) -> torch.Tensor:
    return torch.rand(4, 3, size_px, size_px, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """A function that writes a file of weights and returns its path and digest."""

    def write(name: str = "weights.safetensors", without: str = "") -> tuple[str, str]:
        path = tmp_path / name
        state = Small(1000).state_dict()
        save_file({k: v for k, v in state.items() if k != without and "num_batches" not in k}, path)
        return str(path), sha256(path.read_bytes()).hexdigest()

    return write


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("size_px", [16, 299, 512])
def test_the_network_sees_299_px_whatever_the_patches_have(size_px: int) -> None:
    network = inception(size_px).eval()
    assert isinstance(network, Classifier)
    assert (network.classes, network.size_px) == (("a", "b", "c"), size_px)
    images = torch.full((2, 3, size_px, size_px), 0.25)
    images[1] = random_images(size_px)[0]
    assert network(images).shape == (2, 3)
    (seen,) = network.network.seen
    assert seen.shape == (2, 3, 299, 299)
    torch.testing.assert_close(seen[0], torch.full((3, 299, 299), 0.25))
    if size_px == 299:
        assert torch.equal(seen, images)
    if size_px > 299:
        assert float(seen[1].std()) < 0.8 * float(images[1].std()), "smoothed before it is made smaller"


def test_timm_is_asked_for_random_weights_or_those_of_the_file(
    asked: list[Any], file: Callable[..., tuple[str, str]]
) -> None:
    path, digest = file()
    inception()
    inception(weights=path, weights_sha256=digest.upper(), base_channels=24)
    assert asked == [
        ("inception_v3", {"pretrained": False, "num_classes": 3, "pretrained_cfg_overlay": None}),
        ("inception_v3", {"pretrained": True, "num_classes": 3, "pretrained_cfg_overlay": {"file": path}}),
    ]


@pytest.mark.usefixtures("asked")
def test_only_the_new_layer_learns_and_the_features_stay() -> None:
    network = inception().train()
    features = {k: v.clone() for k, v in network.network.Mixed_7c.state_dict().items()}
    learning = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert learning == {"network.fc.weight", "network.fc.bias"}
    nn.functional.cross_entropy(network(random_images()), torch.tensor([0, 1, 2, 0])).backward()
    assert float(network.network.fc.weight.grad.abs().sum()) > 0
    for name, value in network.network.Mixed_7c.state_dict().items():
        assert torch.equal(value, features[name]), name


@pytest.mark.usefixtures("asked")
def test_fine_tuning_teaches_all_layers() -> None:
    network = inception(fine_tune=True).train()
    before = network.network.Mixed_7c[1].running_mean.clone()
    nn.functional.cross_entropy(network(random_images()), torch.tensor([0, 1, 2, 0])).backward()
    assert all(weight.grad is not None for weight in network.parameters())
    assert not torch.equal(network.network.Mixed_7c[1].running_mean, before)
    assert not network.eval().network.Mixed_7c[1].training


@pytest.mark.usefixtures("asked")
def test_grad_cam_has_the_last_block() -> None:
    network = inception()
    assert network.cam_layer is network.network.Mixed_7c
    assert dict(network.named_modules())["network.Mixed_7c"] is network.cam_layer


class Unpickled:
    """Says so when it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


@pytest.mark.usefixtures("asked")
def test_a_file_of_weights_that_is_not_the_one_is_refused(
    tmp_path: Path, file: Callable[..., tuple[str, str]]
) -> None:
    path, digest = file()
    with pytest.raises(
        UserError, match=rf"have the sha256 {digest}, and no digest is stated; .*state its digest\.$"
    ):
        inception(weights=path)
    with pytest.raises(UserError, match=rf"have the sha256 {digest}, and 0000aaaa0000\.\.\. is stated;"):
        inception(weights=path, weights_sha256="0000aaaa" * 8)
    with pytest.raises(
        UserError, match=r"gone\.safetensors cannot be read as safetensors \(.+\); choose another file\.$"
    ):
        inception(weights=str(tmp_path / "gone.safetensors"))
    pickled = tmp_path / "pickled.safetensors"
    pickled.write_bytes(pickle.dumps(Unpickled()))
    with pytest.raises(UserError, match=r"pickled\.safetensors cannot be read as safetensors"):
        inception(weights=str(pickled), weights_sha256=sha256(pickled.read_bytes()).hexdigest())


@pytest.mark.usefixtures("asked")
def test_weights_of_another_network_are_refused(file: Callable[..., tuple[str, str]]) -> None:
    path, digest = file("broken.safetensors")
    with pytest.raises(
        UserError, match=r"broken\.safetensors are not those of an InceptionV3; choose another file\.$"
    ):
        inception(weights=path, weights_sha256=digest)


@pytest.mark.usefixtures("asked")
def test_a_file_that_lacks_weights_is_refused_as_they_would_be_random(
    file: Callable[..., tuple[str, str]],
) -> None:
    path, digest = file(without="Mixed_7c.0.bias")
    with pytest.raises(UserError, match=r"lacks 1 of the weights of an InceptionV3; choose another file\.$"):
        inception(weights=path, weights_sha256=digest)


def test_without_timm_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    with pytest.raises(
        UserError, match=r"needs timm and the torchvision .*; install napari-histolatent\[inception\]"
    ):
        inception()


def test_a_broken_torchvision_is_no_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist\\nmore')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(UserError, match=r"\(operator torchvision::nms does not exist\); install"):
        inception()
