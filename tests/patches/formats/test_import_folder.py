from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import PatchDataset, SplitSpec
from napari_histolatent.patches.formats import export_image_folder, import_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def picture(path: Path, *, size: tuple[int, int] = (8, 8), mode: str = "RGB", seed: int = 0) -> np.ndarray:
    """Write a picture of noise and return its pixels."""
    rng = np.random.default_rng(seed)
    channels = () if mode in ("L", "I;16") else (3,)
    kind = np.uint16 if mode == "I;16" else np.uint8
    pixels = rng.integers(0, 256, (size[1], size[0], *channels)).astype(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def table(
    path: Path, rows: Sequence[Sequence[str]], header: str = "file,label,group", bom: bool = False
) -> Path:
    text = "\n".join([header, *(",".join(row) for row in rows)]) + "\n"
    path.write_text(text, encoding="utf-8-sig" if bom else "utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of three pictures."""
    for i in range(3):
        picture(tmp_path / "in" / "a" / f"{i}.png", seed=i)
        picture(tmp_path / "in" / "b" / "deeper" / f"{i}.PNG", seed=10 + i)
    (tmp_path / "in" / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "in" / ".hidden").mkdir()
    picture(tmp_path / "in" / ".hidden" / "0.png")
    return tmp_path / "in"


# --- folders of classes


def test_folders_are_classes_and_files_stand_in_order(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = import_folder(folder, out=tmp_path / "out", mpp=0.5, on_progress=lambda *at: seen.append(at))
    data = PatchDataset(tmp_path / "out")
    assert data.classes == ("a", "b")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for i in range(3):
        np.testing.assert_array_equal(data[i][0], np.asarray(Image.open(folder / "a" / f"{i}.png")))
        np.testing.assert_array_equal(
            data[3 + i][0], np.asarray(Image.open(folder / "b/deeper" / f"{i}.PNG"))
        )
    assert (data.size_px, data.mpp) == (8, 0.5)
    assert report["classes"] == {"a": 3, "b": 3}
    assert sum(report["splits"].values()) == 6
    assert seen[-1] == (6, 6)
    assert "one by one" in " ".join(report["messages"])
    assert len(set(data.columns["slide"])) == 6


def test_the_same_files_give_the_same_bytes(
    folder: Path, tmp_path: Path, files_of: Callable[[Path], dict[str, bytes]]
) -> None:
    import_folder(folder, out=tmp_path / "one")
    import_folder(folder, out=tmp_path / "two")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_copies_of_a_picture_stay_in_one_split(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i in range(12):
            picture(tmp_path / "in" / name / f"{i}.png", seed=i % 4 + 100 * (name == "b"))
    import_folder(tmp_path / "in", out=tmp_path / "out", split=SplitSpec(fractions=(0.5, 0.25, 0.25)))
    columns = PatchDataset(tmp_path / "out").columns
    splits_of: dict[str, set[str]] = {}
    for slide, split in zip(columns["slide"], columns["split"], strict=True):
        splits_of.setdefault(slide, set()).add(split)
    assert len(splits_of) == 8
    assert all(len(splits) == 1 for splits in splits_of.values())


def test_classes_are_chosen_and_ordered(folder: Path, tmp_path: Path) -> None:
    import_folder(folder, out=tmp_path / "both", classes=["b", "a"])
    assert PatchDataset(tmp_path / "both").labels.tolist() == [1, 1, 1, 0, 0, 0]
    import_folder(folder, out=tmp_path / "one", classes=["b"])
    assert len(PatchDataset(tmp_path / "one")) == 3
    with pytest.raises(DatasetError, match=r"class 'c'; choose among a, b"):
        import_folder(folder, out=tmp_path / "none", classes=["c"])


def test_grey_pictures_become_grey_in_colour(tmp_path: Path) -> None:
    grey = picture(tmp_path / "in" / "a" / "0.tif", mode="L")
    import_folder(tmp_path / "in", out=tmp_path / "out")
    np.testing.assert_array_equal(PatchDataset(tmp_path / "out")[0][0], np.repeat(grey[..., None], 3, axis=2))


# --- sizes


def test_larger_pictures_are_averaged(tmp_path: Path) -> None:
    large = picture(tmp_path / "in" / "a" / "0.png", size=(12, 12), seed=1)
    small = picture(tmp_path / "in" / "a" / "1.png", size=(4, 4), seed=2)
    report = import_folder(tmp_path / "in", out=tmp_path / "out", size_px=4, mpp=0.5)
    data = PatchDataset(tmp_path / "out")
    expected = large.reshape(4, 3, 4, 3, 3).mean(axis=(1, 3))
    assert np.abs(data[0][0] - expected).max() < 0.6  # Pillow's rounding
    np.testing.assert_array_equal(data[1][0], small)
    assert report["mpp"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("size", "size_px", "sentence"),
    [
        ((8, 9), None, r"b/0.png has 8 x 9 px, but patches are square"),
        ((9, 9), None, r"b/0.png has 9 x 9 px, a/0.png 8 x 8"),
        ((6, 6), 8, r"b/0.png has 6 x 6 px, fewer than the 8"),
        ((8, 8), 0, r"side of 0 px"),
    ],
)
def test_sizes_that_do_not_fit_are_a_sentence(
    size: tuple[int, int], size_px: int | None, sentence: str, tmp_path: Path
) -> None:
    picture(tmp_path / "in" / "a" / "0.png")
    picture(tmp_path / "in" / "b" / "0.png", size=size)
    with pytest.raises(DatasetError, match=sentence):
        import_folder(tmp_path / "in", out=tmp_path / "out", size_px=size_px)
    assert not (tmp_path / "out").exists()


# --- tables


def test_a_table_names_files_classes_and_groups(folder: Path, tmp_path: Path) -> None:
    rows = [
        ("b/deeper/2.PNG", "x", "g1"),
        ("a/0.png", "y", "g1"),
        (str(folder / "a" / "1.png"), "x", "g2"),
        (r"b\deeper\0.PNG", "y", "g3"),
    ]
    # With the mark that Excel puts first, and from Windows.
    report = import_folder(folder, labels=table(tmp_path / "l.csv", rows, bom=True), out=tmp_path / "out")
    data = PatchDataset(tmp_path / "out")
    assert [entry["path"] for entry in data.settings["slides"]] == [
        "a/0.png",
        "a/1.png",
        "b/deeper/0.PNG",
        "b/deeper/2.PNG",
    ]
    assert [data.classes[i] for i in data.labels] == ["y", "x", "y", "x"]
    assert list(data.columns["patient"]) == ["g1", "g2", "g3", "g1"]
    assert data.columns["split"][0] == data.columns["split"][3]
    assert report["groups"] == 3
    assert report["not_listed"] == 3  # one of them hidden below a folder


@pytest.mark.parametrize(
    ("rows", "header", "sentence"),
    [
        ([("a/0.png", "x", "g")], "name,label,group", r"no column 'file' \(it has name, label, group\)"),
        ([("a/0.png", "x", "g")], "file,kind,group", "no column 'class'"),
        (
            [("a/0.png", "x", "g"), ("a/./0.png", "x", "g")],
            "file,label,group",
            r"a/0.png twice \(lines 2 and 3\)",
        ),
        ([("a/9.png", "x", "g"), ("a/8.png", "x", "g")], "file,label,group", "a/8.png and 1 more"),
        ([("../out.png", "x", "g")], "file,label,group", "lies outside"),
        ([("a/../../out.png", "x", "g")], "file,label,group", "lies outside"),
        ([("/etc/hosts", "x", "g")], "file,label,group", "lies outside"),
        ([("a/0.png", " ", "g")], "file,label,group", "line 2, gives a/0.png no label"),
        ([("", "x", "g")], "file,label,group", "line 2, names no file"),
        ([("a/0.png",)], "file,label,group", "gives a/0.png no label"),
        ([("a/0.png", "x", "fold 3")], "file,label,split", "line 2, has the split 'fold 3'"),
        ([], "file,label,group", "names no picture"),
    ],
)
def test_a_table_that_does_not_fit_is_a_sentence(
    rows: list[tuple[str, ...]], header: str, sentence: str, folder: Path, tmp_path: Path
) -> None:
    picture(tmp_path / "out.png")
    with pytest.raises(DatasetError, match=sentence):
        import_folder(folder, labels=table(tmp_path / "l.csv", rows, header), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_that_cannot_be_read_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        import_folder(folder, labels=tmp_path / "none.csv", out=tmp_path / "out")
    (tmp_path / "l.csv").write_bytes("file,label\na/0.png,Krebs größer".encode("latin-1"))
    with pytest.raises(DatasetError, match="is no UTF-8"):
        import_folder(folder, labels=tmp_path / "l.csv", out=tmp_path / "out")
    (tmp_path / "l.csv").write_bytes(b"")
    with pytest.raises(DatasetError, match="it has none"):
        import_folder(folder, labels=tmp_path / "l.csv", out=tmp_path / "out")


# --- what is wrong with folders and pictures


def test_a_folder_without_classes_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        import_folder(tmp_path / "in", out=tmp_path / "out")
    (tmp_path / "in" / "a").mkdir(parents=True)
    with pytest.raises(DatasetError, match="holds no folder with pictures"):
        import_folder(tmp_path / "in", out=tmp_path / "out")
    picture(tmp_path / "in" / "loose.png")
    with pytest.raises(DatasetError, match="lie in no folder of a class"):
        import_folder(tmp_path / "in", out=tmp_path / "out")


def test_pictures_that_cannot_be_read_are_a_sentence(folder: Path, tmp_path: Path) -> None:
    (folder / "b" / "0.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"0\.jpg cannot be read as a picture"):
        import_folder(folder, out=tmp_path / "out")
    # A head that is whole, and pixels that end too soon: seen while the dataset is written.
    picture(folder / "b" / "0.jpg")
    data = (folder / "b" / "0.jpg").read_bytes()
    (folder / "b" / "0.jpg").write_bytes(data[: len(data) - 60])
    with pytest.raises(DatasetError, match=r"0\.jpg cannot be read as a picture"):
        import_folder(folder, out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("name", ["grey.png", "color.png", "color.tif"])
def test_sixteen_bits_are_refused_and_not_cut_off(name: str, folder: Path, tmp_path: Path) -> None:
    path, color = folder / "a" / name, np.zeros((8, 8, 3), np.uint16)
    if name == "grey.png":
        picture(path, mode="I;16")
    elif name == "color.png":
        path.write_bytes(imagecodecs.png_encode(color))
    else:
        tifffile.imwrite(path, color, photometric="rgb")
    with pytest.raises(DatasetError, match=rf"{name} has more than 8 bits"):
        import_folder(folder, out=tmp_path / "out")


def test_stopping_leaves_nothing_and_what_exists_stays(folder: Path, tmp_path: Path) -> None:
    for answers, sentence in (([True], "stopped before any of 6"), ([False, True], "stopped after 6 of 6")):
        asked = iter(answers)
        with pytest.raises(DatasetError, match=sentence):
            import_folder(folder, out=tmp_path / "out", should_stop=lambda asked=asked: next(asked))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    import_folder(folder, out=tmp_path / "out", classes=["a"])
    with pytest.raises(DatasetError, match="exists already"):
        import_folder(folder, out=tmp_path / "out")
    import_folder(folder, out=tmp_path / "out", overwrite=True)
    assert len(PatchDataset(tmp_path / "out")) == 6


# --- round trips


def index_of(data: PatchDataset) -> dict[bytes, tuple[Any, ...]]:
    names = ("label", "split", "patient", "slide", "x", "y", "width_level0_px", "mpp")
    return {data[i][0].tobytes(): tuple(data.columns[name][i] for name in names) for i in range(len(data))}


def test_an_export_comes_back_with_pixels_labels_splits_and_places(
    dataset: PatchDataset, tmp_path: Path
) -> None:
    export_image_folder(dataset, tmp_path / "png")
    # Slide d2 has no patient: the table says the slide for its group, which becomes one.
    expected = {
        key: (*values[:2], values[2] or values[3], *values[3:]) for key, values in index_of(dataset).items()
    }
    report = import_folder(tmp_path / "png", labels=tmp_path / "png" / "labels.csv", out=tmp_path / "back")
    back = PatchDataset(tmp_path / "back")
    assert len(back) == 7
    assert back.classes == ("a", "b/c")
    assert index_of(back) == expected
    assert report["splits"] == {"test": 3, "train": 4}
    assert [(entry["digest"], entry["name"]) for entry in back.settings["slides"]] == [
        ("d2", "two.x"),
        ("d1", "one"),
    ]
    # Without the table the folders' names are the classes.
    import_folder(tmp_path / "png", out=tmp_path / "again")
    again = PatchDataset(tmp_path / "again")
    assert again.classes == ("a", "b_c")
    assert {k: (v[0].replace("/", "_"), *v[1:]) for k, v in index_of(dataset).items()} == index_of(again)


def test_groups_that_folders_tear_apart_are_named(dataset: PatchDataset, tmp_path: Path) -> None:
    out = tmp_path / "png"
    export_image_folder(dataset, out)
    (out / "train/a/one_0_0_32.png").rename(out / "test/a/one_0_0_32.png")
    report = import_folder(out, out=tmp_path / "torn")
    assert any("1 groups (the first: p1) are in more than one split" in said for said in report["messages"])
    import_folder(out, out=tmp_path / "anew", split=SplitSpec(fractions=(0.5, 0, 0.5)))
    columns = PatchDataset(tmp_path / "anew").columns
    assert (
        len({split for slide, split in zip(columns["slide"], columns["split"], strict=True) if slide == "d1"})
        == 1
    )


def test_what_a_picture_says_of_itself_is_not_trusted(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    (tmp_path / "in" / "a").mkdir(parents=True)
    for i, said in enumerate(
        ('{"slide_digest": 7, "left": "x", "mpp": -1}', '{"patient": [1], "left": 1e400}', "[1]", "{")
    ):
        text = PngInfo()
        text.add_text("histolatent", said)
        pixels = np.full((8, 8, 3), i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / "a" / f"{i}.png", pnginfo=text)
    import_folder(tmp_path / "in", out=tmp_path / "out")
    columns = PatchDataset(tmp_path / "out").columns
    assert list(columns["patient"]) == [""] * 4
    assert np.isnan(columns["mpp"]).all()
    assert np.isnan(columns["width_level0_px"]).all()


# --- real pictures


def test_tiles_of_one_source_are_in_one_split(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "patches" / "lc25000_lung"
    with (source / "labels.csv").open(encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    groups: dict[str, list[dict[str, str]]] = {}
    for row in listed:
        groups.setdefault(row["group"], []).append(row)
    several = [rows for rows in groups.values() if len(rows) >= 4]
    normal = [rows for rows in several if rows[0]["label"] == "normal"][:8]
    tumour = [rows for rows in several if rows[0]["label"] == "tumour"][:8]
    chosen = [row for rows in normal + tumour for row in rows[:4]]
    labels = table(tmp_path / "l.csv", [(row["file"], row["label"], row["group"]) for row in chosen])
    split = SplitSpec(fractions=(0.5, 0.25, 0.25))
    report = import_folder(source, labels=labels, out=tmp_path / "out", split=split)
    data = PatchDataset(tmp_path / "out")
    assert len(data) == 64
    assert report["groups"] == 16
    assert report["classes"] == {"normal": 32, "tumour": 32}
    splits_of: dict[str, set[str]] = {}
    for group, part in zip(data.columns["patient"], data.columns["split"], strict=True):
        splits_of.setdefault(group, set()).add(part)
    assert {group: len(parts) for group, parts in splits_of.items()} == dict.fromkeys(splits_of, 1)
    assert set().union(*splits_of.values()) == {"train", "val", "test"}
    # Lossless: the pixels that the JPEG decodes to.
    by_file = sorted(chosen, key=lambda row: row["file"])
    for i in (0, 17, 63):
        with Image.open(source / by_file[i]["file"]) as image:
            np.testing.assert_array_equal(data[i][0], np.asarray(image))
        assert data.columns["label"][i] == by_file[i]["label"]
