"""How far the picture jumps where napari changes from one level of the slide to the next.

    python tests/benchmarks/bench_jump.py FOLDER/exact.tiff FOLDER/odd.tiff [--json FILE]

At 0.9, 0.9 of the slide (or the nearest view with tissue on it) the zoom at which the level changes is found by
bisection. The settled canvas just before and just after is registered by phase cross-correlation, to 1/50 px, with no
change of zoom that could be seen (1 in 10,000). Nearest-neighbour drawing of the finer level alone moves the picture
by up to 0.25 px. Wanted: < 0.35 px of the canvas on both axes, odd level ratios or not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from _stats import add_json_option, report
from _window import Window, ensure_display

if TYPE_CHECKING:
    from numpy.typing import NDArray

SWITCHES = ((2, 1), (1, 0))
_TISSUE_SPREAD = 20.0
"""Standard deviation of grey values; glass has about 1."""
_TOO_FAR = 1e-4


def shift_px(before: NDArray[Any], after: NDArray[Any]) -> tuple[float, float]:
    """Return (x, y) by which `after` has moved against `before`, to 1/50 px."""
    from skimage.registration import phase_cross_correlation

    grey = [_windowed(np.asarray(v, np.float64)[..., :3].mean(axis=-1)) for v in (before, after)]
    shift, _, _ = phase_cross_correlation(grey[0], grey[1], upsample_factor=50, normalization=None)
    return 0.0 - float(shift[1]), 0.0 - float(shift[0])  # never -0


def _windowed(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Take off the mean and fade the edges: what enters and leaves at them is not a shift."""
    fade = np.hanning(grey.shape[0])[:, None] * np.hanning(grey.shape[1])
    return (grey - grey.mean()) * fade


class Camera:
    """Looks at one slide and says which level it gets."""

    def __init__(self, window: Window, layer: Any, size: tuple[int, int]) -> None:
        self._window, self._layer, self._size = window, layer, size
        self.place = (0.9, 0.9)

    def level_at(self, zoom: float) -> int:
        """Return the level that napari shows at a zoom (canvas px per level-0 px)."""
        point = (self.place[0] * self._size[0], self.place[1] * self._size[1])
        self._window.look(point, zoom, scale=tuple(self._layer.scale[-2:]))
        self._window.run_until_drawn()
        return int(self._layer.data_level)

    def picture_at(self, zoom: float) -> NDArray[np.uint8]:
        """Return the settled canvas."""
        self.level_at(zoom)
        if not self._window.settle(self._layer, timeout=60):
            sys.stdout.write("note: a view did not settle within 60 s\n")
        self._window.run_for(0.3)
        self._window.run_until_drawn()
        return self._window.picture()

    def find_tissue(self, zoom: float) -> None:
        """Move from 0.9, 0.9 to the nearest view that is not glass."""
        offsets = [(x, y) for x in (0, -1, 1, -2) for y in (0, -1, 1, -2)]
        for dx, dy in sorted(offsets, key=lambda v: abs(v[0]) + abs(v[1])):
            self.place = (0.9 + dx / 60, 0.9 + dy / 60)
            if self.picture_at(zoom).mean(axis=-1).std() > _TISSUE_SPREAD:
                return

    def bisect(self, coarse: int, fine: int) -> tuple[float, float]:
        """Return two zooms that differ by 1 in 10,000: at the first the coarse level is shown, at the second the fine.

        Raises
        ------
        SystemExit
            If the level does not change where napari documents it to.
        """
        low, high = 0.9 / 2**coarse, 1.1 / 2**coarse
        levels = self.level_at(low), self.level_at(high)
        if levels != (coarse, fine):
            raise SystemExit(f"The levels at zooms {low:g} and {high:g} are {levels}, not {(coarse, fine)}.")
        while high / low - 1 > _TOO_FAR:
            middle = (low * high) ** 0.5
            if self.level_at(middle) == coarse:
                low = middle
            else:
                high = middle
        return low, high


def jumps(window: Window, path: Path, folder: Path | None) -> list[list[Any]]:
    """Return a line of the table for each change of level of one slide."""
    from PIL import Image

    from napari_histolatent.slides import open_slide

    window.clear()
    slide = open_slide(path)
    _, layer = window.show_slide(slide)
    camera = Camera(window, layer, (slide.info.width_px, slide.info.height_px))
    rows = []
    for coarse, fine in SWITCHES:
        camera.find_tissue(0.95 / 2**coarse)
        zooms = camera.bisect(coarse, fine)
        before, after = (camera.picture_at(zoom) for zoom in zooms)
        x, y = shift_px(before, after)
        place = f"{camera.place[0]:.3f}, {camera.place[1]:.3f}"
        ratios = " ".join(f"{v.downsample:.4f}" for v in slide.info.levels[1:])
        rows.append([path.name, ratios, f"{coarse} -> {fine}", place, x, y, max(abs(x), abs(y))])
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for name, picture in (("before", before), ("after", after)):
                Image.fromarray(picture).save(folder / f"{path.stem}-{coarse}-{fine}-{name}.png")
    return rows


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slides", type=Path, nargs="+", help="exact.tiff and odd.tiff of mosaic.py")
    parser.add_argument("--canvas", type=int, nargs=2, default=(1280, 800), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="keep what was compared, to look at")
    add_json_option(parser)
    options = parser.parse_args()
    ensure_display()

    from napari_histolatent._napari.viewing import attach

    with Window(*options.canvas) as window:
        attach(window.viewer)
        rows = [row for path in options.slides for row in jumps(window, path, options.pictures)]
    report(
        f"Jump at a change of level, px of a canvas of {options.canvas[0]} x {options.canvas[1]} (wanted < 0.35)",
        ["slide", "downsamples", "levels", "place", "x", "y", "larger"],
        rows,
        raw={},
        json_path=options.json,
    )


if __name__ == "__main__":
    main()
