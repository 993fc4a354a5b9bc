"""Keys that are lent while a mode is on."""

from __future__ import annotations

from typing import Any

import numpy as np
from napari.utils.key_bindings import coerce_keybinding

from napari_histolatent._napari.patches._mode_keys import ModeKeys


def test_keys_that_others_bind_meanwhile_are_taken_again_and_given_back(viewer: Any) -> None:
    done: list[str] = []
    layer, key = viewer.add_image(np.zeros((4, 4))), coerce_keybinding("Control-Z")

    def of_dock(_: object) -> None:
        done.append("dock")

    keys = ModeKeys(viewer, {"Control-Z": lambda: done.append("mode")})
    keys.retake()
    assert key not in layer.keymap, "switched off, nothing is taken"
    keys.switch(True)
    for owner in (viewer, layer):
        owner.bind_key("Control-Z", of_dock, overwrite=True)
    keys.retake()
    for owner in (viewer, layer):
        owner.keymap[key](owner)
    assert done == ["mode", "mode"]
    keys.switch(False)
    for owner in (viewer, layer):
        owner.keymap[key](owner)
    assert done[2:] == ["dock", "dock"], "who bound them last has them back"
