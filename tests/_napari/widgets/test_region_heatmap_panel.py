from __future__ import annotations

from typing import Any

import pytest

from napari_histolatent._napari.widgets.region_heatmap_panel import (
    IDLE,
    RUNNING,
    STARTING,
    STOPPING,
    RegionHeatmapPanel,
)


@pytest.fixture
def panel(qtbot: Any) -> RegionHeatmapPanel:
    widget = RegionHeatmapPanel()
    qtbot.addWidget(widget)
    return widget


@pytest.mark.parametrize(
    ("state", "can_map", "can_cancel"),
    [(IDLE, True, False), (STARTING, False, False), (RUNNING, False, True), (STOPPING, False, False)],
)
def test_what_can_be_pressed(panel: RegionHeatmapPanel, state: str, can_map: bool, can_cancel: bool) -> None:
    panel.set_plan("12 tiles, about 7 s.", can_map=True)
    panel.set_state(state, "said")
    assert panel.map_button.isVisibleTo(panel) == panel.where_box.isEnabled() == can_map
    assert panel.progress.isVisibleTo(panel) == (not can_map)
    assert (panel.cancel_button.isVisibleTo(panel) and panel.cancel_button.isEnabled()) == can_cancel
    assert panel.result_note.text() == "said"


def test_what_was_mapped_before_is_offered(qtbot: Any, panel: RegionHeatmapPanel) -> None:
    assert not panel.made_row.isVisibleTo(panel)
    panel.set_made([("tumour, 5 tiles", "/b"), ("tumour, 3 tiles", "/a")])
    panel.made_box.setCurrentIndex(1)
    panel.set_made([("stroma, 9 tiles", "/c"), ("tumour, 5 tiles", "/b"), ("tumour, 3 tiles", "/a")])
    with qtbot.waitSignal(panel.show_requested) as told:
        panel.show_button.click()
    assert told.args == ["/a"], "what was chosen stays"
