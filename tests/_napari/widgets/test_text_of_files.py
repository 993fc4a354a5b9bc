"""Names and sentences that come out of files are text, never markup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from qtpy.QtCore import Qt

from napari_histolatent._napari._training_news import shown_picture
from napari_histolatent._napari.widgets._qt import note
from napari_histolatent._napari.widgets.loss_plot import LossPlot
from napari_histolatent._napari.widgets.patches_view import CountRow, PatchesView
from napari_histolatent._napari.widgets.path_picker import PathPicker

if TYPE_CHECKING:
    from collections.abc import Callable

EVIL = '<img src="file:///etc/x"><b>tumour</b>'
SAFE = "&lt;img src=&quot;file:///etc/x&quot;&gt;&lt;b&gt;tumour&lt;/b&gt;"


def test_a_note_shows_what_it_is_given(qtbot: Any) -> None:
    label = note(EVIL)
    qtbot.addWidget(label)
    assert label.textFormat() == Qt.TextFormat.PlainText
    assert label.text() == EVIL


def test_tooltips_are_escaped(qtbot: Any) -> None:
    view, picker = PatchesView(), PathPicker("Open")
    for widget in (view, picker):
        qtbot.addWidget(widget)
    view.set_counts([CountRow(EVIL, (1, 2, 3), "1", 4, (1, 2, 1))], "")
    assert SAFE in view.counts_label.text()
    assert EVIL not in view.counts_label.text()
    picker.set_path(Path("a<b>c"))
    assert (picker.edit.text(), picker.edit.toolTip()) == ("a<b>c", "a&lt;b&gt;c")


def test_the_legend_of_losses_is_escaped(qtbot: Any) -> None:
    plot = LossPlot()
    qtbot.addWidget(plot)
    plot.add_losses(1, {EVIL: 0.5})
    plot.redraw()
    ((_, label),) = plot._legend.items
    assert label.text == SAFE
    assert label.item.toPlainText() == EVIL


def test_a_sample_picture_says_synthetic_in_its_corner(
    tmp_path: Path, noise: Callable[..., np.ndarray]
) -> None:
    for height, width in ((64, 128), (400, 800)):
        Image.fromarray(np.full((height, width, 3), 200, np.uint8)).save(tmp_path / "a.png")
        shown = shown_picture(tmp_path / "a.png", side_px=320, synthetic=True)
        assert shown.shape == (160, 320, 3), "as large as it is shown, so that the word can be read"
        assert (shown[-12:, :60] < 60).any(), "dark ground"
        assert (shown[:100, 160:] == 200).all(), "the picture itself stays"
