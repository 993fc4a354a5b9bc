from __future__ import annotations

import json
import subprocess
import sys

MODULES = (
    "slides",
    "annotations",
    "patches",
    "models",
    "runs",
    "training",
    "training.config",
    "training.checkpoint",
    "latent",
    "latent.points",
    "explain",
    "explain.heatmap",
    "evaluation",
    "evaluation.report",
)
HEAVY = ("torch", "captum", "napari", "qtpy", "magicgui", "superqt")
SCRIPT = f"""
import json, sys
from importlib import import_module
loaded = {{}}
for name in {MODULES}:
    import_module("napari_histolatent." + name)
    loaded[name] = [heavy for heavy in {HEAVY} if heavy in sys.modules]
print(json.dumps(loaded))
"""


def test_forms_and_lists_open_without_torch_and_qt() -> None:
    output = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True).stdout
    # One process for all: the first module in the list that is not clean is the one to mend.
    assert json.loads(output) == {name: [] for name in MODULES}
