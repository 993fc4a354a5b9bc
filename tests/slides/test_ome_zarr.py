from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

from napari_histolatent.errors import SlideError
from napari_histolatent.slides import Level
from napari_histolatent.slides._channels import Channel, added_up, window_of
from napari_histolatent.slides._ome_zarr import OmeZarrBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

TYPES = {"c": "channel", "t": "time", "z": "space", "y": "space", "x": "space"}


def write_image(
    path: Path,
    levels: list[NDArray[Any]],
    axes: str = "cyx",
    *,
    version: int = 2,
    group: str = "",
    unit: str | None = "micrometer",
    omero: dict[str, Any] | None = None,
    chunk: int = 32,
) -> Path:
    """Write an OME-Zarr as the specification has it: 0.4 on Zarr 2, 0.5 on Zarr 3."""
    root = zarr.open_group(str(path), mode="a", zarr_format=version)
    image = root.create_group(group) if group else root
    for k, values in enumerate(levels):
        chunks = tuple(chunk if axis in "xy" else 1 for axis in axes)
        keys = {"name": "v2", "separator": "/"} if version == 2 else None
        array = image.create_array(
            str(k), shape=values.shape, dtype=values.dtype, chunks=chunks, chunk_key_encoding=keys
        )
        array[:] = values
    described = [
        {"name": a, "type": TYPES[a], **({"unit": unit} if unit and a in "zyx" else {})} for a in axes
    ]
    scale = {"y": 0.25, "x": 0.5}
    multiscale = {
        "axes": described,
        "datasets": [
            {
                "path": str(k),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [scale.get(a, 1.0) * (2**k if a in "xy" else 1) for a in axes]}
                ],
            }
            for k in range(len(levels))
        ],
    }
    if version == 2:
        multiscale["version"] = "0.4"
        image.attrs.update({"multiscales": [multiscale], **({"omero": omero} if omero else {})})
    else:
        image.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [multiscale],
            **({"omero": omero} if omero else {}),
        }
    return path


def drawn(*shape: int, dtype: type = np.uint8, seed: int = 0) -> NDArray[Any]:
    top = 256 if dtype is np.uint8 else 4000
    return np.random.default_rng(seed).integers(0, top, shape).astype(dtype)


def halves(values: NDArray[Any], count: int = 3) -> list[NDArray[Any]]:
    return [values[..., :: 2**k, :: 2**k] for k in range(count)]


def opened(path: Path | str) -> OmeZarrBackend:
    return OmeZarrBackend(str(path), reason="a test")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL at which `tmp_path` is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    serving = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path))
    )
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()
    thread.join()


@pytest.mark.parametrize("version", [2, 3])
def test_levels_pixels_and_facts(tmp_path: Path, version: int) -> None:
    values = drawn(3, 101, 150)
    levels = halves(values)
    backend = opened(write_image(tmp_path / "he.zarr", levels, version=version))
    info = backend.info
    assert (info.backend, info.vendor, info.background) == ("zarr", "ome-zarr", (255, 255, 255))
    assert info.path == tmp_path / "he.zarr"
    assert info.url is None
    assert (info.mpp_x, info.mpp_y, info.mpp_source) == (0.5, 0.25, "OME-Zarr")
    assert info.levels[0] == Level(150, 101, 1.0)
    assert info.levels[1].downsample == pytest.approx((150 / 75 + 101 / 51) / 2)
    for k, level in enumerate(levels):
        height, width = level.shape[1:]
        pixels = backend.read_level(k, (0, 0), (width, height))
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, level.transpose(1, 2, 0))
        down = info.levels[k].downsample
        across = backend.read_level(k, (round((width - 5) * down), round(-3 * down)), (20, 10))
        np.testing.assert_array_equal(across[3:, :5], level.transpose(1, 2, 0)[:7, -5:])
        assert (across[:3] == 255).all()
        assert (across[:, 5:] == 255).all()
    assert (backend.read_level(0, (10_000, 0), (5, 5)) == 255).all()


@pytest.mark.parametrize("axes", ["yx", "cyx", "zyx", "tcyx", "czyx", "tczyx", "yxc"])
def test_axes_in_any_subset_and_order(tmp_path: Path, axes: str) -> None:
    sizes = {"t": 2, "c": 3, "z": 5, "y": 40, "x": 50}
    values = drawn(*(sizes[a] for a in axes))
    backend = opened(write_image(tmp_path / "a.zarr", [values], axes))
    picked = values[tuple({"t": 0, "z": 2}.get(a, slice(None)) for a in axes)]
    if "c" not in axes:
        expected = np.repeat(picked[..., None], 3, axis=2)
    else:
        expected = picked if axes == "yxc" else picked.transpose(1, 2, 0)
    np.testing.assert_array_equal(backend.read_level(0, (0, 0), (50, 40)), expected)
    said = " ".join(backend.info.notes)
    assert ("z plane 3 of 5" in said) == ("z" in axes)
    assert ("time point 1 of 2" in said) == ("t" in axes)


def test_windows_and_colours_that_are_stated(tmp_path: Path) -> None:
    values = drawn(2, 64, 64, dtype=np.uint16)
    omero = {
        "channels": [
            {"label": "DAPI", "color": "0000FF", "window": {"start": 100, "end": 2000}},
            {"color": "00FF00"},
        ]
    }
    backend = opened(write_image(tmp_path / "f.zarr", halves(values, 2), omero=omero))
    coarsest = values[1, ::2, ::2]
    channels = [
        Channel("DAPI", (0, 0, 255), (100, 2000)),
        Channel("channel 2", (0, 255, 0), window_of(coarsest) or (0, 0)),
    ]
    assert backend.info.background == (0, 0, 0)
    assert "DAPI in blue (window 100 to 2000)" in backend.info.notes[0]
    expected = added_up(values.transpose(1, 2, 0), channels)
    np.testing.assert_array_equal(backend.read_level(0, (0, 0), (64, 64)), expected)
    np.testing.assert_array_equal(backend.read_level(0, (13, 7), (9, 5)), expected[7:12, 13:22])


def test_a_large_level_has_windows_of_blocks(tmp_path: Path) -> None:
    values = np.zeros((1100, 1000), np.uint16)
    values[:, ::2] = 1000
    path = write_image(tmp_path / "f.zarr", [values], "yx", chunk=512)
    first, again = opened(path), opened(path)
    assert first.info.notes == again.info.notes
    assert "window 0 to 1000" in first.info.notes[0]


@pytest.mark.parametrize("colors", [["FF0000", "00FF00", "0000FF"], None])
def test_rgb_is_unchanged(tmp_path: Path, colors: list[str] | None) -> None:
    values = drawn(3, 30, 30)
    omero = {"channels": [{"color": c, "window": {"start": 5, "end": 9}} for c in colors]} if colors else None
    backend = opened(write_image(tmp_path / "a.zarr", [values], omero=omero))
    np.testing.assert_array_equal(backend.read_level(0, (0, 0), (30, 30)), values.transpose(1, 2, 0))


def test_the_first_image_of_bioformats2raw(tmp_path: Path) -> None:
    path = write_image(tmp_path / "b.zarr", [drawn(3, 20, 20)], group="0")
    zarr.open_group(str(path), mode="a", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    backend = opened(path)
    assert (backend.info.width_px, backend.info.height_px) == (20, 20)
    backend.close()
    assert backend.read_level(0, (0, 0), (20, 20)).shape == (20, 20, 3)


@pytest.mark.parametrize(
    ("unit", "mpp"), [("nanometer", 0.0005), ("millimeter", 500), (None, None), ("parsec", None)]
)
def test_units(tmp_path: Path, unit: str | None, mpp: float | None) -> None:
    info = opened(write_image(tmp_path / "a.zarr", [drawn(3, 20, 20)], unit=unit)).info
    assert info.mpp_x == (None if mpp is None else pytest.approx(mpp))
    assert info.mpp_source == (None if mpp is None else "OME-Zarr")


def test_the_digest_is_of_the_image_and_not_of_its_place(tmp_path: Path, server: str) -> None:
    path = write_image(tmp_path / "a.zarr", [drawn(3, 20, 20)])
    shutil.copytree(path, tmp_path / "copy.zarr")
    other = write_image(tmp_path / "b.zarr", [drawn(3, 20, 21)])
    digest = opened(path).info.digest
    assert digest == opened(tmp_path / "copy.zarr").info.digest == opened(f"{server}/a.zarr").info.digest
    assert digest != opened(other).info.digest


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    backend = opened(write_image(tmp_path / "a.zarr", halves(drawn(3, 200, 240))))
    boxes = [(k, (x, y)) for k in range(3) for x in range(-10, 240, 61) for y in range(-10, 200, 53)]
    alone = [backend.read_level(k, xy, (40, 40)) for k, xy in boxes]
    backend.close()
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda v: backend.read_level(v[0], v[1], (40, 40)), boxes * 2))
    for a, b in zip(alone * 2, together, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("version", [2, 3])
def test_over_http(tmp_path: Path, server: str, version: int) -> None:
    values = drawn(3, 80, 90)
    write_image(tmp_path / "a slide.zarr", halves(values), version=version)
    backend = opened(f"{server}/a%20slide.zarr/")
    info = backend.info
    assert info.url == f"{server}/a%20slide.zarr"
    assert info.location == info.url
    assert info.path.name == "a slide.zarr"
    pixels = backend.read_level(0, (-2, -2), (100, 100))
    np.testing.assert_array_equal(pixels[2:82, 2:92], values.transpose(1, 2, 0))
    with pytest.raises(SlideError, match="has no associated image named label"):
        backend.read_associated("label")
    assert backend.icc_profile() is None


def test_opening_downloads_one_chunk_at_most(tmp_path: Path) -> None:
    asked: list[str] = []

    class Counting(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    write_image(tmp_path / "a.zarr", halves(drawn(3, 80, 90)))
    serving = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Counting, directory=str(tmp_path))
    )
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    opened(f"http://127.0.0.1:{serving.server_port}/a.zarr")
    serving.shutdown()
    serving.server_close()
    assert asked
    chunks = [path for path in asked if not path.rpartition("/")[2].startswith((".z", "zarr.json"))]
    assert len(chunks) <= 1


def test_a_url_with_nothing_there(server: str) -> None:
    with pytest.raises(SlideError, match=r"^no\.zarr is not an OME-Zarr image .* check the URL"):
        opened(f"{server}/no.zarr")


def test_a_server_that_does_not_answer() -> None:
    with pytest.raises(SlideError, match=r"^http://127\.0\.0\.1:1/a\.zarr cannot be reached \(.+\); check"):
        opened("http://127.0.0.1:1/a.zarr")


def test_a_server_that_goes_away(tmp_path: Path) -> None:
    write_image(tmp_path / "a.zarr", [drawn(3, 40, 40)])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    serving = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    backend = opened(f"http://127.0.0.1:{serving.server_port}/a.zarr")
    serving.shutdown()
    serving.server_close()
    with pytest.raises(
        SlideError, match=r"a\.zarr opens, but its pixels at x=3, y=4 .* check the connection"
    ):
        backend.read_level(0, (3, 4), (10, 10))


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({}, "its metadata name no multiscales"),
        ({"plate": {"wells": []}}, "it is a plate of many images.*plate.zarr/A/1/0"),
        ({"well": {}}, "it is a well of many images"),
        ({"multiscales": []}, "its metadata are not those of OME-Zarr"),
        ({"multiscales": "x"}, "its metadata are not those of OME-Zarr"),
        ({"multiscales": [{"axes": [{"name": "q"}], "datasets": []}]}, "not those of OME-Zarr"),
        ({"multiscales": [{"axes": ["y", "x"], "datasets": []}]}, "it has no levels"),
        ({"multiscales": [{"axes": ["y", "x"], "datasets": [{"path": "7"}]}]}, "its level 7 is missing"),
        ({"multiscales": [{"axes": ["c", "y", "x"], "datasets": [{"path": "0"}]}]}, "the shape"),
    ],
)
def test_metadata_that_are_refused(tmp_path: Path, attributes: dict[str, Any], sentence: str) -> None:
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    root.create_array("0", shape=(5, 5), dtype="uint8")
    root.attrs.update(attributes)
    with pytest.raises(SlideError, match=sentence) as caught:
        opened(tmp_path / "a.zarr")
    assert str(caught.value).startswith("a.zarr is not an OME-Zarr image that can be opened (")


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint32", "bool"])
def test_other_kinds_of_pixels_are_refused(tmp_path: Path, dtype: str) -> None:
    path = write_image(tmp_path / "a.zarr", [drawn(3, 8, 8).astype(dtype)])
    with pytest.raises(SlideError, match=rf"of the kind {dtype}; .* convert it to uint8 or uint16"):
        opened(path)


def test_chunks_that_would_take_the_memory(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [drawn(8, 8)], "yx")
    file = path / "0" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chunks": [1 << 20, 1 << 20]}))
    with pytest.raises(SlideError, match="chunks of 1,099,511,627,776 bytes"):
        opened(path)


def test_a_folder_that_is_no_zarr(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="there is no Zarr group"):
        opened(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"zarr_format": 9}', b"\xff\x00"])
@pytest.mark.parametrize("name", [".zgroup", ".zattrs", "0/.zarray"])
def test_damaged_metadata(tmp_path: Path, name: str, content: bytes) -> None:
    path = write_image(tmp_path / "a.zarr", [drawn(3, 8, 8)])
    (path / name).write_bytes(content)
    # Zarr does without some of it; no other error comes out.
    with suppress(SlideError):
        opened(path).read_level(0, (0, 0), (8, 8))


def test_damaged_pixels(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [drawn(3, 64, 64)])
    (path / "0" / "0" / "1" / "1").write_bytes(b"not what a codec wrote")
    backend = opened(path)
    assert backend.read_level(0, (0, 0), (32, 32)).shape == (32, 32, 3)
    with pytest.raises(SlideError, match=r"a\.zarr opens, but its pixels at x=40, y=40 .* it is damaged"):
        backend.read_level(0, (40, 40), (8, 8))


def test_deleted_and_replaced_while_open(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", [drawn(3, 64, 64)])
    backend = opened(path)
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(SlideError, match="is gone or was replaced while it was open"):
        backend.read_level(0, (0, 0), (8, 8))
    write_image(path, [drawn(3, 32, 32)])
    with pytest.raises(SlideError, match="open the slide again"):
        backend.read_level(0, (0, 0), (8, 8))
