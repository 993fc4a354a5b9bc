"""Reading a large annotation file in a process of its own: parsers hold up every thread of theirs for seconds."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_histolatent.annotations._mapping import ClassMapping, Target
from napari_histolatent.annotations._packed import pack, unpack
from napari_histolatent.annotations._placement import AS_IS, Placement
from napari_histolatent.annotations._reading import read_annotations
from napari_histolatent.annotations._repair import regions_of
from napari_histolatent.annotations.formats import read_share
from napari_histolatent.errors import AnnotationError, UserError
from napari_histolatent.slides import Level, SlideInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.annotations._marks import RGB
    from napari_histolatent.annotations._region import Annotations

_LARGE_BYTES = 1 << 20
"""A smaller file is parsed in less time than a process takes to start."""
_VERY_LARGE_BYTES = 1 << 24
"""From here on several processes read a share each, where the format allows."""
_MOST = 4
_POLL_SECONDS = 0.02
_AS_A_WHOLE = ".whole"
"""Suffix of the mark that a file cannot be read in shares."""


def read_beside(
    path: str | Path,
    *,
    slide: SlideInfo | None = None,
    mapping: ClassMapping | None = None,
    placement: Placement = AS_IS,
    should_stop: Callable[[], bool] = lambda: False,
) -> Annotations | None:
    """Read an annotation file as `read_annotations` does, from a thread of a window that has to go on drawing.

    Returns
    -------
    Annotations or None
        None if told to stop.

    Raises
    ------
    AnnotationError
        As `read_annotations` does, and if the process that read it was killed, as for lack of memory.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size < _LARGE_BYTES:
        return read_annotations(path, slide=slide, mapping=mapping, placement=placement)
    request = {
        "path": str(path.absolute()),
        "slide": None if slide is None else {**asdict(slide), "path": str(slide.path)},
        "mapping": None
        if mapping is None
        else [mapping.name, {g: asdict(t) for g, t in mapping.targets.items()}],
        "placement": asdict(placement),
    }
    # Holes that are shapes of their own may lie in another share than what they are cut from.
    cuts = mapping is not None and any(target.cuts for target in mapping.targets.values())
    n = 1 if cuts or path.stat().st_size < _VERY_LARGE_BYTES else min(_MOST, os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(prefix="histolatent-") as folder:
        for shares in (n, 1) if n > 1 else (1,):
            outs = [Path(folder) / f"{k}-of-{shares}" for k in range(shares)]
            if not _run(request, outs, path.name, should_stop):
                return None
            if not any(out.with_suffix(_AS_A_WHOLE).is_file() for out in outs):
                break
        parts = [unpack(out, should_stop=should_stop) for out in outs]
        found = [part for part in parts if part is not None]
        return _joined(found) if len(found) == len(parts) else None


def _run(request: dict[str, Any], outs: list[Path], name: str, should_stop: Callable[[], bool]) -> bool:
    """Have one process for each of `outs` read its share of a file; False if told to stop."""
    children = []
    try:
        for k, out in enumerate(outs):
            asked = out.with_suffix(".json")
            asked.write_text(json.dumps({**request, "share": [k, len(outs)]}), encoding="utf-8")
            # Into a file: a pipe that nobody empties while the child runs would hold it up.
            with out.with_suffix(".stderr").open("wb") as stderr:
                children.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "napari_histolatent.annotations", str(asked), str(out)],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=stderr,
                    )
                )
        while any(child.poll() is None for child in children):
            if should_stop():
                return False
            time.sleep(_POLL_SECONDS)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()
    for child, out in zip(children, outs, strict=True):
        _require_read(child.returncode, out, name)
    return True


def _require_read(code: int, out: Path, name: str) -> None:
    refusal = out.with_suffix(".txt")
    if refusal.is_file():
        raise AnnotationError(refusal.read_text(encoding="utf-8"))
    if code != 0 or not (out.is_dir() or out.with_suffix(_AS_A_WHOLE).is_file()):
        said = out.with_suffix(".stderr").read_text(encoding="utf-8", errors="replace")
        last = said.strip().splitlines()[-1:] or ["nothing"]
        msg = (
            f"{name} could not be read: the process that read it ended with {code} and said "
            f"{last[0]!r}; free some memory, or split the file."
        )
        raise AnnotationError(msg)


def _joined(parts: list[Annotations]) -> Annotations:
    """Return the shares of one file as one."""
    if len(parts) == 1:
        return parts[0]
    colors: dict[str, RGB] = {}
    groups: Counter[str] = Counter()
    for part in parts:
        groups.update(part.groups)
        colors = {**part.colors, **colors}
    return replace(
        parts[0],
        regions=tuple(region for part in parts for region in part.regions),
        colors=colors,
        elements=sum(part.elements for part in parts),
        repairs=tuple(repair for part in parts for repair in part.repairs),
        tidied=sum(part.tidied for part in parts),
        dropped=sum(part.dropped for part in parts),
        messages=tuple(message for part in parts for message in part.messages),
        groups=dict(groups),
    )


def main(arguments: list[str]) -> int:
    """Read one file, or a share of it, and write its regions: the child's side."""
    gc.disable()  # millions of objects come, none in cycles, and the process ends with them
    request, out = json.loads(Path(arguments[0]).read_text(encoding="utf-8")), Path(arguments[1])
    mapping = request["mapping"]
    if mapping is not None:
        mapping = ClassMapping(mapping[0], {group: Target(**target) for group, target in mapping[1].items()})
    factor, offset = request["placement"]["factor"], request["placement"]["offset_xy"]
    placement = Placement(factor, (offset[0], offset[1]))
    path, slide = Path(request["path"]), _slide_of(request["slide"])
    try:
        if request["share"][1] == 1:
            found = read_annotations(path, slide=slide, mapping=mapping, placement=placement)
        else:
            share = read_share(path, tuple(request["share"]))
            if share is None:
                out.with_suffix(_AS_A_WHOLE).touch()
                return 0
            found = regions_of(share, file_name=path.name, mapping=mapping, placement=placement)
    except UserError as error:
        out.with_suffix(".txt").write_text(str(error), encoding="utf-8")
        return 0
    pack(found, out)
    return 0


def _slide_of(said: dict[str, Any] | None) -> SlideInfo | None:
    if said is None:
        return None
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in said.items()
    }
    values["path"] = Path(said["path"])
    values["levels"] = tuple(Level(**level) for level in said["levels"])
    return SlideInfo(**values)
