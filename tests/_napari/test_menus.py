from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from qtpy.QtWidgets import QFileDialog

from napari_histolatent._napari import _menus
from napari_histolatent._napari._layers import KEY
from napari_histolatent._napari._menus import open_slide_files, open_slide_folder
from napari_histolatent._napari.viewing import cache
from napari_histolatent.slides import write_synthetic_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.gui

ROOT = Path(__file__).parents[2]


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any], npe2pm: Any) -> Iterator[Any]:
    """A window that knows our plugin."""
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        yield make_napari_viewer(show=True)
    cache().clear()


def answer(monkeypatch: pytest.MonkeyPatch, name: str, result: Any) -> list[tuple[Any, ...]]:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(QFileDialog, name, lambda *arguments: asked.append(arguments) or result)
    return asked


def slide_names(viewer: Any) -> list[str]:
    return sorted(layer.name for layer in viewer.layers if layer.metadata[KEY]["role"] == "slide")


def test_the_files_that_were_chosen_are_opened_whatever_their_format(
    window: Any, qtbot: Any, npe2pm: Any, tiny_slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_synthetic_slide(tmp_path / "other.tif", size_px=(512, 512))
    asked = answer(monkeypatch, "getOpenFileNames", ([str(tiny_slide), str(tmp_path / "other.tif")], ""))
    npe2pm.commands.execute("napari-histolatent.open_slide")
    qtbot.waitUntil(lambda: len(window.layers) == 4, timeout=10_000)
    assert slide_names(window) == ["other.tif", "tiny.tiff"]
    ((_, _, _, patterns),) = asked
    for name in (
        "svs",
        "ndpi",
        "mrxs",
        "scn",
        "bif",
        "vms",
        "vmu",
        "svslide",
        "tif",
        "tiff",
        "qptiff",
        "dcm",
    ):
        assert f"*.{name}" in patterns


def test_the_folder_that_was_chosen_is_opened_as_a_slide(
    window: Any, qtbot: Any, npe2pm: Any, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    for n in (0, 1):
        shutil.copy(data_dir / "slides" / "fixtures" / f"boxes_{n}.dcm", folder)
    answer(monkeypatch, "getExistingDirectory", str(folder))
    npe2pm.commands.execute("napari-histolatent.open_slide_folder")
    qtbot.waitUntil(lambda: len(window.layers) == 2, timeout=10_000)
    assert window.layers[1].metadata[KEY]["vendor"] == "dicom"


def test_a_folder_without_a_slide_is_one_sentence(
    window: Any, qtbot: Any, tmp_path: Path, errors: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, "getExistingDirectory", str(tmp_path))
    open_slide_folder()
    qtbot.waitUntil(lambda: bool(errors), timeout=10_000)
    assert len(errors) == 1
    assert "\n" not in errors[0]
    assert list(window.layers) == []


@pytest.mark.parametrize(
    ("command", "dialog", "nothing"),
    [
        (open_slide_files, "getOpenFileNames", ([], "")),
        (open_slide_folder, "getExistingDirectory", ""),
    ],
)
def test_a_dialog_that_is_cancelled_opens_nothing(
    window: Any, monkeypatch: pytest.MonkeyPatch, command: Callable[[], None], dialog: str, nothing: Any
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(_menus, "open_in", lambda *arguments: opened.append(arguments))
    asked = answer(monkeypatch, dialog, nothing)
    command()
    assert len(asked) == 1
    assert opened == []
