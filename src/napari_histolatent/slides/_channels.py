"""From what a scanner counted to RGB: windows and colours of channels, bits of samples, opacity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from numpy.typing import NDArray

    Color = tuple[int, int, int]

MAX_CHANNELS = 8
"""Channels that are added up: of more, the picture says nothing, and each tile would be read as many times."""

_GREY: Color = (255, 255, 255)
_NAMES: dict[Color, str] = {
    (0, 0, 255): "blue",
    (0, 255, 0): "green",
    (255, 0, 0): "red",
    (255, 0, 255): "magenta",
    (255, 255, 0): "yellow",
    (0, 255, 255): "cyan",
    _GREY: "grey",
    (255, 128, 0): "orange",
}
_RGB: tuple[Color, ...] = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
_PERCENTILES = (0.1, 99.9)
_STRIPE_VALUES = 1 << 22
"""Values converted to float at once: a large region must not take four times its memory."""


@dataclass(frozen=True)
class Channel:
    """One channel of fluorescence, as it is shown."""

    name: str
    color: Color
    window: tuple[float, float]
    """Counts that are shown black and in the full colour."""


def channel_colors(stated: Sequence[Color | None]) -> list[Color]:
    """Return a colour for each channel: the stated one, else grey for one channel and a list for several.

    White for each of several channels is what writers put where nobody chose: it counts as not stated, and so
    does any grey for one channel.
    """
    if len(stated) == 1:
        color = stated[0]
        return [_GREY if color is None or len(set(color)) == 1 else color]
    is_chosen = any(color not in (None, _GREY) for color in stated)
    palette = list(_NAMES)
    return [
        color if color is not None and is_chosen else palette[i % len(palette)]
        for i, color in enumerate(stated)
    ]


def is_rgb(dtype: np.dtype[Any], stated: Sequence[Color | None]) -> bool:
    """Return whether channels are the red, green and blue of one 8-bit picture, by their stated colours."""
    return dtype == np.uint8 and tuple(stated) == _RGB


def window_of(values: NDArray[Any]) -> tuple[float, float] | None:
    """Return the counts (low, high) between which a channel is shown: percentiles 0.1 and 99.9.

    None without values; high is above low by at least 1.
    """
    if not values.size:
        return None
    low, high = (float(v) for v in np.percentile(values, _PERCENTILES))
    return low, max(high, low + 1)


def added_up(values: NDArray[Any], channels: Sequence[Channel]) -> NDArray[np.uint8]:
    """Return the RGB sum of channels, each in its colour over its window, clipped.

    Parameters
    ----------
    values
        Counts, shape (height, width, channels).
    channels
        As many.

    Returns
    -------
    numpy.ndarray
        uint8, shape (height, width, 3). Each pixel depends on its own counts only.
    """
    total = np.zeros((*values.shape[:2], 3), np.float32)
    for i, channel in enumerate(channels):
        low, high = channel.window
        share = ((values[..., i].astype(np.float32) - low) / np.float32(high - low)).clip(0, 1)
        for c, strength in enumerate(channel.color):
            if strength:
                total[..., c] += share * strength
    rounded: NDArray[np.uint8] = np.rint(total.clip(0, 255)).astype(np.uint8)
    return rounded


def significant_bits(maximum: int) -> int:
    """Return the depth in bits of samples up to `maximum`: the smallest that cameras have."""
    return next((bits for bits in (8, 10, 12, 14) if maximum < 1 << bits), 16)


def to_8_bit(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return the upper 8 of `bits` bits; what is above them all is white."""
    upper: NDArray[np.uint8] = np.minimum(values >> max(0, bits - 8), 255).astype(np.uint8)
    return upper


def alpha_over(
    rgb: NDArray[np.uint8], alpha: NDArray[np.uint8], background: Color, *, is_premultiplied: bool
) -> NDArray[np.uint8]:
    """Put (height, width, 3) pixels of opacity `alpha` (0 to 255, (height, width)) on a background colour."""
    if alpha.size and alpha.min() == 255:
        return rgb
    opacity = alpha[..., None].astype(np.float32) / 255
    own = rgb.astype(np.float32) if is_premultiplied else rgb * opacity
    mixed: NDArray[Any] = own + np.asarray(background, np.float32) * (1 - opacity)
    pixels: NDArray[np.uint8] = np.rint(mixed.clip(0, 255)).astype(np.uint8)
    return pixels


def ycbcr_to_rgb(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return RGB of full-range YCbCr, (height, width, 3); ITU-R BT.601, as JFIF has it."""
    y, cb, cr = (values[..., i].astype(np.float32) for i in range(3))
    cb, cr = cb - 128, cr - 128
    rgb = np.stack((y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb), axis=-1)
    pixels: NDArray[np.uint8] = np.rint(rgb.clip(0, 255)).astype(np.uint8)
    return pixels


def in_stripes(
    to_rgb: Callable[[NDArray[Any]], NDArray[np.uint8]], values: NDArray[Any], out: NDArray[np.uint8]
) -> None:
    """Write `to_rgb(values)` into `out`, some rows at a time; (height, width, any) to (height, width, 3)."""
    step = max(1, _STRIPE_VALUES // max(1, values[:1].size))
    for start in range(0, len(values), step):
        out[start : start + step] = to_rgb(values[start : start + step])


def channels_note(channels: Sequence[Channel], left_out: int = 0) -> str:
    """Return the sentence that says how counts became colours."""
    said = ", ".join(
        f"{v.name} in {_NAMES.get(v.color) or '#{:02x}{:02x}{:02x}'.format(*v.color)}"
        f" (window {v.window[0]:g} to {v.window[1]:g})"
        for v in channels
    )
    rest = f"; {left_out} more are left out" if left_out else ""
    if len(channels) == 1 and not left_out:
        return f"The brightness is windowed: {said}."
    return f"Channels are added up: {said}{rest}."


def planes_note(z: int, size_z: int, t: int, size_t: int) -> tuple[str, ...]:
    """Return the sentence that says which plane is shown, if there are several; z and t count from 0."""
    if size_z <= 1 and size_t <= 1:
        return ()
    said = [
        f"{axis} {index + 1} of {size}"
        for axis, index, size in (("z plane", z, size_z), ("time point", t, size_t))
        if size > 1
    ]
    return (f"Shown is {' and '.join(said)}.",)
