"""Whose turn it is to ask a classifier: one thread's at a time."""

from __future__ import annotations

from threading import RLock

CLASSIFYING = RLock()
"""Held while a classifier is asked. Grad-CAM hangs hooks on the network itself, and a pass of another thread through the
same network meanwhile would be taken for its own: docks ask beside a search, and beside a path."""
