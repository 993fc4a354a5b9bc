from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from shapely.geometry import LineString, MultiPoint, Point, box

from napari_histolatent.annotations._region import Annotations, Region
from napari_histolatent.annotations.formats._csv import CSV
from napari_histolatent.annotations.formats._format import WriteOptions
from napari_histolatent.errors import AnnotationError
from napari_histolatent.slides import Level, SlideInfo

if TYPE_CHECKING:
    from napari_histolatent.annotations._marks import SourceFile


def slide(mpp: tuple[float, float] | None) -> SlideInfo:
    return SlideInfo(
        Path("s.tif"), "array", None, "0", (Level(100, 100, 1.0),), mpp[0] if mpp else None, mpp[1] if mpp else None,
        None, (0, 0, 100, 100), (255, 255, 255), (),
    )  # fmt: skip


def read(tmp_path: Path, text: str, encoding: str = "utf-8", info: SlideInfo | None = None) -> SourceFile:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode(encoding))
    assert CSV.recognises(path)
    return CSV.read(path, info)


def points(source: SourceFile) -> list[list[float]]:
    return [mark.rings[0].tolist()[0] for mark in source.marks]


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n1.5,2\n3,4\n",
        "Y,X\r\n2,1.5\r\n4,3\r\n",
        "x_px;y_px\n1,5;2\n3;4\n",
        "a\tCentroid X px\tCentroid Y px\nq\t1.5\t2\nr\t3\t4\n",
        "1.5,2\n3,4\n",
        "1,5;2\n\n3;4",
        "\n\nX [px],Y [px]\n1.5,2\n,\n3,4\n",
        "x,y,Centroid X µm,Centroid Y µm\n1.5,2,9,9\n3,4,9,9\n",
    ],
)
def test_every_form_of_table(tmp_path: Path, text: str) -> None:
    source = read(tmp_path, text)
    assert points(source) == [[1.5, 2], [3, 4]]
    assert {mark.kind for mark in source.marks} == {"points"}
    assert source.dropped == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_classes_names_and_ids_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    source = read(tmp_path, 'Object ID,Name,Classification,X,Y\nu1,"a, b",Drüse µ,1,2\nu2,,,3,4\n', encoding)
    assert [(m.id, m.name, m.class_name) for m in source.marks] == [("u1", "a, b", "Drüse µ"), ("u2", "", "")]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("header", ["Centroid X µm;Centroid Y µm", "x_um;y_um", "X (microns);Y (microns)"])
def test_micrometres_need_the_pixel_size(tmp_path: Path, header: str, encoding: str) -> None:
    text = f"{header}\n10;20\n"
    source = read(tmp_path, text, encoding, slide((0.5, 0.25)))
    assert points(source) == [[20, 80]]
    assert len(source.messages) == 1
    for info in (None, slide(None)):
        with pytest.raises(AnnotationError, match=r"^a\.csv has its coordinates in micrometres and .*; give"):
            read(tmp_path, text, encoding, info)


def test_bad_rows_are_dropped_with_their_line(tmp_path: Path) -> None:
    source = read(tmp_path, "x,y,class\n1,2,a\nfoo,3,a\n\n4\n5,nan,a\n6,7,b\n")
    assert points(source) == [[1, 2], [6, 7]]
    assert source.dropped == (
        'line 3 dropped: "foo" is not a number',
        "line 5 dropped: it has too few columns",
        'line 6 dropped: "nan" is not a number',
    )
    assert source.marks[1].where == "line 7"


@pytest.mark.parametrize("data", [b"", b"hello", b"a,b\n1,2\n", b"1\n2\n", b"\x00\x01,2\n", b"x\n1\n"])
def test_other_files_are_not_recognised(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    assert not CSV.recognises(tmp_path / "a.csv")
    assert not CSV.recognises(tmp_path / "missing.csv")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    regions = (
        Region("1", "Drüse, rot", Point(0.1 + 0.2, 2e6), name='a "b"'),
        Region("2", "unclassified", MultiPoint([(1, 2), (3, 4)])),
    )
    assert CSV.write is not None
    CSV.write(tmp_path / "a.tmp", Annotations(regions, format="drawn"), WriteOptions())
    assert CSV.recognises(tmp_path / "a.tmp")
    source = CSV.read(tmp_path / "a.tmp", None)
    assert points(source) == [[0.1 + 0.2, 2e6], [1, 2], [3, 4]]
    assert [(m.id, m.name, m.class_name) for m in source.marks] == [
        ("1", 'a "b"', "Drüse, rot"),
        ("2", "", ""),
        ("2", "", ""),
    ]
    CSV.write(tmp_path / "b", Annotations(regions[1:], format="drawn"), WriteOptions(offset_xy=(10, -1)))
    assert points(CSV.read(tmp_path / "b", None)) == [[11, 1], [13, 3]]


def test_areas_and_lines_are_refused(tmp_path: Path) -> None:
    regions = tuple(
        Region(str(i), "a", g)
        for i, g in enumerate([box(0, 0, 1, 1), LineString([(0, 0), (1, 1)]), Point(0, 0)])
    )
    assert CSV.write is not None
    with pytest.raises(AnnotationError, match=r"cannot hold the 1 areas and 1 lines .* write GeoJSON"):
        CSV.write(tmp_path / "a", Annotations(regions, format="drawn"), WriteOptions())
