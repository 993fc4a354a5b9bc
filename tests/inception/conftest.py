"""InceptionV3 itself: needs the extra `inception`, in an environment of its own (`pytest tests/inception`).

Beside a CPU build of torch, torchvision does not find two of its compiled operators and cannot be imported. Nothing
here uses them, so for these tests, and only for these, they are declared.
"""

from __future__ import annotations

import importlib.util
import sys

HERE = all(importlib.util.find_spec(name) is not None for name in ("timm", "torchvision"))

collect_ignore_glob = [] if HERE else ["test_*.py"]


def declare_missing_operators() -> None:
    import torch

    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        import torchvision  # noqa: F401


if HERE:
    declare_missing_operators()
