"""InceptionV3 (Szegedy et al. 2016) with transfer learning, by timm; both come with the extra `inception`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from napari_histolatent._files import digest_of_file
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_INPUT_PX = 299


def build(
    *,
    classes: tuple[str, ...],
    size_px: int,
    base_channels: int = 0,
    weights: str = "",
    weights_sha256: str = "",
    fine_tune: bool = False,
) -> InceptionV3:
    """Build the classifier; see `build_classifier`.

    Parameters
    ----------
    classes, size_px
        As for every classifier; images of any size are brought to 299 px.
    base_channels
        Without meaning here: the network has one width.
    weights
        A safetensors file with the weights of an InceptionV3 under torchvision's or timm's names (the
        `model.safetensors` of timm/inception_v3.tv_in1k, say); empty for random ones.
    weights_sha256
        The digest that the file has to have.
    fine_tune
        Let all layers learn. Else all but the last stay as they are, which on random weights means random
        features.

    Raises
    ------
    UserError
        If timm or torchvision is missing or broken, or the file is not there, not safetensors, not the one of
        the digest, or of another network.
    """
    names = _names_in(Path(weights), weights_sha256) if weights else set()
    network = _network(len(classes), weights)
    # timm says nothing of weights that are not in the file: they would be left random.
    if weights and (lacking := _features_of(network) - names):
        msg = (
            f"The file {weights} lacks {len(lacking)} of the weights of an InceptionV3; choose another file."
        )
        raise UserError(msg)
    return InceptionV3(network, classes=classes, size_px=size_px, fine_tune=fine_tune)


class InceptionV3(nn.Module):
    """timm's InceptionV3, without the auxiliary classifier, on images of any size."""

    def __init__(
        self, network: nn.Module, *, classes: tuple[str, ...], size_px: int, fine_tune: bool
    ) -> None:
        super().__init__()
        self.classes, self.size_px, self.fine_tune = classes, size_px, fine_tune
        self.network: Any = network
        network.requires_grad_(fine_tune)
        self.network.fc.requires_grad_(True)

    @property
    def cam_layer(self) -> nn.Module:
        """The last of the mixed blocks: 8 x 8 places, 2,048 channels."""
        layer: nn.Module = self.network.Mixed_7c
        return layer

    def train(self, mode: bool = True) -> Self:
        """Switch to training; layers that do not learn keep their statistics, too."""
        super().train(mode)
        if not self.fine_tune:
            self.network.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) of images (B, 3, size_px, size_px) in [-1, 1], which is what timm's network sees."""
        # Smoothed where it is made smaller, as in the libraries of pictures.
        larger = images.shape[-1] > _INPUT_PX
        resized = nn.functional.interpolate(
            images, (_INPUT_PX, _INPUT_PX), mode="bilinear", align_corners=False, antialias=larger
        )
        logits: Tensor = self.network(resized)
        return logits


def _network(n_classes: int, weights: str) -> nn.Module:
    try:
        from timm import create_model
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another build of torch
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        msg = f"InceptionV3 needs timm and the torchvision of this build of torch, which cannot be imported ({reason}); install napari-histolatent[inception] or choose the classifier convnet."
        raise UserError(msg) from error
    overlay = {"file": weights} if weights else None
    try:
        network: nn.Module = create_model(
            "inception_v3", pretrained=bool(weights), num_classes=n_classes, pretrained_cfg_overlay=overlay
        )
    except (RuntimeError, KeyError) as error:
        if not weights:
            raise
        msg = f"The weights in {weights} are not those of an InceptionV3; choose another file."
        raise UserError(msg) from error
    return network


def _features_of(network: nn.Module) -> set[str]:
    """Return the names of the weights that transfer: all but the head's, and counters, which older files lack."""
    return {
        name
        for name in network.state_dict()
        if not name.startswith("fc.") and "num_batches_tracked" not in name
    }


def _names_in(path: Path, sha256: str) -> set[str]:
    """Return the names of the weights in a safetensors file, once it is known to be the one that is meant."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
        digest = digest_of_file(path)
    except (OSError, SafetensorError) as error:
        # Also a pickle: whatever a user can pick is never unpickled.
        msg = f"The weights {path} cannot be read as safetensors ({error}); choose another file."
        raise UserError(msg) from error
    if digest != sha256.strip().lower():
        stated = f"{sha256[:12]}..." if sha256 else "no digest"
        msg = f"The weights {path} have the sha256 {digest}, and {stated} is stated; choose the file that is meant, or state its digest."
        raise UserError(msg)
    return names
