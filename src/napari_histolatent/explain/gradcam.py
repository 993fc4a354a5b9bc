"""Grad-CAM (Selvaraju et al. 2017) through captum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from captum.attr import LayerAttribution, LayerGradCam

from napari_histolatent.errors import UserError
from napari_histolatent.explain.heatmap import Heatmap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from napari_histolatent.models.protocols import Classifier


@torch.no_grad()
def probabilities(classifier: Classifier, images: Tensor) -> Tensor:
    """Return the probability of each class, shape (B, K), of images (B, 3, size_px, size_px) in [-1, 1]."""
    _require_size(classifier, images)
    return torch.softmax(classifier(images), dim=1)


def grad_cam(
    classifier: Classifier,
    images: Tensor,
    targets: Sequence[str],
    *,
    level0_boxes: Sequence[tuple[float, float, float, float] | None] | None = None,
) -> list[Heatmap]:
    """Return where the classifier sees its target class: ReLU of the gradient-weighted maps of its last layer.

    Parameters
    ----------
    classifier
        In evaluation mode.
    images
        Shape (B, 3, size_px, size_px), in [-1, 1].
    targets
        The class to explain, one an image.
    level0_boxes
        Where each tile lies on its slide, in level-0 pixels; kept in the maps.

    Raises
    ------
    UserError
        If the images have another size than the classifier's, or it has no such class.
    """
    _require_size(classifier, images)
    for target in targets:
        if target not in classifier.classes:
            msg = f"The classifier has no class {target!r}; its classes are {', '.join(classifier.classes)}."
            raise UserError(msg)
    indices = [classifier.classes.index(target) for target in targets]
    layer = classifier.cam_layer
    # A leaf that wants no gradient would leave the layer's maps without one if all weights are frozen.
    inputs = images.detach().clone().requires_grad_(True)
    maps = LayerGradCam(classifier, layer).attribute(inputs, target=indices, relu_attributions=True)
    full = LayerAttribution.interpolate(maps, tuple(images.shape[-2:]), interpolate_mode="bilinear")
    values = full.detach().squeeze(1).cpu().numpy()
    chance = probabilities(classifier, images)
    return [
        Heatmap(
            values=values[i],
            target=target,
            layer=_name_of(layer, classifier),
            probability=float(chance[i, indices[i]]),
            level0_box=level0_boxes[i] if level0_boxes else None,
        )
        for i, target in enumerate(targets)
    ]


def _name_of(layer: object, classifier: Classifier) -> str:
    if isinstance(classifier, torch.nn.Module):
        for name, module in classifier.named_modules():
            if module is layer:
                return str(name)
    return type(layer).__name__


def _require_size(classifier: Classifier, images: Tensor) -> None:
    if images.shape[-2:] != (classifier.size_px, classifier.size_px):
        msg = f"The tile is {images.shape[-1]} x {images.shape[-2]} px, the classifier was trained on {classifier.size_px} px; give a tile of that size."
        raise UserError(msg)
