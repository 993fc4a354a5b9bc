"""Points in latent space: find them, change them, draw them. Importing this costs no torch."""

from napari_histolatent.latent.points import (
    Inversion,
    LatentPoint,
    class_vector,
    flipped,
    interpolated,
    random_points,
)

__all__ = ["Inversion", "LatentPoint", "class_vector", "flipped", "interpolated", "random_points"]
