from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import napari_histolatent
from napari_histolatent.patches import GridSpec, Recipe, SlideSource, SplitSpec, extract
from napari_histolatent.slides import Level, Slide, SlideInfo, write_synthetic_slide
from napari_histolatent.training import shipped

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a GUI test that is skipped as failed where HISTOLATENT_REQUIRE_GUI is set, as it is in CI."""
    report = yield
    if report.skipped and item.get_closest_marker("gui") and os.environ.get("HISTOLATENT_REQUIRE_GUI"):
        report.outcome = "failed"
        report.longrepr = f"a GUI test was skipped: {report.longrepr}"
    return report


SLOW_FILES = ("test_cli.py", "test_whole_path.py", "test_processes.py", "test_cluster.py", "test_window.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first: two workers then end at about the same time."""
    items.sort(key=lambda item: item.path.name not in SLOW_FILES)


@pytest.fixture(scope="session", autouse=True)
def user_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in place of the user's own: no test writes into a home folder."""
    folder = tmp_path_factory.mktemp("user_data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HISTOLATENT_DATA_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def no_shipped_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A package that ships no models, as tests begin with what they make themselves; see `shipped_models`."""
    folder = tmp_path_factory.mktemp("ships_none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipped, "_root", lambda: folder)
        yield


@pytest.fixture
def shipped_models(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the models that the package ships, in force."""
    folder = Path(napari_histolatent.__file__).parent / "shipped"
    monkeypatch.setattr(shipped, "_root", lambda: folder)
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real slides and annotations, which stay outside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HISTOLATENT_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no real data here; set HISTOLATENT_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def cmu_slide(data_dir: Path) -> Path:
    """A real H&E slide: 2220 x 2967 px, one level, 0.499 um per pixel."""
    return data_dir / "slides" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="session")
def tiny_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn pyramidal TIFF: 768 x 640 px, downsamples 1, 2 and 4, 0.5 um per pixel."""
    path = tmp_path_factory.mktemp("slide") / "tiny.tiff"
    write_synthetic_slide(path, size_px=(768, 640))
    return path


@pytest.fixture(scope="session")
def tiny_regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """QuPath GeoJSON of `tiny_slide`: epithelium on the left, with a hole, and stroma on the right."""
    path = tmp_path_factory.mktemp("regions") / "tiny.geojson"
    hole = rectangle(180, 280, 260, 360)
    features = [
        feature([rectangle(60, 60, 370, 580), hole], class_name="epithelium"),
        feature([rectangle(400, 60, 700, 580)], class_name="stroma"),
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory, tiny_slide: Path, tiny_regions: Path) -> Path:
    """Folder of a dataset of some hundred patches of 32 px at 1 um per pixel; read it, do not change it."""
    out = tmp_path_factory.mktemp("dataset") / "tiny"
    extract(
        [SlideSource(tiny_slide, tiny_regions)],
        out,
        recipe=Recipe(grid=GridSpec(size_px=32, mpp=1.0, stride_px=8), split=SplitSpec(block_patches=2)),
    )
    return out


@pytest.fixture
def slide_of() -> Callable[..., Slide]:
    """A function that makes a `Slide` of arrays: `slide_of(level0, level1, ..., mpp=(x, y))`."""

    def make(*levels: np.ndarray, mpp: tuple[float, float] | None = None) -> Slide:
        return Slide(ArrayBackend(levels, mpp))

    return make


class ArrayBackend:
    """A slide in memory, on a background that no picture has, to see what comes from outside."""

    background = (250, 251, 252)

    def __init__(self, levels: Sequence[np.ndarray], mpp: tuple[float, float] | None = None) -> None:
        self.levels, self.closed = levels, False
        height, width = levels[0].shape[:2]
        self.info = SlideInfo(
            path=Path("array.tiff"),
            backend="array",
            vendor=None,
            digest="0",
            levels=tuple(Level(v.shape[1], v.shape[0], width / v.shape[1]) for v in levels),
            mpp_x=mpp[0] if mpp else None,
            mpp_y=mpp[1] if mpp else None,
            mpp_source="array" if mpp else None,
            bounds=(0, 0, width, height),
            background=self.background,
            associated=(),
        )

    def read_level(self, level: int, level0_xy: tuple[int, int], size_px: tuple[int, int]) -> np.ndarray:
        pixels, downsample = self.levels[level], self.info.levels[level].downsample
        columns, rows = (
            round(start / downsample) + np.arange(n) for start, n in zip(level0_xy, size_px, strict=True)
        )
        inside_x, inside_y = (
            (v >= 0) & (v < n) for v, n in ((columns, pixels.shape[1]), (rows, pixels.shape[0]))
        )
        result = np.full((size_px[1], size_px[0], 3), self.background, np.uint8)
        result[np.ix_(inside_y, inside_x)] = pixels[np.ix_(rows[inside_y], columns[inside_x])]
        return result

    def read_associated(self, name: str) -> np.ndarray:
        raise NotImplementedError

    def icc_profile(self) -> bytes | None:
        return None

    def close(self) -> None:
        self.closed = True


def rectangle(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    """Return a closed GeoJSON ring."""
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def feature(rings: list[list[list[float]]], *, class_name: str, name: str = "") -> dict[str, object]:
    """Return a polygon as QuPath writes it."""
    return {
        "type": "Feature",
        "id": f"{class_name}-{name}",
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": "annotation",
            "name": name,
            "classification": {"name": class_name, "color": [200, 0, 0]},
        },
    }
