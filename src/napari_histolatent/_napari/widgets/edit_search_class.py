from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histolatent._napari.editing._search_class import SearchClass, search_class_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_histolatent._napari.widgets.edit_view import EditView
    from napari_histolatent.jobs.tiles import Tile


class EditSearchClass:
    """Says in which class a tile will be searched, and why; what the user chose for a tile stays.

    Parameters
    ----------
    view
        Whose list is set.
    """

    def __init__(self, view: EditView) -> None:
        self._view = view
        self._tile: Tile | None = None
        self._offered: SearchClass | None = None
        self._is_chosen = False
        self._chosen: str | None = None
        """What the user chose; None: each class in turn."""
        view.search_class_chosen.connect(self._choose)

    def show(
        self,
        tile: Tile | None,
        *,
        classes: Sequence[str],
        chances: Mapping[str, float] | None,
        judge: str,
    ) -> None:
        """Offer the class of a tile; what a classifier sees in it may come later."""
        if tile is not self._tile:
            self._tile, self._is_chosen = tile, False
        if tile is None or not classes:
            self._offered = None
            self._view.set_search_class(None, "")
            return
        self._offered = search_class_of(tile.label, classes, chances, judge)
        if self._chosen is not None and self._chosen not in classes:
            self._is_chosen = False
        if self._is_chosen:
            # Again: the list may have been filled anew.
            self._view.set_search_class(self._chosen, f"Your choice. {self._offered.why}")
        else:
            self._view.set_search_class(self._offered.label, self._offered.why)

    def _choose(self) -> None:
        if self._offered is None:
            return
        chosen = self._chosen = self._view.search_class
        self._is_chosen = chosen != self._offered.label
        said = f"Your choice. {self._offered.why}" if self._is_chosen else self._offered.why
        self._view.set_search_class(chosen, said)
