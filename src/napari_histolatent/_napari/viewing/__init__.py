"""Slides in napari without ever blocking it: arrays that answer at once, and threads that fill them."""

from napari_histolatent._napari.viewing._proxy import DisplayLevelArray, levels_of
from napari_histolatent._napari.viewing._pyramid import Box
from napari_histolatent._napari.viewing._source import SlideSource, cache
from napari_histolatent._napari.viewing._threads import reader_threads, threads
from napari_histolatent._napari.viewing._window import (
    SlideWindow,
    add_slide,
    attach,
    expected,
    is_settled,
    view_of,
)

__all__ = [
    "Box",
    "DisplayLevelArray",
    "SlideSource",
    "SlideWindow",
    "add_slide",
    "attach",
    "cache",
    "expected",
    "is_settled",
    "levels_of",
    "reader_threads",
    "threads",
    "view_of",
]
