from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

from napari_histolatent.errors import DatasetError
from napari_histolatent.patches import CODECS, StoreSpec
from napari_histolatent.patches import _store as store
from napari_histolatent.patches._store import (
    ShardReader,
    copy_without,
    create_array,
    decode_into,
    encode,
    shard_file,
    shard_patches,
    write_shard,
)

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 16


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Smooth enough for JPEG, different enough to tell patches apart."""
    rng = np.random.default_rng(0)
    ramps = np.add.outer(np.arange(SIZE), np.arange(SIZE))[None, ..., None] * 3
    return (ramps + rng.integers(0, 150, (40, 1, 1, 3))).astype(np.uint8)


@pytest.fixture(autouse=True)
def _few_patches_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_SHARD_BYTES", 16 * 3 * SIZE**2)


def written(folder: Path, pixels: np.ndarray, spec: StoreSpec, missing: tuple[int, ...] = ()) -> list[str]:
    create_array(folder, len(pixels), SIZE, spec)
    digests = []
    for shard, start in enumerate(range(0, len(pixels), 16)):
        chunks = [
            None if start + i in missing else encode(patch, spec.codec, spec.jpeg_quality)
            for i, patch in enumerate(pixels[start : start + 16])
        ]
        digests.append(write_shard(shard_file(folder, shard), chunks, 16))
    return digests


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"codec": "png"}, "There is no codec 'png'; choose one of zstd, raw, jpeg."),
        ({"jpeg_quality": 0}, "A JPEG quality of 0 is not possible; give 1 to 100."),
        ({"keep": "all"}, "There is no choice 'all' of patches to keep; choose one of labelled, tissue."),
    ],
)
def test_a_store_that_cannot_be_is_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DatasetError) as caught:
        StoreSpec(**arguments)
    assert str(caught.value) == sentence


def test_a_shard_is_at_most_32_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    sizes = {size: shard_patches(size) for size in (8, 32, 64, 256, 512, 1024, 4096)}
    assert sizes == {8: 1024, 32: 1024, 64: 1024, 256: 128, 512: 32, 1024: 8, 4096: 1}


@pytest.mark.parametrize("codec", CODECS)
def test_zarr_reads_what_the_reader_reads(tmp_path: Path, pixels: np.ndarray, codec: str) -> None:
    written(tmp_path / "a", pixels, StoreSpec(codec=codec))
    array = zarr.open_array(tmp_path / "a", mode="r")
    assert (array.shape, array.dtype) == ((40, SIZE, SIZE, 3), np.uint8)
    assert array.chunks == (1, SIZE, SIZE, 3)
    assert array.metadata.dimension_names == ("patch", "y", "x", "rgb")
    reader = ShardReader(tmp_path / "a", 40, SIZE)
    np.testing.assert_array_equal(reader.read(range(40)), array[:])
    if codec == "jpeg":
        assert np.abs(array[:].astype(int) - pixels).max() < 12
    else:
        np.testing.assert_array_equal(array[:], pixels)


@pytest.mark.parametrize("codec", CODECS)
def test_the_reader_reads_what_zarr_writes(tmp_path: Path, pixels: np.ndarray, codec: str) -> None:
    create_array(tmp_path / "a", 40, SIZE, StoreSpec(codec=codec, jpeg_quality=80))
    zarr.open_array(tmp_path / "a", mode="r+")[:] = pixels
    ours = np.empty_like(pixels)
    for patch, out in zip(pixels, ours, strict=True):
        decode_into(encode(patch, codec, 80), codec, out)
    np.testing.assert_array_equal(ShardReader(tmp_path / "a", 40, SIZE).read(range(40)), ours)


def test_a_program_that_knows_only_zarr_finds_the_jpeg_codec(tmp_path: Path, pixels: np.ndarray) -> None:
    written(tmp_path / "a", pixels, StoreSpec(codec="jpeg"))
    program = (
        "import sys, zarr; array = zarr.open_array(sys.argv[1], mode='r'); "
        "sys.stdout.buffer.write(array[7].tobytes())"
    )
    read = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a")], capture_output=True, check=False
    )
    assert read.returncode == 0, read.stderr.decode()
    assert read.stdout == ShardReader(tmp_path / "a", 40, SIZE).read([7]).tobytes()


def test_a_shard_is_laid_out_as_zarr_says(tmp_path: Path, pixels: np.ndarray) -> None:
    # Sharding codec 1.0: chunks, then (offset, length) of each as little-endian uint64, then CRC32C of that.
    written(tmp_path / "a", pixels, StoreSpec(codec="zstd"), missing=(1,))
    data = shard_file(tmp_path / "a", 0).read_bytes()
    index = np.frombuffer(data[-16 * 16 - 4 : -4], "<u8").reshape(16, 2)
    assert index[1].tolist() == [2**64 - 1] * 2
    offset, n = (int(v) for v in index[2])
    assert bytes(Zstd().decode(data[offset : offset + n])) == pixels[2].tobytes()
    assert sorted(path.name for path in (tmp_path / "a" / "c").iterdir()) == ["0", "1", "2"]


def test_the_digest_is_that_of_the_file(tmp_path: Path, pixels: np.ndarray) -> None:
    from hashlib import sha256

    digests = written(tmp_path / "a", pixels, StoreSpec())
    files = [shard_file(tmp_path / "a", shard) for shard in range(3)]
    assert digests == [sha256(file.read_bytes()).hexdigest() for file in files]


def test_any_order_and_repeats(tmp_path: Path, pixels: np.ndarray) -> None:
    written(tmp_path / "a", pixels, StoreSpec())
    rows = [39, 0, 17, 17, 3, 16, 15, 32]
    np.testing.assert_array_equal(ShardReader(tmp_path / "a", 40, SIZE).read(rows), pixels[rows])
    assert ShardReader(tmp_path / "a", 40, SIZE).read([]).shape == (0, SIZE, SIZE, 3)


def test_threads_read_the_right_patches_while_files_are_opened_and_closed(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_MAX_OPEN", 1)
    written(tmp_path / "a", pixels, StoreSpec())
    reader = ShardReader(tmp_path / "a", 40, SIZE)
    wrong: list[object] = []

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(60):
                rows = rng.integers(0, 40, 4)
                if not np.array_equal(reader.read(rows), pixels[rows]):
                    wrong.append(rows)
        except Exception as error:  # noqa: BLE001  # a thread's error would pass unseen
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    reader.close()
    np.testing.assert_array_equal(reader.read([5]), pixels[[5]])  # a later read opens them again


# What is damaged


def damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
        return
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = bytearray()
    elif how == "bit in the index":
        data[-40] ^= 1
    elif how == "bit in the checksum":
        data[-1] ^= 128
    elif how == "chunk":
        data[:20] = bytes(20)
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", r"cannot be read \(No such file or directory\); cut the dataset again, or bring"),
        ("truncated", r"is damaged \(.*\); cut the dataset again, or bring the file back"),
        ("empty", r"is damaged \(it has 0 bytes\); cut the dataset again"),
        ("bit in the index", r"is damaged \(the checksum of its index does not fit\); cut the dataset again"),
        ("bit in the checksum", r"is damaged \(the checksum of its index does not fit\)"),
        ("chunk", r"^Patch 0 in .* is damaged: its bytes cannot be decoded .*; cut the dataset again\.$"),
    ],
)
@pytest.mark.parametrize("codec", ["zstd", "jpeg"])
def test_a_damaged_shard_is_named(
    tmp_path: Path, pixels: np.ndarray, how: str, words: str, codec: str
) -> None:
    written(tmp_path / "a", pixels, StoreSpec(codec=codec))
    damage(shard_file(tmp_path / "a", 0), how)
    reader = ShardReader(tmp_path / "a", 40, SIZE)
    with pytest.raises(DatasetError, match=words) as caught:
        reader.read([0])
    assert str(shard_file(tmp_path / "a", 0)) in str(caught.value)
    assert reader.read([20]).shape == (1, SIZE, SIZE, 3)  # the others are read


def test_a_patch_that_was_never_written_is_not_black(tmp_path: Path, pixels: np.ndarray) -> None:
    written(tmp_path / "a", pixels, StoreSpec(), missing=(3,))
    with pytest.raises(DatasetError, match=r"^Patch 3 is missing from .*; cut the dataset again\.$"):
        ShardReader(tmp_path / "a", 40, SIZE).read([2, 3])


@pytest.mark.parametrize("codec", CODECS)
def test_bytes_of_another_size_are_no_patch(codec: str) -> None:
    small = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="its bytes cannot be decoded"):
        decode_into(encode(small, codec), codec, np.empty((SIZE, SIZE, 3), np.uint8))
    large = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="its bytes cannot be decoded"):
        decode_into(encode(large, codec), codec, np.empty((SIZE, SIZE, 3), np.uint8))


def test_an_array_of_another_kind_is_told_from_ours(tmp_path: Path, pixels: np.ndarray) -> None:
    zarr.create_array(
        tmp_path / "a",
        shape=(40, SIZE, SIZE, 3),
        chunks=(4, SIZE, SIZE, 3),
        shards=(16, SIZE, SIZE, 3),
        dtype="u1",
    )
    with pytest.raises(DatasetError, match="which this version does not read; update napari-histolatent"):
        ShardReader(tmp_path / "a", 40, SIZE)
    zarr.create_array(tmp_path / "b", shape=(40, SIZE, SIZE, 3), chunks=(1, SIZE, SIZE, 3), dtype="u1")
    with pytest.raises(DatasetError, match=r"cut the dataset again|update napari-histolatent"):
        ShardReader(tmp_path / "b", 40, SIZE)


@pytest.mark.parametrize("content", [None, "{junk", "[]", "{}", json.dumps({"codecs": 3})])
def test_metadata_that_cannot_be_read(tmp_path: Path, pixels: np.ndarray, content: str | None) -> None:
    written(tmp_path / "a", pixels, StoreSpec())
    (tmp_path / "a" / "zarr.json").unlink()
    if content is not None:
        (tmp_path / "a" / "zarr.json").write_text(content)
    with pytest.raises(DatasetError, match=r"a cannot be read \(.*\); cut the dataset again\."):
        ShardReader(tmp_path / "a", 40, SIZE)


@pytest.mark.parametrize(("n", "size"), [(41, SIZE), (39, SIZE)])
def test_an_array_of_another_length_than_the_index(
    tmp_path: Path, pixels: np.ndarray, n: int, size: int
) -> None:
    written(tmp_path / "a", pixels, StoreSpec())
    with pytest.raises(
        DatasetError,
        match=f"holds 40 patches of 16 px, the index names {n} of {size} px; cut the dataset again",
    ):
        ShardReader(tmp_path / "a", n, size)


@pytest.mark.parametrize("codec", CODECS)
def test_patches_are_taken_out_without_being_coded_again(
    tmp_path: Path, pixels: np.ndarray, codec: str
) -> None:
    spec = StoreSpec(codec=codec)
    lost = (0, 5, 16, 17, 39)
    written(tmp_path / "a", pixels, spec, missing=lost)
    kept = np.array([i for i in range(40) if i not in lost])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "of a call before").write_text("")
    digests = copy_without(tmp_path / "a", tmp_path / "b", kept, 40, SIZE, spec)
    assert written(tmp_path / "c", pixels[kept], spec) == digests
    for name in ("zarr.json", "c/0/0/0/0", "c/1/0/0/0", "c/2/0/0/0"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()
    assert not (tmp_path / "b" / "of a call before").exists()


def test_one_flipped_bit_does_not_become_other_pixels(tmp_path: Path, pixels: np.ndarray) -> None:
    # BUG: most of them were decoded without a word.
    noise = np.random.default_rng(0).integers(0, 40, pixels.shape).astype(np.uint8)
    written(tmp_path / "a", noise, StoreSpec())
    file = shard_file(tmp_path / "a", 0)
    whole = file.read_bytes()
    for offset in range(3, len(whole) // 2, 97):
        damaged = bytearray(whole)
        damaged[offset] ^= 0x10
        file.write_bytes(damaged)
        with pytest.raises(DatasetError, match="is damaged"):
            ShardReader(tmp_path / "a", 40, SIZE).read(range(16))
    codecs = json.loads((tmp_path / "a" / "zarr.json").read_text())["codecs"][0]["configuration"]["codecs"]
    assert codecs[1] == {"name": "zstd", "configuration": {"level": -5, "checksum": True}}
