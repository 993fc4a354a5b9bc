"""What every export keeps to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from napari_histolatent.errors import DatasetError, UserError
from napari_histolatent.patches.formats import EXPORTS, export_format

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from napari_histolatent.patches import PatchDataset

ALL = pytest.mark.parametrize("name", list(EXPORTS))


def test_an_unknown_format_is_a_sentence_with_those_that_there_are() -> None:
    assert export_format("clam") is EXPORTS["clam"]
    with pytest.raises(DatasetError, match=r"'npy'.*imagefolder-png.*geojson"):
        export_format("npy")


@ALL
def test_the_same_dataset_gives_the_same_bytes(
    name: str, dataset: PatchDataset, tmp_path: Path, files_of: Callable[[Path], dict[str, bytes]]
) -> None:
    seen: list[tuple[int, int]] = []
    report = EXPORTS[name].function(
        dataset, tmp_path / "a", on_progress=lambda *at: seen.append(at), should_stop=lambda: False
    )
    EXPORTS[name].function(dataset, tmp_path / "b")
    written = files_of(tmp_path / "a")
    assert written == files_of(tmp_path / "b")
    assert len(written) == report["files"]
    assert seen[-1] == (7, 7)
    assert report["patches"] == 7
    assert report["classes"] == {"a": 4, "b/c": 3}
    assert report["splits"] == {"test": 3, "train": 4}


@ALL
def test_what_exists_is_not_touched(name: str, dataset: PatchDataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    with pytest.raises(DatasetError, match="exists already"):
        EXPORTS[name].function(dataset, out)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


@ALL
def test_stopping_leaves_nothing(name: str, dataset: PatchDataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"stopped after \d+ of 7"):
        EXPORTS[name].function(dataset, tmp_path / "out", should_stop=lambda: True)
    assert list(tmp_path.iterdir()) == []


@ALL
def test_a_place_that_cannot_be_written_is_a_sentence(
    name: str, dataset: PatchDataset, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write to"):
        EXPORTS[name].function(dataset, tmp_path / "file" / "out")


@pytest.mark.parametrize("name", [name for name, known in EXPORTS.items() if not known.needs_pixels])
def test_without_a_place_on_a_slide_coordinates_are_refused(
    name: str, placeless: PatchDataset, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=r"2 of the 2 patches .* have no place on a slide"):
        EXPORTS[name].function(placeless, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
