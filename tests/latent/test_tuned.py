from __future__ import annotations

import sys
from subprocess import run
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from napari_histolatent.errors import CheckpointError
from napari_histolatent.latent.tuned import TunedWeights, digest_of_state
from napari_histolatent.models import build_gan
from tests.latent.searching import STROMA, images_at, random_z

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.models.protocols import Generator


def changed(generator: Generator, by: float = 0.05) -> TunedWeights:
    assert isinstance(generator, torch.nn.Module)
    state = {
        name: value.detach().numpy() + np.float32(by) * np.sign(value.detach().numpy())
        for name, value in generator.named_parameters()
    }
    return TunedWeights.of(state, checkpoint_digest="d" * 64)


def test_a_copy_is_changed_and_the_generator_is_not(generator: Generator) -> None:
    z = random_z(2)
    before = images_at(generator, z, [STROMA, STROMA])
    copy = changed(generator).applied(generator)
    assert not torch.allclose(images_at(copy, z, [STROMA, STROMA]), before, atol=0.01)
    assert torch.equal(images_at(generator, z, [STROMA, STROMA]), before)
    assert isinstance(copy, torch.nn.Module)
    assert not copy.training
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_unchanged_weights_draw_the_same_up_to_their_rounding(generator: Generator) -> None:
    z = random_z(2)
    copy = changed(generator, by=0.0).applied(generator)
    assert torch.allclose(images_at(copy, z, [STROMA] * 2), images_at(generator, z, [STROMA] * 2), atol=0.01)


def test_to_a_file_and_back(generator: Generator, tmp_path: Path) -> None:
    tuned = changed(generator)
    path = tmp_path / "new" / "tile.safetensors"
    tuned.save(path)
    again = TunedWeights.load(path, checkpoint_digest="d" * 64, network=generator)
    assert (again.digest, again.checkpoint_digest) == (tuned.digest, "d" * 64)
    assert all(np.array_equal(again.state[name], value) for name, value in tuned.state.items())
    weights = sum(value.size for value in tuned.state.values())
    assert path.stat().st_size < 2.2 * weights + 4096, "half precision"


def test_the_digest_is_that_of_the_weights(generator: Generator) -> None:
    assert changed(generator).digest == changed(generator).digest == digest_of_state(changed(generator).state)
    assert changed(generator).digest != changed(generator, by=0.06).digest
    some = {"a": np.ones((2, 3), np.float32)}
    assert digest_of_state(some) != digest_of_state({"b": some["a"]})
    assert digest_of_state(some) != digest_of_state({"a": some["a"].T})


def test_weights_beyond_half_precision_are_kept_whole() -> None:
    tuned = TunedWeights.of({"w": np.full((2, 2), 1e6, np.float32)}, checkpoint_digest="d")
    assert tuned.state["w"].dtype == np.float32


def test_a_copy_of_another_generator_is_refused(generator: Generator, tmp_path: Path) -> None:
    path = tmp_path / "tile.safetensors"
    changed(generator).save(path)
    with pytest.raises(
        CheckpointError, match=r"is a copy of another generator \(digest d{12}, this one has e{12}\)"
    ):
        TunedWeights.load(path, checkpoint_digest="e" * 64)
    other, _ = build_gan("cdcgan", classes=generator.classes, size_px=16, z_dim=5, base_channels=6)
    with pytest.raises(CheckpointError, match=r"has weights .* of shape .*, the generator"):
        TunedWeights.load(path, network=other)
    with pytest.raises(CheckpointError, match="The tuned copy has weights"):
        changed(generator).applied(other)


@pytest.mark.parametrize("garbage", [b"", b"\x80\x04N.", b"\xff" * 64, b"{}"])
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "tile.safetensors"
    path.write_bytes(garbage)
    with pytest.raises(CheckpointError, match="cannot be read as the weights of a tuned copy"):
        TunedWeights.load(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        TunedWeights.load(tmp_path / "missing.safetensors")


def test_a_file_that_names_no_generator_or_holds_no_numbers_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "tile.safetensors"
    save_file({"w": np.ones((2, 2), np.float32)}, path)
    with pytest.raises(CheckpointError, match="does not say which generator"):
        TunedWeights.load(path)
    for values in (np.full((2, 2), np.nan, np.float32), np.ones((2, 2), np.int32)):
        save_file({"w": values}, path, metadata={"checkpoint_digest": "d"})
        with pytest.raises(CheckpointError, match="weights that are not numbers"):
            TunedWeights.load(path)


def test_importing_it_costs_no_torch() -> None:
    code = (
        "import sys, napari_histolatent.latent.tuned, napari_histolatent.latent.verdict, "
        "napari_histolatent.latent.search_options; sys.exit('torch' in sys.modules)"
    )
    assert run([sys.executable, "-c", code], check=False).returncode == 0
