"""Make a dataset folder from an index and pixels, whole or not at all."""

from __future__ import annotations

import glob
import json
import re
import shutil
from collections import Counter
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import imagecodecs
import numpy as np
import openslide
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

import napari_histolatent
from napari_histolatent._files import replacing, without_nan, write_json
from napari_histolatent.errors import DatasetError, writing_to
from napari_histolatent.patches._dataset import (
    FORMAT_VERSION,
    INDEX_FILE,
    PIXELS_FOLDER,
    SETTINGS_FILE,
    counts_per_split,
)
from napari_histolatent.patches._index import MEMBER, index_table, strings
from napari_histolatent.patches._store import (
    StoreSpec,
    create_array,
    encode,
    shard_file,
    shard_patches,
    write_shard,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def write_dataset(
    out: Path,
    *,
    table: pa.Table,
    batches: Iterable[NDArray[np.uint8]],
    size_px: int,
    classes: Sequence[str],
    settings: dict[str, Any],
    store: StoreSpec | None = None,
    overwrite: bool = False,
) -> None:
    """Write a dataset whose pixels are at hand, whole or not at all.

    Parameters
    ----------
    out
        Folder to make.
    table
        Rows of the index; columns that are missing are filled with "not known".
    batches
        Patches in the order of the table, uint8, shape (k, size_px, size_px, 3), any k.
    size_px
        Side of a patch.
    classes
        Class names; the labels of the table are among them.
    settings
        What dataset.json says beside counts and digest: mpp, slides, colors, where it was imported from.
    store
        How pixels are kept.
    overwrite
        Whether a dataset that is there already is replaced.

    Raises
    ------
    DatasetError
        If `out` exists, or the batches do not fit the table.
    UserError
        If the folder cannot be written.
    """
    store = store or StoreSpec()
    require_free(out, overwrite=overwrite)
    covered = [name.removeprefix("coverage_") for name in table.column_names if name.startswith("coverage_")]
    table = index_table({name: table[name] for name in table.column_names}, covered)
    with writing_to(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with replaced_folder(out) as folder:
            digests = _write_pixels(folder / PIXELS_FOLDER, len(table), batches, size_px, store)
            finish_dataset(
                folder,
                table,
                size_px=size_px,
                classes=classes,
                settings={"codec": store.codec, "pixels": PIXELS_FOLDER, "stored": len(table), **settings},
                pixels_digest=digest_of_shards(digests),
            )


def _write_pixels(
    folder: Path, n_patches: int, batches: Iterable[NDArray[np.uint8]], size_px: int, store: StoreSpec
) -> list[str]:
    create_array(folder, n_patches, size_px, store)
    per_shard = shard_patches(size_px)
    digests: list[str] = []
    chunks: list[bytes | None] = []

    def flush() -> None:
        digests.append(write_shard(shard_file(folder, len(digests)), chunks, per_shard))
        chunks.clear()

    n = 0
    for batch in batches:
        for patch in batch:
            chunks.append(encode(patch, store.codec, store.jpeg_quality))
            n += 1
            if len(chunks) == per_shard:
                flush()
    if chunks:
        flush()
    if n != n_patches:
        msg = f"{n} patches came for an index of {n_patches}; nothing was kept."
        raise DatasetError(msg)
    return digests


def finish_dataset(
    folder: Path,
    table: pa.Table,
    *,
    size_px: int,
    classes: Sequence[str],
    settings: dict[str, Any],
    pixels_digest: str,
) -> None:
    """Write index.parquet and dataset.json: the last step, after which the folder is a dataset."""
    label, split, reason = (strings(table, name) for name in ("label", "split", "left_out"))
    is_member = reason == MEMBER
    left_out = Counter(reason[~is_member].tolist())
    # A dictionary of fractions has as many entries as rows.
    texts_only = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(
        table, folder / INDEX_FILE, compression="zstd", store_schema=False, use_dictionary=texts_only
    )
    write_json(
        folder / SETTINGS_FILE,
        {
            "format_version": FORMAT_VERSION,
            "versions": versions(),
            "patches": int(is_member.sum()),
            "rows": len(table),
            "size_px": size_px,
            "classes": list(classes),
            "counts": counts_per_split(label[is_member], split[is_member], classes),
            "left_out": dict(sorted(left_out.items())),
            **settings,
            "pixels_digest": pixels_digest,
            "digest": digest_of_dataset(
                table, size_px=size_px, stain=settings.get("stain"), pixels_digest=pixels_digest
            ),
        },
    )


def digest_of_dataset(table: pa.Table, *, size_px: int, stain: Any, pixels_digest: str) -> str:
    """Return one sha256, in hex, for what a dataset gives to train on: pixels, places, labels, splits, members.

    Of an index-only dataset the places and the stain are all that tells its pixels from those of another.
    """
    hasher = sha256(pixels_digest.encode())
    for name in ("label", "split", "left_out"):
        hasher.update("\n".join(strings(table, name).tolist()).encode())
    hasher.update("\n".join(strings(table, "slide").tolist()).encode())
    for name, kind in (
        ("x", "<i8"),
        ("y", "<i8"),
        ("width_level0_px", "<f8"),
        ("height_level0_px", "<f8"),
        ("level", "<i2"),
    ):
        hasher.update(np.ascontiguousarray(table[name].to_numpy(), kind).tobytes())
    hasher.update(json.dumps([size_px, without_nan(stain)], sort_keys=True).encode())
    return hasher.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of whatever decides what the pixels and fractions are."""
    return {
        "napari-histolatent": napari_histolatent.__version__,
        "openslide": openslide.__library_version__,
        "imagecodecs": imagecodecs.__version__,
        "numcodecs": version_of("numcodecs"),
        "numpy": np.__version__,
        "shapely": shapely.__version__,
    }


def digest_of_shards(digests: Iterable[str]) -> str:
    """Return one sha256 for the shards' own, in their order."""
    return sha256("".join(digests).encode()).hexdigest()


def place_of(out: Path) -> Path:
    """Return the absolute place of a folder that is to be made: where `out` is a link, what it points to."""
    return out.resolve() if out.is_symlink() else out.absolute()


def require_free(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that is there, unless it may be overwritten and is a dataset.

    A dataset that a process had moved aside for a new one when it was killed is brought back first.

    Raises
    ------
    DatasetError
        With the remedy.
    """
    if not out.exists():
        aside = [folder for folder in _moved_aside(out) if (folder / SETTINGS_FILE).is_file()]
        if len(aside) != 1:
            return
        with writing_to(out):
            aside[0].rename(out)
    if not overwrite and not (out / SETTINGS_FILE).is_file():
        msg = f"{out} exists already and is no dataset; name another folder."
        raise DatasetError(msg)
    if not overwrite:
        msg = f"{out} exists already; choose another output folder, or allow it to be replaced with --overwrite."
        raise DatasetError(msg)
    if not (out / SETTINGS_FILE).is_file():
        msg = f"{out} exists and is not a patch dataset, so it is not overwritten; choose another output folder."
        raise DatasetError(msg)


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `out`, whole or not at all, also where `out` exists."""
    out = place_of(out)
    if not out.exists():
        with replacing(out) as folder:
            folder.mkdir()
            yield folder
        return
    fresh = out.with_name(f".{out.name}.{uuid4().hex[:8]}.new")
    try:
        with replacing(fresh) as folder:
            folder.mkdir()
            yield folder
        swap_in(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def swap_in(fresh: Path, out: Path) -> None:
    """Put a finished folder where `out` is or was; the old one goes only when the new one stands."""
    old = out.with_name(f".{out.name}.{uuid4().hex[:8]}.old")
    if out.exists():
        out.rename(old)
    try:
        fresh.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    # Also what a process left that was killed between the two.
    for left in _moved_aside(out):
        shutil.rmtree(left, ignore_errors=True)


def _moved_aside(out: Path) -> list[Path]:
    """Return the old versions of a folder that `swap_in` put aside, and of no other: names may begin alike."""
    name = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{8}}\.old")
    found = out.parent.glob(f".{glob.escape(out.name)}.*.old")
    return sorted(folder for folder in found if name.fullmatch(folder.name))
