"""Reading a CAMELYON16 annotation to repaired regions with holes, beside the same four steps written bare.

    python tests/benchmarks/bench_annotations.py --file camelyon16_tumor_039.xml [--repeats 9] [--json FILE]

bare
    xml.etree parse, a shapely polygon per annotation, make_valid, union of each group, tumour minus holes.
ours
    `read_annotations`: the format told by content, numbers checked, repair with a report, holes cut out region by
    region, every unchanged vertex kept.

Both in one process, interleaved; medians. Wanted: ours within 1.5 x bare.
"""

from __future__ import annotations

import argparse
import time
import xml.etree.ElementTree as ET  # a file of our own choosing
from typing import Any

import shapely
from _stats import add_json_option, median, report

from napari_histolatent.annotations import check_annotations, read_annotations

HOLES = ("negative", "_2", "exclusion")


def bare(path: str) -> Any:
    """Return tumour minus holes as one geometry."""
    groups: dict[bool, list[Any]] = {True: [], False: []}
    for annotation in ET.parse(path).getroot().iter("Annotation"):
        points = [(float(c.get("X", "")), float(c.get("Y", ""))) for c in annotation.iter("Coordinate")]
        polygon = shapely.make_valid(shapely.Polygon(points))
        groups[annotation.get("PartOfGroup", "").lower() in HOLES].append(polygon)
    return shapely.difference(shapely.union_all(groups[False]), shapely.union_all(groups[True]))


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", required=True, help="ASAP XML")
    parser.add_argument("--repeats", type=int, default=9)
    add_json_option(parser)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(options.repeats):
        for name, read in (("bare", bare), ("ours", read_annotations)):
            start = time.perf_counter()
            found = read(options.file)
            seconds[name].append(time.perf_counter() - start)
            if name == "bare":
                area, holes = found.area, int(shapely.get_num_interior_rings(shapely.get_parts(found)).sum())
            else:
                check = check_annotations(found)
    ratio = median(a / b for a, b in zip(seconds["ours"], seconds["bare"], strict=True))
    rows = [
        ["bare", median(seconds["bare"]), 1.0, area, holes],
        ["ours", median(seconds["ours"]), ratio, check.area_px, check.holes],
    ]
    report(
        "Annotation file to repaired regions with holes",
        ["", "seconds", "ratio", "area px2", "holes"],
        rows,
        raw=seconds,
        json_path=options.json,
    )


if __name__ == "__main__":
    main()
