from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from npe2.io_utils import read

from napari_histolatent._napari import _readers
from napari_histolatent._napari._dataset_layer import (
    PatchStack,
    caption_stacks,
    dataset_layer,
    left_of,
    open_dataset,
)
from napari_histolatent._napari._layers import KEY
from napari_histolatent._napari._readers import NOTHING_TO_ADD, get_dataset_reader, read_datasets
from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import PatchDataset, recipe_of, relabel
from tests._napari.helpers import add

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def dataset(tiny_dataset: Path) -> PatchDataset:
    return PatchDataset(tiny_dataset)


@pytest.fixture
def stack(dataset: PatchDataset) -> PatchStack:
    return PatchStack(dataset)


@pytest.fixture
def broken(tiny_dataset: Path, tmp_path: Path) -> Path:
    """A dataset whose pixels are gone."""
    copy = Path(shutil.copytree(tiny_dataset, tmp_path / "broken"))
    shutil.rmtree(copy / "pixels.zarr")
    return copy


@pytest.fixture
def plugins(npe2pm: Any) -> Iterator[Any]:
    """A plugin manager that knows our manifest alone."""
    with npe2pm.tmp_plugin(manifest=ROOT / "napari.yaml"):
        yield npe2pm


# The array


@pytest.mark.parametrize(
    "key",
    [
        np.s_[3],
        np.s_[-1],
        np.s_[np.int64(5)],
        np.s_[2:9:3],
        np.s_[::-7],
        np.s_[4, 1:5, ::2],
        np.s_[4, ..., 0],
        np.s_[..., 1],
        np.s_[[7, 7, 2]],
        np.s_[[7, 2], 3, :, 1],
        np.s_[5:5],
        np.s_[0, 0, 0, 0],
        np.s_[()],
        np.s_[...],
    ],
)
def test_the_stack_is_indexed_as_the_array_that_it_stands_for(
    stack: PatchStack, dataset: PatchDataset, key: Any
) -> None:
    whole = np.stack([dataset[i][0] for i in range(len(dataset))])
    found = stack[key]
    assert found.dtype == np.uint8
    assert found.shape == whole[key].shape
    assert np.array_equal(found, whole[key])


def test_the_stack_looks_like_an_array(stack: PatchStack, dataset: PatchDataset) -> None:
    whole = np.asarray(stack)
    assert whole.shape == stack.shape == (len(dataset), 32, 32, 3)
    assert (stack.ndim, stack.size, len(stack)) == (whole.ndim, whole.size, len(whole))
    assert np.array_equal(np.asarray(stack, float)[9], dataset[9][0])


def test_a_patch_that_is_not_there_is_an_error_as_with_an_array(stack: PatchStack) -> None:
    with pytest.raises(IndexError):
        stack[len(stack)]


def test_no_more_is_read_than_is_asked_for(
    stack: PatchStack, dataset: PatchDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr(
        dataset, "read", lambda rows: asked.append(list(rows)) or np.zeros((len(rows), 32, 32, 3), np.uint8)
    )
    stack[7, 3:5]
    stack[[2, 1]]
    assert asked == [[7], [2, 1]]


def test_a_stack_larger_than_the_memory_is_not_read_at_once(
    stack: PatchStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_histolatent._napari._dataset_layer._MAX_BYTES", 10 * 32 * 32 * 3)
    assert len(stack[:10]) == 10
    with pytest.raises(DatasetError, match=r"patches at once are .* GB; read fewer"):
        np.asarray(stack)


def test_patches_that_cannot_be_read_are_told_and_grey_or_raised(broken: Path) -> None:
    told: list[str] = []
    found = PatchStack(PatchDataset(broken), on_error=told.append)[2]
    assert (found == 128).all()
    assert len(told) == 1
    assert "are gone" in told[0]
    with pytest.raises(DatasetError, match="are gone"):
        PatchStack(PatchDataset(broken))[2]


# The layer


def test_the_layer_has_a_patch_axis_and_micrometres(viewer: Any, dataset: PatchDataset) -> None:
    layer = add(viewer, dataset_layer(dataset))
    assert layer.name == "tiny"
    assert (layer.rgb, layer.multiscale, layer.ndim) == (True, False, 3)
    assert tuple(layer.axis_labels) == ("patch", "y", "x")
    assert tuple(layer.scale) == (1.0, 1.0, 1.0)
    assert [str(unit) for unit in layer.units] == ["pixel", "micrometer", "micrometer"]
    assert layer.metadata[KEY] == {
        "role": "dataset",
        "path": str(dataset.path),
        "digest": dataset.digest,
    }
    assert json.dumps(layer.metadata[KEY])
    for name in ("label", "split", "slide"):
        assert list(layer.metadata[name]) == list(dataset.columns[name])


def test_the_slider_shows_the_patch_of_its_number(viewer: Any, dataset: PatchDataset) -> None:
    layer = add(viewer, dataset_layer(dataset))
    for row in (0, 5, len(dataset) - 1):
        viewer.dims.set_current_step(0, row)
        assert np.array_equal(layer._slice.image.raw, dataset[row][0])
    assert viewer.dims.nsteps[0] == len(dataset)


def test_an_index_only_dataset_is_a_stack_too(
    viewer: Any, tiny_dataset: Path, dataset: PatchDataset, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_dataset, tmp_path / "index"))
    shutil.rmtree(copy / "pixels.zarr")
    settings = json.loads((copy / "dataset.json").read_text()) | {"pixels": None}
    (copy / "dataset.json").write_text(json.dumps(settings))
    layer = add(viewer, dataset_layer(PatchDataset(copy)))
    viewer.dims.set_current_step(0, 11)
    assert np.array_equal(layer._slice.image.raw, dataset[11][0])


def test_a_view_shows_its_own_patches_and_labels(viewer: Any, dataset: PatchDataset, tmp_path: Path) -> None:
    recipe = recipe_of(dataset).changed(labels={"threshold": 0.999})
    relabel(dataset, tmp_path / "view", recipe=recipe)
    view = PatchDataset(tmp_path / "view")
    assert 0 < len(view) < len(dataset)
    layer = add(viewer, dataset_layer(view))
    viewer.dims.set_current_step(0, len(view) - 1)
    assert np.array_equal(layer._slice.image.raw, view[len(view) - 1][0])
    assert viewer.dims.nsteps[0] == len(view)


def test_a_slider_over_patches_that_are_gone_says_it_once(
    viewer: Any, broken: Path, errors: list[str]
) -> None:
    layer = add(viewer, dataset_layer(PatchDataset(broken)))
    for row in range(4):
        viewer.dims.set_current_step(0, row)
    assert len(errors) == 1
    assert "are gone" in errors[0]
    assert (layer._slice.image.raw == 128).all()


# Its caption


def caption(viewer: Any) -> str | None:
    overlay = viewer.canvas.overlays.text
    return str(overlay.text) if overlay.visible else None


def test_the_canvas_says_which_patch_is_shown(viewer: Any, proxy: Any, dataset: PatchDataset) -> None:
    caption_stacks(proxy)
    assert caption(viewer) is None
    layer = add(viewer, dataset_layer(dataset))
    n, columns = len(dataset), dataset.columns
    viewer.dims.set_current_step(0, 0)
    assert caption(viewer) == (
        f"patch 0: {columns['label'][0]}, {columns['split'][0]}\n"
        f"tiny.tiff at x {columns['x'][0]}, y {columns['y'][0]}"
    )
    viewer.dims.set_current_step(0, n - 1)
    assert caption(viewer).startswith(f"patch {n - 1}: {columns['label'][n - 1]}, ")
    layer.visible = False
    assert caption(viewer) is None
    layer.visible = True
    assert caption(viewer).startswith(f"patch {n - 1}")
    viewer.layers.remove(layer)
    assert caption(viewer) is None


def test_a_text_of_somebody_else_is_left_alone(viewer: Any, dataset: PatchDataset) -> None:
    overlay = viewer.canvas.overlays.text
    overlay.text, overlay.visible = "mine", True
    caption_stacks(viewer)
    viewer.add_image(np.zeros((3, 8, 8)))
    viewer.dims.set_current_step(0, 2)
    assert caption(viewer) == "mine"
    layer = add(viewer, dataset_layer(dataset))
    assert caption(viewer).startswith("patch ")
    viewer.layers.remove(layer)
    assert caption(viewer) == "mine"
    assert overlay.position == "bottom_right"


def test_beyond_the_last_patch_of_a_short_stack_nothing_is_said(viewer: Any, dataset: PatchDataset) -> None:
    caption_stacks(viewer)
    add(viewer, dataset_layer(dataset))
    viewer.add_image(np.zeros((len(dataset) + 5, 8, 8)), visible=False)
    viewer.dims.set_current_step(0, len(dataset) + 2)
    assert caption(viewer) == ""


# Opening it


def test_it_is_opened_beside_what_is_there_and_looked_at(
    qtbot: Any, viewer: Any, proxy: Any, dataset: PatchDataset
) -> None:
    below = viewer.add_image(np.zeros((500, 400)), scale=(0.5, 0.5))
    open_dataset(proxy, dataset.path)
    qtbot.waitUntil(lambda: len(viewer.layers) == 2)
    stack = viewer.layers[1]
    right = stack.extent.world[1][-1]
    assert right < below.extent.world[0][-1], "the slide is not covered"
    assert below.extent.world[0][-1] - right < 32, "and near"
    (low, high), centre = stack.extent.world, viewer.scene.camera.center
    assert low[-1] < centre[-1] < high[-1]
    assert low[-2] < centre[-2] < high[-2]
    assert caption(viewer).startswith("patch 0: ")


def test_alone_it_begins_at_the_origin(qtbot: Any, viewer: Any, dataset: PatchDataset) -> None:
    assert left_of(viewer, 32.0) == 0.0
    open_dataset(viewer, dataset.path)
    qtbot.waitUntil(lambda: len(viewer.layers) == 1)
    # napari's extent goes from the first pixel's centre: its edge is at 0.
    assert viewer.layers[0].extent.world[0][1:] == pytest.approx((0.5, 0.5))


def test_a_folder_that_is_no_dataset_is_one_sentence(
    qtbot: Any, viewer: Any, tmp_path: Path, errors: list[str]
) -> None:
    worker = open_dataset(viewer, tmp_path)
    qtbot.waitUntil(lambda: not worker.is_busy)
    assert len(errors) == 1
    assert "is not a patch dataset" in errors[0]
    assert len(viewer.layers) == 0


# The reader


def test_a_dataset_is_read_by_its_dataset_json(plugins: Any, dataset: PatchDataset) -> None:
    file = dataset.path / "dataset.json"
    assert [r.command for r in plugins.iter_compatible_readers(str(file))] == [
        "napari-histolatent.read_dataset"
    ]
    ((stack, options, kind),) = read([str(file)], stack=False)
    assert (options["name"], kind) == ("tiny", "image")
    assert np.array_equal(stack[3], dataset[3][0])


@pytest.mark.parametrize("name", ["a.json", "mydataset.json", "dataset.json.bak"])
def test_other_files_are_left_to_others(plugins: Any, name: str) -> None:
    assert list(plugins.iter_compatible_readers(name)) == []


def test_a_broken_one_among_good_ones_is_one_sentence_for_the_reader(
    qtbot: Any, dataset: PatchDataset, tmp_path: Path, errors: list[str]
) -> None:
    (tmp_path / "dataset.json").write_text("{")
    found = read_datasets([str(tmp_path / "dataset.json"), str(dataset.path / "dataset.json")])
    assert [options["name"] for _, options, _ in found] == ["tiny"]
    assert len(errors) == 1
    assert "cannot be parsed" in errors[0]
    assert read_datasets(str(tmp_path / "dataset.json")) == NOTHING_TO_ADD


def test_one_that_is_dropped_on_the_window_is_opened_beside_it(
    qtbot: Any, viewer: Any, dataset: PatchDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_readers.napari, "current_viewer", lambda: viewer)
    monkeypatch.setattr(_readers, "is_loop_running", lambda: True)
    reader = get_dataset_reader("dataset.json")
    assert reader is not None
    assert reader(str(dataset.path / "dataset.json")) == NOTHING_TO_ADD
    qtbot.waitUntil(lambda: len(viewer.layers) == 1)
    assert viewer.layers[0].name == "tiny"
