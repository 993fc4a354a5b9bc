"""Runs and what comes out of them: `train`, `resume`, `stop`, `runs`, `sample`, `classifier train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    from napari_histolatent.runs import Run, RunEvent, RunStatus

app = typer.Typer()
classifier_app = typer.Typer(no_args_is_help=True, help="Train classifiers of tissue.")

RunArgument = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Return at once; the run goes on by itself.")]


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.", metavar="DS")],
    out: Annotated[Path, typer.Option("--out", help="Run folder to make.")],
    preset: Annotated[
        str, typer.Option(help="demo (about 2 minutes on 2 cores) or lean (about 8).")
    ] = "lean",
    network: Annotated[str | None, typer.Option(help="Network instead of the preset's: cdcgan.")] = None,
    size: Annotated[int | None, typer.Option(help="Side of the patches, px; default: the dataset's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps instead of the preset's.")] = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
    detach: DetachOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a class-conditional generator in a process of its own. Ctrl-C stops it with a checkpoint.

    Example: histolatent train patches --preset demo --out run
    """
    from napari_histolatent.jobs.follow import new_training
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training import preset as preset_of

    config = preset_of(preset).with_changes(
        network=network, size_px=size or PatchDataset(dataset).size_px, steps=steps, device=device, seed=seed
    )
    _launch_and_follow(new_training(dataset, out, config), detach=detach, as_json=as_json)


@app.command()
def resume(run: RunArgument, detach: DetachOption = False, as_json: JsonOption = False) -> None:
    """Go on with a run that was stopped or killed, from its newest checkpoint.

    Example: histolatent resume run
    """
    from napari_histolatent.runs import Run

    _launch_and_follow(Run(run), detach=detach, as_json=as_json, again=True)


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
    if status.state not in (*ENDED, "new"):
        msg = f"The run {run} has not stopped yet; it will after its current step: ask again with `histolatent runs`."
        raise UserError(msg)


@app.command()
def runs(as_json: JsonOption = False) -> None:
    """List the runs of this user, newest first.

    Example: histolatent runs
    """
    from napari_histolatent.runs import Run, known_runs

    listed, lines = [], []
    for path in known_runs():
        try:
            run = Run(path)
        except UserError as error:
            lines.append(str(error))
            continue
        status = run.status()
        listed.append({"run": str(path), "kind": run.kind, "created": run.created, **_run_facts(run, status)})
        lines.append(f"{status.state:12} {status.step:>6}/{status.steps:<6} {run.kind:10} {path}")
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


@classifier_app.command("train")
def classifier_train(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.", metavar="DS")],
    out: Annotated[Path, typer.Option("--out", help="Run folder to make.")],
    network: Annotated[str, typer.Option(help="Network: convnet.")] = "convnet",
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
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

    config = ClassifierConfig(
        network=network, size_px=PatchDataset(dataset).size_px, device=device, seed=seed
    ).with_changes(steps=steps)
    _launch_and_follow(new_training(dataset, out, config), detach=detach, as_json=as_json)


def _launch_and_follow(run: Run, *, detach: bool, as_json: bool, again: bool = False) -> None:
    from napari_histolatent.jobs.follow import follow
    from napari_histolatent.jobs.follow import resume as start_again
    from napari_histolatent.runs import launch

    offset = start_again(run) if again else 0
    if not again:
        launch(run)
    if detach:
        _report_run(run, run.status(), as_json)
        return
    try:
        with progress_bar() as progress:
            bar = progress.add_task("starting", total=None)

            def show(event: RunEvent) -> None:
                losses = ", ".join(f"{name} {value:.2f}" for name, value in event.losses.items())
                progress.update(
                    bar, completed=event.step, total=event.steps or None, description=losses or event.kind
                )

            status = follow(run, on_event=show, offset=offset)
    except KeyboardInterrupt:
        run.request_stop()
        follow(run, timeout_seconds=60)
        messages.print(f"Stopped; go on with: histolatent resume {run.path}", markup=False, soft_wrap=True)
        raise
    _report_run(run, status, as_json)
    if status.state not in ("finished", "stopped"):
        msg = status.message or f"the process was killed; go on with `histolatent resume {run.path}`"
        raise UserError(f"The run is {status.state} at step {status.step}: {msg}")


def _run_facts(run: Run, status: RunStatus) -> dict[str, Any]:
    metrics = status.data.get("metrics", {})
    checkpoint = status.data.get("checkpoint")
    return {
        "run": str(run.path),
        "state": status.state,
        "step": status.step,
        "steps": status.steps,
        "losses": status.losses,
        "kid": metrics.get("kid"),
        "metrics": metrics,
        "checkpoint": str(run.path / checkpoint) if checkpoint else None,
        "message": status.message,
    } | {key: metrics[key] for key in ("accuracy", "per_class", "n") if key in metrics}


def _report_run(run: Run, status: RunStatus, as_json: bool) -> None:
    metrics = {k: v for k, v in status.data.get("metrics", {}).items() if isinstance(v, (int, float))}
    shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    lines = [f"{run.path}: {status.state} at step {status.step} of {status.steps}", shown]
    write_report(_run_facts(run, status), as_json, [line for line in lines if line])
