from __future__ import annotations

from typing import Any

from qtpy.QtWidgets import QLabel

from napari_histolatent._napari.widgets.collapsible import collapsible


def test_the_arrow_has_the_colour_of_the_theme(qtbot: Any) -> None:
    part = collapsible("More", QLabel("inside"))
    qtbot.addWidget(part)
    part.show()
    for color in ("white", "black", "white"):
        part.setStyleSheet(f"* {{ color: {color}; }}")
        for icon in (part.collapsedIcon(), part.expandedIcon()):
            image = icon.pixmap(16, 16).toImage()
            pixels = [image.pixelColor(x, y) for x in range(image.width()) for y in range(image.height())]
            shades = {p.lightness() for p in pixels if p.alpha() > 128}
            assert shades == ({255} if color == "white" else {0})
    assert not part.isExpanded()
