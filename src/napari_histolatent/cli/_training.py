"""Runs and what comes out of them: `train`, `fork`, `resume`, `stop`, `runs`, `sample`, `export`, `classifier`."""

from __future__ import annotations

import shutil
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from napari_histolatent._files import digest_of_file
from napari_histolatent.cli._options import (
    DeviceOption,
    GeneratorArgument,
    JsonOption,
    OutOption,
    SeedOption,
    messages,
    progress_bar,
    save_tile,
    write_report,
)
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from napari_histolatent.runs import Run, RunEvent, RunStatus

app = typer.Typer()
classifier_app = typer.Typer(no_args_is_help=True, help="Train and test classifiers of tissue.")

RunArgument = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]
StepOption = Annotated[
    int | None, typer.Option("--step", help="The checkpoint after this many steps, instead of the newest.")
]
BestOption = Annotated[
    bool,
    typer.Option(
        "--best",
        help="Of a generator: the checkpoint with the lowest KID (in the judge's features, else in random ones).",
    ),
]
DetachOption = Annotated[bool, typer.Option("--detach", help="Return at once; the run goes on by itself.")]


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.", metavar="DS")],
    out: Annotated[Path, typer.Option("--out", help="Run folder to make.")],
    preset: Annotated[
        str,
        typer.Option(
            help="modern (learns; about 8 minutes at 64 px on 2 cores), demo (2 minutes) or s1 (the paper)."
        ),
    ] = "modern",
    network: Annotated[
        str | None, typer.Option(help="Network instead of the preset's: cdcgan, or dcgan (no classes).")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the patches, px; default: the dataset's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps instead of the preset's.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Patches per step, of all devices together, instead of the preset's.")
    ] = None,
    device: DeviceOption = "auto",
    devices: Annotated[int, typer.Option(help="Processes on each machine, one a device.")] = 1,
    nodes: Annotated[
        int, typer.Option(help="Machines; run the same command on each, with NODE_RANK and MASTER_ADDR set.")
    ] = 1,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting (docs/training.md), as encoder_steps=1500; may be repeated.",
        ),
    ] = None,
    seed: SeedOption = 0,
    detach: DetachOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a generator in a process of its own. Ctrl-C stops it with a checkpoint.

    Example: histolatent train patches --preset demo --out run
    """
    from napari_histolatent.jobs.follow import new_training
    from napari_histolatent.jobs.joining import is_numbered, wait_for_run
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training import preset as preset_of

    config = (
        preset_of(preset)
        .with_changes(
            network=network,
            size_px=PatchDataset(dataset).size_px if size is None else size,
            steps=steps,
            batch_size=batch_size,
            device=device,
            devices=devices,
            nodes=nodes,
            precision=precision,
            seed=seed,
        )
        .with_settings(settings or ())
    )
    helps = config.processes > 1 and is_numbered()
    found = wait_for_run(out) if helps else None
    _launch_and_follow(lambda: found or new_training(dataset, out, config), detach=detach, as_json=as_json)


@app.command()
def fork(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", help="Run folder to make.")],
    step: StepOption = None,
    best: BestOption = False,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the whole run, those of the checkpoint counted.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate instead of the run's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Patches per step instead of the run's.")] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Another dataset folder of the same classes and size.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Device instead of the run's.")] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Seed of what is left to chance from here on; default: as it was."),
    ] = None,
    detach: DetachOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train on from a checkpoint of another run, in a new run; the other stays as it is.

    Example: histolatent fork run --step 3000 --steps 9000 --learning-rate 0.0005 --out run-2
    """
    from napari_histolatent.jobs.follow import fork as fork_of
    from napari_histolatent.runs import Run

    changes = {
        "steps": steps,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "device": device,
        "seed": seed,
    }
    opened = Run(run)
    _launch_and_follow(
        lambda: fork_of(opened, out, step=step, best=best, dataset=dataset, **changes),
        detach=detach,
        as_json=as_json,
    )


@app.command()
def resume(
    run: RunArgument,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the whole run from now on; a finished run trains on.")
    ] = None,
    detach: DetachOption = False,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that was stopped or killed, from its newest checkpoint.

    Example: histolatent resume run
    """
    from napari_histolatent.runs import Run

    opened = Run(run)
    _launch_and_follow(lambda: opened, detach=detach, as_json=as_json, again=True, steps=steps)


@app.command()
def stop(run: RunArgument, as_json: JsonOption = False) -> None:
    """Ask a run to stop after its current step, and wait until it has kept a checkpoint.

    Example: histolatent stop run
    """
    from napari_histolatent.jobs.follow import stop as ask_to_stop
    from napari_histolatent.runs import ENDED, Run

    opened = Run(run)
    status = opened.status()
    if status.state not in (*ENDED, "new"):
        status = ask_to_stop(opened)
    _report_run(opened, status, as_json)
    if status.state not in ("finished", "stopped"):
        raise UserError(_why_not_stopped(opened, status))


def _why_not_stopped(run: Run, status: RunStatus) -> str:
    """Return in one sentence why there was nothing to stop, or what did not stop."""
    at, again = f"at step {status.step}", f"go on with `histolatent resume {run.path}`"
    return {
        "new": f"The run {run.path} was never started, and there is nothing to stop; start it with `histolatent resume {run.path}`.",
        "failed": f"The run {run.path} has failed {at}, and there is nothing left to stop; {again}.",
        "interrupted": f"The run {run.path} was killed {at}, and there is nothing left to stop; {again}.",
        "gone": f"The folder of the run {run.path} was removed, and there is nothing left to stop; `histolatent runs` lists those there are.",
    }.get(
        status.state,
        f"The run {run.path} has not stopped yet; it will after its current step: ask again with `histolatent runs`.",
    )


@app.command()
def runs(
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare", help="Two run folders: show what differs, and what came of it.", metavar="A B"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the runs of this user, newest first, or compare two.

    Example: histolatent runs --compare run run-2
    """
    from napari_histolatent.runs import Run, known_runs

    if compare is not None:
        _report_comparison(*compare, as_json=as_json)
        return
    listed, lines = [], []
    for path in known_runs():
        try:
            run = Run(path)
        except UserError as error:
            lines.append(str(error))
            continue
        facts = {"kind": run.kind, **_listed_facts(run), **_run_facts(run, run.status())}
        listed.append(facts)
        lines.append(_line_of(facts))
        if facts["state"] == "failed" and facts["message"]:
            lines.append(f"             {facts['message']}")
    write_report({"runs": listed}, as_json, lines or ["There are no runs yet."])


@app.command()
def sample(
    run: GeneratorArgument,
    out: OutOption,
    n: Annotated[int, typer.Option("-n", help="How many images.", min=1)] = 16,
    label: Annotated[str | None, typer.Option(help="Class; default: all in turn.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Draw random images.

    Example: histolatent sample run -n 64 --label stroma --out samples
    """
    from napari_histolatent.jobs import edits
    from napari_histolatent.training.load import load_generator

    generator = load_generator(run, device=device)
    tiles = edits.sample_tiles(generator, n, label=label, seed=seed)
    files = [save_tile(out, tile) for tile in tiles]
    digest = generator.checkpoint.digest
    facts = {
        "files": files,
        "digests": [digest_of_file(Path(file)) for file in files],
        "model_digest": digest,
        "seed": seed,
    }
    write_report(facts, as_json, [f"{n} SYNTHETIC images in {out}"])


@app.command()
def export(
    run: GeneratorArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder to make; it stands for a run everywhere.")],
    step: StepOption = None,
    best: BestOption = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write an ONNX file too, compared with torch.")
    ] = False,
    licence: Annotated[
        str, typer.Option("--licence", "--license", help="Licence of the model, for its card.")
    ] = "",
    assumed_mpp: Annotated[
        float | None,
        typer.Option("--assume-mpp", help="µm per px to assume on the card where the data do not say."),
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="The dataset, where it is no longer where the run says.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a trained network to hand on: weights, a model card, and ONNX if wanted.

    Example: histolatent export run --best --licence CC-BY-4.0 --onnx --out model
    """
    from napari_histolatent.training.export import export as export_to

    made = export_to(
        run,
        out,
        step=step,
        best=best,
        onnx=onnx,
        licence=licence,
        assumed_mpp=assumed_mpp,
        dataset=dataset,
    )
    facts = {
        "files": [str(made.folder / name) for name in made.files],
        "digests": list(made.files.values()),
        "model_digest": made.digest,
        "step": made.step,
        "onnx_difference": made.onnx_difference,
    }
    write_report(facts, as_json, [f"{made.folder}: {', '.join(made.files)}", f"model {made.digest}"])


@classifier_app.command("train")
def classifier_train(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.", metavar="DS")],
    out: Annotated[Path, typer.Option("--out", help="Run folder to make.")],
    network: Annotated[
        str,
        typer.Option(help="convnet (from scratch, on a CPU in minutes) or inception_v3 (extra inception)."),
    ] = "convnet",
    augmentation: Annotated[
        str, typer.Option(help="robust (judges by structure) or plain (by colour and sharpness, too).")
    ] = "robust",
    weights: Annotated[
        Path | None, typer.Option(help="safetensors file that inception_v3 starts from; default: random.")
    ] = None,
    weights_sha256: Annotated[
        str | None, typer.Option(help="Digest it has to have; default: the one it has now, which is kept.")
    ] = None,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune", help="Let all of inception_v3 learn, not its last layer alone.")
    ] = False,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Patches per step.")] = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    detach: DetachOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a classifier of the dataset's classes; reports its accuracy on held-out patches.

    Example: histolatent classifier train patches --network convnet --out classifier
    """
    from napari_histolatent.jobs.follow import new_training
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training import ClassifierConfig

    if weights and not weights.is_file():
        msg = f"The weights {weights} do not exist; check --weights."
        raise UserError(msg)
    config = ClassifierConfig(
        network=network,
        size_px=PatchDataset(dataset).size_px,
        augmentation=augmentation,
        # The run's process may work in another folder.
        weights=str(weights.absolute()) if weights else "",
        weights_sha256=weights_sha256 or (digest_of_file(weights) if weights else ""),
        fine_tune=fine_tune,
        device=device,
        seed=seed,
    ).with_changes(steps=steps, batch_size=batch_size)
    _launch_and_follow(lambda: new_training(dataset, out, config), detach=detach, as_json=as_json)


@classifier_app.command("test")
def classifier_test(
    classifier: Annotated[
        str, typer.Argument(help="A classifier's run or checkpoint folder, or 'shipped'.", metavar="CLF")
    ],
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.", metavar="DS")],
    split: Annotated[str | None, typer.Option(help="train, val or test; default: test, else val.")] = None,
    recolour: Annotated[
        bool, typer.Option("--recolour", help="Also in the stain of the other class (Reinhard).")
    ] = False,
    blur: Annotated[
        bool, typer.Option("--blur", help="Also out of focus, by a disk of radius 2 px.")
    ] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Report how often a classifier is right on patches it did not learn from.

    Example: histolatent classifier test classifier patches --recolour --blur
    """
    from napari_histolatent.jobs.judging import judge
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training.load import load_classifier

    opened, loaded = PatchDataset(dataset), load_classifier(classifier, device=device)
    with progress_bar() as progress:
        bar = progress.add_task("judging", total=None)
        judgement = judge(
            loaded,
            opened,
            split=split,
            recolour=recolour,
            blur=blur,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    facts = {
        **judgement.to_json(),
        "classifier_digest": loaded.checkpoint.digest,
        "dataset_digest": opened.digest,
    }
    rows = {"as they are": judgement.plain, **judgement.changed}
    lines = [f"{judgement.plain.n} patches of the split {judgement.split}"] + [
        f"{name.replace('_', ' ')}: {verdicts.accuracy:.3f} right ("
        + ", ".join(f"{item} {share:.3f}" for item, share in verdicts.per_class.items())
        + ")"
        for name, verdicts in rows.items()
    ]
    write_report(facts, as_json, lines)


def _launch_and_follow(
    make: Callable[[], Run], *, detach: bool, as_json: bool, again: bool = False, steps: int | None = None
) -> None:
    """Make a run, or take one `again`, start it, and follow it to its end."""
    from napari_histolatent.jobs.follow import follow
    from napari_histolatent.jobs.follow import resume as start_again
    from napari_histolatent.jobs.joining import help_along, is_helper
    from napari_histolatent.runs import ENDED, launch

    with _held_back() as interrupted:
        run = make()
        helps = is_helper(run)  # of a run that another machine follows and reports
        if interrupted and not again and not helps:
            shutil.rmtree(run.path, ignore_errors=True)
        if interrupted:
            raise KeyboardInterrupt
        offset = 0
        if again and not helps:
            offset = start_again(run, steps=steps)
        elif not helps:
            launch(run)
    if helps:
        help_along(run)
        return
    if detach and not interrupted:
        _report_run(run, run.status(), as_json)
        return
    # What ends a command from outside (timeout, a scheduler) ends the training too, as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if interrupted:
            raise KeyboardInterrupt
        with progress_bar() as progress:
            bar = progress.add_task("starting", total=None)
            said: set[str] = set()

            def show(event: RunEvent) -> None:
                for warning in _warnings_in(event.data):
                    if warning not in said:
                        said.add(warning)
                        messages.print(warning, markup=False, soft_wrap=True)
                losses = ", ".join(f"{name} {value:.2f}" for name, value in event.losses.items())
                doing = losses or event.message or event.kind
                progress.update(
                    bar, completed=event.step, total=event.steps or None, description=escape(doing)
                )

            status = follow(run, on_event=show, offset=offset)
    except KeyboardInterrupt:
        run.request_stop()
        ended = follow(run, timeout_seconds=60).state in ENDED
        how = "Stopped" if ended else "It will stop after its current step"
        messages.print(f"{how}; go on with: histolatent resume {run.path}", markup=False, soft_wrap=True)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    has_failed = status.state not in ("finished", "stopped")
    _report_run(run, status, as_json, with_message=not has_failed)  # it follows as the error
    if has_failed:
        msg = status.message or f"the process was killed; go on with `histolatent resume {run.path}`"
        raise UserError(f"The run is {status.state} at step {status.step}: {msg}")


@contextmanager
def _held_back() -> Iterator[list[int]]:
    """Have Ctrl-C wait while a run is made and started, so that nothing half-made is left; a second one does not wait.

    Yields a list that is empty until the first.
    """
    signals: list[int] = []

    def note(number: int, _: object) -> None:
        if signals:
            raise KeyboardInterrupt
        signals.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _warnings_in(data: dict[str, Any]) -> list[str]:
    metrics = data.get("metrics")
    found = metrics.get("warnings") if isinstance(metrics, dict) else None
    return [str(warning) for warning in found] if isinstance(found, list) else []


def _listed_facts(run: Run) -> dict[str, Any]:
    config: dict[str, Any] = run.spec.get("config") or {}
    dataset = run.spec.get("dataset")
    return {
        "created": run.created,
        "age_seconds": max(0.0, time.time() - run.created),
        "dataset": dataset,
        "dataset_name": Path(dataset).name if dataset else None,
        "network": config.get("network"),
        "preset": config.get("preset"),
        "forked_from": run.spec.get("forked_from"),
    }


def _line_of(facts: dict[str, Any]) -> str:
    what = "/".join(part for part in (facts["network"], facts["preset"]) if part) or facts["kind"]
    return (
        f"{facts['state']:12} {facts['step']:>7}/{facts['steps']:<7} {facts['progress']:>4.0%} "
        f"{_age(facts['age_seconds']):>8} {what:18} {facts['dataset_name'] or '-':16} {facts['run']}"
    )


def _age(seconds: float) -> str:
    """Return a time span in its largest whole unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def _report_comparison(a: Path, b: Path, *, as_json: bool) -> None:
    from napari_histolatent.runs import Run
    from napari_histolatent.training.compare import compare_runs

    found = compare_runs(Run(a), Run(b))
    lines = [f"{'':24} {a.name:>24} {b.name:>24}"]
    lines += [
        f"{line.name:24} {_short(line.a):>24} {_short(line.b):>24}"
        for line in (*found.settings, *found.results)
    ]
    if found.same_dataset is False:
        lines.append("They learnt from different datasets: their metrics cannot be compared.")
    if found.same_kid_features is False:
        lines.append("Their KIDs are measured in the features of different networks, and cannot be compared.")
    write_report(found.to_json(), as_json, lines)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):  # the checkpoint that a fork started from
        value = f"{str(value.get('digest'))[:12]} at {value.get('step')}"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else f"{text[:23]}…"


def _run_facts(run: Run, status: RunStatus) -> dict[str, Any]:
    from napari_histolatent.training._keeping import kid_space

    metrics, checkpoint = status.data.get("metrics"), status.data.get("checkpoint")
    metrics = metrics if isinstance(metrics, dict) else {}
    return {
        "run": str(run.path),
        "state": status.state,
        "step": status.step,
        "steps": status.steps,
        "progress": status.step / status.steps if status.steps else 0.0,
        "losses": status.losses,
        "kid": metrics.get("kid"),
        "kid_space": kid_space(metrics),
        "metrics": metrics,
        "checkpoint": str(run.path / checkpoint) if isinstance(checkpoint, str) else None,
        "calibration": _calibration_in(run, status),
        "message": status.message,
    } | {key: metrics[key] for key in ("accuracy", "per_class", "n") if key in metrics}


def _calibration_in(run: Run, status: RunStatus) -> str | None:
    """Return the file of the verdict's calibration, if it is the newest checkpoint's."""
    report, checkpoint = status.data.get("calibration"), status.data.get("checkpoint")
    path = report.get("calibration") if isinstance(report, dict) else None
    if not isinstance(path, str) or not isinstance(checkpoint, str) or not path.startswith(f"{checkpoint}/"):
        return None
    return str(run.path / path)


def _report_run(run: Run, status: RunStatus, as_json: bool, *, with_message: bool = True) -> None:
    from napari_histolatent.training._keeping import RANDOM

    facts = _run_facts(run, status)
    numbers = {k: v for k, v in facts["metrics"].items() if isinstance(v, (int, float))}
    if facts["kid_space"] == RANDOM:
        numbers.pop("kid", None)  # kid_random says it
    shown = ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())
    lines = [f"{run.path}: {status.state} at step {status.step} of {status.steps}", shown]
    calibration = facts["calibration"]
    lines += [f"Verdict of reverse search calibrated: {calibration}" if calibration else ""]
    lines += [status.message if with_message else "", *_warnings_in(status.data)]
    write_report(facts, as_json, [line for line in lines if line])
