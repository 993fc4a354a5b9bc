"""Which networks the Edit dock works with, and what it says of a slide without a pixel size."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent._napari._layers import slide_layer, world_of
from napari_histolatent._napari._session import session_of
from napari_histolatent._napari.widgets.edit_binding import EditBinding
from napari_histolatent._napari.widgets.edit_view import EditView
from napari_histolatent.runs._index import remember
from napari_histolatent.slides import open_slide
from tests._napari.helpers import add, click

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests._napari.conftest import Trained


@pytest.fixture
def view(qtbot: Any) -> EditView:
    widget = EditView()
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def binding(qtbot: Any, proxy: Any, view: EditView, listed: Trained) -> Iterator[EditBinding]:
    made = EditBinding(proxy, view)
    idle(qtbot, made)
    yield made
    made.close()


def idle(qtbot: Any, binding: EditBinding) -> None:
    qtbot.waitUntil(lambda: not binding.is_busy, timeout=60_000)


def choose(box: Any, data: str) -> None:
    index = box.findData(data)
    box.setCurrentIndex(index)
    box.activated.emit(index)


def copied(run: Path, to: Path, *changes: tuple[str, str]) -> Path:
    """Copy a run, with other words in its checkpoint.json."""
    shutil.copytree(run, to)
    (info,) = to.glob("checkpoints/*/checkpoint.json")
    for old, new in changes:
        info.write_text(info.read_text().replace(old, new))
    remember(to)
    return to


def refresh(qtbot: Any, viewer: Any, binding: EditBinding) -> None:
    session_of(viewer).runs_changed.emit()
    idle(qtbot, binding)


def test_a_newer_classifier_of_other_classes_is_not_taken(
    qtbot: Any,
    viewer: Any,
    view: EditView,
    binding: EditBinding,
    listed: Trained,
    tmp_path: Path,
    errors: Any,
) -> None:
    other = copied(listed.classifier, tmp_path / "other", ("stroma", "fat"))
    fitting = copied(listed.generator, tmp_path / "fitting", ("stroma", "fat"))
    refresh(qtbot, viewer, binding)
    assert view.classifier_box.currentData() == str(listed.classifier)
    choose(view.generator_box, str(fitting))
    idle(qtbot, binding)
    assert view.classifier_box.currentData() == str(other), "each generator gets its own"
    assert errors == []


def test_no_network_answers_while_another_is_named(
    qtbot: Any,
    viewer: Any,
    view: EditView,
    binding: EditBinding,
    listed: Trained,
    tmp_path: Path,
    errors: Any,
) -> None:
    other = copied(listed.classifier, tmp_path / "other", ("stroma", "fat"))
    refresh(qtbot, viewer, binding)
    choose(view.classifier_box, str(other))
    assert binding.models is None
    idle(qtbot, binding)
    assert len(errors) == 1
    assert "fat" in errors[0]
    assert binding.models is None
    assert "could not be loaded" in view.models_note.text()
    assert not view.search_button.isEnabled()


def test_a_run_that_learnt_on_is_loaded_again(
    qtbot: Any, viewer: Any, view: EditView, binding: EditBinding, listed: Trained, tmp_path: Path
) -> None:
    run = copied(listed.generator, tmp_path / "going")
    refresh(qtbot, viewer, binding)
    choose(view.generator_box, str(run))
    idle(qtbot, binding)
    before = binding.models
    assert before.generator.checkpoint.step == 2
    (old,) = (run / "checkpoints").glob("step-*")
    newer = old.with_name("step-00000009")
    shutil.copytree(old, newer)
    info = newer / "checkpoint.json"
    info.write_text(info.read_text().replace('"step": 2', '"step": 9'))
    refresh(qtbot, viewer, binding)
    assert binding.models.generator.checkpoint.step == 9
    assert "step 9" in view.models_note.text()
    now = binding.models
    refresh(qtbot, viewer, binding)
    assert binding.models is now, "only once"


def test_a_slide_without_a_pixel_size_is_cut_at_level_0(
    qtbot: Any, viewer: Any, view: EditView, binding: EditBinding, data_dir: Path, errors: list[str]
) -> None:
    with open_slide(data_dir / "slides" / "TCGA-CR-7395-01A-01-TS1.svs") as slide:
        assert slide.info.mpp_x is None
        add(viewer, slide_layer(slide))
        view.pick_button.click()
        click(viewer, world_of((500.5, 400.5), slide.info))
        idle(qtbot, binding)
        left, top, right, bottom = binding._state.tile.level0_box
        assert (right - left, bottom - top) == (32, 32)
        assert "cut at level 0" in view.tile_note.text()
        assert errors == []
