"""What goes wrong in an extraction: each a sentence with the remedy, and nothing half-made left to be mistaken."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from napari_histolatent.errors import DatasetError, SlideError, UserError
from napari_histolatent.patches import (
    GridSpec,
    PatchDataset,
    SlideSource,
    SplitSpec,
    StoreSpec,
    extract,
    working_folder,
)
from napari_histolatent.patches._workers import Threads, WorkersEndedError
from tests.patches.drawn import (
    EVERYWHERE,
    MANY,
    RECIPE,
    content,
    damaged_slide,
    left_beside,
    regions,
    write_tiff,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip(f"no disk can be mounted here: {made.stderr.decode()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


# The disk


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("share", [0.02, 0.5, 0.75])
def test_a_full_disk_is_said_and_what_is_done_is_kept(
    source: SlideSource, small_disk: Path, tmp_path: Path, share: float
) -> None:
    extract([source], tmp_path / "elsewhere", recipe=MANY)
    needed = sum(path.stat().st_blocks * 512 for path in (tmp_path / "elsewhere").rglob("*"))
    assert needed < 1_800_000
    (small_disk / "filler").write_bytes(bytes((2 << 20) - round(needed * share)))
    with pytest.raises(
        UserError, match=r"^Cannot write to .*ds: the disk is full .*; free some space or choose"
    ):
        extract([source], small_disk / "ds", recipe=MANY)
    assert not (small_disk / "ds").exists()
    (small_disk / "filler").unlink()
    report = extract([source], small_disk / "ds", recipe=MANY)
    assert (report.taken_up > 0) == (share >= 0.5)
    assert content(small_disk / "ds") == content(tmp_path / "elsewhere")
    assert left_beside(small_disk / "ds") == []


def test_a_disk_that_is_read_only(source: SlideSource, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(
        UserError, match=r"^Cannot write to .*ds: it is read-only .*; choose an output folder"
    ):
        extract([source], small_disk / "ds", recipe=RECIPE)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.EROFS, "it is read-only .*; choose an output folder you may write to"),
        (errno.ENOSPC, "the disk is full .*; free some space"),
    ],
)
def test_the_last_step_that_cannot_be_written(
    source: SlideSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, sentence: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, "refused")

    with monkeypatch.context() as patch:
        patch.setattr("napari_histolatent.patches._write.pq.write_table", refuse)
        with pytest.raises(UserError, match=f"^Cannot write to .*ds: {sentence}"):
            extract([source], tmp_path / "ds", recipe=RECIPE)
    assert left_beside(tmp_path / "ds") == ["ds.part"]
    with pytest.raises(DatasetError, match="is not a patch dataset"):
        PatchDataset(working_folder(tmp_path / "ds"))


# The output folder


def test_an_existing_folder_is_left_alone(source: SlideSource, tmp_path: Path) -> None:
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "mine").write_text("here first")
    with pytest.raises(DatasetError, match=r"ds exists already and is no dataset; name another folder\.$"):
        extract([source], tmp_path / "ds", recipe=RECIPE)
    with pytest.raises(DatasetError, match=r"ds exists and is not a patch dataset, so it is not overwritten"):
        extract([source], tmp_path / "ds", recipe=RECIPE, overwrite=True)
    assert [p.name for p in (tmp_path / "ds").iterdir()] == ["mine"]
    assert [p.name for p in tmp_path.iterdir()] == ["ds"]


def test_a_file_in_place_of_the_parent_folder(source: SlideSource, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here first")
    with pytest.raises(UserError, match=r"Cannot write to .*ds: a file is in the way"):
        extract([source], tmp_path / "file" / "ds", recipe=RECIPE)


# Slides


def test_slides_that_fail_are_listed_and_the_others_cut(
    source: SlideSource, data_dir: Path, tmp_path: Path
) -> None:
    fixtures = data_dir / "slides" / "fixtures"
    bad = [
        replace(source, slide=path)
        for path in (fixtures / "broken.svs", fixtures / "unreadable.svs", tmp_path / "nowhere.svs")
    ]
    no_mpp = replace(source, slide=data_dir / "slides" / "TCGA-CR-7395-01A-01-TS1.svs")
    no_regions = replace(source, annotations=tmp_path / "nowhere.geojson")
    report = extract([*bad, source, no_mpp, no_regions], tmp_path / "ds", recipe=RECIPE)
    expected = [
        "broken.svs is not",
        "unreadable.svs opens, but",
        "does not exist",
        "mpp missing",
        "does not exist",
    ]
    assert len(report.failed) == 5
    assert all(part in sentence for part, sentence in zip(expected, report.failed, strict=True))
    assert all(sentence.endswith(".") and "\n" not in sentence for sentence in report.failed)
    assert PatchDataset(tmp_path / "ds").settings["failed"] == list(report.failed)
    alone = extract([source], tmp_path / "alone", recipe=RECIPE)
    assert (report.patches, report.splits) == (alone.patches, alone.splits)
    assert (tmp_path / "ds" / "index.parquet").read_bytes() == (
        tmp_path / "alone" / "index.parquet"
    ).read_bytes()


def test_one_slide_that_fails_alone_says_why(source: SlideSource, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"nowhere\.svs does not exist"):
        extract([replace(source, slide=tmp_path / "nowhere.svs")], tmp_path / "ds", recipe=RECIPE)


def test_if_all_slides_fail_the_first_reason_is_given(source: SlideSource, tmp_path: Path) -> None:
    sources = [replace(source, slide=tmp_path / name) for name in ("a.svs", "b.svs")]
    with pytest.raises(
        DatasetError, match=r"None of the 2 slides could be used; the first: .*a\.svs does not exist"
    ):
        extract(sources, tmp_path / "ds", recipe=RECIPE)


def test_no_slides_are_an_error_of_the_user(tmp_path: Path) -> None:
    # BUG: IndexError, as there is no first reason.
    with pytest.raises(DatasetError, match="There is no slide to cut; give at least one"):
        extract([], tmp_path / "ds", recipe=RECIPE)
    assert list(tmp_path.iterdir()) == []


def test_the_only_slide_fails_while_it_is_cut(tmp_path: Path) -> None:
    damaged_slide(tmp_path / "damaged.tiff")
    shapes = regions(tmp_path, ("epithelium", (512, 0, 1100, 256)), ("stroma", (512, 256, 1100, 512)))
    recipe = replace(RECIPE, grid=GridSpec(size_px=64, level=0), tissue=EVERYWHERE)
    with pytest.raises(
        UserError, match=r"damaged\.tiff opens, but its pixels at x=\d+, y=\d+ cannot be read"
    ):
        extract([SlideSource(tmp_path / "damaged.tiff", shapes)], tmp_path / "ds", recipe=recipe)
    assert not (tmp_path / "ds").exists()


def test_a_patch_larger_than_the_slide(source: SlideSource, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"tiny\.tiff is 768 x 640 px, smaller than one patch of 2048 level-0"
    ):
        extract([source], tmp_path / "ds", recipe=RECIPE.changed(grid={"size_px": 1024, "stride_px": None}))


def test_a_slide_without_tissue(tmp_path: Path) -> None:
    write_tiff(tmp_path / "glass.tiff", np.full((512, 512, 3), 243, np.uint8))
    shapes = regions(tmp_path, ("a", (0, 0, 512, 512)))
    # A fixed threshold: Otsu's finds two halves in anything.
    recipe = RECIPE.changed(tissue={"method": "fixed", "threshold": 20.0})
    with pytest.raises(
        DatasetError, match=r"^glass\.tiff shows no tissue to the mask \(fixed\); choose another"
    ):
        extract([SlideSource(tmp_path / "glass.tiff", shapes)], tmp_path / "ds", recipe=recipe)


def test_a_mask_of_the_users_own_that_is_empty(source: SlideSource, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 77), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(UserError, match=r"tissue"):
        extract([replace(source, mask=tmp_path / "mask.png")], tmp_path / "ds", recipe=RECIPE)


# Classes


@pytest.mark.parametrize(
    ("shapes", "changes"),
    [
        # Too small to fill three quarters of a patch.
        ([("a", (100, 100, 350, 400)), ("tiny", (500, 300, 520, 320))], {}),
        # On glass.
        ([("a", (100, 100, 350, 400)), ("glass", (0, 0, 70, 70))], {}),
        # Smaller than a patch of the grid, and asked for whole.
        (
            [("a", (100, 100, 350, 400)), ("b", (400, 300, 470, 370))],
            {"labels": {"rule": "inside"}, "grid": {"stride_px": None}},
        ),
    ],
)
def test_a_class_without_patches_is_an_error_and_not_a_silence(
    tiny_slide: Path, tmp_path: Path, shapes: Any, changes: Any
) -> None:
    source = SlideSource(tiny_slide, regions(tmp_path, *shapes))
    recipe = RECIPE.changed(**changes)
    sentence = rf"^Class '{shapes[1][0]}' has no patches of 32 px \(rule '{recipe.labels.rule}', threshold 0\.75, tissue at least"
    with pytest.raises(DatasetError, match=sentence):
        extract([source], tmp_path / "ds", recipe=recipe)


def test_a_class_that_the_recipe_names_and_no_region_has(source: SlideSource, tmp_path: Path) -> None:
    recipe = RECIPE.changed(labels={"exclude": ("necrosis",)})
    with pytest.raises(
        DatasetError,
        match="No region has the class 'necrosis' that the label rule names; the classes are: epithelium, stroma",
    ):
        extract([source], tmp_path / "ds", recipe=recipe)


def test_regions_that_contradict_each_other_are_settled_by_the_rule_and_both_stored(
    tiny_slide: Path, tmp_path: Path
) -> None:
    # The same ground is said to be both; the shares say so, and a priority decides.
    both = (100, 200, 350, 450)
    shapes = regions(
        tmp_path, ("a", both), ("b", both), ("b", (420, 200, 650, 450)), ("a", (352, 60, 418, 200))
    )
    recipe = replace(RECIPE, tissue=EVERYWHERE).changed(split={"fractions": (1, 0, 0)})
    for first, second in (("a", "b"), ("b", "a")):
        changed = recipe.changed(labels={"rule": "priority", "priority": (first, second)})
        extract([SlideSource(tiny_slide, shapes)], tmp_path / first, recipe=changed)
        columns = PatchDataset(tmp_path / first).columns
        is_both = (columns["coverage_a"] > 0.99) & (columns["coverage_b"] > 0.99)
        assert is_both.sum() > 10
        assert set(columns["label"][is_both]) == {first}
        assert columns["annotated"].max() <= 1


def test_a_class_that_never_trains_is_an_error(
    source: SlideSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if every patch of the second class had been given to val.
    monkeypatch.setattr("napari_histolatent.patches._plan.assign_splits", lambda **given: given["labels"])
    with pytest.raises(
        DatasetError, match=r"^Class 'stroma' has no patch left in the training split; annotate more"
    ):
        extract([source], tmp_path / "ds", recipe=RECIPE)


def test_limits_of_quality_that_leave_nothing(source: SlideSource, tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError,
        match=r"^\d+ of \d+ patches do not pass the quality limits, .*: Class 'epithelium' has no patch left in the training split; loosen the limits",
    ):
        extract([source], tmp_path / "ds", recipe=RECIPE.changed(quality={"min_focus": 1e9}))
    assert not (tmp_path / "ds").exists()


# Opening what was made


def test_a_slide_that_ends_the_workers_is_named(
    cohort: list[SlideSource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fatal(Threads):
        """Comes to its end over the second slide."""

        def run(self, function: Any, items: Any, *_: Any, **__: Any) -> Iterator[Any]:
            for i, item in enumerate(items):
                if isinstance(item, SlideSource) and i == 1:
                    yield i, None, WorkersEndedError("It ended every worker that tried it.")
                else:
                    yield i, function(item), None

    monkeypatch.setattr("napari_histolatent.patches._extract.workers_of", lambda *_: nullcontext(Fatal(1)))
    (sentence,) = extract(cohort, tmp_path / "ds", recipe=RECIPE).failed
    assert sentence.startswith("1.tiff ended every worker that tried to plan it; look at their logs")


def test_limits_of_quality_need_pixels(source: SlideSource, tmp_path: Path) -> None:
    recipe = RECIPE.changed(quality={"max_pen": 0.1}, store={"index_only": True})
    with pytest.raises(
        DatasetError, match="need the pixels, which an index-only dataset does not read; leave"
    ):
        extract([source], tmp_path / "ds", recipe=recipe)


def test_what_other_versions_began_is_not_gone_on_with(
    source: SlideSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("napari_histolatent.patches._extract.finish_dataset", killed)
        with pytest.raises(MemoryError):
            extract([source], tmp_path / "ds", recipe=RECIPE)
    monkeypatch.setattr("shapely.__version__", "99.1")
    with pytest.raises(
        DatasetError, match=r"that other versions began \(shapely [\d.]+ then, 99\.1 now\); finish"
    ):
        extract([source], tmp_path / "ds", recipe=RECIPE)


def test_a_dataset_written_by_a_newer_version(source: SlideSource, tmp_path: Path) -> None:
    extract([source], tmp_path / "ds", recipe=RECIPE)
    file = tmp_path / "ds" / "dataset.json"
    file.write_text(file.read_text().replace('"format_version": 2', '"format_version": 3'))
    with pytest.raises(
        DatasetError, match="has dataset format 3, this version reads 2; update napari-histolatent or cut"
    ):
        PatchDataset(tmp_path / "ds")


def test_the_slide_of_an_index_only_dataset_is_gone_or_another(
    cohort: list[SlideSource], tmp_path: Path
) -> None:
    slide = tmp_path / "slide.tiff"
    shutil.copy(cohort[0].slide, slide)
    recipe = replace(RECIPE, store=StoreSpec(index_only=True), split=SplitSpec(block_patches=2))
    extract([replace(cohort[0], slide=slide)], tmp_path / "ds", recipe=recipe)
    slide.unlink()
    with pytest.raises(SlideError, match=r"slide\.tiff does not exist"):
        PatchDataset(tmp_path / "ds")[0]
    shutil.copy(cohort[1].slide, slide)
    with pytest.raises(SlideError, match=r"slide\.tiff is not the file that the patches were planned on"):
        PatchDataset(tmp_path / "ds")[0]
