from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_histolatent._napari._layers import placement, slide_layer, world_of
from napari_histolatent._napari._region_layer import region_layers_of
from napari_histolatent._napari.editing._scene import Look
from napari_histolatent._napari.widgets import region_heatmap_binding
from napari_histolatent._napari.widgets.region_heatmap_binding import RegionHeatmapBinding
from napari_histolatent._napari.widgets.region_heatmap_panel import (
    SCREEN,
    SELECTED,
    TISSUE,
    RegionHeatmapPanel,
)
from napari_histolatent.annotations import read_annotations
from napari_histolatent.jobs.kinds import KINDS
from napari_histolatent.jobs.region_heatmap import open_region_heatmap
from napari_histolatent.runs import RunEvent, known_runs
from napari_histolatent.training.load import load_classifier
from tests._napari.helpers import add, give_regions, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from napari_histolatent.runs import Run
    from napari_histolatent.slides import Slide
    from napari_histolatent.training.load import LoadedClassifier
    from tests._napari.conftest import Trained

LEFT = Qt.MouseButton.LeftButton


@pytest.fixture(scope="module")
def classifier(trained: Trained) -> LoadedClassifier:
    return load_classifier(trained.classifier, device="cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region_heatmap_binding, "_REST_MS", 5)
    monkeypatch.setattr(region_heatmap_binding, "_POLL_SECONDS", 0.02)


class Dock:
    """What the dock around the panel is set to."""

    def __init__(self, classifier: LoadedClassifier | None) -> None:
        self.classifier, self.look = classifier, Look()
        self.evidence: tuple[str | None, str | None] = ("stroma", None)


@pytest.fixture
def dock(classifier: LoadedClassifier) -> Dock:
    return Dock(classifier)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs that were started: their work is done here, in the thread that starts them."""
    paths: list[Path] = []

    def start(run: Run) -> None:
        paths.append(run.path)
        run.clear_stop()
        KINDS[run.kind](run)

    monkeypatch.setattr(region_heatmap_binding, "launch", start)
    monkeypatch.setattr(region_heatmap_binding, "resume", start)
    return paths


@pytest.fixture
def panel(qtbot: Any) -> RegionHeatmapPanel:
    widget = RegionHeatmapPanel()
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def make(qtbot: Any, viewer: Any, slide: Slide, dock: Dock) -> Iterator[Callable[..., RegionHeatmapBinding]]:
    """A function that binds a panel and shows it."""
    add(viewer, slide_layer(slide))
    made: list[RegionHeatmapBinding] = []

    def bind(panel: RegionHeatmapPanel) -> RegionHeatmapBinding:
        binding = RegionHeatmapBinding(
            viewer,
            panel,
            models=lambda: SimpleNamespace(classifier=dock.classifier),  # type: ignore[arg-type, return-value]
            evidence=lambda: dock.evidence,
            look=lambda: dock.look,
        )
        made.append(binding)
        panel.show()
        return binding

    yield bind
    for binding in made:
        binding.close()


@pytest.fixture
def few_tiles(viewer: Any, slide: Slide, make: Any) -> None:
    """A canvas that shows 128 level-0 px of tissue."""
    viewer.scene.camera.center = (0.0, *world_of((400.0, 320.0), slide.info))
    viewer.scene.camera.zoom = viewer.canvas.size[1] / (128 * 0.5)


def idle(qtbot: Any, binding: RegionHeatmapBinding) -> None:
    qtbot.waitUntil(lambda: not binding.is_busy, timeout=20_000)


def choose(qtbot: Any, panel: RegionHeatmapPanel, binding: RegionHeatmapBinding, where: str) -> None:
    index = panel.where_box.findData(where)
    panel.where_box.setCurrentIndex(index)
    panel.where_box.activated.emit(index)
    idle(qtbot, binding)


def test_all_tissue_is_counted_mapped_and_shown_and_not_mapped_again(
    qtbot: Any,
    viewer: Any,
    slide: Slide,
    dock: Dock,
    panel: RegionHeatmapPanel,
    make: Callable[..., Any],
    launched: list[Path],
) -> None:
    binding = make(panel)
    choose(qtbot, panel, binding, TISSUE)
    assert panel.evidence_note.text() == "Evidence for stroma, as chosen above."
    n_tiles = int(panel.plan_note.text().split()[0])
    assert ", about " in panel.plan_note.text()
    active = viewer.layers.selection.active
    viewer.add_image(np.zeros((4, 4)), name="an edit", units=("um", "um"))
    viewer.layers.selection.active = active
    qtbot.mouseClick(panel.map_button, LEFT)
    idle(qtbot, binding)
    (layer,) = region_layers_of(viewer)
    found = open_region_heatmap(launched[0])
    assert np.count_nonzero(~np.isnan(found.probability)) == n_tiles
    assert layer.name == "Grad-CAM of stroma: tiny.tiff"
    expected = placement(found.level0_box, found.levels[0].shape, slide.info)
    np.testing.assert_allclose(layer.translate, expected["translate"])
    np.testing.assert_allclose(layer.scale, expected["scale"])
    np.testing.assert_array_equal(layer.data[0], found.levels[0][:])
    assert layer.colormap.colors[0, 3] == 0, "clear where there is no evidence"
    assert viewer.layers.selection.active is active

    dock.look = Look(heatmap_opacity=0.4, colormap="jet")
    binding.look_changed()
    assert layer.opacity == 0.4
    assert layer.colormap.name.startswith("jet")
    assert [item.name for item in viewer.layers] == ["tiny.tiff", layer.name, "an edit"]
    layer.opacity = 0.9
    for shows in (False, True):
        dock.look = replace(dock.look, wipe=0.5, shows_heatmaps=shows)
        binding.look_changed()
        assert layer.visible is shows
    assert layer.opacity == 0.9, "what was not changed in the dock stays as the user set it"

    viewer.layers.remove(layer)
    idle(qtbot, binding)
    assert "mapped before" in panel.plan_note.text()
    qtbot.mouseClick(panel.map_button, LEFT)
    idle(qtbot, binding)
    assert len(region_layers_of(viewer)) == 1
    assert len(launched) == 1, "what is there is opened"


@pytest.mark.usefixtures("few_tiles")
def test_what_is_on_the_screen_and_what_is_selected(
    qtbot: Any,
    viewer: Any,
    slide: Slide,
    dock: Dock,
    tiny_regions: Path,
    panel: RegionHeatmapPanel,
    make: Callable[..., Any],
    launched: list[Path],
) -> None:
    dock.evidence = (None, None)
    binding = make(panel)
    choose(qtbot, panel, binding, SELECTED)
    assert panel.plan_note.text().startswith("No region is selected on the slide")
    assert not panel.map_button.isEnabled()

    choose(qtbot, panel, binding, SCREEN)
    n_few = int(panel.plan_note.text().split()[0])
    assert "the classifier sees it in" in panel.evidence_note.text()
    viewer.scene.camera.zoom /= 2
    idle(qtbot, binding)
    assert int(panel.plan_note.text().split()[0]) > n_few, "it follows the camera"

    regions = give_regions(viewer, slide, read_annotations(tiny_regions))
    settled(qtbot, regions)
    (stroma,) = (r.id for r in regions.document.regions.values() if r.class_name == "stroma")
    regions.select([stroma])
    choose(qtbot, panel, binding, SELECTED)
    qtbot.mouseClick(panel.map_button, LEFT)
    idle(qtbot, binding)
    left, _, right, _ = open_region_heatmap(launched[0]).level0_box
    assert left == 400
    assert right >= 700


@pytest.mark.usefixtures("few_tiles")
def test_a_result_outlives_the_dock(
    qtbot: Any, viewer: Any, panel: RegionHeatmapPanel, make: Callable[..., Any], launched: list[Path]
) -> None:
    binding = make(panel)
    choose(qtbot, panel, binding, SCREEN)
    # The dock is closed while the region is being mapped.
    qtbot.mouseClick(panel.map_button, LEFT)
    binding.close()
    qtbot.waitUntil(lambda: not binding.is_busy, timeout=20_000)
    assert len(launched) == 1
    assert region_layers_of(viewer) == []

    other = RegionHeatmapPanel()
    qtbot.addWidget(other)
    second = make(other)
    idle(qtbot, second)
    assert other.made_box.currentText().startswith("stroma, ")
    qtbot.mouseClick(other.show_button, LEFT)
    idle(qtbot, second)
    assert len(region_layers_of(viewer)) == 1


@pytest.mark.usefixtures("few_tiles")
def test_it_is_watched_cancelled_and_gone_on_with(
    qtbot: Any,
    viewer: Any,
    panel: RegionHeatmapPanel,
    make: Callable[..., Any],
    launched: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[Run] = []

    def begin(run: Run) -> None:
        started.append(run)
        run.claim()
        run.append(RunEvent("started"))
        run.append(RunEvent("progress", 3, 10))

    monkeypatch.setattr(region_heatmap_binding, "launch", begin)
    binding = make(panel)
    choose(qtbot, panel, binding, SCREEN)
    qtbot.mouseClick(panel.map_button, LEFT)
    qtbot.waitUntil(lambda: panel.cancel_button.isEnabled() and panel.progress.value() == 3, timeout=20_000)
    assert not panel.where_box.isEnabled()
    qtbot.mouseClick(panel.cancel_button, LEFT)
    (run,) = started
    qtbot.waitUntil(lambda: run.stop_requested, timeout=20_000)
    run.append(RunEvent("stopped", 3, 10))
    (run.path / "owner.json").unlink()
    idle(qtbot, binding)
    assert panel.result_note.text() == "Stopped after 3 of 10 tiles. The same region goes on from there."
    qtbot.mouseClick(panel.map_button, LEFT)
    idle(qtbot, binding)
    assert launched == [run.path]
    assert len(region_layers_of(viewer)) == 1
    assert known_runs().count(run.path) == 1


def test_what_is_offered_is_of_the_slide_that_is_selected(
    qtbot: Any,
    viewer: Any,
    slide: Slide,
    slide_of: Callable[..., Slide],
    dock: Dock,
    panel: RegionHeatmapPanel,
    make: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(region_heatmap_binding, "region_heatmaps_of", lambda of: asked.append(of) or [])
    dock.classifier = None  # nothing is counted
    binding = make(panel)
    idle(qtbot, binding)
    first = viewer.layers.selection.active
    panel.set_made([("stroma", "/a/heatmap/of/the/first")])
    other = slide_of(np.zeros((64, 64, 3), np.uint8), mpp=(0.5, 0.5))
    add(viewer, slide_layer(other))
    assert panel.made_box.count() == 0
    idle(qtbot, binding)
    viewer.layers.selection.active = first
    idle(qtbot, binding)
    assert asked == [slide.info.digest, other.info.digest, slide.info.digest]


def test_without_a_classifier(
    qtbot: Any, dock: Dock, panel: RegionHeatmapPanel, make: Callable[..., Any]
) -> None:
    dock.classifier = None
    binding = make(panel)
    idle(qtbot, binding)
    assert panel.plan_note.text().startswith("Choose a classifier above")
    assert not panel.map_button.isEnabled()
