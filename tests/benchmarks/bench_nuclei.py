"""Importing many GeoJSON nuclei into a real window: seconds until they are shown, and how long the window is held.

    python tests/benchmarks/bench_nuclei.py [--nuclei 200000] [--repeats 3] [--json FILE]

The file is made first (QuPath detections of 24 vertices, seeded). A blank slide of 40,000 px is open. From the call
that the dock's Import makes, until the regions are in the document, their picture is on the canvas and settled.
"held" are the gaps between ticks of a 2 ms timer on the UI thread, during that time, and during as long a time in
which nothing happens. "later" are the gaps of the next seconds, while the autosave writes all of them.

Wanted: shown within 10 s on 2 cores, the UI thread never held for more than 50 ms.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from _stats import add_json_option, median, percentile, report
from _window import Window, ensure_display
from blank import blank_slide

SIDE_PX = 40_000
LATER_SECONDS = 8.0


def write_nuclei(path: Path, count: int, *, side_px: int = SIDE_PX, seed: int = 0) -> None:
    """Write a QuPath FeatureCollection of nuclei."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    with path.open("w") as file:
        file.write('{"type":"FeatureCollection","features":[')
        for i in range(count):
            radii = rng.uniform(6, 14) * (1 + 0.15 * rng.standard_normal(24))
            centre = rng.uniform(40, side_px - 40, 2)
            ring = np.column_stack([np.cos(angles), np.sin(angles)]) * radii[:, None] + centre
            text = ",".join(f"[{x:.2f},{y:.2f}]" for x, y in np.vstack([ring, ring[:1]]))
            name = ("Tumor", "Stroma", "Immune cells")[i % 3]
            file.write(
                ("," if i else "")
                + f'{{"type":"Feature","id":"n{i}","geometry":{{"type":"Polygon","coordinates":[[{text}]]}},'
                + f'"properties":{{"objectType":"detection","classification":{{"name":"{name}",'
                + '"color":[200,0,0]}}}'
            )
        file.write("]}")


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nuclei", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=3)
    add_json_option(parser)
    options = parser.parse_args()
    ensure_display()
    from napari_histolatent._napari._session import session_of
    from napari_histolatent._napari.viewing import attach

    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as folder, Window(1280, 800) as window:
        path = Path(folder) / "nuclei.geojson"
        write_nuclei(path, options.nuclei)
        for repeat in range(options.repeats):
            os.environ["HISTOLATENT_DATA_DIR"] = str(Path(folder) / str(repeat))
            attach(window.viewer)
            session = session_of(window.viewer)
            slide = blank_slide(SIDE_PX, SIDE_PX)
            _, layer = window.show_slide(slide)
            window.viewer.reset_view()
            window.settle(layer, timeout=20)
            regions = session.regions_of(layer.data[0].slide)
            window.run_for(1.0)
            window.heart.restart()
            window.run_for(5.0)
            idle = window.heart.gaps()
            window.heart.restart()
            start = time.perf_counter()
            regions.import_file(path)

            def is_shown(regions=regions) -> bool:
                picture = [
                    v
                    for v in window.viewer.layers
                    if v.metadata.get("histolatent", {}).get("role") == "regions raster"
                ]
                return bool(picture) and len(regions.document.regions) == options.nuclei

            shown = window.run_until(is_shown, timeout=120)
            picture = next(
                v
                for v in window.viewer.layers
                if v.metadata.get("histolatent", {}).get("role") == "regions raster"
            )
            shown &= window.settle(picture, timeout=60)
            seconds = time.perf_counter() - start
            held = window.heart.gaps()
            window.heart.restart()
            window.run_for(LATER_SECONDS)
            later = window.heart.gaps()
            assert shown, "the nuclei did not appear"
            raw[repeat] = {"seconds": seconds, "held": sorted(held)[-20:], "later": sorted(later)[-20:]}
            rows.append(
                [repeat, seconds]
                + [figure for gaps in (idle, held, later) for figure in (percentile(gaps, 95), max(gaps))]
            )
            window.clear()
            window.run_for(1.0)
    rows.append(["median", *(median(row[k] for row in rows) for k in range(1, 8))])
    report(
        f"{options.nuclei:,} GeoJSON nuclei imported and shown; UI thread held, ms",
        ["", "seconds", "idle p95", "idle max", "held p95", "held max", "later p95", "later max"],
        rows,
        raw=raw,
        json_path=options.json,
    )


if __name__ == "__main__":
    main()
