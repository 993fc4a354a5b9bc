from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QLabel, QWidget

from napari_histolatent._napari.widgets._qt import pixmap_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS = ("tile", "reconstruction", "edit")
ROWS = ("pixels", "heatmap")
SHOWN_PX = 92
_TIPS = {
    "tile": "The tile as it is on the slide.",
    "reconstruction": "What the generator draws of the latent vector that was found for the tile. SYNTHETIC.",
    "edit": "What the generator draws at the slider's place. SYNTHETIC.",
}


class CompareStrip(QWidget):
    """Tile, reconstruction and edit side by side, each over its heatmap."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures = {(row, name): QLabel() for row in ROWS for name in COLUMNS}
        self.captions = {name: QLabel() for name in COLUMNS}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        for i, name in enumerate(COLUMNS):
            self.captions[name].setAlignment(Qt.AlignmentFlag.AlignCenter)
            self.captions[name].setTextFormat(Qt.TextFormat.PlainText)
            grid.addWidget(self.captions[name], 0, i)
            for line, key in enumerate(ROWS, start=1):
                label = self.pictures[key, name]
                label.setFixedSize(SHOWN_PX, SHOWN_PX)
                label.setToolTip(
                    _TIPS[name]
                    if key == "pixels"
                    else f"Where the classifier looks in the {name} (Grad-CAM)."
                )
                grid.addWidget(label, line, i, Qt.AlignmentFlag.AlignCenter)
        self.set_captions()

    def set_captions(self, *, is_drawn: bool = False) -> None:
        """Say what the columns are; a start that was drawn has no tile of the slide beside it."""
        said = {
            "tile": "no real tile" if is_drawn else "tile",
            "reconstruction": f"{'start' if is_drawn else 'reconstruction'}\n(SYNTHETIC)",
            "edit": "edit\n(SYNTHETIC)",
        }
        for name, text in said.items():
            self.captions[name].setText(text)

    def set_picture(self, row: str, column: str, pixels: NDArray[np.uint8] | None) -> None:
        """Show a tile or its heatmap, uint8 (height, width, 3); None clears it."""
        label = self.pictures[row, column]
        if pixels is None:
            label.clear()
        else:
            label.setPixmap(pixmap_of(pixels, SHOWN_PX))

    def clear(self) -> None:
        """Show nothing."""
        for label in self.pictures.values():
            label.clear()
