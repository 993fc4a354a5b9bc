from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from napari_histolatent.errors import UserError
from napari_histolatent.explain.gradcam import grad_cam, layer_name, layers_of, probabilities
from napari_histolatent.models import build_classifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.models.protocols import Classifier

CLASSES = ("epithelium", "stroma", "fat")


def classifier(seed: int = 0, size_px: int = 32) -> Classifier:
    torch.manual_seed(seed)
    network = build_classifier("convnet", classes=CLASSES, size_px=size_px, base_channels=4)
    assert isinstance(network, nn.Module)
    with torch.no_grad():
        for _ in range(30):  # normalisation statistics, as after a training
            network(random_images(16, size_px, seed=None))
    return network.eval()


def random_images(n: int, size_px: int = 32, seed: int | None = 1) -> torch.Tensor:
    chance = None if seed is None else torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, size_px, size_px, generator=chance) * 2 - 1


def independent_grad_cam(
    network: Classifier, image: torch.Tensor, target: int, layer: str | None = None
) -> np.ndarray:
    """Equations 1 and 2 of Selvaraju et al. 2017, by hooks and autograd."""
    maps: list[torch.Tensor] = []
    module = network.get_submodule(layer) if layer else network.cam_layer  # type: ignore[attr-defined]

    def keep(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        maps.append(output)
        return output.clone()  # what follows may work in place

    hook = module.register_forward_hook(keep)
    with torch.enable_grad():
        score = network(image[None].clone().requires_grad_(True))[0, target]
        hook.remove()
        (gradient,) = torch.autograd.grad(score, maps[0])
    weights = gradient.mean((2, 3), keepdim=True)
    cam = torch.relu((weights * maps[0]).sum(1, keepdim=True))
    size = tuple(image.shape[-2:])
    full = nn.functional.interpolate(cam, size=size, mode="bilinear", align_corners=False)
    return full.detach()[0, 0].numpy()


@pytest.mark.parametrize("size_px", [16, 32])
@pytest.mark.parametrize("target", CLASSES)
def test_against_an_independent_computation(target: str, size_px: int) -> None:
    network, images = classifier(size_px=size_px), random_images(3, size_px)
    maps = grad_cam(network, images, [target] * 3)
    for heatmap, image in zip(maps, images, strict=True):
        expected = independent_grad_cam(network, image, CLASSES.index(target))
        np.testing.assert_allclose(heatmap.values, expected, atol=1e-5)
    assert max(heatmap.values.max() for heatmap in maps) > 1e-3, "compared more than zeros"


def test_each_image_has_its_own_target() -> None:
    network, images = classifier(), random_images(3)
    maps = grad_cam(network, images, ["fat", "epithelium", "stroma"])
    assert [heatmap.target for heatmap in maps] == ["fat", "epithelium", "stroma"]
    for heatmap, image, index in zip(maps, images, (2, 0, 1), strict=True):
        np.testing.assert_allclose(heatmap.values, independent_grad_cam(network, image, index), atol=1e-5)


def test_what_a_map_carries() -> None:
    network, images = classifier(), random_images(2)
    boxes = [(0.0, 1.0, 2.0, 3.0), None]
    maps = grad_cam(network, images, ["stroma", "fat"], level0_boxes=boxes)
    chance = torch.softmax(network(images), 1)
    for i, (heatmap, index) in enumerate(zip(maps, (1, 2), strict=True)):
        assert (heatmap.values.shape, heatmap.values.dtype) == ((32, 32), np.float32)
        assert heatmap.values.min() >= 0
        assert heatmap.probability == pytest.approx(float(chance[i, index].detach()), rel=1e-5)
        assert heatmap.level0_box == boxes[i]
        layer = dict(network.named_modules())[heatmap.layer]  # type: ignore[attr-defined]
        assert layer is network.cam_layer


def test_without_boxes_a_map_has_no_place() -> None:
    assert grad_cam(classifier(), random_images(1), ["fat"])[0].level0_box is None


def test_targets_differ_in_what_they_show() -> None:
    network, image = classifier(), random_images(1)
    shown = [grad_cam(network, image, [target])[0].values for target in CLASSES]
    assert max(float(np.abs(shown[0] - other).max()) for other in shown[1:]) > 1e-3


def test_other_weights_show_something_else() -> None:
    # Adebayo et al. 2018: a map that survives this says nothing of the model.
    network, images = classifier(), random_images(4)
    learnt = np.stack([heatmap.values for heatmap in grad_cam(network, images, ["fat"] * 4)])
    for parameter in network.parameters():  # type: ignore[attr-defined]
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, generator=torch.Generator().manual_seed(7))
    other = np.stack([heatmap.values for heatmap in grad_cam(network, images, ["fat"] * 4)])
    assert learnt.max() > 0
    assert other.max() > 0
    assert abs(np.corrcoef(learnt.ravel(), other.ravel())[0, 1]) < 0.5
    assert np.abs(learnt - other).max() > 0.2 * learnt.max()


def test_frozen_weights_make_no_difference() -> None:
    images = random_images(2)
    free = grad_cam(classifier(), images, ["stroma"] * 2)
    frozen_network = classifier().requires_grad_(False)  # type: ignore[attr-defined]
    frozen = grad_cam(frozen_network, images, ["stroma"] * 2)
    for a, b in zip(free, frozen, strict=True):
        np.testing.assert_array_equal(a.values, b.values)


def test_it_works_where_gradients_are_off() -> None:
    network, images = classifier(), random_images(1)
    expected = grad_cam(network, images, ["stroma"])[0].values
    with torch.no_grad():
        np.testing.assert_array_equal(grad_cam(network, images, ["stroma"])[0].values, expected)


def test_nothing_is_left_behind() -> None:
    network, images = classifier(), random_images(2)
    before = images.clone()
    grad_cam(network, images, ["fat", "fat"])
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert images.grad is None
    assert all(parameter.grad is None for parameter in network.parameters())  # type: ignore[attr-defined]
    assert not network.cam_layer._forward_hooks
    assert not network.cam_layer._backward_hooks


def test_evidence_against_a_class_is_not_shown() -> None:
    network, images = classifier(), random_images(1)
    head = network.head  # type: ignore[attr-defined]
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0], [-1.0], [0.0]]).expand_as(head.weight))
    pro, contra, neither = (grad_cam(network, images, [target])[0].values for target in CLASSES)
    assert pro.max() > 0
    assert contra.max() == neither.max() == 0


@pytest.mark.parametrize("target", ["bone", "", "Stroma"])
def test_an_unknown_target_is_refused(target: str) -> None:
    with pytest.raises(UserError, match=rf"no class '{target}'; its classes are epithelium, stroma, fat\.$"):
        grad_cam(classifier(), random_images(2), ["fat", target])


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 64), (64, 32)])
def test_a_tile_of_another_size_is_refused(height: int, width: int) -> None:
    images = torch.zeros(1, 3, height, width)
    sentence = (
        rf"^The tile is {width} x {height} px, the classifier was trained on 32 px; give a tile of that"
    )
    with pytest.raises(UserError, match=sentence):
        grad_cam(classifier(), images, ["fat"])
    with pytest.raises(UserError, match=sentence):
        probabilities(classifier(), images)


def test_probabilities() -> None:
    network, images = classifier(), random_images(4)
    chance = probabilities(network, images)
    assert chance.shape == (4, 3)
    assert not chance.requires_grad
    torch.testing.assert_close(chance.sum(1), torch.ones(4))
    logits = network(images).detach().double()
    torch.testing.assert_close(
        chance.double(), logits.exp() / logits.exp().sum(1, keepdim=True), rtol=1e-5, atol=1e-6
    )


class OtherClassifier:
    """A classifier that is called but is no module of torch as a whole."""

    classes, size_px = CLASSES, 32

    def __init__(self) -> None:
        self.cam_layer = nn.Conv2d(3, 3, 3)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self.cam_layer(images).mean((2, 3))


def test_probabilities_need_the_protocol_only() -> None:
    assert probabilities(OtherClassifier(), random_images(2)).shape == (2, 3)  # type: ignore[arg-type]


# Layers


def test_the_layers_of_the_convnet() -> None:
    network = classifier()
    names = layers_of(network)
    # Each block ends with its activation: pooling belongs to none.
    assert names == ("features.2", "features.6", "features.10", "features.14")[: len(names)]
    assert len(names) == 4
    modules = dict(network.named_modules())  # type: ignore[attr-defined]
    assert all(isinstance(modules[name], nn.ReLU) for name in names)
    assert modules[names[-1]] is network.cam_layer
    assert layer_name(network) == names[-1]
    assert not any(module._forward_hooks for module in modules.values())


class Branched(nn.Module):
    """A classifier of modules within modules, as the larger ones are: the inner ones are not named."""

    classes, size_px = CLASSES, 32

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(inplace=True))
        self.body.mixed = Mixed()
        self.body.shared = nn.ReLU(inplace=True)
        self.body.last = nn.Conv2d(8, 8, 3)
        self.body.pool, self.body.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, len(CLASSES))

    @property
    def cam_layer(self) -> nn.Module:
        return self.body.last

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        body = self.body
        maps = body.shared(body.last(body.shared(body.mixed(body.stem(images)))))
        return body.head(body.pool(maps).flatten(1))


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.wide(maps), self.narrow(maps)], 1)


def test_layers_of_modules_within_modules() -> None:
    # The activation that is used twice has no one map.
    assert layers_of(Branched()) == ("body.stem.1", "body.mixed", "body.last")


def test_a_classifier_that_is_no_module_has_the_one_layer_it_states() -> None:
    assert layers_of(OtherClassifier()) == ("Conv2d",)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [classifier, lambda: Branched().eval()])
def test_every_layer_against_an_independent_computation(make: Callable[[], Any]) -> None:
    torch.manual_seed(3)
    network, images = make(), random_images(2)
    for layer in layers_of(network):
        for image, heatmap in zip(
            images, grad_cam(network, images, ["fat", "fat"], layer=layer), strict=True
        ):
            assert heatmap.layer == layer
            expected = independent_grad_cam(network, image, 2, layer)
            np.testing.assert_allclose(heatmap.values, expected, atol=1e-5)


@pytest.mark.parametrize("layer", ["", "features.99", "nowhere"])
def test_an_unknown_layer_is_refused(layer: str) -> None:
    with pytest.raises(UserError, match=rf"no layer '{layer}'; choose one of features.2, .*features.14\.$"):
        grad_cam(classifier(), random_images(1), ["fat"], layer=layer)


def test_a_layer_without_places_is_refused() -> None:
    network = classifier()
    with pytest.raises(UserError, match="The layer 'head' of the classifier has no spatial extent; choose"):
        grad_cam(network, random_images(1), ["fat"], layer="head")
    assert not network.head._forward_hooks  # type: ignore[attr-defined]


# Cost


def test_an_image_is_classified_once_and_gradients_end_at_the_layer() -> None:
    network, images = classifier(), random_images(3)
    passes: list[int] = []
    before: list[bool] = []
    network.register_forward_hook(lambda _m, inputs, _o: passes.append(len(inputs[0])))  # type: ignore[attr-defined]
    network.features[0].register_forward_hook(  # type: ignore[attr-defined]
        lambda _m, inputs, _o: before.append(inputs[0].requires_grad)
    )
    grad_cam(network, images, ["fat"] * 3)
    assert (passes, before) == ([3], [False])


def test_portions_give_the_same_maps() -> None:
    network, images = classifier(), random_images(5)
    targets = ["fat", "stroma", "fat", "epithelium", "stroma"]
    boxes = [(float(i), 0.0, i + 1.0, 1.0) for i in range(5)]
    whole = grad_cam(network, images, targets, level0_boxes=boxes)
    parts = grad_cam(network, images, targets, level0_boxes=boxes, batch_size=2)
    assert [item.to_json()["level0_box"] for item in parts] == [list(box) for box in boxes]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=1e-6)
        assert (one.target, one.layer) == (other.target, other.layer)
        assert one.probability == pytest.approx(other.probability, abs=1e-6)


# Sanity, Adebayo et al. 2018


def spotted(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images with a grey square in one of the corners, bright (class 0) or dark (class 1), and where it is."""
    chance = torch.Generator().manual_seed(seed)
    images = torch.rand(n, 3, 16, 16, generator=chance) * 0.6 - 0.3
    labels = torch.arange(n) % 2
    places = torch.randint(0, 2, (n, 2), generator=chance) * 8 + 1
    squares = torch.zeros(n, 16, 16, dtype=torch.bool)
    for i, (row, column) in enumerate(places.tolist()):
        squares[i, row : row + 6, column : column + 6] = True
        images[i][:, squares[i]] += 0.7 - 1.4 * float(labels[i])
    return images, labels, squares


def share_on_square(network: Any, layer: str) -> float:
    images, labels, squares = spotted(16, seed=1)
    maps = grad_cam(network, images, [CLASSES[i] for i in labels.tolist()], layer=layer)
    shares = [
        float(heatmap.values[square.numpy()].sum() / heatmap.values.sum())
        for heatmap, square in zip(maps, squares, strict=True)
        if heatmap.values.max() > 0
    ]
    return float(np.median(shares)) if shares else 0.0


def test_randomised_weights_destroy_the_map_of_a_trained_classifier() -> None:
    torch.manual_seed(0)
    network: Any = build_classifier("convnet", classes=CLASSES, size_px=16, base_channels=4)
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    images, labels, _ = spotted(64, seed=0)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    network.eval()
    fresh, truth, squares = spotted(16, seed=1)
    assert (network(fresh).argmax(1) == truth).float().mean() > 0.9
    layer = "features.2"
    even = float(squares.float().mean())
    learnt = share_on_square(network, layer)
    assert learnt > 2.5 * even, "the trained classifier looks at the square"
    randomised = []
    for seed in range(5):
        other = copy.deepcopy(network)
        torch.manual_seed(seed)
        for module in other.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        randomised.append(share_on_square(other.eval(), layer))
    assert np.median(randomised) < even + 0.5 * (learnt - even), (randomised, learnt, even)
