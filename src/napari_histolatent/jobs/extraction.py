"""Cut a dataset in a process of its own: what the Patches dock starts, pauses and finds again."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from napari_histolatent._files import data_folder, file_name_of
from napari_histolatent.errors import AnnotationError, DatasetError, RunError, UserError, writing_to
from napari_histolatent.patches import (
    ExtractionStoppedError,
    PatchDataset,
    Recipe,
    SlideSource,
    annotations_for,
    extract,
    read_batch,
    require_own_names,
    slides_in,
    working_folder,
)
from napari_histolatent.patches._extract import request_digest
from napari_histolatent.patches._write import place_of, require_free
from napari_histolatent.runs import ENDED, Run, RunEvent, known_runs

if TYPE_CHECKING:
    from collections.abc import Sequence

EXTRACT = "extract"

_EVENT_SECONDS = 0.5
_RATE_SECONDS = 10.0
"""The speed that is shown is that of so many seconds, or of the last shard if that took longer."""
_MAX_THREADS = 8
_TOLD = "told"


def new_extraction(
    sources: Sequence[SlideSource],
    out: Path,
    recipe: Recipe,
    *,
    overwrite: bool = False,
    failed: Sequence[str] = (),
) -> Run:
    """Make a run that will cut a dataset; `runs.launch` starts it.

    Parameters
    ----------
    sources
        Slides with their annotations.
    out
        Folder of the dataset.
    recipe
        What decides which patches are cut.
    overwrite
        Whether a dataset in `out` is replaced.
    failed
        A sentence for each slide that was left out before, for the report.

    Raises
    ------
    DatasetError
        If the folder exists.
    UserError
        If the run's folder cannot be made.
    """
    out = place_of(out)
    require_free(out, overwrite=overwrite)
    folder = data_folder() / "extractions" / f"{file_name_of(out.name)}-{uuid4().hex[:8]}"
    spec = {
        "out": str(out),
        "sources": [source.to_json() for source in sources],
        "recipe": recipe.to_json(),
        "overwrite": overwrite,
        "failed": list(failed),
    }
    return Run.create(folder, kind=EXTRACT, spec=spec)


def batch_sources(slides: Path, annotations: Path | None = None) -> tuple[list[SlideSource], list[str]]:
    """Return what a batch names, and a sentence for each slide that has no annotations.

    Parameters
    ----------
    slides
        A folder of slides, or a CSV table (see `read_batch`).
    annotations
        The folder with the annotations of a folder's slides, or None.

    Raises
    ------
    DatasetError
        If the folder holds no slide, the table cannot be read, or nothing of it can be used.
    """
    if not slides.is_dir():
        return read_batch(slides), []
    sources, failed = [], []
    found = slides_in(slides)
    if annotations is not None:
        require_own_names(found)
    for slide in found:
        try:
            regions = None if annotations is None else annotations_for(slide, annotations)
            sources.append(SlideSource(slide, regions))
        except AnnotationError as error:
            failed.append(str(error))
    if not sources:
        msg = f"None of the slides of {slides} can be used; the first: {failed[0]}"
        raise DatasetError(msg)
    return sources, failed


def out_of(run: Run) -> Path:
    """Return the folder of the dataset that an extraction makes."""
    return Path(run.spec["out"])


def run_extraction(run: Run) -> None:
    """Do the work of an extraction's run folder, telling how it goes in its events."""
    sources = [SlideSource.from_json(value) for value in run.spec["sources"]]
    recipe = Recipe.from_json(run.spec["recipe"])
    out = out_of(run)
    run.append(RunEvent("started", message="Looking at tissue and regions"))
    told = _Told(run)
    if _was_finished_by(run, sources, recipe):
        facts = _facts_of(out)
    else:
        try:
            report = extract(
                sources,
                out,
                recipe=recipe,
                workers=min(_MAX_THREADS, os.cpu_count() or 1),
                overwrite=bool(run.spec["overwrite"]),
                on_progress=told.progress,
                should_stop=lambda: run.stop_requested,
            )
        except ExtractionStoppedError as error:
            run.append(RunEvent("stopped", told.done, told.total, message=str(error)))
            return
        facts = _facts_of(out) | {"seconds": report.seconds, "taken_up": report.taken_up}
    facts["failed"] = [*run.spec.get("failed", []), *facts["failed"]]
    n = facts["patches"]
    run.append(RunEvent("finished", told.total or n, told.total or n, data={"report": facts}))


def _was_finished_by(run: Run, sources: Sequence[SlideSource], recipe: Recipe) -> bool:
    """Return whether the dataset was whole already when the process was killed, before it could say so.

    Another run, or the command line, may have made it meanwhile: it has to be of this run's request. One of before
    the run is cut anew, for a slide may be another under the same name.
    """
    out = out_of(run)
    if working_folder(out).exists():
        return False
    try:
        provenance = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
        if float(provenance["finished"]) <= run.created:
            return False
        settings = json.loads((out / "dataset.json").read_text(encoding="utf-8"))
        return bool(settings["request"] == request_digest(sources, recipe))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _facts_of(out: Path) -> dict[str, Any]:
    """Return the counts of a dataset, as they are told when it is done."""
    settings = PatchDataset(out).settings
    left_out = dict(settings.get("not_cut", {}))
    for reason, n in settings["left_out"].items():
        left_out[reason] = left_out.get(reason, 0) + n
    return {
        "patches": settings["patches"],
        "counts": settings["counts"],
        "left_out": dict(sorted(left_out.items())),
        "slides": len(settings["slides"]),
        "failed": list(settings.get("failed", [])),
        "messages": list(settings.get("messages", [])),
    }


class _Told:
    """Turns progress into events, a few a second, with the speed of late."""

    def __init__(self, run: Run) -> None:
        self.done = self.total = 0
        self._run = run
        self._last = 0.0
        self._marks: list[tuple[float, int]] = []

    def progress(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        now = time.monotonic()
        older = [mark for mark in self._marks if now - mark[0] > _RATE_SECONDS]
        # The last of the older ones is kept: a shard of a slow slide takes longer than all that is looked back.
        self._marks = [*older[-1:], *self._marks[len(older) :], (now, done)]
        if now - self._last < _EVENT_SECONDS and done < total:
            return
        self._last = now
        since, before = self._marks[0]
        rate = (done - before) / (now - since) if now > since else 0.0
        data = {"patches_per_second": round(rate, 1)} if rate else {}
        with writing_to(self._run.path):
            self._run.append(RunEvent("progress", done, total, data=data))


def open_extractions() -> list[Run]:
    """Return the extractions a user has still to do with, one a dataset folder.

    First those that run, then those that finished while nobody watched (see `mark_told`), then those that can go
    on where they were: stopped, killed, or failed after something was cut; the newest of each first.
    """
    found, settled = [], set()
    for path in known_runs():
        try:
            run = Run(path)
        except (RunError, UserError):
            continue
        out = run.spec.get("out")
        if run.kind != EXTRACT or not isinstance(out, str) or out in settled:
            continue
        status = run.status()
        if status.state == "new" or (status.state == "failed" and not status.step):
            continue
        settled.add(out)
        is_finished = status.state == "finished"
        if not is_finished or not (
            (run.path / _TOLD).exists() or not (out_of(run) / "dataset.json").exists()
        ):
            found.append((1 if is_finished else 2 if status.state in ENDED else 0, run))
    return [run for _, run in sorted(found, key=lambda entry: entry[0])]


def mark_told(run: Run) -> None:
    """Write down that the user knows that an extraction has finished."""
    with writing_to(run.path):
        (run.path / _TOLD).touch()


def forget(run: Run) -> None:
    """Take an extraction off the list; what it has cut is kept in the dataset's working folder.

    Raises
    ------
    RunError
        If its process is running.
    UserError
        If the run's folder cannot be removed.
    """
    if run.status().state not in (*ENDED, "new"):
        msg = f"The extraction into {out_of(run)} is running; cancel it first."
        raise RunError(msg)
    with writing_to(run.path):
        shutil.rmtree(run.path)
