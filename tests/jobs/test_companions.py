from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from napari_histolatent.errors import UserError
from napari_histolatent.jobs import companions

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator


def with_judge(generator: LoadedGenerator, judge: str) -> LoadedGenerator:
    config = generator.checkpoint.config | {"judge": judge}
    return replace(generator, checkpoint=replace(generator.checkpoint, config=config))


def test_the_classifier_that_is_named_is_taken(
    generator: LoadedGenerator, classifier: LoadedClassifier
) -> None:
    found, said = companions.classifier_for(generator, classifier.checkpoint.path, device="cpu")
    assert found is not None
    assert (found.checkpoint.digest, said) == (classifier.checkpoint.digest, None)
    with pytest.raises(UserError):
        companions.classifier_for(generator, "nowhere", device="cpu")


def test_else_the_one_that_the_training_names(
    generator: LoadedGenerator, classifier: LoadedClassifier
) -> None:
    path = str(classifier.checkpoint.path)
    found, said = companions.classifier_for(with_judge(generator, path), device="cpu")
    assert found is not None
    assert found.checkpoint.digest == classifier.checkpoint.digest
    assert said == f"Probabilities are those of the classifier {path}."


def test_one_of_pixels_too_far_apart_is_taken_only_where_it_is_named_and_then_refused(
    generator: LoadedGenerator, classifier: LoadedClassifier
) -> None:
    path = classifier.checkpoint.path
    finer = with_judge(generator, str(path))
    finer = replace(finer, checkpoint=replace(finer.checkpoint, mpp=0.2))
    assert companions.classifier_for(finer, device="cpu") == (None, None)
    with pytest.raises(UserError, match=r"the generator has 0\.2, more than 4 times apart"):
        companions.classifier_for(finer, path, device="cpu")


def test_one_that_is_gone_or_knows_other_classes_is_nobodys_fault(
    generator: LoadedGenerator, classifier: LoadedClassifier
) -> None:
    assert companions.classifier_for(with_judge(generator, "gone"), device="cpu") == (None, None)
    other = with_judge(generator, str(classifier.checkpoint.path))
    other = replace(other, checkpoint=replace(other.checkpoint, classes=("x", "y")))
    assert companions.classifier_for(other, device="cpu") == (None, None)


def test_an_encoder_that_does_not_fit_is_done_without(
    generator: LoadedGenerator, gan_run: Path, tmp_path: Path
) -> None:
    assert companions.encoder_of(generator) == (None, None)
    shutil.copytree(gan_run, tmp_path / "run")
    (tmp_path / "run" / "encoder").mkdir()
    (tmp_path / "run" / "encoder" / "checkpoint.json").write_text("{}")
    checkpoint = generator.checkpoint
    path = tmp_path / "run" / checkpoint.path.relative_to(gan_run)
    found, said = companions.encoder_of(replace(generator, checkpoint=replace(checkpoint, path=path)))
    assert found is None
    assert said is not None
    assert said.startswith("Reverse search does without an encoder: ")
