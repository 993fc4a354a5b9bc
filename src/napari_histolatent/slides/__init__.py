"""Open a slide, read exact regions, and convert between levels, pixels and micrometres."""

from napari_histolatent.slides._info import Level, SlideInfo
from napari_histolatent.slides._pyramid import best_level, halving_downsamples
from napari_histolatent.slides._resample import area_averaged
from napari_histolatent.slides._slide import Slide, SlideBackend, open_slide
from napari_histolatent.slides._synthetic import write_synthetic_slide

__all__ = [
    "Level",
    "Slide",
    "SlideBackend",
    "SlideInfo",
    "area_averaged",
    "best_level",
    "halving_downsamples",
    "open_slide",
    "write_synthetic_slide",
]
