"""From a slide to what napari draws of it."""

from napari_histolatent._napari.viewing._pyramid import LevelArray, levels_of

__all__ = ["LevelArray", "levels_of"]
