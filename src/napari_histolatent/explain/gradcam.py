"""Grad-CAM (Selvaraju et al. 2017) through captum."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import nn

from napari_histolatent.errors import UserError
from napari_histolatent.explain.heatmap import Heatmap
from napari_histolatent.models.turns import CLASSIFYING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from napari_histolatent.models.protocols import Classifier

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


@torch.no_grad()
def probabilities(classifier: Classifier, images: Tensor) -> Tensor:
    """Return the probability of each class, shape (B, K), of images (B, 3, size_px, size_px) in [-1, 1]."""
    _require_size(classifier, images)
    with CLASSIFYING:
        return torch.softmax(classifier(images), dim=1)


def grad_cam(
    classifier: Classifier,
    images: Tensor,
    targets: Sequence[str],
    *,
    layer: str | None = None,
    level0_boxes: Sequence[tuple[float, float, float, float] | None] | None = None,
    batch_size: int = 64,
) -> list[Heatmap]:
    """Return where the classifier sees its target class: ReLU of the gradient-weighted maps of a layer.

    Equations 1 and 2 of the paper. One pass forward an image, and one back from the logit to the layer: what lies
    before it is computed without a graph.

    Parameters
    ----------
    classifier
        In evaluation mode.
    images
        Shape (B, 3, size_px, size_px), in [-1, 1].
    targets
        The class to explain, one an image.
    layer
        One of `layers_of`, or another module with a spatial extent, by its name; None: the classifier's own, its last.
    level0_boxes
        Where each tile lies on its slide, in level-0 pixels; kept in the maps.
    batch_size
        Most images that are computed at once.

    Raises
    ------
    UserError
        If the images have another size than the classifier's, or it has no such class or layer.
    """
    _require_size(classifier, images)
    for target in targets:
        if target not in classifier.classes:
            msg = f"The classifier has no class {target!r}; its classes are {', '.join(classifier.classes)}."
            raise UserError(msg)
    name = layer_name(classifier, layer)
    module = classifier.cam_layer if layer is None else _module_of(classifier, layer)
    indices = [classifier.classes.index(target) for target in targets]
    found: list[Heatmap] = []
    for start in range(0, len(indices), batch_size):
        part = slice(start, start + batch_size)
        maps, chances = _maps_of(classifier, module, images[part], indices[part], name=name)
        found += [
            Heatmap(
                values=values,
                target=targets[start + i],
                layer=name,
                probability=chance,
                level0_box=level0_boxes[start + i] if level0_boxes else None,
            )
            for i, (values, chance) in enumerate(zip(maps, chances, strict=True))
        ]
    return found


def layers_of(classifier: Classifier) -> tuple[str, ...]:
    """Return the names of a classifier's convolutional blocks whose maps Grad-CAM can weigh, first to last.

    A block is a convolution, or a module that holds some, with the normalisation and activation that follow it;
    it is named after the last of them. Sequences are looked into, other modules are not. One image of zeros is
    classified to see which are used, and what they put out.
    """
    if not isinstance(classifier, nn.Module):
        return (_name_of(classifier.cam_layer, classifier),)
    blocks: list[str] = []
    shape: tuple[int, ...] | None = None
    for name, module, after in _units_of(classifier):
        # A pooling layer ends a block: what it puts out is smaller.
        is_block = _has_convolution(module)
        if is_block:
            blocks.append(name)
        elif blocks and after == shape:
            blocks[-1] = name
        shape = after if is_block or after == shape else None
    return tuple(blocks)


def layer_name(classifier: Classifier, layer: str | None = None) -> str:
    """Return the name of the layer that `grad_cam` weighs the maps of.

    Raises
    ------
    UserError
        If the classifier has none of the name that is asked for.
    """
    if layer is None:
        return _name_of(classifier.cam_layer, classifier)
    _module_of(classifier, layer)
    return layer


def _maps_of(
    classifier: Classifier, module: nn.Module, images: Tensor, indices: list[int], *, name: str
) -> tuple[list[Any], list[float]]:
    """Return the maps of some images, resampled to them, and the probability of what they explain."""
    logits: list[Tensor] = []

    def forward(batch: Tensor) -> Tensor:
        out = classifier(batch)
        # Captum does not hand them on, and another pass would cost as much as the first.
        logits.append(out.detach())
        return out

    with CLASSIFYING, _leaf_at(module, name):
        maps = LayerGradCam(forward, module).attribute(
            images.detach(), target=indices, relu_attributions=True
        )
    full = LayerAttribution.interpolate(maps, tuple(images.shape[-2:]), interpolate_mode="bilinear")
    chances = torch.softmax(logits[0], dim=1)[torch.arange(len(indices)), indices]
    return list(full.detach().squeeze(1).cpu().numpy()), chances.tolist()


@contextmanager
def _leaf_at(module: nn.Module, name: str) -> Iterator[None]:
    """Let gradients end at what a module puts out, whether or not anything before it wants one."""

    def cut(_module: nn.Module, _inputs: Any, output: Any) -> Tensor:
        if not isinstance(output, torch.Tensor) or not _is_map(output):
            msg = f"The layer {name!r} of the classifier has no spatial extent; choose a convolutional one."
            raise UserError(msg)
        return output.detach().requires_grad_(True)

    # Before captum's own hook, which gets what this one returns.
    hook = module.register_forward_hook(cut)
    try:
        yield
    finally:
        hook.remove()


def _units_of(classifier: nn.Module) -> list[tuple[str, nn.Module, tuple[int, ...]]]:
    """Return the outermost modules that put out maps and are no sequences: name, module, shape of its maps.

    In the order in which they are done; those that are used more than once are left out, for their maps are not one.
    """
    names = {module: name for name, module in classifier.named_modules()}
    outputs: list[tuple[nn.Module, Tensor]] = []
    parameter = next(classifier.parameters(), torch.empty(0))
    size_px: int = classifier.size_px  # type: ignore[assignment]
    with CLASSIFYING:
        hooks = [
            module.register_forward_hook(lambda module, _inputs, output: outputs.append((module, output)))
            for module in names
            if not isinstance(module, nn.Sequential)
        ]
        try:
            with torch.no_grad():
                classifier(parameter.new_zeros((1, 3, size_px, size_px)))
        finally:
            for hook in hooks:
                hook.remove()
    used = [module for module, _ in outputs]
    with_maps = {
        module: tuple(output.shape)
        for module, output in outputs
        if isinstance(output, torch.Tensor) and _is_map(output) and used.count(module) == 1
    }
    units = []
    for module, shape in with_maps.items():
        parts = names[module].split(".")
        within = [".".join(parts[:i]) for i in range(1, len(parts))]
        if not any(names[other] in within for other in with_maps):
            units.append((names[module], module, shape))
    return units


def _is_map(output: Tensor) -> bool:
    return output.ndim == 4 and output.shape[-1] > 1 and output.shape[-2] > 1


def _has_convolution(module: nn.Module) -> bool:
    return any(isinstance(part, _CONVOLUTIONS) for part in module.modules())


def _module_of(classifier: Classifier, name: str) -> nn.Module:
    modules = dict(classifier.named_modules()) if isinstance(classifier, nn.Module) else {}
    if not name or name not in modules:
        known = ", ".join(layers_of(classifier))
        msg = f"The classifier has no layer {name!r}; choose one of {known}."
        raise UserError(msg)
    module: nn.Module = modules[name]
    return module


def _name_of(layer: object, classifier: Classifier) -> str:
    if isinstance(classifier, nn.Module):
        for name, module in classifier.named_modules():
            if module is layer:
                return str(name)
    return type(layer).__name__


def _require_size(classifier: Classifier, images: Tensor) -> None:
    if images.shape[-2:] != (classifier.size_px, classifier.size_px):
        msg = f"The tile is {images.shape[-1]} x {images.shape[-2]} px, the classifier was trained on {classifier.size_px} px; give a tile of that size."
        raise UserError(msg)
