"""A cache of arrays under a cap of bytes: what was not used for longest goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from numpy.typing import NDArray


class ByteCache:
    """Least-recently-used arrays of at most `cap_bytes` together; thread-safe. Arrays are not to be changed."""

    def __init__(self, cap_bytes: int) -> None:
        self._cap_bytes = cap_bytes
        self._used_bytes = 0
        self._items: OrderedDict[Hashable, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Bytes of the arrays that are held."""
        return self._used_bytes

    @property
    def cap_bytes(self) -> int:
        """The most bytes that are held."""
        return self._cap_bytes

    def set_cap(self, cap_bytes: int) -> None:
        """Change the cap; what no longer fits goes at once."""
        with self._lock:
            self._cap_bytes = cap_bytes
            self._shrink(cap_bytes)

    def get(self, key: Hashable) -> NDArray[Any] | None:
        """Return what is held under `key`, and count it as used."""
        with self._lock:
            found = self._items.get(key)
            if found is not None:
                self._items.move_to_end(key)
            return found

    def put(self, key: Hashable, array: NDArray[Any]) -> None:
        """Hold `array`; one that is larger than the cap is not held."""
        with self._lock:
            self._drop(key)
            if array.nbytes > self._cap_bytes:
                return
            self._shrink(self._cap_bytes - array.nbytes)
            self._items[key] = array
            self._used_bytes += array.nbytes

    def drop_where(self, matches: Callable[[Any], bool]) -> None:
        """Let go of everything whose key matches."""
        with self._lock:
            for key in [key for key in self._items if matches(key)]:
                self._drop(key)

    def clear(self) -> None:
        """Let go of everything."""
        self.drop_where(lambda _: True)

    def _shrink(self, to_bytes: int) -> None:
        while self._used_bytes > to_bytes and self._items:
            _, dropped = self._items.popitem(last=False)
            self._used_bytes -= dropped.nbytes

    def _drop(self, key: Hashable) -> None:
        dropped = self._items.pop(key, None)
        if dropped is not None:
            self._used_bytes -= dropped.nbytes
