"""Reverse search of a whole dataset: a table of latent points, made part by part."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from napari_histolatent._files import (
    DamagedJsonError,
    data_folder,
    file_name_of,
    read_json_object,
    replacing,
    write_json,
)
from napari_histolatent.errors import DatasetError, UserError, writing_to
from napari_histolatent.jobs.calibration import calibration_of, judged, require_judge
from napari_histolatent.latent import LatentPoint, class_vector
from napari_histolatent.latent.search_options import METHODS, SearchOptions
from napari_histolatent.patches import PatchDataset
from napari_histolatent.runs import Run, RunEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from napari_histolatent.latent import Inversion
    from napari_histolatent.latent.verdict import Calibration
    from napari_histolatent.training.load import LoadedClassifier, LoadedEncoder, LoadedGenerator

INVERT = "invert"

TABLE_FILE, REQUEST_FILE, TUNED_FOLDER = "points.parquet", "request.json", "tuned"
_PARTS = "parts"
_ROWS_OF_PART = 64


@dataclass(frozen=True)
class InversionReport:
    """What a batch made."""

    table: Path
    """points.parquet; it is there once all parts are."""
    done: int
    total: int
    taken_up: int
    """Tiles that an earlier try had searched already."""
    seconds: float
    median_rmse: float
    verdicts: dict[str, int]
    """How many tiles got each; empty without a calibration."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `histolatent invert --dataset --json` reports."""
        return {**asdict(self), "table": str(self.table)}


def invert_dataset(
    named: str | Path,
    dataset: str | Path,
    out: Path,
    *,
    method: str = "fast",
    split: str | None = None,
    classifier: str | Path | None = None,
    options: SearchOptions | None = None,
    device: str = "auto",
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> InversionReport:
    """Search every patch of a dataset, and write out/points.parquet; a stopped or killed batch goes on where it was.

    A patch is searched in the class of its label; one without a class of the generator's is searched in each, and
    the nearest wins.

    Parameters
    ----------
    named
        A generator's run, checkpoint or exported folder; with its encoder and calibration, if it has them.
    dataset
        Patches of the generator's size.
    out
        Folder of the table (see `TABLE_FILE`); the copies that faithful tunes lie in out/tuned.
    method, options
        See `latent.invert`.
    split
        Only patches of this one; None: all.
    classifier
        A classifier's run of the same classes, for the verdicts; None: classes are not compared.
    device
        Where to compute.
    on_progress
        Called with (patches done, patches in all).
    should_stop
        Asked between parts of 64 patches.

    Returns
    -------
    InversionReport
        With done < total where it was stopped.

    Raises
    ------
    UserError
        If something cannot be read or does not fit, `out` holds a batch of another request, or cannot be written.
    """
    from napari_histolatent.training.load import load_classifier, load_encoder, load_generator

    started, options = time.monotonic(), options or SearchOptions()
    _require_method(method)
    generator = load_generator(named, device=device)
    data = PatchDataset(dataset)
    rows = _rows(data, generator.checkpoint.size_px, split)
    judge = load_classifier(classifier, device=device) if classifier else None
    if judge is not None:
        require_judge(judge, generator.checkpoint)
    batch = _Batch(
        generator,
        load_encoder(generator.checkpoint.path, device=device) if method != "s1" else None,
        judge,
        calibration_of(generator.checkpoint),
        data,
        method,
        options,
        out,
    )
    request = {
        "checkpoint_digest": generator.checkpoint.digest,
        "encoder_digest": batch.encoder.checkpoint.digest if batch.encoder else "",
        "classifier_digest": judge.checkpoint.digest if judge else "",
        "dataset_digest": data.digest,
        "split": split,
        "method": method,
        "options": asdict(options),
    }
    with writing_to(out):
        _take_up(out, request)
        if (out / TABLE_FILE).is_file():
            taken_up = len(rows)
        else:
            taken_up = _search_parts(batch, rows, on_progress, should_stop)
    return _report(out, len(rows), taken_up, time.monotonic() - started)


def _search_parts(
    batch: _Batch,
    rows: NDArray[np.int64],
    on_progress: Callable[[int, int], None] | None,
    should_stop: Callable[[], bool] | None,
) -> int:
    """Search the parts that are missing, and join them once all are there; return how many rows were there before."""
    folder = batch.out / _PARTS
    folder.mkdir(parents=True, exist_ok=True)
    files, taken_up = [], 0
    for start in range(0, len(rows), _ROWS_OF_PART):
        part = rows[start : start + _ROWS_OF_PART]
        file = folder / f"part-{start:08d}.parquet"
        files.append(file)
        if file.is_file():
            taken_up += len(part)
        elif should_stop and should_stop():
            return taken_up
        else:
            table = batch.searched(part)
            with replacing(file) as temporary:
                pq.write_table(table, temporary)
        if on_progress:
            on_progress(start + len(part), len(rows))
    with replacing(batch.out / TABLE_FILE) as temporary:
        pq.write_table(pa.concat_tables([pq.read_table(file) for file in files]), temporary)
    for file in files:
        file.unlink()
    folder.rmdir()
    return taken_up


@dataclass(frozen=True, eq=False)
class _Batch:
    generator: LoadedGenerator
    encoder: LoadedEncoder | None
    classifier: LoadedClassifier | None
    calibration: Calibration | None
    data: PatchDataset
    method: str
    options: SearchOptions
    out: Path

    def searched(self, rows: NDArray[np.int64]) -> pa.Table:
        """Return the part of the table that belongs to these patches."""
        pixels = self.data.read(rows)
        found = self._nearest(rows, pixels)
        verdicts = judged(
            self.generator, pixels, found, calibration=self.calibration, classifier=self.classifier
        )
        for item in found:
            if item.tuned is not None:
                item.tuned.save(self.out / TUNED_FOLDER / f"{item.tuned.digest[:16]}.safetensors")
        columns = self.data.columns
        label, classes = columns["label"], self.generator.checkpoint.classes
        return pa.table(
            {
                "row": pa.array(rows, pa.int64()),
                "slide": pa.array([str(columns["slide"][i]) for i in rows]),
                "x": pa.array([float(columns["x"][i]) for i in rows], pa.float64()),
                "y": pa.array([float(columns["y"][i]) for i in rows], pa.float64()),
                "label": pa.array([str(label[i]) for i in rows]),
                "searched_as": pa.array([_name_of(item.point, classes) for item in found]),
                "z": pa.array([item.point.values for item in found], pa.list_(pa.float32())),
                "class_weights": pa.array(
                    [item.point.class_weights for item in found], pa.list_(pa.float32())
                ),
                "offsets": pa.array([item.point.offsets for item in found], pa.list_(pa.list_(pa.float32()))),
                "tuned_digest": pa.array([item.point.tuned_digest for item in found]),
                "checkpoint_digest": pa.array([item.point.checkpoint_digest for item in found]),
                **{
                    name: pa.array([getattr(item, name) for item in found], pa.float64())
                    for name in (
                        "rmse",
                        "rmse_at_z",
                        "psnr_db",
                        "ssim",
                        "perceptual",
                        "spread",
                        "z_ratio",
                        "prior_percentile",
                        "seconds",
                    )
                },
                "verdict": pa.array([item.verdict for item in verdicts], pa.string()),
                "reasons": pa.array([" ".join(item.reasons) for item in verdicts]),
            }
        )

    def _nearest(self, rows: NDArray[np.int64], pixels: NDArray[np.uint8]) -> list[Inversion]:
        from napari_histolatent.latent.invert import invert
        from napari_histolatent.latent.perceptual import PerceptualDistance
        from napari_histolatent.models.images import to_tensor

        images = to_tensor(pixels).to(self.generator.device)
        perceptual = PerceptualDistance()

        def search(asked: list[tuple[int, tuple[float, ...]]], method: str) -> list[Inversion]:
            return invert(
                self.generator.network,
                images[[i for i, _ in asked]],
                [weights for _, weights in asked],
                checkpoint_digest=self.generator.checkpoint.digest,
                origins=[f"reverse search of patch {rows[i]} of {self.data.path.name}" for i, _ in asked],
                method=method,
                encoder=self.encoder.network if self.encoder else None,
                perceptual=perceptual,
                options=self.options if method == self.method else SearchOptions(seed=self.options.seed),
            )

        labels, classes = self.data.columns["label"], self.generator.checkpoint.classes
        asked = [
            (i, weights) for i, row in enumerate(rows) for weights in _candidates(str(labels[row]), classes)
        ]
        if len(asked) == len(rows):
            return search(asked, self.method)
        # Layers and tuned copies come near in any class: z alone makes the choice.
        own_stage = self.method in ("layers", "faithful")
        found = search(asked, "fast" if own_stage else self.method)
        best = [
            min(
                (item for (of, _), item in zip(asked, found, strict=True) if of == i),
                key=lambda item: item.rmse,
            )
            for i in range(len(rows))
        ]
        if not own_stage:
            return best
        return search([(i, item.point.class_weights) for i, item in enumerate(best)], self.method)


def _candidates(own: str, classes: tuple[str, ...]) -> list[tuple[float, ...]]:
    """Return the class vectors in which a patch is searched."""
    if not classes:
        return [()]
    return [class_vector(classes, name) for name in ((own,) if own in classes else classes)]


def _name_of(point: LatentPoint, classes: tuple[str, ...]) -> str | None:
    return classes[int(np.argmax(point.class_weights))] if classes else None


def read_points(out: Path) -> list[LatentPoint]:
    """Return the points of a batch's table, in the order of its rows.

    Raises
    ------
    UserError
        If there is no table, or it is not one of points.
    """
    path = out / TABLE_FILE
    try:
        table = pq.read_table(
            path,
            columns=["row", "z", "class_weights", "offsets", "tuned_digest", "checkpoint_digest"],
        ).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        msg = f"{path} cannot be read as a table of latent points ({error}); make it with `histolatent invert RUN --dataset DS --out FOLDER`."
        raise UserError(msg) from error
    return [
        LatentPoint.from_json(
            {
                **row,
                "values": row["z"],
                "offsets": row["offsets"] or (),
                "origin": f"patch {row['row']} of the batch {out.name}",
            }
        )
        for row in table
    ]


def _rows(data: PatchDataset, size_px: int, split: str | None) -> NDArray[np.int64]:
    if data.size_px != size_px:
        msg = f"The dataset {data.path} has patches of {data.size_px} px, the generator draws {size_px} px; cut it at that size."
        raise DatasetError(msg)
    rows = np.arange(len(data)) if split is None else data.rows_of(split)
    if not len(rows):
        msg = f"The dataset {data.path} has no patch in the split {split or 'of any name'}; choose another with --split."
        raise DatasetError(msg)
    return rows


def _require_method(method: str) -> None:
    if method not in METHODS:
        msg = f"There is no reverse search named {method!r}; choose one of {', '.join(METHODS)}."
        raise UserError(msg)


def _take_up(out: Path, request: dict[str, Any]) -> None:
    """Write down what is asked for, or find that it was asked for before."""
    path = out / REQUEST_FILE
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            msg = f"{out} is not empty; choose another folder."
            raise UserError(msg)
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, request)
        return
    try:
        before = read_json_object(path)
    except DamagedJsonError as error:
        msg = f"{path} {error}; choose another folder."
        raise UserError(msg) from error
    differing = [name for name in request if before.get(name) != request[name]]
    if differing:
        msg = f"{out} holds a batch of another request (other {', '.join(differing)}); choose another folder."
        raise UserError(msg)


def _report(out: Path, total: int, taken_up: int, seconds: float) -> InversionReport:
    path = out / TABLE_FILE
    files = [path] if path.is_file() else sorted((out / _PARTS).glob("part-*.parquet"))
    tables = [pq.read_table(file, columns=["rmse", "verdict"]) for file in files]
    table = pa.concat_tables(tables) if tables else pa.table({"rmse": [], "verdict": []})
    verdicts = [name for name in table["verdict"].to_pylist() if name]
    return InversionReport(
        table=path,
        done=len(table),
        total=total,
        taken_up=taken_up,
        seconds=seconds,
        median_rmse=float(np.median(table["rmse"].to_numpy())) if len(table) else float("nan"),
        verdicts={name: verdicts.count(name) for name in sorted(set(verdicts))},
    )


def new_inversions(
    named: str | Path,
    dataset: str | Path,
    out: Path,
    *,
    method: str = "fast",
    split: str | None = None,
    classifier: str | Path | None = None,
    options: SearchOptions | None = None,
) -> Run:
    """Make a run that will search a dataset; `runs.launch` starts it.

    Raises
    ------
    UserError
        If generator, dataset or method are not there, or the run's folder cannot be made.
    """
    from napari_histolatent.training.load import find_checkpoint

    _require_method(method)
    checkpoint = find_checkpoint(named)
    _rows(PatchDataset(dataset), checkpoint.size_px, split)
    folder = data_folder() / "inversions" / f"{file_name_of(out.name)}-{uuid4().hex[:8]}"
    spec: dict[str, Any] = {
        "run": str(checkpoint.path.absolute()),
        "dataset": str(Path(dataset).absolute()),
        "out": str(out.absolute()),
        "method": method,
        "options": asdict(options or SearchOptions()),
    }
    spec |= {name: str(value) for name, value in (("split", split), ("classifier", classifier)) if value}
    return Run.create(folder, kind=INVERT, spec=spec)


def run_inversions(run: Run) -> None:
    """Do the work of a batch's run folder, telling how it goes in its events."""
    spec = run.spec
    try:
        options = replace(SearchOptions(), **spec.get("options", {}))
    except TypeError as error:
        msg = f"{run.path} asks for a search that this version does not know ({error}); update napari-histolatent."
        raise UserError(msg) from error

    def tell(done: int, total: int) -> None:
        with writing_to(run.path):
            run.append(RunEvent("progress", done, total))

    run.append(RunEvent("started", message="Searching patches"))
    report = invert_dataset(
        spec["run"],
        spec["dataset"],
        Path(spec["out"]),
        method=spec.get("method", "fast"),
        split=spec.get("split"),
        classifier=spec.get("classifier"),
        options=options,
        on_progress=tell,
        should_stop=lambda: run.stop_requested,
    )
    kind = "finished" if report.done == report.total else "stopped"
    run.append(RunEvent(kind, report.done, report.total, data={"report": report.to_json()}))
