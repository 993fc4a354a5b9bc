"""Grad-CAM over a region of a slide: `heatmap`."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path  # noqa: TC003 (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_histolatent.cli._options import (
    DeviceOption,
    JsonOption,
    OutOption,
    SlideArgument,
    SlideMppOption,
    progress_bar,
    write_report,
)
from napari_histolatent.cli._tiles import say
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shapely.geometry.base import BaseGeometry

    from napari_histolatent.jobs.region_heatmap import RegionHeatmapConfig
    from napari_histolatent.jobs.region_plan import Box, RegionPlan
    from napari_histolatent.runs import Run
    from napari_histolatent.slides import Slide, SlideInfo
    from napari_histolatent.training.load import LoadedClassifier

app = typer.Typer()


@app.command()
def heatmap(
    slide: SlideArgument,
    classifier: Annotated[
        str,
        typer.Option(
            "--classifier", help="A classifier's run folder, an exported folder, or 'shipped'.", metavar="CLF"
        ),
    ],
    out: OutOption,
    box: Annotated[
        str | None,
        typer.Option(
            "--box",
            help="The region in level-0 px, left and top first; default: all the tissue.",
            metavar="X,Y,W,H",
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option("--annotations", help="A file of regions: tiles that touch none of them are left out."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", help="Class of the regions to map; may be repeated; default: all of the file."
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Class to explain; default: the one seen in most of some tiles of the region."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer whose maps are weighed; default: the last with an extent.")
    ] = None,
    overlap: Annotated[
        int, typer.Option(help="2: tiles half a tile apart, mixed; 1: side by side, quicker, with seams.")
    ] = 2,
    min_tissue: Annotated[
        float,
        typer.Option("--min-tissue", help="Least share of tissue in a tile, 0 to 1; 0 maps the glass too."),
    ] = 0.1,
    slide_mpp: SlideMppOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Map where a classifier looks all over a region of a slide, tile after tile, as a multiscale OME-Zarr image.

    Stopped or killed, the same command goes on where it was.

    Example: histolatent heatmap slide.svs --classifier clf --target tumour --box 10000,8000,6000,4000 --out map
    """
    from napari_histolatent.jobs.region_heatmap import (
        RegionHeatmapConfig,
        is_mapped,
        keep_areas,
        new_region_heatmap,
        open_region_heatmap,
        region_request,
        run_region_heatmap,
    )
    from napari_histolatent.jobs.region_plan import plan_region
    from napari_histolatent.slides import open_slide
    from napari_histolatent.training.load import load_classifier

    if box and annotations:
        msg = "Give --box or --annotations, not both."
        raise UserError(msg)
    if label and not annotations:
        msg = "A --label needs the file whose regions it names; give --annotations, too."
        raise UserError(msg)
    corners = _box_of(box) if box else None
    config = RegionHeatmapConfig(target or "", layer or "", overlap, min_tissue)
    judge = load_classifier(classifier, device=device)
    _require_known(judge, config)
    with open_slide(slide, mpp=slide_mpp) as opened:
        areas = _areas_of(annotations, label or [], opened.info) if annotations else None
        plan = plan_region(opened, judge, corners, config, areas=areas)
        if target is None:
            config = _with_target(opened, judge, plan, config)

    asked: tuple[Any, ...] = (slide, judge.checkpoint.path, corners, config)
    options: dict[str, Any] = {"areas": areas, "slide_mpp": slide_mpp}
    if (out / "run.json").exists():
        run = _begun_in(out, region_request(*asked, **options))
        if areas is not None:
            keep_areas(run, areas)
    else:
        run = new_region_heatmap(*asked, **options, out=out, device=device)
    if not is_mapped(run):
        with progress_bar() as progress, _working_on(run):
            bar = progress.add_task("tiles", total=plan.n_tiles)
            run_region_heatmap(
                run,
                classifier=judge,
                on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
            )
    if not is_mapped(run):
        msg = f"The heatmap was stopped before all {plan.n_tiles} tiles were mapped; run the same command again to go on."
        raise UserError(msg)
    found = open_region_heatmap(run.path)
    facts = _facts_of(found.probability)
    report = {
        "files": [str(found.path)],
        "run": str(run.path),
        "slide": str(slide),
        "slide_digest": found.slide_digest,
        "classifier_digest": found.classifier_digest,
        "target": found.target,
        "layer": found.layer,
        "level0_box": list(found.level0_box),
        "maximum": found.maximum,
        **facts,
    }
    line = (
        f"{found.path}: Grad-CAM of {found.target} in {facts['tiles']} tiles, layer {found.layer}, "
        f"mean probability {facts['mean_probability']:.2f}"
    )
    write_report(report, as_json, [line])


def _box_of(text: str) -> Box:
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        msg = f"The box {text!r} is not four numbers; give left, top, width and height in level-0 px, such as --box 10000,8000,6000,4000."
        raise UserError(msg) from None
    return x, y, x + width, y + height


def _require_known(judge: LoadedClassifier, config: RegionHeatmapConfig) -> None:
    """See that there are such a class and layer, before anything is made."""
    from napari_histolatent.explain.gradcam import layer_name

    classes = judge.checkpoint.classes
    if config.target and config.target not in classes:
        msg = f"The classifier has no class {config.target!r}; its classes are {', '.join(classes)}."
        raise UserError(msg)
    layer_name(judge.network, config.layer or None)


def _areas_of(path: Path, labels: list[str], info: SlideInfo) -> BaseGeometry:
    from napari_histolatent.annotations import read_annotations, require_on_slide
    from napari_histolatent.jobs.region_plan import areas_of

    annotations = read_annotations(path, slide=info)
    for name in labels:
        if name not in annotations.classes:
            known = ", ".join(annotations.classes) or "none"
            msg = f"{path} has no region of the class {name!r}; its classes are {known}."
            raise UserError(msg)
    chosen = [
        region
        for region in annotations.regions
        if region.is_area and (not labels or region.class_name in labels)
    ]
    if not chosen:
        msg = f"{path} has no region with an area; choose another file, or leave --annotations out."
        raise UserError(msg)
    require_on_slide(annotations, info)
    return areas_of(chosen)


def _with_target(
    opened: Slide, judge: LoadedClassifier, plan: RegionPlan, config: RegionHeatmapConfig
) -> RegionHeatmapConfig:
    from napari_histolatent.jobs.region_plan import probe_region

    seen = probe_region(opened, judge, plan).seen
    name, n = seen[0]
    say(
        f"The evidence for {name} is mapped, which the classifier sees in {n} of {sum(k for _, k in seen)} tiles looked "
        "at; name another class with --target."
    )
    return replace(config, target=name)


def _begun_in(out: Path, request: str) -> Run:
    """Return the run in a folder, if it is of this request."""
    from napari_histolatent.jobs.region_heatmap import HEATMAP
    from napari_histolatent.runs import Run

    run = Run(out)
    if run.kind != HEATMAP or run.spec.get("request") != request:
        msg = f"{out} holds a run of something else already; choose another folder."
        raise UserError(msg)
    return run


@contextmanager
def _working_on(run: Run) -> Iterator[None]:
    """Hold a run while it is done here; an error is the run's, too."""
    from napari_histolatent.runs import RunEvent

    with run.exclusively():
        run.clear_stop()
        try:
            yield
        except UserError as error:
            run.append(RunEvent("failed", step=run.status().step, message=str(error)))
            raise


def _facts_of(probability: Any) -> dict[str, Any]:
    import numpy as np

    seen = probability[~np.isnan(probability)]
    return {"tiles": int(seen.size), "mean_probability": float(seen.mean(dtype=np.float64))}
