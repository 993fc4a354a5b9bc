"""Open seeded, damaged copies of a slide: `python fuzz_child.py FILE SEED COUNT`.

One line of JSON for each copy on standard output, in the order of the seeds: a process that ends in the middle
shows by the lines that are there which seed ended it. A copy that takes more than LIMIT_S ends the process too,
with "Timeout" on standard error.
"""

from __future__ import annotations

import faulthandler
import json
import re
import shutil
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from napari_histolatent.errors import SlideError
from napari_histolatent.slides import open_slide, to_srgb_with

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 10.0
MEMORY_BYTES = 6 << 30
KINDS = ("overwritten", "zeroed", "cut", "header", "inserted", "extreme")
EXTREMES = (0, 1, 60_000, 65_535, 1 << 20, (1 << 31) - 1, (1 << 32) - 1)


def damaged(data: bytes, seed: int) -> tuple[str, bytes]:
    """Return the kind of damage and the damaged copy."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    copy = bytearray(data)
    if kind == "overwritten":
        for place in rng.integers(0, len(copy), int(rng.integers(1, 200))):
            copy[place] = rng.integers(0, 256)
    elif kind == "zeroed":
        for _ in range(int(rng.integers(1, 5))):
            start = int(rng.integers(0, len(copy)))
            count = min(int(rng.integers(1, 1 + len(copy) // 4)), len(copy) - start)
            copy[start : start + count] = bytes(count)
    elif kind == "cut":
        del copy[int(rng.integers(0, len(copy))) :]
    elif kind == "header":
        places = header_places(data)
        for place in rng.choice(places, int(rng.integers(1, 12))):
            copy[place] ^= 1 << int(rng.integers(0, 8)) if rng.random() < 0.5 else int(rng.integers(1, 256))
    elif kind == "extreme":
        for place in rng.choice(number_places(data), int(rng.integers(1, 4))):
            size = int(rng.choice([2, 4]))
            number = EXTREMES[rng.integers(len(EXTREMES))] % (1 << 8 * size)
            copy[place : place + size] = number.to_bytes(size, "big" if data[:2] == b"MM" else "little")
    else:
        place = int(rng.integers(0, len(copy)))
        copy[place:place] = rng.bytes(int(rng.integers(1, 64)))
    return kind, bytes(copy)


def directory_of(data: bytes) -> tuple[int, int, int]:
    """Return where the first directory of a TIFF begins, where in it the first value is, and the next one after it."""
    order: Literal["little", "big"] = "big" if data[:2] == b"MM" else "little"
    if data[2:4] in (b"+\0", b"\0+"):
        return int.from_bytes(data[8:16], order), 8 + 12, 20
    return int.from_bytes(data[4:8], order), 2 + 8, 12


def header_places(data: bytes) -> list[int]:
    """Return the bytes where a file says what is in it: its beginning, and the first directory of a TIFF."""
    places = list(range(min(len(data), 1024)))
    if data[:2] in (b"II", b"MM"):
        at = directory_of(data)[0]
        places += list(range(min(at, len(data)), min(at + 400, len(data)))) * 4
    return places


def number_places(data: bytes) -> list[int]:
    """Return where numbers begin that say how large things are: values of the directory, or of DICOM's elements."""
    places: list[int] = []
    if data[:2] in (b"II", b"MM"):
        at, first, step = directory_of(data)
        places += range(at + first, min(at + first + 20 * step, len(data)), step)
    for kind in (b"US\x02\0", b"UL\x04\0"):
        places += [v.end() for v in re.finditer(kind, data)]
    return places or [0]


def sentences(path: Path) -> Iterator[str]:
    """Open and read a slide; yield what it refuses to do."""
    try:
        slide = open_slide(path)
    except SlideError as error:
        yield str(error)
        return
    with slide:
        info = slide.info
        json.dumps(info.to_json(), allow_nan=False)
        reads = []
        # One that states a great size and no coarser level takes as long as a real one of that size.
        if info.levels[-1].width_px * info.levels[-1].height_px < 1 << 28:
            reads.append(lambda: slide.thumbnail(longest_px=64))
        for i, level in enumerate(info.levels):
            xy = round(level.width_px * level.downsample / 2), round(level.height_px * level.downsample / 2)
            reads.append(lambda i=i, xy=xy: slide.read_region(xy, size_px=(64, 64), level=i))
        reads += [lambda name=name: slide.read_associated(name) for name in info.associated]
        reads.append(lambda: to_srgb_with(slide.icc_profile() or b""))
        for read in reads[: None if info.has_icc_profile else -1]:
            try:
                read()
            except SlideError as error:
                yield str(error)


def main() -> None:
    file, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with suppress(ImportError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    data = file.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        if file.suffix == ".dcm":  # a series is of several files
            for other in file.parent.glob("*.dcm"):
                shutil.copy(other, folder)
        copy = Path(folder) / file.name
        for each in range(seed, seed + count):
            kind, content = damaged(data, each)
            copy.unlink(missing_ok=True)
            copy.write_bytes(content)
            faulthandler.dump_traceback_later(LIMIT_S, exit=True)
            began, fault = time.monotonic(), None
            said: list[str] = []
            try:
                said += sentences(copy)
            except Exception:  # noqa: BLE001 - whatever it is, it is what is looked for
                fault = traceback.format_exc()
            faulthandler.cancel_dump_traceback_later()
            line = {
                "seed": each,
                "kind": kind,
                "outcome": said[0] if said else "ok",
                "sentences": said,
                "fault": fault,
                "seconds": round(time.monotonic() - began, 2),
            }
            print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
