from __future__ import annotations

from pathlib import Path

import pytest

from napari_histolatent.errors import AnnotationError, DatasetError
from napari_histolatent.patches import SlideSource, annotations_for, read_batch, require_own_names, slides_in

# Which annotations are a slide's


def test_a_file_of_annotations_is_taken_as_it_is(tmp_path: Path) -> None:
    assert annotations_for(Path("a.svs"), tmp_path / "any.json") == tmp_path / "any.json"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.geojson"], "a.geojson"),
        (["a.json"], "a.json"),
        (["a.csv", "a.tif", "a.geojson"], "a.geojson"),  # a mask and measurements beside
        (["b.geojson", "a.json"], "a.json"),
        (["a.xml"], "a.xml"),
        (["a.annotations"], "a.annotations"),
        (["a.ndpa"], "a.ndpa"),
        (["a.tif"], "a.tif"),
        (["a.csv"], "a.csv"),
    ],
)
def test_in_a_folder_the_name_of_the_slide_counts(tmp_path: Path, files: list[str], expected: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    assert annotations_for(Path("slides/a.svs"), tmp_path) == tmp_path / expected


def test_a_folder_without_the_slides_annotations(tmp_path: Path) -> None:
    (tmp_path / "b.geojson").write_text("{}")
    with pytest.raises(
        AnnotationError,
        match=r"holds no annotations of a\.svs \(a\.xml, a\.geojson, .*\); add them or leave the slide out\.",
    ):
        annotations_for(Path("a.svs"), tmp_path)


def test_several_annotations_of_a_slide_are_refused(tmp_path: Path) -> None:
    for name in ("a.json", "a.geojson"):
        (tmp_path / name).write_text("{}")
    words = r"holds several annotations of a\.svs \(a\.geojson, a\.json\); keep one of them, or name the file"
    with pytest.raises(AnnotationError, match=words):
        annotations_for(Path("a.svs"), tmp_path)


def test_slides_of_one_name_do_not_share_a_folder_of_annotations() -> None:
    require_own_names([Path("x/a.svs"), Path("x/b.svs")])
    with pytest.raises(
        DatasetError, match=r"^x/a\.svs and y/a\.tiff are both called a, .* in a table \(CSV\)\.$"
    ):
        require_own_names([Path("x/a.svs"), Path("x/b.svs"), Path("y/a.tiff")])


def test_a_slide_is_not_its_own_mask(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    with pytest.raises(AnnotationError, match=r"holds no annotations of a\.tif"):
        annotations_for(tmp_path / "a.tif", tmp_path)
    (tmp_path / "a.geojson").write_text("{}")
    assert annotations_for(tmp_path / "a.tif", tmp_path) == tmp_path / "a.geojson"


# A folder of slides


def test_the_slides_of_a_folder_by_name(tmp_path: Path) -> None:
    for name in ("b.svs", "a.NDPI", "c.tiff", "notes.txt", "a.geojson"):
        (tmp_path / name).write_text("")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "d.svs").write_text("")
    assert [path.name for path in slides_in(tmp_path)] == ["a.NDPI", "b.svs", "c.tiff"]


def test_a_folder_without_slides(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(
        DatasetError, match=r"holds no slide \(.*\.svs.*\); name another folder, or the slides"
    ):
        slides_in(tmp_path)


# A table


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "batch.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_table_of_all_columns(tmp_path: Path) -> None:
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "b.xml").write_text("")
    (tmp_path / "deep").mkdir()
    text = (
        "slide,annotation,patient,label,mpp,mask,coords\n"
        "a.svs,a.xml,p1,,0.25,m.png,c.h5\n"
        "\n"
        '"deep/b.svs",xml,"Müller, A.",stroma,,,\n'
        "/slides/c.svs,,,,,,,,\n"
    )
    assert read_batch(table(tmp_path, text)) == [
        SlideSource(
            tmp_path / "a.svs",
            tmp_path / "a.xml",
            patient="p1",
            mpp=0.25,
            mask=tmp_path / "m.png",
            coords=tmp_path / "c.h5",
        ),
        SlideSource(
            tmp_path / "deep" / "b.svs", tmp_path / "xml" / "b.xml", patient="Müller, A.", label="stroma"
        ),
        SlideSource(Path("/slides/c.svs")),
    ]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("slide;patient;mpp\na.svs;p1;0,25\n", "utf-8"),
        ("slide\tpatient\tmpp\r\na.svs\tp1\t0.25\r\n", "utf-8"),
        ("Slide, Case, MPP\na.svs, p1, 0.25\n", "utf-8-sig"),
    ],
)
def test_a_table_as_other_programs_write_it(tmp_path: Path, text: str, encoding: str) -> None:
    assert read_batch(table(tmp_path, text, encoding)) == [
        SlideSource(tmp_path / "a.svs", patient="p1", mpp=0.25)
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"batch\.csv has the columns \(none\); give it a first line with slide and any of annotation"),
        ("patient\np1\n", r"has the columns patient; give it a first line with slide"),
        ("slide,colour\na.svs,red\n", r"has the columns colour, which mean nothing here; give it"),
        ("slide,slide\na.svs,b.svs\n", r"has the columns slide, slide; give it"),
        ("slide,patient\n", r"batch\.csv names no slide; add a line for each"),
        ("slide,patient\na.svs,p\n,p\n", r"^Line 3 of .*batch\.csv names no slide; fill it in, or remove"),
        (
            'slide,patient\n"a\nb.svs",p\nc,1.svs,p\n',
            r"^Line 4 of .* has 3 cells, its first line names 2 columns",
        ),
        ("slide,annotation,patient\na.svs,p\n", r"^Line 2 of .* has 2 cells, its first line names 3 columns"),
        ("slide,mpp\na.svs,wide\n", r"^Line 2 of .* gives the pixel size 'wide'; give µm per pixel"),
        ("slide,mpp\na.svs,-1\n", r"gives the pixel size '-1'"),
        ("slide,mpp\na.svs,nan\n", r"gives the pixel size 'nan'"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        read_batch(table(tmp_path, text))


def test_line_ends_within_a_cell_are_part_of_it(tmp_path: Path) -> None:
    read = read_batch(table(tmp_path, 'slide;patient\n"a\nb.svs";p1\nc\u2028d.svs;p2\n'))
    assert [(v.slide.name, v.patient) for v in read] == [("a\nb.svs", "p1"), ("c\u2028d.svs", "p2")]


def test_a_table_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"batch\.csv cannot be read \(.*\); save it as CSV in UTF-8"):
        read_batch(table(tmp_path, "slide,patient\na.svs,Müller\n", "latin-1"))


def test_a_table_names_a_folder_without_the_slides_regions(tmp_path: Path) -> None:
    (tmp_path / "xml").mkdir()
    with pytest.raises(AnnotationError, match=r"holds no annotations of a\.svs"):
        read_batch(table(tmp_path, "slide,annotation\na.svs,xml\n"))


def test_a_table_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"slides\.csv does not exist; choose a CSV table of slides"):
        read_batch(tmp_path / "slides.csv")
