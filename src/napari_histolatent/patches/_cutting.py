"""Cut one shard of patches: the unit of work that is handed to a thread, a process or another machine."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

from napari_histolatent._files import digest_of, write_text
from napari_histolatent.errors import DatasetError, SlideError, UserError
from napari_histolatent.patches._dataset import PIXELS_FOLDER, SETTINGS_FILE
from napari_histolatent.patches._grid import RESAMPLED
from napari_histolatent.patches._index import QUALITIES
from napari_histolatent.patches._quality import quality_of
from napari_histolatent.patches._stain import normalise
from napari_histolatent.patches._store import encode, shard_file, shard_patches, write_shard
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from napari_histolatent.patches._stain import StainFit
    from napari_histolatent.patches._store import StoreSpec
    from napari_histolatent.slides import Slide

PARTS_FOLDER = "parts"
REQUEST_FILE = "request.json"
"""In a working folder: what the extraction was asked for, as far as it decides what is cut."""
_BATCH = 8
_MAX_OPEN_SLIDES = 4


@dataclass(frozen=True)
class SlideToCut:
    """A slide as a worker needs it."""

    path: Path
    digest: str
    mpp: float | None = None
    """Pixel size the user states."""
    stain: StainFit | None = None


@dataclass(frozen=True)
class ShardTask:
    """One shard: which patches, from where, into which file. Picklable, and the same each time it is run."""

    shard: int
    folder: Path
    """The extraction's working folder, which every worker sees."""
    slides: tuple[SlideToCut, ...]
    slide_of: NDArray[np.int64]
    """Index into `slides` for each patch, shape (n,)."""
    level0_xy: NDArray[np.int64]
    """Top-left corners, shape (n, 2)."""
    level: NDArray[np.int64]
    """Level that is read as stored, or -1, shape (n,)."""
    downsample: NDArray[np.float64]
    """Level-0 pixels per patch pixel, (x, y), shape (n, 2)."""
    size_px: int
    store: StoreSpec
    stain_target: StainFit | None = None
    request: str = ""
    """Digest of what the extraction was asked for: the working folder may be another's by the time of writing."""

    def __len__(self) -> int:
        return len(self.slide_of)


@dataclass(frozen=True)
class ShardDone:
    """What is known of a shard once it stands on the disk."""

    shard: int
    n_patches: int
    sha256: str
    qualities: dict[str, list[float]]
    """Values per patch; NaN for one that is missing."""
    failed: dict[str, str]
    """Digest of a slide that could not be read to a sentence; its patches are missing from the shard."""
    request: str
    """Of the task."""

    def save(self, folder: Path) -> None:
        """Write it beside the pixels: from then on the shard is done."""
        file = done_file(folder, self.shard)
        file.parent.mkdir(parents=True, exist_ok=True)
        # NaN as Python writes it: nobody but us reads this file.
        write_text(file, json.dumps(self.__dict__))

    @classmethod
    def load(cls, folder: Path, shard: int, request: str) -> ShardDone | None:
        """Return what was saved, or None where the shard is not done, was cut for another request, or is gone."""
        try:
            done = cls(**json.loads(done_file(folder, shard).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        is_ours = done.request == request and shard_file(folder / PIXELS_FOLDER, shard).is_file()
        return done if is_ours else None


def done_file(folder: Path, shard: int) -> Path:
    """Return the file that says that a shard is done."""
    return folder / PARTS_FOLDER / f"{shard}.json"


def _require_wanted(task: ShardTask) -> None:
    """Refuse to write where another extraction has begun, or this one has ended, since the task was handed out.

    A worker of a cluster goes on for a while after its extraction was stopped.
    """
    try:
        request = digest_of(json.loads((task.folder / REQUEST_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        request = None
    if request != task.request or (task.folder / SETTINGS_FILE).exists():
        msg = f"{task.folder} belongs to another extraction by now, so this shard is not written; give the command again."
        raise DatasetError(msg)


class StoppedError(Exception):
    """The user asked to stop in the middle of a shard, which is then cut again from its start."""


def cut_shard(
    task: ShardTask,
    *,
    should_stop: Callable[[], bool] | None = None,
    on_patches: Callable[[int], None] | None = None,
) -> ShardDone:
    """Cut, measure, normalise and code the patches of a shard, and put the file in its place.

    A slide that cannot be read costs its own patches only. The file is written whole or not at all.

    Parameters
    ----------
    task
        What to cut.
    should_stop
        Asked every few patches.
    on_patches
        Told how many patches were cut since it was last told.

    Raises
    ------
    StoppedError
        If `should_stop` said so.
    DatasetError
        If the working folder is not there, or by now another extraction's.
    OSError
        If the shard cannot be written.
    """
    if not task.folder.is_dir():
        msg = f"{task.folder} is not there for the worker; slides and output have to lie where every worker sees them under the same path."
        raise DatasetError(msg)
    qualities: dict[str, list[float]] = {name: [] for name in QUALITIES}
    failed: dict[str, str] = {}

    def chunks() -> Iterator[bytes | None]:
        # A few at a time, so that they are measured and coded while they are in the processor's cache.
        for start in range(0, len(task), _BATCH):
            if should_stop is not None and should_stop():
                raise StoppedError
            rows = range(start, min(start + _BATCH, len(task)))
            patches = [_read(task, row, failed) for row in rows]
            measured = quality_of([patch for patch in patches if patch is not None])
            values = {name: iter(measured[name].tolist()) for name in QUALITIES}
            for row, patch in zip(rows, patches, strict=True):
                for name in QUALITIES:
                    qualities[name].append(next(values[name]) if patch is not None else float("nan"))
                yield None if patch is None else _coded(task, row, patch)
            if on_patches is not None:
                on_patches(len(rows))
        _require_wanted(task)

    file = shard_file(task.folder / PIXELS_FOLDER, task.shard)
    digest = write_shard(file, chunks(), shard_patches(task.size_px))
    done = ShardDone(task.shard, len(task), digest, qualities, failed, task.request)
    _require_wanted(task)
    done.save(task.folder)
    return done


def _coded(task: ShardTask, row: int, patch: NDArray[np.uint8]) -> bytes:
    source = task.slides[task.slide_of[row]].stain
    if source is not None and task.stain_target is not None:
        patch = normalise(patch, source=source, target=task.stain_target)
    return encode(patch, task.store.codec, task.store.jpeg_quality)


def _read(task: ShardTask, row: int, failed: dict[str, str]) -> NDArray[np.uint8] | None:
    wanted = task.slides[task.slide_of[row]]
    if wanted.digest in failed:
        return None
    try:
        return read_patch(
            opened(wanted),
            task.level0_xy[row],
            size_px=task.size_px,
            level=int(task.level[row]),
            downsample=task.downsample[row],
        )
    except UserError as error:
        failed[wanted.digest] = str(error)
        return None


def read_patch(
    slide: Slide,
    level0_xy: NDArray[np.int64],
    *,
    size_px: int,
    level: int,
    downsample: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """Return one patch: a level's own pixels, or area-averaged from the next finer level where `level` is -1."""
    corner = int(level0_xy[0]), int(level0_xy[1])
    if level != RESAMPLED:
        return slide.read_region(corner, size_px=(size_px, size_px), level=level)
    return slide.read_downsampled(
        corner, size_px=(size_px, size_px), downsamples=(float(downsample[0]), float(downsample[1]))
    )


_slides: OrderedDict[Any, Slide] = OrderedDict()
_slides_lock = Lock()


def opened(wanted: SlideToCut) -> Slide:
    """Return the slide, open; a process keeps a few open, for opening costs more than a patch.

    Raises
    ------
    SlideError
        If it cannot be opened, or is not the one that was planned.
    """
    key = replace(wanted, stain=None)
    with _slides_lock:
        if key in _slides:
            _slides.move_to_end(key)
            return _slides[key]
    slide = open_slide(wanted.path, mpp=wanted.mpp)
    if slide.info.digest != wanted.digest:
        slide.close()
        msg = f"{wanted.path.name} is not the file that the patches were planned on (it was replaced, or another lies at {wanted.path}); bring it back, or start anew."
        raise SlideError(msg)
    with _slides_lock:
        _slides[key] = slide
        while len(_slides) > _MAX_OPEN_SLIDES:
            _slides.popitem(last=False)[1].close()
    return slide


def close_slides() -> None:
    """Let go of the slides that this process keeps open."""
    with _slides_lock:
        while _slides:
            _slides.popitem()[1].close()
