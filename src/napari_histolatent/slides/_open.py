"""Which backend opens a slide: asked in turn, the first that can; what the others said is kept as the reason."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from napari_histolatent.errors import SlideError
from napari_histolatent.slides._file import reason_of
from napari_histolatent.slides._pixel_size import stored_mpp
from napari_histolatent.slides._slide import Slide

if TYPE_CHECKING:
    from napari_histolatent.slides._slide import SlideBackend

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_URL_SCHEMES = ("http://", "https://", "s3://", "gs://", "gcs://")
_DICOM_NAMES_TRIED = 64
"""Files of a folder that are looked at before it is said to hold no DICOM slide."""


def open_slide(location: str | Path, *, mpp: float | None = None) -> Slide:
    """Open a slide.

    Parameters
    ----------
    location
        A file, a folder (OME-Zarr, or the instances of one DICOM series), or the URL of an OME-Zarr.
    mpp
        Micrometres per level-0 pixel, where the user knows better than the file. Without it the file's own
        counts, and where the file has none, what was stored for this slide with `store_mpp`.

    Raises
    ------
    SlideError
        If nothing is there, or no reader knows it.
    """
    backend = _backend_of(location)
    try:
        if mpp is None and backend.info.mpp_x is None:
            return Slide(backend, mpp=stored_mpp(backend.info.digest), is_stored=True)
        return Slide(backend, mpp=mpp)
    except SlideError:
        backend.close()
        raise


def _backend_of(location: str | Path) -> SlideBackend:
    text = str(location)
    if text.lower().startswith(_URL_SCHEMES):
        from napari_histolatent.slides._ome_zarr import OmeZarrBackend

        return OmeZarrBackend(text, reason="a URL: OME-Zarr")
    if text.lower().startswith("file://"):
        text = url2pathname(urlsplit(text).path)
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        msg = f"{text} does not exist (there is no such home folder); give the path of a slide file such as slide.svs."
        raise SlideError(msg) from error
    try:
        if path.is_dir():
            return _folder(path)
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            msg = f"{path} {what}; give the path of a slide file such as slide.svs."
            raise SlideError(msg)
        return _file(path)
    except OSError as error:
        msg = f"{path} cannot be read ({error.strerror or error}); check the disk and that you may read it."
        raise SlideError(msg) from error


def _folder(path: Path) -> SlideBackend:
    from napari_histolatent.slides._openslide import OpenSlideBackend

    if any((path / name).exists() for name in (".zattrs", ".zgroup", "zarr.json")):
        from napari_histolatent.slides._ome_zarr import OmeZarrBackend

        return OmeZarrBackend(str(path), reason="a folder with Zarr metadata: OME-Zarr")
    refused = None
    for file in sorted(path.iterdir())[:_DICOM_NAMES_TRIED]:
        if file.is_file() and _starts(file, offset=128) == b"DICM":
            try:
                return OpenSlideBackend(
                    file, reason=f"a folder of DICOM files: OpenSlide reads the series of {file.name}"
                )
            except SlideError as error:
                refused = refused or error
    if refused is not None:
        raise refused
    msg = (
        f"{path} is a folder without a slide in it that can be opened as one; "
        "give a slide file such as slide.svs, an OME-Zarr folder, or a folder of DICOM slide files."
    )
    raise SlideError(msg)


def _file(path: Path) -> SlideBackend:
    from napari_histolatent.slides._openslide import OpenSlideBackend

    if _starts(path) not in _TIFF_MAGIC:
        return OpenSlideBackend(path)
    from napari_histolatent.slides._tiff import TiffBackend, is_ome_tiff, what_openslide_overlooks

    if is_ome_tiff(path):
        # OpenSlide takes the planes of some OME-TIFFs for levels, and reads no OME-XML.
        try:
            return TiffBackend(path, reason="an OME-TIFF: tifffile reads it with its OME-XML")
        except SlideError as refused:
            try:
                return OpenSlideBackend(path, reason=f"tifffile refused it ({_reason(refused, path)})")
            except SlideError:
                raise refused from None
    try:
        backend = OpenSlideBackend(path)
    except SlideError as refused:
        reason = _reason(refused, path)
        try:
            return TiffBackend(path, reason=f"OpenSlide refused it ({reason}); tifffile reads it")
        except SlideError as also:
            plain = _reason(also, path)
            msg = (
                f"{path.name} is not a slide that can be opened (OpenSlide: {reason}; as a plain TIFF: {plain}); "
                "check that the file is complete, or convert it to a tiled TIFF."
            )
            raise SlideError(msg) from also
    if backend.info.vendor != "generic-tiff":
        return backend
    sizes = [(v.width_px, v.height_px) for v in backend.info.levels]
    overlooked = (
        "its pages for planes, not levels" if len(set(sizes)) < len(sizes) else what_openslide_overlooks(path)
    )
    if overlooked is not None:
        with suppress(SlideError):
            better = TiffBackend(path, reason=f"OpenSlide reads it too, but tifffile knows {overlooked}")
            backend.close()
            return better
    return backend


def _reason(refused: SlideError, path: Path) -> str:
    return reason_of(refused.__cause__ or refused, path)


def _starts(path: Path, *, offset: int = 0) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(4)
