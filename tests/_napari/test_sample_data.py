from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from napari.utils import progress
from safetensors.torch import save_file

from napari_histolatent._files import digest_of_file
from napari_histolatent._napari import _sample_data
from napari_histolatent._napari._layers import KEY
from napari_histolatent._napari._sample_data import cmu_slide, generated_slide, synthetic_slide
from napari_histolatent._napari.viewing import cache, is_settled
from napari_histolatent.errors import CheckpointError, SlideError
from napari_histolatent.jobs import demo_slide, sample_slide
from napari_histolatent.models import build_gan
from napari_histolatent.training import shipped
from napari_histolatent.training.checkpoint import FORMAT_VERSION, Checkpoint

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
    assert all(layer.metadata[KEY]["synthetic"] for layer in layers)
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


@pytest.fixture
def tiny_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """A generator with random weights in the place of the shipped one, and slides of 256 px."""
    torch.manual_seed(0)
    network, _ = build_gan("cdcgan", classes=("a", "b"), size_px=16, z_dim=6, base_channels=4)
    assert isinstance(network, torch.nn.Module)
    folder = tmp_path / "shipped" / "generator"
    folder.mkdir(parents=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    facts = {
        "format_version": FORMAT_VERSION,
        "kind": "gan",
        "step": 0,
        "steps": 0,
        "config": {"size_px": 16, "z_dim": 6, "base_channels": 4},
        "classes": ["a", "b"],
        "size_px": 16,
        "mpp": 2.0,
        "dataset_digest": "",
        "digest": digest_of_file(folder / "model.safetensors"),
        "metrics": {},
    }
    (folder / "checkpoint.json").write_text(json.dumps(facts))
    monkeypatch.setattr(shipped, "_root", lambda: folder.parent)
    small = partial(sample_slide.write_generated_slide, size_px=256)
    monkeypatch.setattr(sample_slide, "write_generated_slide", small)
    return Checkpoint.open(folder)


@pytest.mark.gui
def test_the_generators_slide_is_written_once_opened_and_marked(
    window: Any, qtbot: Any, own_data_dir: Path, tiny_generator: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, ran_on = threading.get_ident(), []
    write = sample_slide.write_generated_slide

    def watched(*arguments: Any, **options: Any) -> None:
        ran_on.append(threading.get_ident())
        write(*arguments, **options)

    monkeypatch.setattr(sample_slide, "write_generated_slide", watched)
    layers = window.open_sample("napari-histolatent", "generated")
    name = f"SYNTHETIC-lung-{tiny_generator.digest[:8]}.tif"
    assert [layer.name for layer in window.layers] == [f"{name} overview", name]
    assert [layer.metadata[KEY]["role"] for layer in layers] == ROLES
    assert all(layer.metadata[KEY]["synthetic"] for layer in layers)
    qtbot.waitUntil(lambda: is_settled(layers[1]), timeout=20_000)
    path = own_data_dir / "samples" / name
    written = path.stat().st_mtime_ns
    assert path.with_suffix(".geojson").is_file()
    window.open_sample("napari-histolatent", "generated")
    assert path.stat().st_mtime_ns == written
    assert len(ran_on) == 1
    assert main not in ran_on


def test_without_a_shipped_generator_its_slide_is_a_sentence(
    qtbot: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "_root", lambda: tmp_path)
    with pytest.raises(CheckpointError, match="ships no trained model yet"):
        generated_slide()


@pytest.mark.gui
def test_a_slide_being_drawn_shows_how_far_it_is(window: Any, qtbot: Any) -> None:
    rows = _sample_data._RowsDone()
    bars = progress._all_instances
    before = set(bars)
    with rows.shown("Drawing"):
        qtbot.waitUntil(lambda: len(set(bars) - before) == 1)
        (bar,) = set(bars) - before
        assert (bar.n, bar.desc) == (0, "Drawing"), "how many rows there are is not known yet"
        rows(3, 8)
        qtbot.waitUntil(lambda: bar.n == 3)
        assert bar.total == 8
        rows(7, 8)
        qtbot.waitUntil(lambda: bar.n == 7)
    assert set(bars) == before


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
