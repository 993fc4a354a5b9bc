"""Which device to compute on, and a sentence where it is not there."""

from __future__ import annotations

import torch

from napari_histolatent.errors import UserError


def available_devices() -> tuple[str, ...]:
    """Return the devices of this machine, best first, such as ("cuda", "cpu")."""
    devices = []
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return (*devices, "cpu")


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is the best there is.

    Raises
    ------
    UserError
        If the device is not on this machine, or the name means nothing.
    """
    devices = available_devices()
    if name == "auto":
        return torch.device(devices[0])
    try:
        device = torch.device(name)
    except RuntimeError as error:
        msg = f"{name!r} is not the name of a device; use auto, {' or '.join(devices)}."
        raise UserError(msg) from error
    beyond_last = device.type == "cuda" and (device.index or 0) >= max(1, torch.cuda.device_count())
    if device.type not in devices or beyond_last:
        msg = f"The device {name!r} is not on this machine; use auto, {' or '.join(devices)}."
        raise UserError(msg)
    return device
