from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from npe2 import PluginManifest
from npe2.io_utils import read

from napari_histolatent._napari._layers import KEY
from napari_histolatent._napari._readers import NOTHING_TO_ADD, get_slide_reader, read_slides
from napari_histolatent.slides import write_synthetic_slide
from tests._napari.helpers import add

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_histolatent._napari._layers import LayerData

ROOT = Path(__file__).parents[2]
READER = "napari-histolatent.read_slide"


@pytest.fixture
def plugins(npe2pm: Any) -> Iterator[Any]:
    """A plugin manager that knows our manifest alone."""
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        yield npe2pm


@pytest.fixture
def three_slides(tmp_path: Path) -> list[Path]:
    """Slides of different pixels, not in the order of their names."""
    paths = [tmp_path / f"{name}.tiff" for name in ("c", "a", "b")]
    for i, path in enumerate(paths):
        write_synthetic_slide(path, size_px=(768 - 128 * i, 512), seed=i)
    return paths


def names(layers: list[LayerData]) -> list[str]:
    return [options["name"] for _, options, _ in layers]


def test_all_that_the_manifest_names_is_there() -> None:
    manifest = PluginManifest.from_file(ROOT / "napari.yaml")
    manifest.validate_imports()
    contributions = manifest.contributions
    commands = {command.id for command in contributions.commands}
    in_menus = [item.command for items in contributions.menus.values() for item in items]
    samples = [(item.key, item.command) for item in contributions.sample_data]
    assert [item.display_name for item in contributions.widgets] == [
        "Slide",
        "Regions",
        "Patches",
        "Train",
        "Edit",
    ]
    readers = [item.command for item in contributions.readers]
    assert readers == [READER, "napari-histolatent.read_dataset"]
    opening = ("open_slide", "open_slide_folder", "open_dataset")
    assert in_menus == [f"napari-histolatent.{name}" for name in opening]
    assert list(contributions.menus) == ["napari/file/io_utilities"]
    assert [key for key, _ in samples] == ["cmu", "synthetic", "generated"]
    used = {*readers, *in_menus, *(command for _, command in samples)}
    assert used | {item.command for item in contributions.widgets} == commands


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


@pytest.mark.parametrize(
    "name",
    [
        *("a.svs", "a.SVS", "a.ndpi", "a.mrxs", "a.scn", "a.bif", "a.vms", "a.vmu", "a.svslide"),
        *("a.qptiff", "a.QPTIFF", "a.ome.tif", "a.ome.tiff", "a.OME.TIFF", "a.ome.btf", "a.ome.tf2"),
    ],
)
def test_a_slide_is_read_by_us(plugins: Any, name: str) -> None:
    assert [reader.command for reader in plugins.iter_compatible_readers(name)] == [READER]


@pytest.mark.parametrize(
    "name", ["a.tif", "a.tiff", "a.btf", "a.dcm", "a.png", "a.geojson", "svs", "aome.tif"]
)
def test_pictures_of_others_are_left_to_them(plugins: Any, name: str) -> None:
    assert list(plugins.iter_compatible_readers(name)) == []


@pytest.mark.parametrize("name", ["a.svs", "a.ome.tif", "a.zarr", "dicom"])
def test_a_folder_is_left_to_the_menu_and_the_dock(plugins: Any, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert list(plugins.iter_compatible_readers(str(folder))) == []


def test_a_real_slide_becomes_an_overview_and_a_multiscale_layer_in_micrometres(
    plugins: Any, viewer: Any, cmu_slide: Path
) -> None:
    overview, layer = (add(viewer, data) for data in read([str(cmu_slide)], stack=False))
    assert [v.metadata[KEY]["role"] for v in viewer.layers] == ["overview", "slide"]
    assert layer.name == "CMU-1-Small-Region.svs"
    assert layer.multiscale
    assert layer.rgb
    assert tuple(layer.level_shapes[0]) == (2968, 2220), "padded to what the coarsest level needs"
    assert layer.metadata[KEY]["height_px"] == 2967
    assert tuple(layer.scale) == pytest.approx((0.499, 0.499))
    assert overview.name == "CMU-1-Small-Region.svs overview"
    assert not overview.multiscale
    assert max(overview.data.shape) <= 2048
    for one in (overview, layer):
        assert [str(unit) for unit in one.units] == ["micrometer", "micrometer"]
        assert one.visible, "there is no window that would show it later"
    # Both lie on the same place: to half a pixel of the coarser one.
    assert overview.extent.world == pytest.approx(layer.extent.world, abs=2 * 0.499)


def test_several_slides_become_two_layers_each_in_the_order_they_were_named(
    three_slides: list[Path], qtbot: Any
) -> None:
    expected = [name for v in ("c.tiff", "a.tiff", "b.tiff") for name in (f"{v} overview", v)]
    assert names(read_slides([str(path) for path in three_slides])) == expected


def test_a_broken_one_among_good_ones_is_one_sentence(
    three_slides: list[Path], qtbot: Any, data_dir: Path, errors: list[str]
) -> None:
    broken = data_dir / "slides" / "fixtures" / "broken.svs"
    layers = read_slides([str(path) for path in (three_slides[0], broken, three_slides[1])])
    assert names(layers)[1::2] == ["c.tiff", "a.tiff"]
    assert len(errors) == 1
    assert errors[0].startswith("broken.svs ")
    assert errors[0].endswith(".")
    assert "\n" not in errors[0]


def test_nothing_is_opened_before_the_reader_is_called(tmp_path: Path, errors: list[str]) -> None:
    assert get_slide_reader(str(tmp_path / "nowhere.svs")) is read_slides
    assert get_slide_reader([str(tmp_path / "nowhere.svs")]) is read_slides
    assert get_slide_reader([]) is None
    assert get_slide_reader("") is None
    assert errors == []


@pytest.mark.parametrize("one", [str, lambda path: [str(path)]])
def test_napari_hears_of_a_broken_slide_once_and_adds_nothing(
    plugins: Any, data_dir: Path, errors: list[str], one: Callable[[Path], str | list[str]]
) -> None:
    """An error raised here would bring up a dialog that asks for another reader."""
    assert read_slides(one(data_dir / "slides" / "fixtures" / "broken.svs")) == NOTHING_TO_ADD
    assert len(errors) == 1
    assert "broken.svs" in errors[0]


def test_a_missing_slide_hinders_no_other(tiny_slide: Path, tmp_path: Path, errors: list[str]) -> None:
    layers = read_slides([str(tmp_path / "nowhere.svs"), str(tiny_slide)])
    assert names(layers) == ["tiny.tiff overview", "tiny.tiff"]
    assert len(errors) == 1
    assert "nowhere.svs" in errors[0]
