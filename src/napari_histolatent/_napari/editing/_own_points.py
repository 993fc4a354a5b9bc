"""The part of a latent library that belongs to one generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_histolatent.latent.library import Library

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.latent.directions import Direction
    from napari_histolatent.latent.library import LibraryEntry


class OwnPoints(Library):
    """A library in which the points and directions of other generators do not count: a tag may have both.

    Parameters
    ----------
    folder
        Of the library.
    checkpoint_digest
        Of the generator.
    """

    def __init__(self, folder: Path | str, checkpoint_digest: str) -> None:
        super().__init__(folder)
        self._digest = checkpoint_digest

    def entries(self) -> tuple[LibraryEntry, ...]:
        """Return the generator's points, oldest first."""
        return tuple(item for item in super().entries() if item.point.checkpoint_digest == self._digest)

    def directions(self) -> tuple[Direction, ...]:
        """Return the generator's directions, oldest first."""
        return tuple(item for item in super().directions() if item.checkpoint_digest == self._digest)
