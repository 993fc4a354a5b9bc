"""DCGANs, with classes and without: which module builds which design. Importing this costs no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from napari_histolatent.models.protocols import Discriminator, Generator

DESIGNS: Mapping[str, str] = {
    "modern": "napari_histolatent.models._dcgan_modern",
    "s1": "napari_histolatent.models._dcgan_s1",
}
"""Name -> module with build(classes, size_px, z_dim, base_channels) -> (Generator, Discriminator)."""


def build(
    *,
    classes: tuple[str, ...],
    size_px: int,
    design: str = "modern",
    z_dim: int | None = None,
    base_channels: int | None = None,
) -> tuple[Generator, Discriminator]:
    """Build both networks; see `build_gan`.

    Parameters
    ----------
    classes
        Their names; () for networks without classes, whose y is (B, 0).
    size_px
        Side of the images.
    design
        modern (the one that learns) or s1 (the paper of Fernandez et al.).
    z_dim, base_channels
        Length of z and width of the finest layers; None (or 0): the design's own, 64 and 16 (modern) or 100 and
        64 (s1).

    Raises
    ------
    UserError
        If there is no such design, or it cannot have this size.
    """
    if design not in DESIGNS:
        msg = f"There is no design named {design!r}; choose one of {', '.join(DESIGNS)}."
        raise UserError(msg)
    given = {"z_dim": z_dim, "base_channels": base_channels}
    generator, discriminator = import_module(DESIGNS[design]).build(
        classes=classes, size_px=size_px, **{name: value for name, value in given.items() if value}
    )
    return generator, discriminator
