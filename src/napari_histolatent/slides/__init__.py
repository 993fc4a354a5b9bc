"""Open a slide, read exact regions, and convert between levels, pixels and micrometres."""

from napari_histolatent.slides._cache import ByteCache
from napari_histolatent.slides._color import to_srgb_with
from napari_histolatent.slides._info import STORED_SOURCE, Level, SlideInfo
from napari_histolatent.slides._open import open_slide
from napari_histolatent.slides._pixel_size import MPP_OF_OBJECTIVE, store_mpp, stored_mpps
from napari_histolatent.slides._pyramid import best_level
from napari_histolatent.slides._resample import area_averaged
from napari_histolatent.slides._slide import Slide, SlideBackend
from napari_histolatent.slides._synthetic import write_synthetic_slide

__all__ = [
    "MPP_OF_OBJECTIVE",
    "STORED_SOURCE",
    "ByteCache",
    "Level",
    "Slide",
    "SlideBackend",
    "SlideInfo",
    "area_averaged",
    "best_level",
    "open_slide",
    "store_mpp",
    "stored_mpps",
    "to_srgb_with",
    "write_synthetic_slide",
]
