"""The docks that napari.yaml names: a view with its binding, each in a module of its own.

A dock loads when it is opened: whoever looks at slides does not wait for what trains networks.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "SlideDock": "slide",
    "RegionsDock": "regions",
    "PatchesDock": "patches",
    "TrainDock": "train",
    "EditDock": "edit",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
