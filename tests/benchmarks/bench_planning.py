"""Exact area fractions of 1,000 x 1,000 patches over an annotation's bounding box, beside the ways of plain shapely.

    taskset -c 0 python tests/benchmarks/bench_planning.py --file camelyon16_tumor_039.xml [--side 1000] [--repeats 3]
        [--json FILE]

ours
    `coverage_of`: every edge split at the lines of the grid, then sums along them.
ours, all
    `cover`: the same, and the classes at the centres, the share of all classes together and the ids of the regions.
strips
    A part of the positions (one of `--part`, every fourth row and column): the union of the outline cut into one strip
    for each row of the grid; then prepared predicates, and intersections where a patch meets the border.

All in one process, in turns; medians. The sum of the fractions tells that both sides count the same. Peak memory is
of the process after a first run of ours, before anything else. Wanted: ours within 10 s and 2 GB on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from _stats import add_json_option, interleaved, median, median_ratio, report

from napari_histolatent.annotations import read_annotations
from napari_histolatent.patches._coverage import cover, coverage_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

SIZE = 256


def positions(bounds: tuple[float, float, float, float], side: int) -> NDArray[np.float64]:
    """Return side x side boxes, row by row, spread evenly over left, top, right, bottom."""
    left, top, right, bottom = bounds
    x, y = np.meshgrid(
        np.floor(np.linspace(left, right - SIZE, side)), np.floor(np.linspace(top, bottom - SIZE, side))
    )
    x, y = x.ravel(), y.ravel()
    return np.column_stack([x, y, x + SIZE, y + SIZE])


def by_strips(polygons: list[Any], boxes: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return the share of each box inside the union of polygons."""
    union = shapely.union_all(polygons)
    left, _, right, _ = union.bounds
    shares = np.zeros(len(boxes))
    for start in range(0, len(boxes), side):
        row = boxes[start : start + side]
        strip = shapely.intersection(union, shapely.box(left, row[0, 1], right, row[0, 3]))
        shapely.prepare(strip)
        squares = shapely.box(*row.T)
        touched = np.flatnonzero(shapely.intersects(strip, squares))
        within = shapely.contains(strip, squares[touched])
        shares[start + touched[within]] = 1
        border = touched[~within]
        areas = shapely.area(shapely.intersection(strip, squares[border]))
        shares[start + border] = areas / SIZE**2
    return shares


def peak_mb() -> float:
    """Return the most memory that this process has held, MB."""
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", required=True, help="annotations of any format")
    parser.add_argument("--side", type=int, default=1000, help="positions in a row, and rows")
    parser.add_argument("--part", type=int, default=16, help="strips get one position of so many; a square")
    parser.add_argument("--repeats", type=int, default=3)
    add_json_option(parser)
    options = parser.parse_args()
    annotations = read_annotations(options.file)
    areas = [region for region in annotations.regions if region.is_area]
    bounds = tuple(shapely.total_bounds([region.geometry for region in areas]))
    boxes = positions(bounds, options.side)
    step = round(options.part**0.5)
    some = np.arange(len(boxes)).reshape(options.side, options.side)[::step, ::step]
    classes, polygons = annotations.classes, [p for region in areas for p in region.polygons]
    before = peak_mb()
    cover(annotations, classes, boxes)
    peak = peak_mb()
    found: dict[str, NDArray[Any]] = {}

    def timed(name: str, work: Callable[[], NDArray[Any]]) -> Callable[[], float]:
        def measure() -> float:
            start = time.perf_counter()
            found[name] = work()
            return time.perf_counter() - start

        return measure

    seconds = interleaved(
        {
            "ours": timed("ours", lambda: coverage_of(annotations, classes, boxes)),
            "ours, all": timed("ours, all", lambda: cover(annotations, classes, boxes).annotated),
            "strips": timed("strips", lambda: by_strips(polygons, boxes[some.ravel()], some.shape[1])),
        },
        repeats=options.repeats,
    )
    each = {name: [1e6 * v / len(found[name]) for v in values] for name, values in seconds.items()}
    rows = [
        [
            name,
            len(found[name]),
            median(seconds[name]),
            median(each[name]),
            median_ratio(each[name], each["strips"]),
            float(found[name].sum(dtype=np.float64)),
        ]
        for name in seconds
    ]
    # `strips` knows no classes: of overlapping ones the shares of all together compare.
    ours = cover(annotations, classes, boxes[some.ravel()], with_regions=False).annotated
    report(
        f"Exact area fractions; peak {peak:,.0f} MB ({before:,.0f} MB before planning), "
        f"largest difference from strips {np.abs(ours - found['strips']).max():.1e}",
        ["", "positions", "seconds", "µs each", "ratio each", "sum"],
        rows,
        raw={"seconds": seconds, "peak_mb": peak, "before_mb": before},
        json_path=options.json,
    )


if __name__ == "__main__":
    main()
