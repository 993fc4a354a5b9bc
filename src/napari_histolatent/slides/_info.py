from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from napari_histolatent.errors import SlideError

if TYPE_CHECKING:
    from pathlib import Path

STORED_SOURCE = "set by the user for this slide"
"""What `SlideInfo.mpp_source` says of a pixel size that was stored with `store_mpp`."""


@dataclass(frozen=True)
class Level:
    """One level of a slide's pyramid."""

    width_px: int
    height_px: int
    downsample: float
    """Level-0 pixels per pixel of this level; a true float (scanners write 4.00009, not 4)."""


@dataclass(frozen=True)
class SlideInfo:
    """What a slide file says of itself. Coordinates are level-0 pixels, (x, y)."""

    path: Path
    """The file or folder; of a slide at a URL only its name means something."""
    backend: str
    vendor: str | None
    digest: str
    """Names the pixels: equal for copies of one file, whatever their names."""
    levels: tuple[Level, ...]
    mpp_x: float | None
    """Micrometres per level-0 pixel, or None where the file does not say."""
    mpp_y: float | None
    mpp_source: str | None
    bounds: tuple[int, int, int, int]
    """Left, top, width and height of the scanned part."""
    background: tuple[int, int, int]
    associated: tuple[str, ...]
    backend_reason: str = ""
    """Why this backend reads it, and what the ones asked before it said."""
    objective_power: float | None = None
    has_icc_profile: bool = False
    notes: tuple[str, ...] = ()
    """What a user should know of how it was read: a plane that was chosen, a window of brightness."""
    url: str | None = None
    offset_from_centre_nm: tuple[float, float] | None = None
    """Of a Hamamatsu scan: where its middle lies, seen from the middle of the glass. NDPA counts from there."""

    @property
    def location(self) -> str:
        """What opens it again: the path, or the URL."""
        return self.url or str(self.path)

    @property
    def width_px(self) -> int:
        """Width of level 0."""
        return self.levels[0].width_px

    @property
    def height_px(self) -> int:
        """Height of level 0."""
        return self.levels[0].height_px

    def require_mpp(self) -> tuple[float, float]:
        """Return (mpp_x, mpp_y).

        Raises
        ------
        SlideError
            If the file does not state its pixel size.
        """
        if self.mpp_x is None or self.mpp_y is None:
            msg = (
                f"{self.path.name} does not state its pixel size (mpp missing); "
                "set it in the Slide dock, ask for a level instead of an mpp (--level 0), or state the size with "
                "--slide-mpp, for example --slide-mpp 0.25 for a 40x scan."
            )
            raise SlideError(msg)
        return self.mpp_x, self.mpp_y

    def with_mpp(self, mpp: float, *, is_stored: bool = False) -> SlideInfo:
        """Return a copy whose pixel size is the one the user states, or stated for this slide before."""
        if not (mpp > 0 and math.isfinite(mpp)):
            msg = (
                f"A pixel size of {mpp:g} µm per pixel is not possible; give a number above 0, such as 0.25."
            )
            raise SlideError(msg)
        source = STORED_SOURCE if is_stored else "stated by the user"
        return replace(self, mpp_x=mpp, mpp_y=mpp, mpp_source=source)

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `histolatent info --json` reports."""
        return {
            "path": self.location,
            "backend": self.backend,
            "backend_reason": self.backend_reason,
            "vendor": self.vendor,
            "digest": self.digest,
            "width_px": self.width_px,
            "height_px": self.height_px,
            "levels": [
                {"width_px": v.width_px, "height_px": v.height_px, "downsample": v.downsample}
                for v in self.levels
            ],
            "mpp_x": self.mpp_x,
            "mpp_y": self.mpp_y,
            "mpp_source": self.mpp_source,
            "bounds": list(self.bounds),
            "background": list(self.background),
            "associated": list(self.associated),
            "objective_power": self.objective_power,
            "has_icc_profile": self.has_icc_profile,
            "notes": list(self.notes),
        }
