"""Read seeded, damaged copies of annotation files: `python fuzz_child.py SEED COUNT FILE...`.

One line of JSON for each copy on standard output, file by file and in the order of the seeds: a process that ends in
the middle shows by the lines that are there which copy ended it. A copy that takes more than LIMIT_S ends the process
too, with "Timeout" on standard error.
"""

from __future__ import annotations

import faulthandler
import json
import re
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import shapely

from napari_histolatent.annotations import Annotations, check_annotations, read_annotations
from napari_histolatent.errors import UserError
from tests.annotations.texts import SLIDE

LIMIT_S = 20.0
MEMORY_BYTES = 6 << 30
KINDS = ("overwritten", "cut", "lines", "chunks", "tags", "numbers", "flipped", "inserted")
NUMBERS = (
    b"nan",
    b"1e999",
    b"-0",
    b"",
    b"-1e308",
    b"1e9",
    b"0",
    b"-inf",
    b"1,5",
    b"99999999999999999999",
    b'"',
    b"null",
)


def damaged(data: bytes, seed: int) -> tuple[str, bytes]:
    """Return the kind of damage and the damaged copy."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    copy = bytearray(data)
    n = len(data)

    def span(longest: int) -> slice:
        start = int(rng.integers(0, n))
        return slice(start, start + int(rng.integers(1, longest + 1)))

    if kind == "overwritten":
        for place in rng.integers(0, n, int(rng.integers(1, 20))):
            copy[place] = rng.integers(0, 256)
    elif kind == "flipped":
        copy[int(rng.integers(0, n))] ^= 1 << int(rng.integers(0, 8))
    elif kind == "cut":
        del copy[int(rng.integers(0, n)) :]
    elif kind == "inserted":
        place = int(rng.integers(0, n))
        copy[place:place] = rng.bytes(int(rng.integers(1, 16)))
    elif kind == "lines":
        lines = data.splitlines(keepends=True)
        for _ in range(int(rng.integers(1, 5))):
            place = int(rng.integers(0, len(lines)))
            if rng.random() < 0.5 and len(lines) > 1:
                del lines[place]
            else:
                lines.insert(int(rng.integers(0, len(lines))), lines[place])
        copy = bytearray(b"".join(lines))
    elif kind == "chunks":
        # Whole elements where there are some, so that the file often stays well-formed.
        starts = [m.start() for m in re.finditer(rb"<(?=[A-Za-z])|\{", data)] or [0, n]
        a, b, c = (starts[int(i)] for i in rng.integers(0, len(starts), 3))
        a, b = min(a, b), max(a, b)
        copy = bytearray(data[:a] + data[b:] if rng.random() < 0.5 else data[:c] + data[a:b] + data[c:])
    elif kind == "tags":
        words = sorted(set(re.findall(rb'(?<=[<"/ ])[A-Za-z_]{2,20}(?=[>"= /])', data[:200_000])))
        if len(words) > 1:
            one, other = (words[int(i)] for i in rng.integers(0, len(words), 2))
            copy = bytearray(
                re.sub(rb"\b" + re.escape(one) + rb"\b", other, data, count=int(rng.integers(0, 4)))
            )
    else:
        places = [m.span() for m in re.finditer(rb"-?\d+(\.\d+)?", data)]
        for index in sorted(
            set(rng.integers(0, len(places), int(rng.integers(1, 30))).tolist()), reverse=True
        ):
            copy[slice(*places[index])] = NUMBERS[int(rng.integers(len(NUMBERS)))]
    return kind, bytes(copy)


def fault_of(annotations: Annotations) -> str | None:
    """Return what is wrong with what was read, or None."""
    geometries = np.array([region.geometry for region in annotations.regions], object)
    check = check_annotations(annotations, SLIDE)
    json.dumps(check.to_json(), allow_nan=False)
    if len(geometries) and not shapely.is_valid(geometries).all():
        return "a geometry is not valid"
    if len(geometries) and not np.isfinite(shapely.get_coordinates(geometries)).all():
        return "a coordinate is not finite"
    if any(shapely.is_empty(geometries)):
        return "a region is empty"
    if any(not region.geometry.area > 0 for region in annotations.regions if region.is_area):
        return "a region has no area"
    if "GeometryCollection" in {region.geometry.geom_type for region in annotations.regions}:
        return "a region is a collection"
    if len({region.id for region in annotations.regions}) < len(geometries):
        return "two regions have one id"
    if annotations.dropped > len(annotations.messages):
        return f"{annotations.dropped} dropped with {len(annotations.messages)} messages"
    if annotations.elements < len(geometries):
        return f"{annotations.elements} elements gave {len(geometries)} regions"
    return None


def main() -> None:
    seed, count, *files = sys.argv[1:]
    with suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            data = Path(file).read_bytes()
            copy = Path(folder) / f"copy{Path(file).suffix}"
            for each in range(int(seed), int(seed) + int(count)):
                kind, content = damaged(data, each)
                copy.write_bytes(content)
                faulthandler.dump_traceback_later(LIMIT_S, exit=True)
                began, fault, outcome = time.monotonic(), None, "read"
                try:
                    fault = fault_of(read_annotations(copy, slide=SLIDE))
                except UserError as error:
                    outcome = str(error)
                except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
                    fault = traceback.format_exc()
                faulthandler.cancel_dump_traceback_later()
                seconds = round(time.monotonic() - began, 2)
                line = {"file": file, "seed": each, "kind": kind, "outcome": outcome, "fault": fault}
                print(json.dumps({**line, "seconds": seconds}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
