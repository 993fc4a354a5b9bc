"""Whole-slide images, labelled patches, conditional GANs and latent editing, for napari and headless.

The public names load on first use, so that importing the package costs neither torch nor Qt.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

# Read once, when torch is loaded. Threads that spin as long as they wait, which is the default, made training six
# times slower as soon as anything else needed the cores; without any spinning it was a third slower than with this
# little when nothing did (docs/performance.md). What the user has set stands.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__version__ = "0.1.0"

_PUBLIC = {
    "open_slide": "napari_histolatent.slides",
    "read_annotations": "napari_histolatent.annotations",
    "PatchDataset": "napari_histolatent.patches",
    "Run": "napari_histolatent.runs",
    "UserError": "napari_histolatent.errors",
}

__all__ = ["PatchDataset", "Run", "UserError", "__version__", "open_slide", "read_annotations"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
