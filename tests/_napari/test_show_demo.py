from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent._napari import show_demo as module
from napari_histolatent._napari._layers import KEY
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari.regions import is_regions_layer
from napari_histolatent._napari.show_demo import add_demo_layers, show_demo
from napari_histolatent.annotations import read_annotations
from napari_histolatent.jobs import edits
from napari_histolatent.jobs.tiles import cut_tile
from napari_histolatent.patches import PatchDataset
from napari_histolatent.training.load import load_classifier, load_generator
from tests._napari.helpers import settled

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.slides import Slide
    from tests._napari.conftest import Trained

ROOT = Path(__file__).parents[2]


@pytest.fixture
def result(
    slide: Slide, tiny_slide: Path, tiny_regions: Path, tiny_dataset: Path, trained: Trained, tmp_path: Path
) -> Any:
    """What the viewer needs of a demo's result."""
    shutil.copytree(tiny_dataset, tmp_path / "dataset")
    generator, classifier = load_generator(trained.generator), load_classifier(trained.classifier)
    tile = replace(cut_tile(slide, (200, 300), size_px=32, mpp=1.0), label="epithelium")
    (search,) = edits.reverse_search(generator, [tile], label="epithelium", steps=2)
    flip = edits.flip_tile(generator, search.reconstruction, to="stroma")
    return SimpleNamespace(
        source=SimpleNamespace(slide=tiny_slide, annotations=tiny_regions),
        out=tmp_path,
        searches={"real": search},
        flip=flip,
        heatmaps=edits.heatmaps_of(classifier, [tile, search.reconstruction, flip], target="epithelium"),
    )


def test_a_demo_is_shown_in_layers(qtbot: Any, viewer: Any, result: Any) -> None:
    add_demo_layers(viewer, result)
    settled(qtbot, session_of(viewer).regions())
    names = [layer.name for layer in viewer.layers if not is_regions_layer(layer)]
    assert names[:2] == ["tiny.tiff overview", "tiny.tiff"]
    assert names[2].startswith("patches (every ")
    assert names[3:] == [
        "SYNTHETIC reconstruction",
        "SYNTHETIC flip",
        "Grad-CAM tile",
        "Grad-CAM reconstruction",
        "Grad-CAM flip",
    ]
    hidden = {layer.name for layer in viewer.layers if not layer.visible}
    assert hidden == {names[2], "Grad-CAM tile", "Grad-CAM reconstruction"}
    (regions,) = [layer for layer in viewer.layers if is_regions_layer(layer)]
    assert list(regions.features["class"]) == ["epithelium", "stroma"]
    assert len({tuple(str(unit) for unit in layer.units) for layer in viewer.layers}) == 1


def test_patches_of_the_demo_lie_where_they_were_cut(viewer: Any, result: Any) -> None:
    add_demo_layers(viewer, result)
    (layer,) = [layer for layer in viewer.layers if layer.metadata[KEY]["role"] == "patches"]
    columns = PatchDataset(result.out / "dataset").columns
    n = len(columns["x"])
    step = max(1, n // 400)
    assert len(layer.data) == len(range(0, n, step))
    corners = layer.data[-1]
    row = range(0, n, step)[-1]
    assert corners.min(0) == pytest.approx([columns["y"][row] - 0.5, columns["x"][row] - 0.5])
    width, height = columns["width_level0_px"][row], columns["height_level0_px"][row]
    assert corners.max(0) - corners.min(0) == pytest.approx([height, width])


def test_the_docks_go_on_with_what_the_demo_made(
    qtbot: Any, viewer: Any, result: Any, tiny_regions: Path
) -> None:
    add_demo_layers(viewer, result)
    session = session_of(viewer)
    settled(qtbot, session.regions())
    assert session.slide().info.path == result.source.slide
    assert session.annotations().classes == ("epithelium", "stroma")
    assert session.annotations().regions == read_annotations(tiny_regions).regions
    assert session.dataset == result.out / "dataset"


def test_nothing_that_napari_gives_up_is_used(viewer: Any, result: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_demo_layers(viewer, result)
    assert viewer.canvas.overlays.scale_bar.visible


@pytest.mark.gui
def test_a_window_with_the_three_docks_opens(
    make_napari_viewer: Callable[..., Any], npe2pm: Any, result: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    waited: list[bool] = []

    def open_window(**options: Any) -> Any:
        opened.append(make_napari_viewer(**options))
        return opened[-1]

    monkeypatch.setattr(module.napari, "Viewer", open_window)
    monkeypatch.setattr(module.napari, "run", lambda: waited.append(True))
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        show_demo(result)
    (window,) = opened
    assert window.title == "Histolatent demo"
    assert {name.split(" ")[0] for name in window.window.dock_widgets} >= {"Patches", "Train", "Edit"}
    assert waited == [True]
