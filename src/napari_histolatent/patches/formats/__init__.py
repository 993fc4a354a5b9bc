"""Datasets of other programs in and out: folders of pictures, CLAM, TRIDENT, WebDataset, QuPath."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches.formats._geojson import export_geojson
from napari_histolatent.patches.formats._hdf5 import Coords, coords_from_hdf5, export_clam, export_trident
from napari_histolatent.patches.formats._image_folder import export_image_folder
from napari_histolatent.patches.formats._import_folder import import_folder
from napari_histolatent.patches.formats._webdataset import export_webdataset

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "EXPORTS",
    "Coords",
    "ExportFormat",
    "coords_from_hdf5",
    "export_clam",
    "export_format",
    "export_geojson",
    "export_image_folder",
    "export_trident",
    "export_webdataset",
    "import_folder",
]


@dataclass(frozen=True)
class ExportFormat:
    """One way to hand a dataset to another program."""

    name: str
    """As the command line calls it."""
    what: str
    """What is written, in a few words."""
    function: Callable[..., dict[str, Any]]
    """Called with (dataset, out, *, on_progress=None, should_stop=None); returns the report."""
    needs_pixels: bool
    """Whether pixels are read; else the index is enough, also of an index-only dataset whose slides are gone."""


EXPORTS: dict[str, ExportFormat] = {
    known.name: known
    for known in (
        ExportFormat(
            "imagefolder-png",
            "a folder of PNG files for each split and class, lossless",
            export_image_folder,
            needs_pixels=True,
        ),
        ExportFormat(
            "imagefolder-jpeg",
            "a folder of JPEG files for each split and class, quality 95",
            partial(export_image_folder, picture="jpeg"),
            needs_pixels=True,
        ),
        ExportFormat(
            "webdataset",
            "tar files of about 1 GB for each split, PNG inside",
            export_webdataset,
            needs_pixels=True,
        ),
        ExportFormat(
            "webdataset-jpeg",
            "tar files of about 1 GB for each split, JPEG of quality 95 inside",
            partial(export_webdataset, picture="jpeg"),
            needs_pixels=True,
        ),
        ExportFormat(
            "clam", "coordinates in HDF5 for each slide, as CLAM writes them", export_clam, needs_pixels=False
        ),
        ExportFormat(
            "trident",
            "coordinates in HDF5 for each slide, as TRIDENT writes them",
            export_trident,
            needs_pixels=False,
        ),
        ExportFormat(
            "geojson",
            "tiles with class and measurements for each slide, for QuPath",
            export_geojson,
            needs_pixels=False,
        ),
    )
}
"""Export formats by name."""


def export_format(name: str) -> ExportFormat:
    """Return the export format of this name.

    Raises
    ------
    DatasetError
        With those that there are.
    """
    if name not in EXPORTS:
        msg = f"There is no export format {name!r}; choose one of {', '.join(EXPORTS)}."
        raise DatasetError(msg)
    return EXPORTS[name]
