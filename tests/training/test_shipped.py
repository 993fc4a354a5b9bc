from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from napari_histolatent._files import digest_of_file
from napari_histolatent.errors import CheckpointError
from napari_histolatent.jobs.edits import probabilities_of, sample_tiles
from napari_histolatent.models.images import to_tensor
from napari_histolatent.models.metrics import rmse
from napari_histolatent.training import shipped
from napari_histolatent.training.checkpoint import Checkpoint
from napari_histolatent.training.load import load_classifier, load_encoder, load_generator
from napari_histolatent.training.shipped import PARTS, shipped_folder, shipped_of_kind

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 6_000_000


def test_the_word_means_another_folder_for_each_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "_root", lambda: tmp_path)
    for part in PARTS:
        assert shipped_folder(part) is None
        (tmp_path / part).mkdir()
        assert shipped_folder(part) is None  # a folder without a checkpoint is none
        (tmp_path / part / "checkpoint.json").write_text("{}")
        assert shipped_folder(part) == tmp_path / part
    assert shipped_of_kind("gan") == tmp_path / "generator"
    assert shipped_of_kind("classifier") == tmp_path / "robust_judge"


@pytest.mark.parametrize("kind", ["gan", "classifier"])
def test_where_there_is_none_it_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(shipped, "_root", lambda: tmp_path)
    with pytest.raises(CheckpointError, match=r"^This version ships no trained model yet; name a run folder"):
        shipped_of_kind(kind)


def test_what_is_shipped_is_small_whole_and_nothing_else(shipped_models: Path) -> None:
    files = [path for path in shipped_models.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    allowed = {"model.safetensors", "checkpoint.json", "MODEL_CARD.md", "calibration.json", "README.md"}
    assert {path.name for path in files} == allowed
    for part in PARTS:
        assert shipped_folder(part) == shipped_models / part
        checkpoint = Checkpoint.open(shipped_models / part)
        assert checkpoint.kind == ("gan" if part == "generator" else "classifier")
        assert checkpoint.digest == digest_of_file(shipped_models / part / "model.safetensors")
        assert checkpoint.step > 0, "random weights are not shipped"
        assert (shipped_models / part / "MODEL_CARD.md").is_file()
    for path in files:
        if path.suffix in {".json", ".md"}:
            assert not re.search(r"/(tmp|home|root|work|Users)/", path.read_text(encoding="utf-8")), path


def test_what_is_shipped_draws_what_its_judges_know(shipped_models: Path) -> None:
    generator = load_generator("shipped", device="cpu")
    encoder = load_encoder(shipped_models / "generator", device="cpu")
    assert encoder is not None
    assert encoder.checkpoint.config["generator_digest"] == generator.checkpoint.digest
    tiles = sample_tiles(generator, 64, label=None, seed=5)
    for part, least in (("colour_judge", 0.9), ("robust_judge", 0.7)):
        judge = load_classifier(shipped_models / part, device="cpu")
        seen = [max(p, key=p.__getitem__) for p in probabilities_of(judge, tiles)]
        assert np.mean([a == tile.label for a, tile in zip(seen, tiles, strict=True)]) >= least, part
    # Of its own samples the encoder finds vectors that draw them again, nearer than another sample is.
    images = to_tensor(np.stack([tile.pixels for tile in tiles]))
    y = torch.tensor([tile.point.class_weights for tile in tiles if tile.point])
    with torch.no_grad():
        z, logits = encoder.network(images)
        again = generator.network.synthesize(generator.network.map(z, y))
    assert (logits.argmax(1) == y.argmax(1)).float().mean() >= 0.9
    assert rmse(again, images).median() < 0.5 * rmse(images.roll(2, 0), images).median()
