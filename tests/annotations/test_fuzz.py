"""Real annotation files damaged by chance: read, or refused in a sentence, never a crash, a hang or a bad geometry."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import shapely
from shapely.geometry import Point

from napari_histolatent.annotations import (
    Annotations,
    Region,
    WriteOptions,
    read_annotations,
    write_annotations,
)
from tests.annotations.texts import SLIDE

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = (
    "annotations/asap",
    "annotations/halo",
    "annotations/other",
    "annotations/qupath",
    "nuclei/monuseg",
)
TIMEOUT_S = 900


def files_of(data_dir: Path, folder: str) -> list[Path]:
    return sorted(
        v for v in (data_dir / folder).iterdir() if v.suffix in (".xml", ".annotations", ".json", ".geojson")
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> list[Path]:
    """Files of the formats of which there is no real one, made of real regions."""
    folder = tmp_path_factory.mktemp("made")
    regions = read_annotations(data_dir / "annotations/qupath/multipolygon_bare_geometry.geojson")
    small = Annotations(
        tuple(
            Region(r.id, r.class_name, shapely.transform(r.geometry, lambda xy: xy / 64), r.name)
            for r in regions.regions
        ),
        format="test",
    )
    points = Annotations(
        tuple(Region(str(i), f"class {i % 3}", Point(i, i * 1.5), f"cell {i}") for i in range(50)),
        format="test",
    )
    for name, of, form in (
        ("a.ndpa", regions, None),
        ("a.tif", small, None),
        ("a.csv", points, None),
        ("aperio.xml", regions, "imagescope-xml"),
    ):
        write_annotations(
            folder / name,
            of,
            format_name=form,
            options=WriteOptions(slide=None if name == "a.tif" else SLIDE),
        )
    return sorted(folder.iterdir())


def fuzzed(files: list[Path], seeds: range) -> list[dict[str, Any]]:
    """Return a line for each damaged copy; one with `end` where it ended the process that read it."""
    wanted = [(str(file), seed) for file in files for seed in seeds]
    lines: list[dict[str, Any]] = []
    while len(lines) < len(wanted):
        file, first = wanted[len(lines)]
        rest = [v for v in map(str, files) if v > file] if first == seeds.start else []
        count = seeds.stop - first
        command = [sys.executable, "-m", "tests.annotations.fuzz_child", str(first), str(count), file, *rest]
        child = subprocess.run(command, capture_output=True, check=False, cwd=REPOSITORY, timeout=TIMEOUT_S)
        lines += [json.loads(v) for v in child.stdout.splitlines()]
        if child.returncode:
            stderr = child.stderr.decode(errors="replace")
            end = "a hang" if "Timeout (" in stderr else f"a crash (return code {child.returncode})"
            file, seed = wanted[len(lines)]
            lines.append({"file": file, "seed": seed, "end": f"{end}: {stderr[-2000:]}"})
    return lines


def check_fuzzed(lines: list[dict[str, Any]]) -> None:
    ends = {(v["file"], v["seed"]): v["end"] for v in lines if "end" in v}
    assert not ends, f"copies that ended the process: {ends}"
    faults = {(v["file"], v["seed"]): v["fault"] for v in lines if v["fault"]}
    assert not faults, f"copies with another error than a sentence, or a bad result: {faults}"
    for line in lines:
        said = line["outcome"]
        assert said == "read" or (said.endswith(".") and len(said.splitlines()) == 1 and "copy." in said), (
            said
        )
    assert {"read"} < {v["outcome"] for v in lines}


def figures(lines: list[dict[str, Any]]) -> str:
    read = sum(v["outcome"] == "read" for v in lines)
    slowest = max(v["seconds"] for v in lines)
    kinds = Counter(v["kind"] for v in lines if v["outcome"] == "read")
    return f"{len(lines)} copies, {read} read, {len(lines) - read} refused, {slowest} s at most; read {dict(kinds)}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_damaged_copies_of_real_files(data_dir: Path, folder: str) -> None:
    check_fuzzed(fuzzed(files_of(data_dir, folder), range(10)))


def test_damaged_copies_of_the_other_formats(made: list[Path]) -> None:
    check_fuzzed(fuzzed(made, range(10)))


@pytest.mark.long
@pytest.mark.parametrize("folder", FOLDERS)
def test_many_damaged_copies_of_real_files(
    data_dir: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = fuzzed(files_of(data_dir, folder), range(10_000, 10_300))
    with capsys.disabled():
        sys.stdout.write(f"\n{folder}: {figures([v for v in lines if 'end' not in v])}\n")
    check_fuzzed(lines)


@pytest.mark.long
def test_many_damaged_copies_of_the_other_formats(
    made: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = fuzzed(made, range(10_000, 10_300))
    with capsys.disabled():
        sys.stdout.write(f"\nother formats: {figures([v for v in lines if 'end' not in v])}\n")
    check_fuzzed(lines)
