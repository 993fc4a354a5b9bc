from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import openslide

from napari_histolatent.errors import SlideError
from napari_histolatent.slides._info import Level, SlideInfo

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_UM_PER_RESOLUTION_UNIT = {"inch": 25_400.0, "centimeter": 10_000.0}


class OpenSlideBackend:
    """Everything that OpenSlide reads. Its handles are thread-safe."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            msg = f"{path} {what}; give the path of a slide file such as slide.svs."
            raise SlideError(msg)
        try:
            self._handle = openslide.OpenSlide(path)
            self.info = _info_of(self._handle, path)
        except openslide.OpenSlideError as error:
            reason = str(error).rstrip(".")
            msg = (
                f"{path.name} is not a slide that can be opened ({reason}); check that the file is complete "
                "and of a format OpenSlide reads (svs, ndpi, mrxs, scn, bif, vms, svslide, tiled TIFF, DICOM)."
            )
            raise SlideError(msg) from error

    def read_level(
        self, level: int, level0_xy: tuple[int, int], size_px: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Return (height, width, 3) pixels of one level on the slide's background colour."""
        try:
            rgba = np.asarray(self._handle.read_region(level0_xy, level, size_px))
        except openslide.OpenSlideError as error:
            reason = str(error).rstrip(".")
            msg = (
                f"{self.info.path.name} opens, but its pixels at x={level0_xy[0]}, y={level0_xy[1]} cannot be "
                f"read ({reason}); the file is damaged: copy it again from the scanner or archive."
            )
            raise SlideError(msg) from error
        return _composite(rgba, self.info.background)

    def close(self) -> None:
        """Release the file."""
        self._handle.close()


def _composite(rgba: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Put RGBA pixels on a background: what the scanner did not see is its colour, never black."""
    alpha = rgba[..., 3]
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    opacity = alpha[..., None].astype(np.float32) / 255
    mixed = rgba[..., :3] * opacity + np.asarray(background, np.float32) * (1 - opacity)
    return np.round(mixed).astype(np.uint8)


def _info_of(handle: openslide.OpenSlide, path: Path) -> SlideInfo:
    properties = handle.properties
    levels = tuple(
        Level(width, height, float(downsample))
        for (width, height), downsample in zip(handle.level_dimensions, handle.level_downsamples, strict=True)
    )
    mpp_x, mpp_y, source = _mpp_of(properties)
    return SlideInfo(
        path=path.absolute(),
        backend="openslide",
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR),
        digest=properties.get(openslide.PROPERTY_NAME_QUICKHASH1) or _digest_of_ends(path),
        levels=levels,
        mpp_x=mpp_x,
        mpp_y=mpp_y,
        mpp_source=source,
        bounds=_bounds_of(properties, levels[0]),
        background=_background_of(properties),
        associated=tuple(handle.associated_images),
    )


def _mpp_of(properties: Mapping[str, str]) -> tuple[float | None, float | None, str | None]:
    """Return (mpp_x, mpp_y, where from): the vendor's statement, else the TIFF resolution tags."""
    x, y = (_positive(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    if x and y:
        is_tiff_tag = properties.get(openslide.PROPERTY_NAME_VENDOR) == "generic-tiff"
        return x, y, "TIFF resolution tags" if is_tiff_tag else "slide metadata"
    unit = _UM_PER_RESOLUTION_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
    dots = [_positive(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
    if unit and dots[0] and dots[1]:
        return unit / dots[0], unit / dots[1], "TIFF resolution tags"
    return None, None, None


def _positive(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _bounds_of(properties: Mapping[str, str], level0: Level) -> tuple[int, int, int, int]:
    keys = [f"openslide.bounds-{side}" for side in ("x", "y", "width", "height")]
    if all(key in properties for key in keys):
        x, y, width, height = (int(properties[key]) for key in keys)
        return x, y, width, height
    return 0, 0, level0.width_px, level0.height_px


def _background_of(properties: Mapping[str, str]) -> tuple[int, int, int]:
    text = properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
    return int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16)


def _digest_of_ends(path: Path) -> str:
    """Return a digest of the size and both ends: whole files of many GB cannot be hashed at opening."""
    size = path.stat().st_size
    hasher = sha256(str(size).encode())
    with path.open("rb") as file:
        hasher.update(file.read(1 << 16))
        file.seek(max(0, size - (1 << 16)))
        hasher.update(file.read())
    return hasher.hexdigest()
