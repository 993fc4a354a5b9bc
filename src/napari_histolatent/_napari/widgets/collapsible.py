from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QEvent
from superqt import QCollapsible

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

_EXPANDED, _COLLAPSED = "▼", "▶"
_OTHER_COLOUR = (QEvent.Type.PaletteChange, QEvent.Type.StyleChange, QEvent.Type.EnabledChange)


class Collapsible(QCollapsible):
    """A part that is closed until its title is clicked; its arrow has the colour of the text in any theme."""

    def __init__(self, title: str) -> None:
        super().__init__(title, expandedIcon=_EXPANDED, collapsedIcon=_COLLAPSED)
        self._is_made = True

    def changeEvent(self, event: QEvent) -> None:
        """Follow the theme."""
        super().changeEvent(event)
        # Qt sends the first ones while the widget is still being made.
        if event.type() in _OTHER_COLOUR and hasattr(self, "_is_made"):
            self._draw_arrows()

    def showEvent(self, event: QEvent) -> None:
        """Draw the arrows in the colour of the theme, which is known now."""
        super().showEvent(event)
        self._draw_arrows()

    def _draw_arrows(self) -> None:
        # They are pictures of the characters, in the colour that the text had when they were made.
        self.toggleButton().ensurePolished()
        self.setExpandedIcon(_EXPANDED)
        self.setCollapsedIcon(_COLLAPSED)


def collapsible(title: str, *widgets: QWidget) -> Collapsible:
    """Return a part that is closed until its title is clicked."""
    part = Collapsible(title)
    part.layout().setContentsMargins(0, 0, 0, 0)
    part.layout().setSpacing(0)
    part.content().layout().setContentsMargins(4, 2, 0, 6)
    for widget in widgets:
        part.addWidget(widget)
    part.collapse(animate=False)
    return part
