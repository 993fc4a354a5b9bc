from __future__ import annotations

from pathlib import Path

import pytest

import napari_histolatent
from napari_histolatent.errors import CheckpointError
from napari_histolatent.training import shipped
from napari_histolatent.training.checkpoint import Checkpoint
from napari_histolatent.training.shipped import PARTS, shipped_folder, shipped_of_kind

FOLDER = Path(napari_histolatent.__file__).parent / "shipped"
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


def test_the_folder_is_in_the_package() -> None:
    assert shipped._root() == FOLDER
    assert (FOLDER / "README.md").is_file()


def test_what_is_shipped_is_small_whole_and_nothing_else() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    allowed = {"model.safetensors", "checkpoint.json", "MODEL_CARD.md", "calibration.json", "README.md"}
    assert {path.name for path in files} <= allowed
    there = [part for part in PARTS if shipped_folder(part)]
    assert there in ([], list(PARTS))
    for part in there:
        checkpoint = Checkpoint.open(FOLDER / part)
        assert checkpoint.kind == ("gan" if part == "generator" else "classifier")
        assert (FOLDER / part / "MODEL_CARD.md").is_file()
