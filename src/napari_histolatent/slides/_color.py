"""ICC: from a scanner's colours to sRGB. For looking; datasets keep what the file holds unless asked."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms

from napari_histolatent.errors import SlideError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def to_srgb_with(profile: bytes) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """Return the thread-safe function that turns RGB pixels (uint8, (h, w, 3)) of this ICC profile into sRGB.

    Raises
    ------
    SlideError
        If it is not an ICC profile of RGB pixels.
    """
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            # The transform's memory of its last pixel is not made for several threads.
            flags=ImageCms.Flags.NOCACHE,
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        msg = f"The slide's ICC profile cannot be used ({error}); its colours stay as they are in the file."
        raise SlideError(msg) from error

    def to_srgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(transform.apply(Image.fromarray(np.ascontiguousarray(pixels))))

    return to_srgb
