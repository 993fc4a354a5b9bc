from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from npe2 import PluginManifest

from napari_histolatent._napari._opening import prepare
from napari_histolatent._napari._settings import apply_cache_cap
from napari_histolatent._napari.viewing import cache

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def cap_as_before() -> Iterator[None]:
    """Other tests find the cap as it was."""
    before = cache().cap_bytes
    yield
    cache().set_cap(before)


@pytest.fixture
def viewing(plugin_settings: None, npe2pm: Any) -> Iterator[Any]:
    """Our page of the preferences, saved in the test's own folder."""
    from napari.settings import get_plugin_settings

    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        yield get_plugin_settings("napari-histolatent").viewing


def test_the_default_is_a_gibibyte() -> None:
    manifest = PluginManifest.from_file(ROOT / "napari.yaml")
    setting = manifest.contributions.configurations["viewing"].properties["cache_mb"]
    assert setting.default == 1024
    assert cache().cap_bytes == 1024 * MIB


def test_the_cap_is_taken_at_once_and_whenever_it_changes(viewing: Any) -> None:
    assert viewing.cache_mb == 1024
    viewing.cache_mb = 512
    assert cache().cap_bytes == 1024 * MIB, "nobody asked for slides yet"
    apply_cache_cap()
    assert cache().cap_bytes == 512 * MIB
    viewing.cache_mb = 300
    assert cache().cap_bytes == 300 * MIB


def test_a_cap_is_heard_once_however_many_slides_were_opened(viewing: Any) -> None:
    before = len(viewing.events.cache_mb.callbacks)
    for _ in range(5):
        apply_cache_cap()
    assert len(viewing.events.cache_mb.callbacks) == before + 1


def test_others_who_listen_to_the_setting_still_do(viewing: Any) -> None:
    """napari's preferences dialog does, to show it."""
    heard: list[int] = []
    viewing.events.cache_mb.connect(lambda event: heard.append(event.value))
    apply_cache_cap()
    apply_cache_cap()
    viewing.cache_mb = 700
    assert heard == [700]


def test_the_setting_is_saved(viewing: Any) -> None:
    from napari.settings import get_plugin_settings

    apply_cache_cap()
    viewing.cache_mb = 640
    assert "cache_mb: 640" in get_plugin_settings("napari-histolatent").config_path.read_text()


@pytest.mark.parametrize("cache_mb", [0, 255, 65537])
def test_a_cap_out_of_bounds_is_refused_by_napari(viewing: Any, cache_mb: int) -> None:
    apply_cache_cap()
    with pytest.raises(ValueError, match="cache_mb"):
        viewing.cache_mb = cache_mb
    assert cache().cap_bytes == 1024 * MIB


def test_a_viewer_that_is_made_ready_for_slides_has_the_cap(viewing: Any, viewer: Any) -> None:
    viewing.cache_mb = 400
    prepare(viewer)
    assert cache().cap_bytes == 400 * MIB


def test_where_napari_does_not_know_the_plugin_the_cap_stays(plugin_settings: None, npe2pm: Any) -> None:
    apply_cache_cap()
    assert cache().cap_bytes == 1024 * MIB
