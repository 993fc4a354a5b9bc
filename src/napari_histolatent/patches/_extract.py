"""Cut the patches of slides into a dataset: planned, in shards, resumable, the same bytes each time."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from napari_histolatent._files import digest_of, digest_of_file, replacing, write_json
from napari_histolatent.errors import DatasetError, UserError, passing_through, writing_to
from napari_histolatent.patches._cutting import (
    PARTS_FOLDER,
    REQUEST_FILE,
    ShardDone,
    ShardTask,
    SlideToCut,
    StoppedError,
    close_slides,
    cut_shard,
)
from napari_histolatent.patches._dataset import (
    PIXELS_FOLDER,
    PROVENANCE_FILE,
    SETTINGS_FILE,
)
from napari_histolatent.patches._index import (
    AT_SPLIT_BORDER,
    BALANCE,
    MEMBER,
    QUALITIES,
    QUALITY,
    boxes_of,
    common_mpp,
    strings,
    with_columns,
)
from napari_histolatent.patches._leakage import leaks
from napari_histolatent.patches._plan import (
    SlidePlan,
    SlideSource,
    assemble,
    by_hand_of,
    plan_slide,
    require_training,
    settle,
    way_of,
    zoom_numbers,
)
from napari_histolatent.patches._quality import QualitySpec
from napari_histolatent.patches._split import SPLITS
from napari_histolatent.patches._stain import StainFit, target_fit
from napari_histolatent.patches._store import (
    copy_without,
    create_array,
    shard_patches,
)
from napari_histolatent.patches._workers import WorkersEndedError, workers_of
from napari_histolatent.patches._write import (
    digest_of_shards,
    finish_dataset,
    place_of,
    require_free,
    swap_in,
    versions,
)
from napari_histolatent.slides import stored_mpps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from napari_histolatent.patches._recipe import Recipe
    from napari_histolatent.patches._workers import Workers

_PLAN, _PLAN_TABLE = "plan.json", "plan.parquet"


class ExtractionStoppedError(DatasetError):
    """The user asked to stop; what is done is kept."""


@dataclass(frozen=True)
class ExtractReport:
    """What `histolatent extract` reports."""

    patches: int
    classes: dict[str, int]
    splits: dict[str, int]
    seconds: float
    failed: tuple[str, ...]
    """One sentence for each slide that was left out."""
    left_out: dict[str, int]
    """Patches that were planned or cut and are not in the dataset, by reason."""
    considered: int
    """Patches of the grid with enough tissue."""
    taken_up: int
    """Patches that an earlier, interrupted extraction had cut already."""
    messages: tuple[str, ...] = ()
    """Sentences on what a user should know before training: leaks, empty splits, decisions that name no patch."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `--json` reports."""
        return asdict(self)


@dataclass(frozen=True)
class _Job:
    """A planned extraction, as its working folder describes it."""

    folder: Path
    recipe: Recipe
    table: pa.Table
    slide_of: NDArray[np.int64]
    facts: dict[str, Any]
    """The rest of the plan, JSON."""
    request: str = ""
    """Digest of what decides the patches that are cut."""

    @cached_property
    def slides(self) -> tuple[SlideToCut, ...]:
        fits = self.facts["stain"]["fits"] if self.facts["stain"] else {}
        return tuple(
            SlideToCut(
                Path(entry["path"]),
                entry["digest"],
                entry["stated_mpp"],
                StainFit.from_json(fits[entry["digest"]]) if entry["digest"] in fits else None,
            )
            for entry in self.facts["slides"]
        )

    @property
    def n_shards(self) -> int:
        return -(-len(self.table) // shard_patches(self.recipe.grid.size_px))


def working_folder(out: Path) -> Path:
    """Return where an extraction into `out` keeps what it has done until it is whole."""
    return out.with_name(f"{out.name}.part")


def extract(
    sources: Sequence[SlideSource],
    out: Path,
    *,
    recipe: Recipe,
    workers: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ExtractReport:
    """Cut the labelled patches of slides into a dataset folder.

    What is done is kept in `working_folder(out)` when the work is stopped, killed or fails; the same call again
    goes on from there, and ends with the bytes of one that was never interrupted. Inputs and recipe alone decide
    the dataset: not the workers, nor the time (those are in provenance.json).

    Parameters
    ----------
    sources
        Slides with their annotations. One that cannot be read is left out and named in the report.
    out
        Folder to make.
    recipe
        Grid, tissue, labels, split, store.
    workers
        Threads that decode; with a scheduler "local", processes.
    scheduler
        Address of a Dask scheduler, or "local"; see `workers_of`.
    overwrite
        Whether a dataset in `out`, or an unfinished one of other settings, is replaced.
    on_progress
        Called with (patches cut, patches in all); not from other threads than the caller's.
    should_stop
        Asked between patches; when it says so, what is done is kept and ExtractionStoppedError raised.

    Raises
    ------
    ExtractionStoppedError
        If stopping was asked for.
    DatasetError
        If the folder exists, no slide can be read, or a class has no patches.
    UserError
        If the folder cannot be written, or the scheduler is gone.
    """
    started, began = perf_counter(), datetime.now(UTC)
    if not sources:
        msg = "There is no slide to cut; give at least one."
        raise DatasetError(msg)
    if recipe.store.index_only and recipe.quality != QualitySpec():
        msg = "Limits on focus, pen or white need the pixels, which an index-only dataset does not read; leave the limits out, or store the pixels."
        raise DatasetError(msg)
    out, sources = place_of(out), [source.absolute() for source in sources]
    if on_progress is not None:
        on_progress = passing_through(on_progress)
    if should_stop is not None:
        should_stop = passing_through(should_stop)
    require_free(out, overwrite=overwrite)
    request = _request_of(sources, recipe)
    part = working_folder(out)
    with writing_to(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with _alone(out), workers_of(workers, scheduler) as pool:
            require_free(out, overwrite=overwrite)  # another call may just have finished it
            _take_up(part, request, overwrite=overwrite)
            to_cut = digest_of(_what_is_cut(request))
            if not (part / SETTINGS_FILE).exists():
                job = _planned(part, to_cut, sources, recipe, pool, should_stop)
                taken_up = _cut(job, pool, on_progress, should_stop)
                provenance = _provenance(began, perf_counter() - started, workers, scheduler, taken_up)
                write_json(part / PROVENANCE_FILE, provenance)
                _finish(job, digest_of(request))
            _clean(part)
            swap_in(part, out)
    return _report(out, perf_counter() - started)


def request_digest(sources: Sequence[SlideSource], recipe: Recipe) -> str:
    """Return what a dataset of these slides by this recipe has for `request` in its settings."""
    return digest_of(_request_of([source.absolute() for source in sources], recipe))


def _what_is_cut(request: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a request that decides which patches are cut.

    The limits of quality come after: with others, what is cut is taken up.
    """
    return request | {"recipe": {name: v for name, v in request["recipe"].items() if name != "quality"}}


def _request_of(sources: Sequence[SlideSource], recipe: Recipe) -> dict[str, Any]:
    """Return what decides the dataset; two calls with equal requests make the same."""

    def content(path: Path | None) -> str | None:
        try:
            return digest_of_file(path) if path is not None and path.is_file() else None
        except OSError:  # planning says what is wrong with it
            return None

    return {
        "versions": versions(),
        "recipe": json.loads(json.dumps(recipe.to_json())),
        "sources": [
            source.to_json()
            | {f"{name}_sha256": content(getattr(source, name)) for name in ("annotations", "mask", "coords")}
            for source in sources
        ],
    }


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep a second extraction out of the same folder; the system lets go when the process dies."""
    lock = FileLock(out.with_name(f".{out.name}.lock"), timeout=0)
    try:
        with lock:
            try:
                yield
            finally:
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout as error:
        msg = f"Another extraction into {out} is running; wait until it has ended, or choose another output folder."
        raise DatasetError(msg) from error


def _take_up(part: Path, request: dict[str, Any], *, overwrite: bool) -> None:
    """Make the working folder, or take up the one that an interrupted extraction of the same request left."""
    to_cut = _what_is_cut(request)
    if part.exists():
        kept = _json_of(part / REQUEST_FILE)
        settings = _json_of(part / SETTINGS_FILE)
        # Once the settings stand, the limits of quality are in the index.
        if kept == to_cut if settings is None else settings.get("request") == digest_of(request):
            return
        then, now = kept.get("versions") if isinstance(kept, dict) else None, request["versions"]
        if not overwrite and isinstance(then, dict) and then != now and kept | {"versions": now} == to_cut:
            what = ", ".join(
                f"{name} {then.get(name)} then, {now.get(name)} now"
                for name in sorted(then | now)
                if then.get(name) != now.get(name)
            )
            msg = f"{part} holds an unfinished dataset of the same slides and settings that other versions began ({what}); finish it with those, or begin anew with --overwrite."
            raise DatasetError(msg)
        if not overwrite:
            msg = (
                f"{part} holds an unfinished dataset of other slides, regions or settings; finish it with the command "
                "it was begun with, remove it, or allow it to be replaced with --overwrite."
            )
            raise DatasetError(msg)
        if kept is None and settings is None and any(part.iterdir()):
            msg = f"{part} is in the way and none of ours; move it, or choose another output folder."
            raise DatasetError(msg)
        shutil.rmtree(part)
    with replacing(part) as fresh:
        fresh.mkdir()
        write_json(fresh / REQUEST_FILE, to_cut)


def _json_of(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _planned(
    part: Path,
    request: str,
    sources: Sequence[SlideSource],
    recipe: Recipe,
    pool: Workers,
    should_stop: Callable[[], bool] | None,
) -> _Job:
    """Return the plan: the one that is kept in the working folder, or a new one."""
    if not (part / _PLAN).exists():
        try:
            table, facts = _plan(sources, recipe, pool, should_stop)
        except BaseException:
            if not any((part / name).exists() for name in (PARTS_FOLDER, PIXELS_FOLDER)):
                shutil.rmtree(part, ignore_errors=True)  # nothing is done yet that could be taken up
            raise
        with replacing(part / _PLAN_TABLE) as temporary:
            pq.write_table(table, temporary)
        write_json(part / _PLAN, facts)
    try:
        facts = json.loads((part / _PLAN).read_text(encoding="utf-8"))
        table = pq.read_table(part / _PLAN_TABLE)
    except (OSError, ValueError) as error:
        msg = f"The plan in {part} cannot be read ({error}); give the command again when it can, or remove {part} to begin anew."
        raise DatasetError(msg) from error
    slide_of = table["slide_number"].to_numpy()
    return _Job(part, recipe, table.drop_columns(["slide_number"]), slide_of, facts, request)


def _plan(
    sources: Sequence[SlideSource],
    recipe: Recipe,
    pool: Workers,
    should_stop: Callable[[], bool] | None,
) -> tuple[pa.Table, dict[str, Any]]:
    plans: dict[int, SlidePlan] = {}
    errors: dict[int, UserError] = {}

    def stop_if_asked() -> None:
        if should_stop is not None and should_stop():
            msg = "Stopped before any patch was cut; the same command begins anew."
            raise ExtractionStoppedError(msg)

    outcomes = pool.run(
        # What the user stated here of a slide's pixel size is not known elsewhere.
        partial(plan_slide, recipe=recipe, stated_mpps=stored_mpps()),
        sources,
        on_wait=stop_if_asked,
        doubt=lambda _, error: int(isinstance(error, UserError)),
    )
    for i, plan, error in outcomes:
        try:
            stop_if_asked()
        except ExtractionStoppedError:
            outcomes.close()  # type: ignore[attr-defined]  # a generator
            raise
        if isinstance(error, WorkersEndedError):
            errors[i] = DatasetError(
                f"{sources[i].slide.name} ended every worker that tried to plan it; look at their logs (memory?), or leave it out."
            )
        elif isinstance(error, UserError):
            errors[i] = error
        elif error is not None:
            raise error
        else:
            plans[i] = plan
    seen: dict[str, Path] = {}
    for i in sorted(plans):
        digest, slide = plans[i].digest, plans[i].source.slide
        if digest in seen:
            errors[i] = DatasetError(f"{slide} is the same slide as {seen[digest]}; it is left out.")
        else:
            seen[digest] = slide
    usable = [plans[i] for i in sorted(plans) if i not in errors]
    if not usable:
        if len(errors) == 1:
            raise next(iter(errors.values()))
        msg = f"None of the {len(sources)} slides could be used; the first: {errors[min(errors)]}"
        raise DatasetError(msg)
    plan = assemble(usable, recipe)
    stain = None
    if recipe.stain.method != "none":
        stain = {
            "target": target_fit(recipe.stain).to_json(),
            "fits": {v.digest: v.stain.to_json() for v in usable if v.stain is not None},
        }
    patches = np.bincount(plan.slide_of, minlength=len(usable))
    facts = {
        "classes": list(plan.classes),
        "colors": {name: list(color) for v in usable for name, color in v.colors.items()},
        "considered": plan.considered,
        "not_cut": plan.not_cut,
        "split_by": plan.split_by,
        "stain": stain,
        "slides": [_slide_entry(v, int(n)) for v, n in zip(usable, patches, strict=True)],
        "failed": [str(errors[i]) for i in sorted(errors)],
        "messages": list(plan.messages),
    }
    return plan.table.append_column("slide_number", pa.array(plan.slide_of)), facts


def _slide_entry(plan: SlidePlan, n_patches: int) -> dict[str, Any]:
    source = plan.source
    return {
        "path": str(source.slide.absolute()),
        "name": source.slide.name,
        "digest": plan.digest,
        "width_px": plan.size_px[0],
        "height_px": plan.size_px[1],
        "slide_mpp": None if plan.mpp is None else list(plan.mpp),
        "stated_mpp": plan.stated_mpp,
        "annotations": None if source.annotations is None else str(source.annotations),
        "patient": source.patient or None,
        "label": source.label or None,
        "mpp": None
        if plan.mpp is None
        else round(plan.mpp[0] * plan.grids[0].positions.resolution.downsample[0], 6),
        "downsample": list(plan.grids[0].positions.resolution.downsample),
        "mask_thresholds": plan.mask_thresholds,
        "by_hand": len(source.marks),
        "patches": n_patches,
    }


def _cut(
    job: _Job,
    pool: Workers,
    on_progress: Callable[[int, int], None] | None,
    should_stop: Callable[[], bool] | None,
) -> int:
    """Cut the shards that are missing; return how many patches were there already."""
    total = len(job.table)
    if job.recipe.store.index_only:
        return 0
    if not (job.folder / PIXELS_FOLDER / "zarr.json").exists():
        # What a killed process left of it; a shard is never written before the metadata stand.
        shutil.rmtree(job.folder / PIXELS_FOLDER, ignore_errors=True)
        create_array(job.folder / PIXELS_FOLDER, total, job.recipe.grid.size_px, job.recipe.store)
    per_shard = shard_patches(job.recipe.grid.size_px)
    tasks, taken_up = [], 0
    for shard in range(job.n_shards):
        done = ShardDone.load(job.folder, shard, job.request)
        # A slide that could not be read may be back.
        if done is None or done.failed:
            tasks.append(_task(job, shard, per_shard))
        else:
            taken_up += done.n_patches
    cut, caller = taken_up, get_ident()
    begun: dict[int, int] = {}  # patches of the shards that are being cut; each thread writes its own entry

    shown = -1

    def show() -> None:
        nonlocal shown
        done = cut + sum(list(begun.values()))
        if on_progress is not None and done != shown:
            on_progress(done, total)
        shown = done

    def cut_here(task: ShardTask) -> ShardDone:
        def on_patches(n_patches: int) -> None:
            begun[task.shard] = begun.get(task.shard, 0) + n_patches
            if get_ident() == caller:
                show()

        return cut_shard(task, should_stop=should_stop, on_patches=on_patches)

    def stopped() -> ExtractionStoppedError:
        begun.clear()  # what was begun of a shard is not kept
        show()
        msg = f"Cutting was stopped after {cut} of {total} patches; they are kept: the same command goes on."
        return ExtractionStoppedError(msg)

    def wait() -> None:
        show()
        # Threads ask themselves; whoever waits for another machine does not wait for its answer.
        if not pool.is_local and should_stop is not None and should_stop():
            raise stopped()

    show()
    outcomes = pool.run(
        cut_here if pool.is_local else cut_shard,
        tasks,
        on_wait=wait,
        doubt=lambda done, _: 0 if done is None else len(done.failed),
    )
    try:
        for i, done, error in outcomes:
            if isinstance(error, StoppedError) or (should_stop is not None and should_stop()):
                cut += done.n_patches if done is not None else 0
                raise stopped()
            if isinstance(error, WorkersEndedError):
                names = ", ".join(slide.path.name for slide in tasks[i].slides)
                msg = f"Cutting patches of {names} ended every worker that tried it; look at their logs (memory?), or leave the slide out: what is done is kept."
                raise DatasetError(msg) from error
            if error is not None:
                raise error
            begun.pop(done.shard, None)
            cut += done.n_patches
            show()
    finally:
        outcomes.close()  # type: ignore[attr-defined]  # a generator
        close_slides()
    return taken_up


def _task(job: _Job, shard: int, per_shard: int) -> ShardTask:
    rows = slice(shard * per_shard, (shard + 1) * per_shard)
    table = job.table.slice(rows.start, per_shard)
    numbers, slide_of = np.unique(job.slide_of[rows], return_inverse=True)
    sides = [table[f"{side}_level0_px"].to_numpy() for side in ("width", "height")]
    return ShardTask(
        shard=shard,
        folder=job.folder,
        slides=tuple(job.slides[number] for number in numbers),
        slide_of=slide_of,
        level0_xy=np.column_stack([table["x"].to_numpy(), table["y"].to_numpy()]),
        level=table["level"].to_numpy().astype(np.int64),
        downsample=np.column_stack(sides) / job.recipe.grid.size_px,
        size_px=job.recipe.grid.size_px,
        store=job.recipe.store,
        stain_target=StainFit.from_json(job.facts["stain"]["target"]) if job.facts["stain"] else None,
        request=job.request,
    )


def _finish(job: _Job, request: str) -> None:
    """Put QC values into the index, take out what failed, and write index and settings."""
    table, slide_of, digests, failed = job.table, job.slide_of, [], {}
    stored = len(table)
    # What a killed process left: the slides that failed for it may be back.
    shutil.rmtree(_kept_folder(job.folder), ignore_errors=True)
    if not job.recipe.store.index_only:
        shards = [ShardDone.load(job.folder, shard, job.request) for shard in range(job.n_shards)]
        done = [shard for shard in shards if shard is not None]
        if len(done) < len(shards):
            msg = f"{len(shards) - len(done)} of {len(shards)} shards in {job.folder} are gone, though they were cut; give the command again."
            raise DatasetError(msg)
        table = with_columns(
            table,
            {name: np.array([v for d in done for v in d.qualities[name]], np.float32) for name in QUALITIES},
        )
        digests = [d.sha256 for d in done]
        failed = {digest: sentence for d in done for digest, sentence in d.failed.items()}
    if failed:
        is_lost = np.isin(strings(table, "slide").astype(str), list(failed))
        if is_lost.all():
            raise DatasetError(next(iter(failed.values())))
        folder = job.folder / PIXELS_FOLDER
        digests = copy_without(
            folder,
            _kept_folder(job.folder),
            np.flatnonzero(~is_lost),
            stored,
            job.recipe.grid.size_px,
            job.recipe.store,
        )
        table, slide_of = table.filter(pa.array(~is_lost)), slide_of[~is_lost]
        stored = len(table)
    table, split_by = _settled_again(table, slide_of, job, has_failed=bool(failed))
    facts = {k: v for k, v in job.facts.items() if k != "classes"} | {"split_by": split_by}
    facts["slides"] = [
        entry | {"patches": int((slide_of == i).sum())}
        for i, entry in enumerate(facts["slides"])
        if entry["digest"] not in failed
    ]
    facts["failed"] = facts["failed"] + [failed[digest] for digest in sorted(failed)]
    facts["messages"] = [*facts["messages"], *_messages_on(table, job.recipe)]
    index_only = job.recipe.store.index_only
    finish_dataset(
        job.folder,
        table,
        size_px=job.recipe.grid.size_px,
        classes=job.facts["classes"],
        settings={
            "codec": None if index_only else job.recipe.store.codec,
            "pixels": None if index_only else PIXELS_FOLDER,
            "stored": stored,
            "mpp": common_mpp(table["mpp"].to_numpy()),
            **facts,
            "recipe": job.recipe.to_json(),
            "request": request,
        },
        pixels_digest=digest_of_shards(digests or [entry["digest"] for entry in facts["slides"]]),
    )


def _messages_on(table: pa.Table, recipe: Recipe) -> Iterator[str]:
    """Yield what is to be said of the members: splits that got nothing, and whatever trains and tests."""
    members = table.filter(pa.array(strings(table, "left_out") == MEMBER))
    there = set(strings(members, "split"))
    for name, share in zip(SPLITS, recipe.split.fractions, strict=True):
        if share > 0 and name not in there:
            yield f"The split {name} got no patch, though it was to have {share:.0%}; add slides, or give the shares of the others only."
    columns = ("slide", "patient", "split", "x", "y", "width_level0_px", "height_level0_px")
    yield from (leak.sentence for leak in leaks({v: members[v] for v in columns}) if leak.is_leak)


def _settled_again(
    table: pa.Table, slide_of: NDArray[np.int64], job: _Job, *, has_failed: bool
) -> tuple[pa.Table, str]:
    """Leave out what the QC values do not pass; split and balance again where patches are gone.

    Returns the index, and what the split keeps together.
    """
    left_out = strings(table, "left_out")
    # What was left out to balance, or between splits, may come back where it was cut.
    left_out[np.isin(left_out.astype(str), [BALANCE, AT_SPLIT_BORDER])] = MEMBER
    values = {name: table[name].to_numpy() for name in QUALITIES}
    fails = ~job.recipe.quality.keeps(values) & (left_out == MEMBER)
    if not (fails.any() or has_failed):
        return table, str(job.facts["split_by"])
    classes = tuple(job.facts["classes"])
    position = {name: i for i, name in enumerate(classes)} | {"": -1}
    labels = np.array([position[name] for name in strings(table, "label")], np.int64)
    left_out[fails] = QUALITY
    entries = job.facts["slides"]
    present, slide_number = np.unique(slide_of, return_inverse=True)
    patients = [entries[i]["patient"] or "" for i in present]
    try:
        left_out, split = settle(
            left_out,
            labels,
            slide_number,
            zoom_numbers(table["downsample"].to_numpy(), job.recipe),
            patients,
            [entries[i]["digest"] for i in present],
            boxes_of(table),
            job.recipe,
            by_hand_of(table),
        )
        require_training(classes, labels, split, left_out)
    except DatasetError as error:
        if not fails.any():
            raise
        msg = f"{fails.sum()} of {len(table)} patches do not pass the quality limits, and the rest is too little: {str(error).partition(';')[0].rstrip('.')}; loosen the limits and give the command again, what is cut is kept."
        raise DatasetError(msg) from error
    way = way_of(labels, left_out, slide_number, patients, job.recipe)
    columns = {"left_out": left_out, "split": [SPLITS[i] if i >= 0 else "" for i in split]}
    return with_columns(table, columns), way


def _provenance(
    began: datetime, seconds: float, workers: int, scheduler: str | None, taken_up: int
) -> dict[str, Any]:
    """Return what may differ from one run to the next."""
    return {
        "began": began.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "host": socket.gethostname(),
        "workers": workers,
        "scheduler": scheduler,
        "patches_taken_up": taken_up,
        "finished": time.time(),
    }


def _kept_folder(part: Path) -> Path:
    """Return where the pixels are written anew without those of slides that failed."""
    return part / f"{PIXELS_FOLDER}.kept"


def _clean(part: Path) -> None:
    """Take away what only the extraction needed. The request goes last: until then the folder can be taken up."""
    if (kept := _kept_folder(part)).is_dir():
        settings = json.loads((part / SETTINGS_FILE).read_text(encoding="utf-8"))
        meta = _json_of(kept / "zarr.json")
        if meta is not None and meta["shape"][0] == settings["stored"]:
            shutil.rmtree(part / PIXELS_FOLDER, ignore_errors=True)
            kept.rename(part / PIXELS_FOLDER)
        else:  # none of this index
            shutil.rmtree(kept)
    shutil.rmtree(part / PARTS_FOLDER, ignore_errors=True)
    for name in (_PLAN, _PLAN_TABLE, REQUEST_FILE):
        (part / name).unlink(missing_ok=True)


def _report(out: Path, seconds: float) -> ExtractReport:
    settings = json.loads((out / SETTINGS_FILE).read_text(encoding="utf-8"))
    provenance = json.loads((out / PROVENANCE_FILE).read_text(encoding="utf-8"))
    counts: dict[str, dict[str, int]] = settings["counts"]
    classes: Counter[str] = Counter()
    for per_class in counts.values():
        classes.update(per_class)
    return ExtractReport(
        patches=settings["patches"],
        classes=dict(sorted(classes.items())),
        splits={name: sum(counts.get(name, {}).values()) for name in SPLITS},
        seconds=seconds,
        failed=tuple(settings["failed"]),
        left_out=dict(sorted((Counter(settings["not_cut"]) + Counter(settings["left_out"])).items())),
        considered=settings["considered"],
        taken_up=provenance["patches_taken_up"],
        messages=tuple(settings.get("messages", ())),
    )
