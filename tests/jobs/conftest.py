from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from napari_histolatent.training.load import (
    LoadedClassifier,
    LoadedGenerator,
    load_classifier,
    load_generator,
)
from tests.jobs.tiny import CLASSIFIER, GAN, one_thread, trained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="package")
def gan_run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tiny_dataset, tmp_path_factory.mktemp("gan") / "run", GAN)


@pytest.fixture(scope="package")
def generator(gan_run: Path) -> LoadedGenerator:
    return load_generator(gan_run, device="cpu")


@pytest.fixture(scope="package")
def classifier(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedClassifier:
    run = trained(tiny_dataset, tmp_path_factory.mktemp("classifier") / "run", CLASSIFIER)
    return load_classifier(run, device="cpu")
