from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from npe2 import PluginManifest
from npe2.io_utils import read

from napari_histolatent._napari._readers import get_slide_reader, read_slides, slide_layer_of
from napari_histolatent.errors import SlideError
from tests._napari.helpers import add

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
READER = "napari-histolatent.read_slide"


@pytest.fixture
def plugins(npe2pm: Any) -> Iterator[Any]:
    """A plugin manager that knows our manifest alone."""
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        yield npe2pm


def test_all_that_the_manifest_names_is_there() -> None:
    manifest = PluginManifest.from_file(ROOT / "napari.yaml")
    manifest.validate_imports()
    commands = {command.id for command in manifest.contributions.commands}
    assert {item.command for item in manifest.contributions.widgets} < commands
    assert {item.command for item in manifest.contributions.readers} == {READER}
    assert [item.display_name for item in manifest.contributions.widgets] == ["Patches", "Train", "Edit"]


def test_the_installed_manifest_is_the_file_at_the_top() -> None:
    installed, ours = (
        PluginManifest.from_distribution("napari-histolatent"),
        PluginManifest.from_file(ROOT / "napari.yaml"),
    )
    message = "napari.yaml was changed after the package was installed: reinstall"
    written = (ROOT / "napari.yaml").read_text(encoding="utf-8")
    assert files("napari_histolatent_manifest").joinpath("napari.yaml").read_text() == written, message
    assert installed.contributions == ours.contributions, message
    assert (installed.name, installed.display_name, installed.categories) == (
        ours.name,
        ours.display_name,
        ours.categories,
    ), message


@pytest.mark.parametrize("name", ["a.svs", "a.SVS", "a.ndpi", "a.mrxs", "a.scn", "a.bif", "a.svslide"])
def test_a_slide_is_read_by_us(plugins: Any, name: str) -> None:
    assert [reader.command for reader in plugins.iter_compatible_readers(name)] == [READER]


@pytest.mark.parametrize("name", ["a.tif", "a.tiff", "a.ome.tif", "a.png", "a.geojson", "svs"])
def test_pictures_of_others_are_left_to_them(plugins: Any, name: str) -> None:
    assert list(plugins.iter_compatible_readers(name)) == []


def test_a_folder_is_not_a_slide(plugins: Any, tmp_path: Path) -> None:
    folder = tmp_path / "a.svs"
    folder.mkdir()
    assert list(plugins.iter_compatible_readers(str(folder))) == []


def test_a_real_slide_becomes_one_multiscale_layer_in_micrometres(
    plugins: Any, viewer: Any, cmu_slide: Path
) -> None:
    (data,) = read([str(cmu_slide)], stack=False)
    layer = add(viewer, data)
    assert layer.name == "CMU-1-Small-Region.svs"
    assert layer.multiscale
    assert layer.rgb
    assert tuple(layer.level_shapes[0]) == (2967, 2220)
    assert tuple(layer.scale) == pytest.approx((0.499, 0.499))
    assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]


def test_several_slides_become_a_layer_each(tiny_slide: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.tiff"
    other.write_bytes(tiny_slide.read_bytes())
    layers = read_slides([str(tiny_slide), str(other)])
    assert [options["name"] for _, options, _ in layers] == ["tiny.tiff", "other.tiff"]


def test_nothing_is_opened_before_the_reader_is_called(tmp_path: Path, errors: list[str]) -> None:
    assert get_slide_reader(str(tmp_path / "nowhere.svs")) is read_slides
    assert get_slide_reader([]) is None
    assert errors == []


def test_a_broken_slide_is_refused_in_one_sentence(data_dir: Path) -> None:
    with pytest.raises(SlideError) as caught:
        slide_layer_of(str(data_dir / "slides" / "fixtures" / "broken.svs"))
    assert "broken.svs" in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_napari_hears_of_a_broken_slide_once_and_adds_nothing(
    plugins: Any, data_dir: Path, errors: list[str]
) -> None:
    """An error raised here would bring up a dialog that asks for another reader."""
    path = str(data_dir / "slides" / "fixtures" / "broken.svs")
    assert read([path], stack=False) == [(None,)]
    assert len(errors) == 1
    assert "broken.svs" in errors[0]


def test_a_broken_slide_hinders_no_other(tiny_slide: Path, tmp_path: Path, errors: list[str]) -> None:
    layers = read_slides([str(tmp_path / "nowhere.svs"), str(tiny_slide)])
    assert [options["name"] for _, options, _ in layers] == ["tiny.tiff"]
    assert len(errors) == 1
    assert "nowhere.svs" in errors[0]
