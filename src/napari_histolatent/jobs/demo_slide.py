"""The slide that the demo runs on: OpenSlide's CMU-1-Small-Region, or, without the network, a drawn one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pooch
from shapely.geometry import box

from napari_histolatent._files import data_folder
from napari_histolatent.annotations import Annotations, Region, write_annotations
from napari_histolatent.errors import UserError
from napari_histolatent.slides import open_slide, write_synthetic_slide

if TYPE_CHECKING:
    from shapely.geometry import Polygon

_URL = "https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/CMU-1-Small-Region.svs"
_SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
_QUICKHASH = "6335ea0e6cc54c2cba64bb265d3c713a50cd84484924e3a9c109558c13521d5c"
_TIMEOUT_SECONDS = 15


@dataclass(frozen=True)
class DemoInput:
    """A slide with its annotations, and one sentence on which it is."""

    slide: Path
    annotations: Path
    description: str


def demo_input(slide: Path | None, annotations: Path | None, folder: Path) -> DemoInput:
    """Return what the demo runs on.

    Parameters
    ----------
    slide, annotations
        What the user named; the regions of CMU-1-Small-Region are known.
    folder
        Where a drawn slide is written, if it comes to that.

    Raises
    ------
    UserError
        If a slide other than CMU-1-Small-Region comes without annotations, or the other way round.
    """
    if slide is None:
        if annotations is not None:
            msg = f"Annotations were given ({annotations.name}) without their slide; add --slide."
            raise UserError(msg)
        return _default(folder)
    if annotations is not None:
        return DemoInput(slide, annotations, f"your slide {slide.name} with your regions {annotations.name}")
    with open_slide(slide) as opened:
        if opened.info.digest != _QUICKHASH:
            msg = f"{slide.name} comes without annotations, and there is no tissue class to learn; add --annotations with a QuPath GeoJSON of at least two classes."
            raise UserError(msg)
    return DemoInput(slide, shipped_regions(), f"the real slide {slide.name} with the regions shipped for it")


def shipped_regions() -> Path:
    """Return the annotations of CMU-1-Small-Region: epithelium and stroma, drawn by hand."""
    return Path(str(files("napari_histolatent.jobs") / "demo_regions.geojson"))


def _default(folder: Path) -> DemoInput:
    try:
        slide = downloaded_slide()
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong checksum is a ValueError
        slide = folder / "SYNTHETIC-slide.tif"
        regions = folder / "SYNTHETIC-slide.geojson"
        write_synthetic_slide(slide)
        write_annotations(regions, drawn_regions(slide))
        reason = f"{type(error).__name__}"
        return DemoInput(
            slide,
            regions,
            f"a SYNTHETIC slide that the program drew, not tissue: the real one could not be downloaded ({reason})",
        )
    return DemoInput(
        slide, shipped_regions(), "the real slide CMU-1-Small-Region.svs (OpenSlide, CC0), sha256 checked"
    )


def downloaded_slide() -> Path:
    """Return CMU-1-Small-Region.svs (OpenSlide, CC0), downloaded once and checked by its sha256.

    Raises
    ------
    OSError, ValueError
        If it cannot be downloaded, or is not the file it should be.
    """
    pooch.get_logger().setLevel(logging.ERROR)  # the demo says itself what it uses
    path = pooch.retrieve(
        _URL,
        known_hash=f"sha256:{_SHA256}",
        fname="CMU-1-Small-Region.svs",
        path=data_folder() / "downloads",
        downloader=pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS),
    )
    return Path(path)


def drawn_regions(slide: Path) -> Annotations:
    """Return the regions of a slide that the program drew."""
    with open_slide(slide) as opened:
        width, height = opened.info.width_px, opened.info.height_px

    def part(left: float, right: float) -> Polygon:
        return box(left * width, 0.2 * height, right * width, 0.8 * height)

    return Annotations(
        regions=(
            Region("epithelium-1", "epithelium", part(0.2, 0.44), "drawn epithelium"),
            Region("stroma-1", "stroma", part(0.56, 0.8), "drawn stroma"),
        ),
        format="drawn",
    )
