"""What reverse search reaches on held-out tiles: `calibrate`."""

from __future__ import annotations

from typing import Annotated

import typer

from napari_histolatent.cli._options import (
    DeviceOption,
    GeneratorArgument,
    JsonOption,
    progress_bar,
    write_report,
)

app = typer.Typer()


@app.command()
def calibrate(
    run: GeneratorArgument,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="What it learnt from; default: the run's own.")
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            "--classifier",
            help="A classifier's run folder: how often it sees the same class. Default: the run's own judge, or a built-in one that fits.",
        ),
    ] = None,
    tiles: Annotated[int, typer.Option("--tiles", help="Most held-out tiles to search.", min=64)] = 256,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Search held-out tiles, so that `invert` can say how far to believe a tile (trust, caution, outside).

    Example: histolatent calibrate run --dataset patches
    """
    from napari_histolatent.jobs import calibration
    from napari_histolatent.training.load import find_checkpoint

    if classifier is None:
        classifier = calibration.fitting_judge(find_checkpoint(run, kind="train"))
    with progress_bar() as progress:
        bar = progress.add_task("calibrate", total=None)
        found = calibration.calibrate(
            run,
            dataset=dataset,
            classifier=classifier,
            tiles=tiles,
            device=device,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    facts = found.to_json()
    lines = [
        f"{name}: 90 % of {facts['n']} held-out tiles up to {b['q90']:.3g}, 99 % up to {b['q99']:.3g}"
        for name, b in facts["bounds"].items()
    ]
    write_report(facts, as_json, [*lines, f"Written to {found.path}"])
