"""Keys of the canvas while patches are marked: those of others come back when that ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from napari.utils.key_bindings import coerce_keybinding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class ModeKeys:
    """While switched on, the viewer's keys do other things.

    napari asks the selected layer before the viewer, so the selected layer gets them too.

    Parameters
    ----------
    viewer
        The viewer.
    actions
        Key as napari writes it (`Control-Z`) to what it does.
    """

    def __init__(self, viewer: Any, actions: Mapping[str, Callable[[], object]]) -> None:
        self._viewer = viewer
        self._bound = {coerce_keybinding(key): _on_key(act) for key, act in actions.items()}
        self._before: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()
        self._is_on = False

    @property
    def is_on(self) -> bool:
        """Whether the keys are taken."""
        return self._is_on

    def retake(self) -> None:
        """Take the keys from who bound them meanwhile (a dock, for a new layer); nothing while switched off."""
        if self._is_on:
            self._take(self._viewer)
            self._take_active()

    def switch(self, on: bool) -> None:
        """Take the keys, or give them back."""
        if on == self._is_on:
            return
        self._is_on = on
        event = self._viewer.layers.selection.events.active
        if on:
            self._take(self._viewer)
            self._take_active()
            event.connect(self._take_active)
        else:
            event.disconnect(self._take_active)
            for owner, before in list(self._before.items()):
                self._give_back(owner, before)
            self._before.clear()

    def _take_active(self, *_: object) -> None:
        active = self._viewer.layers.selection.active
        if active is not None:
            self._take(active)

    def _take(self, owner: Any) -> None:
        before = self._before.setdefault(owner, {})
        for key, act in self._bound.items():
            now = owner.keymap.get(key)
            if now is not act:
                before[key] = now
                owner.keymap[key] = act

    def _give_back(self, owner: Any, before: Mapping[Any, Any]) -> None:
        for key, act in self._bound.items():
            # Who took the key meanwhile keeps it.
            if owner.keymap.get(key) is act:
                if before[key] is None:
                    del owner.keymap[key]
                else:
                    owner.keymap[key] = before[key]


def _on_key(action: Callable[[], object]) -> Callable[[Any], None]:
    """Return what napari calls at a key: a function, for it asks for the name."""

    def press(_: Any) -> None:
        action()

    return press
