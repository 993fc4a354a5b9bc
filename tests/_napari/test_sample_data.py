from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent._napari import _sample_data
from napari_histolatent._napari._layers import KEY
from napari_histolatent._napari._sample_data import cmu_slide, synthetic_slide
from napari_histolatent._napari.viewing import cache, is_settled
from napari_histolatent.errors import SlideError
from napari_histolatent.jobs import demo_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
ROLES = ["overview", "slide"]


@pytest.fixture
def window(make_napari_viewer: Callable[..., Any], npe2pm: Any) -> Iterator[Any]:
    """A window that knows our plugin."""
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        yield make_napari_viewer(show=True)
    cache().clear()


def no_network() -> Path:
    msg = "no route to host"
    raise OSError(msg)


@pytest.mark.gui
def test_the_drawn_sample_is_opened_and_shown(window: Any, qtbot: Any, own_data_dir: Path) -> None:
    layers = window.open_sample("napari-histolatent", "synthetic")
    assert [layer.metadata[KEY]["role"] for layer in layers] == ROLES
    assert [layer.name for layer in window.layers] == ["SYNTHETIC-slide.tif overview", "SYNTHETIC-slide.tif"]
    assert all(layer.visible for layer in layers)
    qtbot.waitUntil(lambda: is_settled(layers[1]), timeout=20_000)
    assert window.canvas.overlays.scale_bar.visible
    assert (own_data_dir / "samples" / "SYNTHETIC-slide.tif").is_file()


@pytest.mark.gui
def test_the_real_sample_is_downloaded_beside_the_window_and_opened(
    window: Any, qtbot: Any, cmu_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, ran_on = threading.get_ident(), []
    monkeypatch.setattr(
        demo_slide, "downloaded_slide", lambda: ran_on.append(threading.get_ident()) or cmu_slide
    )
    layers = window.open_sample("napari-histolatent", "cmu")
    assert [layer.metadata[KEY]["role"] for layer in layers] == ROLES
    assert layers[1].name == "CMU-1-Small-Region.svs"
    assert ran_on
    assert main not in ran_on


@pytest.mark.gui
def test_without_a_network_the_real_sample_is_one_sentence(
    window: Any, qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_slide, "downloaded_slide", no_network)
    with pytest.raises(SlideError) as caught:
        window.open_sample("napari-histolatent", "cmu")
    sentence = str(caught.value)
    assert sentence.startswith("The sample slide could not be downloaded (OSError)")
    assert "Synthetic slide" in sentence
    assert "\n" not in sentence
    assert list(window.layers) == []


def test_samples_are_had_without_a_window(
    qtbot: Any, cmu_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_slide, "downloaded_slide", lambda: cmu_slide)
    for sample in (synthetic_slide, _sample_data.cmu_slide):
        assert [options["metadata"][KEY]["role"] for _, options, _ in sample()] == ROLES


def test_the_drawn_sample_is_drawn_once(qtbot: Any, own_data_dir: Path) -> None:
    synthetic_slide()
    path = own_data_dir / "samples" / "SYNTHETIC-slide.tif"
    written = path.stat().st_mtime_ns
    synthetic_slide()
    assert path.stat().st_mtime_ns == written


@pytest.mark.parametrize("error", [OSError("gone"), ValueError("wrong checksum")])
def test_whatever_hinders_the_download_is_a_sentence(
    qtbot: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails() -> Path:
        raise error

    monkeypatch.setattr(demo_slide, "downloaded_slide", fails)
    with pytest.raises(SlideError, match=rf"\({type(error).__name__}\)"):
        cmu_slide()
