"""The plugin's page of napari's preferences."""

from __future__ import annotations

from typing import Any

from napari_histolatent._napari.viewing import cache

_PLUGIN = "napari-histolatent"
_MIB = 1 << 20


def apply_cache_cap() -> None:
    """Give the cache of tiles the cap that is set in the preferences, now and whenever it changes."""
    viewing = _page("viewing")
    if viewing is not None:
        _take_cap()
        viewing.events.cache_mb.connect(_take_cap)  # napari keeps one connection of a function, however often


def _take_cap() -> None:
    viewing = _page("viewing")
    if viewing is not None:
        cache().set_cap(viewing.cache_mb * _MIB)


def keeps_regions_beside_slide() -> bool:
    """Return whether the user asked for regions to be kept in the slide's folder."""
    regions = _page("regions")
    return regions is not None and bool(regions.beside_slide)


def _page(name: str) -> Any:
    """Return a page of our settings, or None where napari does not know the plugin (a script, a test)."""
    from napari.settings import get_plugin_settings

    try:
        return getattr(get_plugin_settings(_PLUGIN), name)
    except (KeyError, AttributeError, ValueError):
        return None
