"""The command line `histolatent`: thin calls into the packages.

With --json one JSON object goes to stdout and nothing else; progress and messages go to stderr. Exit codes:
0 done, 2 the user can mend it, 3 done in part, 130 interrupted.
"""

from __future__ import annotations

import json
import math
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict, replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Never, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import napari_histolatent
from napari_histolatent._files import digest_of_file, file_name_of, replacing, without_nan
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from napari_histolatent.annotations import AnnotationCheck, Annotations
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.runs import Run, RunEvent, RunStatus
    from napari_histolatent.slides import SlideInfo

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich")
annotations_app = typer.Typer(no_args_is_help=True, help="Look at annotation files.")
dataset_app = typer.Typer(no_args_is_help=True, help="Look at patch datasets.")
classifier_app = typer.Typer(no_args_is_help=True, help="Train classifiers of tissue.")
app.add_typer(annotations_app, name="annotations")
app.add_typer(dataset_app, name="dataset")
app.add_typer(classifier_app, name="classifier")

_messages = Console(stderr=True)

# typer carries a click of its own, and which one differs from version to version.
_ClickError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

SlideArgument = Annotated[
    str,
    typer.Argument(
        help="A slide file, a folder (DICOM, OME-Zarr) or the URL of an OME-Zarr.", metavar="SLIDE"
    ),
]
RunArgument = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]
GeneratorArgument = Annotated[
    str, typer.Argument(help="A run folder, an exported folder, or 'shipped'.", metavar="RUN")
]
ImagesArgument = Annotated[
    list[str],
    typer.Argument(help="Image files, or SLIDE@X,Y: the tile around a level-0 point.", metavar="IMAGE..."),
]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for what is made.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything left to chance.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
LevelOption = Annotated[int | None, typer.Option("--level", help="Pyramid level, read as it is stored.")]
MppOption = Annotated[float | None, typer.Option("--mpp", help="Micrometres per pixel of the result.")]
MagOption = Annotated[
    float | None, typer.Option("--mag", help="Magnification instead: 20 is 0.5 µm per px, 40 is 0.25.")
]
SlideMppOption = Annotated[
    float | None,
    typer.Option("--slide-mpp", help="Pixel size of level 0 in µm, where the slide does not state it."),
]
MethodOption = Annotated[str, typer.Option("--method", help="Reverse search: s1.")]
ClassifierOption = Annotated[
    str | None, typer.Option("--classifier", help="A classifier's run folder, for probabilities.")
]
DetachOption = Annotated[bool, typer.Option("--detach", help="Return at once; the run goes on by itself.")]


def main() -> Never:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a class name the terminal cannot show is no reason to fail
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; nothing the user can mend ends in a traceback."""
    try:
        # Errors come here as exceptions instead of ending the program.
        result = typer.main.get_command(app).main(
            args=list(arguments), prog_name="histolatent", standalone_mode=False
        )
    except UserError as error:
        _messages.print(f"Error: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    except _ClickError as error:
        error.show()
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _messages.print("Interrupted.")
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def _version(wanted: bool) -> None:
    if wanted:
        _print(f"histolatent {napari_histolatent.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Whole-slide images, labelled patches, conditional GANs and latent editing."""


@app.command()
def demo(
    slide: Annotated[
        Path | None, typer.Option(help="A slide of your own; default: a small real one.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Its regions, QuPath GeoJSON with at least two classes.")
    ] = None,
    out: OutOption = Path("histolatent-demo"),
    headless: Annotated[
        bool, typer.Option("--headless", help="Write the report only; do not open napari.")
    ] = False,
    preset: Annotated[str, typer.Option(help="Preset of the generator's training.")] = "demo",
    steps: Annotated[int | None, typer.Option(help="Training steps instead of the preset's.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Do the main job end to end: slide, regions, patches, training, reverse search, flip, Grad-CAM.

    Example: histolatent demo --headless --out out
    """
    from napari_histolatent.jobs.demo import run_demo

    try:
        with _progress() as progress:
            result = run_demo(
                slide=slide,
                annotations=annotations,
                out=out,
                preset_name=preset,
                console=_DemoConsole(progress),
                seed=seed,
                steps=steps,
                device=device,
            )
    except KeyboardInterrupt:
        _messages.print(
            f"Stopped; run the same command again to go on where it was (everything is in {out}).",
            markup=False,
            soft_wrap=True,
        )
        raise
    report = result.to_json()
    _report(report, as_json, [f"Done in {report['seconds_in_all']:.0f} s: {report['report']}"])
    if headless or as_json:
        return
    if _has_display():
        _open_viewer(result)
    else:
        _messages.print("There is no display here, so napari was not opened.")


@app.command()
def info(slide: SlideArgument, slide_mpp: SlideMppOption = None, as_json: JsonOption = False) -> None:
    """Say what a slide file is.

    Example: histolatent info slide.svs --json
    """
    from napari_histolatent.slides import open_slide

    with open_slide(slide, mpp=slide_mpp) as opened:
        facts = opened.info.to_json()
    lines = [
        f"{facts['path']}: {facts['vendor'] or 'vendor not stated'}, "
        f"read by {facts['backend']} ({facts['backend_reason']})"
    ]
    size = f"{facts['width_px']} x {facts['height_px']} px"
    mpp = (
        f"{facts['mpp_x']:g} x {facts['mpp_y']:g} µm per px ({facts['mpp_source']})"
        if facts["mpp_x"]
        else "pixel size not stated"
    )
    lines.append(f"{size}, {mpp}")
    lines += [
        f"level {i}: {v['width_px']} x {v['height_px']} px, downsample {v['downsample']:g}"
        for i, v in enumerate(facts["levels"])
    ]
    objective = facts["objective_power"]
    lines.append(f"objective: {f'{objective:g}x' if objective else 'not stated'}")
    lines.append(f"associated images: {', '.join(facts['associated']) or 'none'}")
    lines.append(f"ICC profile: {'yes' if facts['has_icc_profile'] else 'none'}")
    lines += facts["notes"]
    _report(facts, as_json, lines)


@app.command()
def region(
    slide: SlideArgument,
    xy: Annotated[tuple[float, float], typer.Option("--xy", help="Top-left corner, level-0 pixels.")],
    size: Annotated[tuple[int, int], typer.Option("--size", help="Width and height of the result, px.")],
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")],
    level: LevelOption = None,
    mpp: MppOption = None,
    mag: MagOption = None,
    slide_mpp: SlideMppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write exact pixels of a region as PNG.

    Example: histolatent region slide.svs --xy 1000 2000 --size 512 512 --mpp 0.5 --out region.png
    """
    from napari_histolatent._pictures import save_picture
    from napari_histolatent.slides import open_slide

    level, mpp = _resolution(level, mpp, mag)
    with open_slide(slide, mpp=slide_mpp) as opened:
        pixels = opened.read_region(xy, size_px=size, level=level, mpp=mpp)
        own = opened.info.mpp_x
        if mpp is None and own is not None:
            mpp = own * opened.info.levels[level or 0].downsample
        downsample = mpp / own if mpp and own else opened.info.levels[level or 0].downsample
        # Tiles carry their centre: that is what `invert` and SLIDE@X,Y go by.
        centre = [xy[i] + size[i] * downsample / 2 for i in (0, 1)]
        right, bottom = (xy[i] + size[i] * downsample for i in (0, 1))
        provenance = {
            "synthetic": False,
            "name": out.stem,
            "slide_digest": opened.info.digest,
            "x": centre[0],
            "y": centre[1],
            "mpp": mpp,
            "level0_box": [*xy, right, bottom],
        }
    save_picture(out, pixels, provenance)
    facts = {
        "file": str(out),
        "width_px": size[0],
        "height_px": size[1],
        "level0_xy": list(xy),
        "mpp": mpp,
        "level": level,
    }
    _report(facts, as_json, [f"{out}: {size[0]} x {size[1]} px"])


@app.command()
def thumbnail(
    slide: SlideArgument,
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")],
    size: Annotated[int, typer.Option("--size", min=1, help="Longer side, px.")] = 1024,
    srgb: Annotated[bool, typer.Option("--srgb", help="Colours by the slide's ICC profile.")] = False,
    slide_mpp: SlideMppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a picture of the whole slide as PNG.

    Example: histolatent thumbnail slide.svs --size 1024 --out thumbnail.png
    """
    from napari_histolatent._pictures import save_picture
    from napari_histolatent.slides import open_slide, to_srgb_with

    with open_slide(slide, mpp=slide_mpp) as opened:
        info = opened.info
        pixels, downsample = opened.thumbnail(longest_px=size)
        if srgb:
            profile = opened.icc_profile()
            if profile is None:
                msg = f"{info.path.name} has no ICC profile to go by; leave --srgb out."
                raise UserError(msg)
            pixels = to_srgb_with(profile)(pixels)
    height, width = pixels.shape[:2]
    provenance = {
        "synthetic": False,
        "name": out.stem,
        "slide_digest": info.digest,
        "x": info.width_px / 2,
        "y": info.height_px / 2,
        "mpp": info.mpp_x * downsample if info.mpp_x else None,
        "level0_box": [0, 0, info.width_px, info.height_px],
    }
    save_picture(out, pixels, provenance)
    facts = {
        "file": str(out),
        "width_px": width,
        "height_px": height,
        "level0_xy": [0, 0],
        "downsample": downsample,
        "mpp": provenance["mpp"],
    }
    _report(facts, as_json, [f"{out}: {width} x {height} px"])


AnnotationFile = Annotated[
    Path,
    typer.Argument(
        help="ASAP XML, QuPath GeoJSON, ImageScope XML, HALO, NDPA, NCRF or Darwin JSON, label mask TIFF, CSV of points.",
        metavar="IN",
    ),
]
SlideOfRegions = Annotated[
    str | None,
    typer.Option("--slide", help="The slide they belong to: finds what lies outside it; NDPA needs it."),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="What the file's groups stand for: camelyon16, camelyon17, a table saved before, or a JSON table's path."
    ),
]
ScaleOption = Annotated[
    float, typer.Option(help="Multiply the file's coordinates by this, where they are of another level.")
]
ShiftOption = Annotated[
    tuple[float, float],
    typer.Option(help="Then add this to them, in level-0 pixels.", metavar="X Y"),
]


@annotations_app.command("check")
def annotations_check(
    path: AnnotationFile,
    slide: SlideOfRegions = None,
    preset: PresetOption = None,
    scale: ScaleOption = 1.0,
    shift: ShiftOption = (0.0, 0.0),
    as_json: JsonOption = False,
) -> None:
    """Say what an annotation file holds, and what is wrong with it.

    Example: histolatent annotations check tumor_001.xml --slide tumor_001.tif --preset camelyon16
    """
    from napari_histolatent.annotations import require_on_slide

    annotations, checked, info = _read_regions(path, slide, preset, scale, shift)
    _report(checked.to_json(), as_json, [str(path), *checked.lines])
    if info is not None and checked.outside == checked.regions > 0:
        require_on_slide(annotations, info)


@annotations_app.command("convert")
def annotations_convert(
    path: AnnotationFile,
    out: Annotated[
        Path,
        typer.Argument(
            help="The file to write: .geojson (QuPath), .xml (ASAP), .ndpa, .tif (label mask), .csv (points).",
            metavar="OUT",
        ),
    ],
    slide: SlideOfRegions = None,
    preset: PresetOption = None,
    scale: ScaleOption = 1.0,
    shift: ShiftOption = (0.0, 0.0),
    format_name: Annotated[
        str | None,
        typer.Option("--format", help="Where the suffix leaves a choice: asap-xml or imagescope-xml."),
    ] = None,
    rings: Annotated[
        str,
        typer.Option(help="Outlines that had to be repaired: as 'repaired', or as in the 'source'."),
    ] = "repaired",
    crop: Annotated[
        bool,
        typer.Option(
            "--crop-to-bounds", help="Count from the scanned part, as QuPath does for MRXS; needs --slide."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Read regions in one format and write them in another. The file that is read stays as it is.

    Example: histolatent annotations convert tumor_001.xml tumor_001.geojson --preset camelyon16
    """
    from napari_histolatent.annotations import WriteOptions, write_annotations

    if rings not in ("repaired", "source"):
        msg = f"--rings {rings!r} is neither 'repaired' nor 'source'; choose one of them."
        raise UserError(msg)
    annotations, checked, info = _read_regions(path, slide, preset, scale, shift)
    if crop and info is None:
        msg = "--crop-to-bounds needs the slide whose bounds are meant; add --slide."
        raise UserError(msg)
    offset = (-float(info.bounds[0]), -float(info.bounds[1])) if crop and info is not None else (0.0, 0.0)
    options = WriteOptions(slide=info, rings=cast("Any", rings), offset_xy=offset)
    written = write_annotations(
        out, annotations, format_name=format_name, options=options, imported_from=[path]
    )
    facts = {**checked.to_json(), "written": str(out), "written_format": written.name}
    _report(facts, as_json, [str(path), *checked.lines, f"written to {out} as {written.title}"])
    if checked.dropped:
        sys.stderr.write(
            f"{checked.dropped} of {checked.elements} shapes were left out; the report names them.\n"
        )
        raise typer.Exit(3)


def _read_regions(
    path: Path, slide: str | None, preset: str | None, scale: float, shift: tuple[float, float]
) -> tuple[Annotations, AnnotationCheck, SlideInfo | None]:
    from napari_histolatent.annotations import Placement, check_annotations, find_mapping, read_annotations
    from napari_histolatent.slides import open_slide

    if not (math.isfinite(scale) and scale > 0 and all(map(math.isfinite, shift))):
        msg = f"--scale {scale:g} --shift {shift[0]:g} {shift[1]:g} is not possible; give finite numbers, the scale above 0."
        raise UserError(msg)
    info = None
    if slide is not None:
        with open_slide(slide) as opened:
            info = opened.info
    annotations = read_annotations(
        path,
        slide=info,
        mapping=None if preset is None else find_mapping(preset),
        placement=Placement(scale, shift),
    )
    return annotations, check_annotations(annotations, info), info


@app.command()
def extract(
    slides: Annotated[list[Path], typer.Argument(help="Slide files.", metavar="SLIDE...")],
    annotations: Annotated[
        Path, typer.Option(help="Regions of the slide, or a folder with SLIDENAME.geojson for each.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Dataset folder to make.")],
    size: Annotated[int, typer.Option(help="Side of a patch, px.")] = 256,
    level: LevelOption = None,
    mpp: MppOption = None,
    mag: MagOption = None,
    stride: Annotated[int | None, typer.Option(help="Step between patches, px; default: the size.")] = None,
    rule: Annotated[str, typer.Option(help="area, majority, any, inside or centre.")] = "area",
    threshold: Annotated[
        float, typer.Option(help="Least share of the class in a patch, for rule area.")
    ] = 0.75,
    min_tissue: Annotated[float, typer.Option(help="Least share of tissue in a patch.")] = 0.5,
    slide_mpp: SlideMppOption = None,
    workers: Annotated[int, typer.Option(help="Threads that decode.")] = 2,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Cut labelled patches into a dataset, split by slide (one slide alone: by region).

    Example: histolatent extract slide.svs --annotations regions.geojson --out patches --size 64 --mpp 0.5
    """
    from napari_histolatent.patches import GridSpec, SlideSource, SplitSpec, annotations_for
    from napari_histolatent.patches import extract as cut

    if len(slides) > 1 and not annotations.is_dir():
        msg = f"{len(slides)} slides need a folder of annotations with SLIDENAME.geojson for each, not one file ({annotations})."
        raise UserError(msg)
    level, mpp = _resolution(level, mpp, mag)
    sources, failed = [], []
    for slide in slides:
        try:
            sources.append(SlideSource(slide, annotations_for(slide, annotations), mpp=slide_mpp))
        except UserError as error:
            failed.append(str(error))
    if not sources:
        raise UserError(failed[0])
    spec = GridSpec(size, mpp, level, stride, rule, threshold, min_tissue)
    with _progress() as progress:
        bar = progress.add_task("cutting patches", total=None)
        report = cut(
            sources,
            out,
            spec=spec,
            split=SplitSpec(seed=seed),
            workers=workers,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    facts = report.to_json()
    facts["failed"] = failed + list(report.failed)
    _report(
        facts,
        as_json,
        [
            f"{out}: {report.patches} patches in {report.seconds:.1f} s",
            "classes: " + ", ".join(f"{n} {name}" for name, n in report.classes.items()),
            "splits: "
            + ", ".join(f"{n} {name}" for name, n in report.splits.items())
            + (f" ({report.dropped_at_split} dropped between them)" if report.dropped_at_split else ""),
            *facts["failed"],
        ],
    )
    if facts["failed"]:
        raise typer.Exit(3)


@dataset_app.command("info")
def dataset_info(
    path: Annotated[Path, typer.Argument(help="Dataset folder.", metavar="DS")], as_json: JsonOption = False
) -> None:
    """Say what a patch dataset holds.

    Example: histolatent dataset info patches --json
    """
    from napari_histolatent.patches import PatchDataset

    facts = PatchDataset(path).report()
    mpp = f" at {facts['mpp']:g} µm per px" if facts["mpp"] else ""
    lines = [
        f"{path}: {facts['patches']} patches of {facts['size_px']} px{mpp}, digest {facts['digest'][:12]}"
    ]
    lines += [
        f"{split}: " + ", ".join(f"{n} {name}" for name, n in classes.items())
        for split, classes in facts["classes_per_split"].items()
    ]
    _report(facts, as_json, lines)


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
    _report({"runs": listed}, as_json, lines or ["There are no runs yet."])


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
    files = [_save_tile(out, tile) for tile in tiles]
    digest = generator.checkpoint.digest
    facts = {
        "files": files,
        "digests": [digest_of_file(Path(file)) for file in files],
        "model_digest": digest,
        "seed": seed,
    }
    _report(facts, as_json, [f"{n} SYNTHETIC images in {out}"])


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


@app.command()
def invert(
    run: GeneratorArgument,
    images: ImagesArgument,
    out: OutOption,
    label: Annotated[
        str | None, typer.Option(help="Class of the tiles; default: the one that fits best.")
    ] = None,
    method: MethodOption = "s1",
    steps: Annotated[int, typer.Option(help="Gradient steps.", min=1)] = 500,
    classifier: ClassifierOption = None,
    slide_mpp: SlideMppOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find the latent point of tiles (reverse search).

    Example: histolatent invert run slide.svs@1200,1900 --label epithelium --out found
    """
    from napari_histolatent.jobs import edits
    from napari_histolatent.training.load import load_classifier, load_generator

    generator = load_generator(run, device=device)
    judge = load_classifier(classifier, device=device) if classifier else None
    if judge:
        edits.require_same_classes(generator, judge)
    tiles, failed = _open_tiles(generator.checkpoint, images, slide_mpp)
    with _progress() as progress:
        bar = progress.add_task("reverse search", total=steps)
        searches = edits.reverse_search(
            generator,
            tiles,
            label=label,
            method=method,
            steps=steps,
            seed=seed,
            on_step=lambda done, _: progress.update(bar, completed=done),
        )
    reports = []
    for search in searches:
        found, point = search.inversion, search.inversion.point
        real, drawn = (
            edits.probabilities_of(judge, [search.tile, search.reconstruction]) if judge else (None, None)
        )
        reports.append(
            {
                "image": search.tile.opened_as,
                "label": generator.checkpoint.classes[
                    max(range(len(point.class_weights)), key=point.class_weights.__getitem__)
                ],
                "rmse": found.rmse,
                "psnr_db": found.psnr_db,
                "ssim": found.ssim,
                "perceptual": None,
                "seconds": found.seconds,
                "probability_real": real,
                "probability_reconstruction": drawn,
                "verdict": None,
                "files": [
                    _save_tile(out, replace(search.tile, name=f"{search.tile.name}_tile"), images),
                    _save_tile(out, search.reconstruction, images),
                ],
            }
        )
    lines = [
        f"{v['image']}: RMSE {v['rmse']:.3f}, PSNR {v['psnr_db']:.1f} dB, as {v['label']}" for v in reports
    ]
    _report(
        {"images": reports, "failed": failed, "model_digest": generator.checkpoint.digest}, as_json, lines
    )
    if failed:
        raise typer.Exit(3)


@app.command()
def flip(
    run: GeneratorArgument,
    images: ImagesArgument,
    to: Annotated[str, typer.Option("--to", help="Class to flip to.")],
    out: OutOption,
    method: MethodOption = "s1",
    classifier: ClassifierOption = None,
    slide_mpp: SlideMppOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Draw tiles in another class, their latent vector kept; a tile without one is searched first.

    Example: histolatent flip run found/tile_reconstruction.png --to stroma --out flipped
    """
    from napari_histolatent.jobs import edits
    from napari_histolatent.latent import class_vector
    from napari_histolatent.training.load import load_classifier, load_generator

    generator = load_generator(run, device=device)
    judge = load_classifier(classifier, device=device) if classifier else None
    class_vector(generator.checkpoint.classes, to)  # a wrong name is told before any search
    if judge:
        edits.require_same_classes(generator, judge)
    tiles, failed = _open_tiles(generator.checkpoint, images, slide_mpp)
    reports = []
    for tile in _with_points(generator, tiles, seed, method):
        flipped = edits.flip_tile(generator, tile, to=to)
        chances = edits.probabilities_of(judge, [tile, flipped]) if judge else [None, None]
        reports.append(
            {
                "image": tile.opened_as,
                "file": _save_tile(out, flipped, images),
                "probability_before": chances[0],
                "probability_after": chances[1],
            }
        )
    lines = [f"{v['image']} as {to}: {v['file']} (SYNTHETIC)" for v in reports]
    files = [v["file"] for v in reports]
    _report({"files": files, "images": reports, "to": to, "failed": failed}, as_json, lines)
    if failed:
        raise typer.Exit(3)


@app.command()
def interpolate(
    run: GeneratorArgument,
    a: Annotated[str, typer.Argument(help="First tile: a file or SLIDE@X,Y.")],
    b: Annotated[str, typer.Argument(help="Last tile: a file or SLIDE@X,Y.")],
    out: OutOption,
    frames: Annotated[int, typer.Option(help="How many images, both ends included.", min=2)] = 9,
    classifier: ClassifierOption = None,
    slide_mpp: SlideMppOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Draw what lies between two tiles; a tile without a latent point is searched first.

    Example: histolatent interpolate run a_reconstruction.png b_reconstruction.png --frames 9 --out between
    """
    from napari_histolatent._pictures import marked, save_picture, strip
    from napari_histolatent.jobs import edits
    from napari_histolatent.training.load import load_classifier, load_generator

    generator = load_generator(run, device=device)
    judge = load_classifier(classifier, device=device) if classifier else None
    if judge:
        edits.require_same_classes(generator, judge)
    tiles, _ = _open_tiles(generator.checkpoint, [a, b], slide_mpp, all_needed=True)
    first, last = _with_points(generator, tiles, seed)
    drawn = edits.interpolate_tiles(generator, first, last, frames=frames)
    files = [_save_tile(out, tile, [a, b]) for tile in drawn]
    provenance = drawn[0].provenance | {"from": first.name, "to": last.name}
    figure = marked(strip([tile.pixels for tile in drawn]))
    all_in_one = save_picture(out / f"{file_name_of(first.name)}_strip.png", figure, provenance)
    chances = edits.probabilities_of(judge, drawn) if judge else None
    _report(
        {"files": files, "strip": str(all_in_one), "probabilities": chances},
        as_json,
        [f"{frames} SYNTHETIC frames in {out}"],
    )


@app.command()
def gradcam(
    classifier: Annotated[str, typer.Argument(help="A classifier's run folder.", metavar="CLF")],
    images: ImagesArgument,
    out: OutOption,
    target: Annotated[
        str | None, typer.Option(help="Class to explain; default: the one the classifier sees.")
    ] = None,
    slide_mpp: SlideMppOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write where the classifier looks: the raw map as TIFF, and the tile with the map over it as PNG.

    Example: histolatent gradcam classifier tile.png --target stroma --out maps
    """
    import tifffile

    from napari_histolatent._pictures import marked, save_picture
    from napari_histolatent.errors import writing_to
    from napari_histolatent.explain import overlaid
    from napari_histolatent.jobs import edits
    from napari_histolatent.training.load import load_classifier

    judge = load_classifier(classifier, device=device)
    tiles, failed = _open_tiles(judge.checkpoint, images, slide_mpp)
    reports = []
    for tile, heatmap in zip(tiles, edits.heatmaps_of(judge, tiles, target=target), strict=True):
        facts = edits.heatmap_report(judge, tile, heatmap)
        overlay = _unlike(out / f"{file_name_of(tile.name)}_gradcam.png", images)
        figure = overlaid(tile.pixels, heatmap)
        provenance = tile.provenance | {"heatmap": facts}
        save_picture(overlay, marked(figure) if tile.synthetic else figure, provenance)
        raw = out / f"{file_name_of(tile.name)}_gradcam.tif"
        with writing_to(out), replacing(raw) as temporary:
            tifffile.imwrite(temporary, heatmap.values, description=json.dumps(provenance))
        reports.append(facts | {"files": [str(overlay), str(raw)]})
    lines = [f"{v['image']}: {v['target']} {v['probability']:.2f}, layer {v['layer']}" for v in reports]
    _report({"images": reports, "failed": failed}, as_json, lines)
    if failed:
        raise typer.Exit(3)


def _resolution(level: int | None, mpp: float | None, mag: float | None) -> tuple[int | None, float | None]:
    """Return (level, mpp), one of them None; a magnification is 10 / mag µm per px, as scanners have it."""
    given = [
        name for name, value in (("--level", level), ("--mpp", mpp), ("--mag", mag)) if value is not None
    ]
    if len(given) != 1:
        msg = f"Give one of --mpp, --level or --mag, not {' and '.join(given) or 'none'}; for example --mpp 0.5."
        raise UserError(msg)
    if mag is not None:
        if not mag > 0:
            msg = f"A magnification of {mag:g} is not possible; give a number above 0, such as 20."
            raise UserError(msg)
        return None, 10 / mag
    return level, mpp


def _open_tiles(
    checkpoint: Any, images: Sequence[str], slide_mpp: float | None, *, all_needed: bool = False
) -> tuple[list[Tile], list[str]]:
    """Return the tiles that could be opened, and a sentence for each that could not; none at all is an error."""
    from napari_histolatent.jobs.tiles import open_tile

    tiles: list[Tile] = []
    failed: list[str] = []
    for image in images:
        try:
            tile = open_tile(image, size_px=checkpoint.size_px, mpp=checkpoint.mpp, slide_mpp=slide_mpp)
        except UserError as error:
            if all_needed:
                raise
            failed.append(str(error))
            continue
        # Files are named after their tile: two pictures of one name must not become one.
        same = sum(other.name.rpartition("~")[0] == tile.name or other.name == tile.name for other in tiles)
        tiles.append(replace(tile, name=f"{tile.name}~{same + 1}") if same else tile)
    if not tiles:
        raise UserError(failed[0])
    for sentence in failed:
        _messages.print(f"Left out: {sentence}", style="yellow", markup=False, soft_wrap=True)
    return tiles, failed


def _with_points(generator: Any, tiles: Sequence[Tile], seed: int, method: str = "s1") -> list[Tile]:
    """Return the tiles as their generator draws them: a tile without a point of this generator is searched."""
    from napari_histolatent.jobs import edits

    ready = []
    for tile in tiles:
        if edits.has_point_of(generator, tile):
            ready.append(tile)
        else:
            (search,) = edits.reverse_search(generator, [tile], seed=seed, method=method)
            _messages.print(f"{tile.name}: searched, RMSE {search.inversion.rmse:.3f}", markup=False)
            ready.append(search.reconstruction)
    return ready


def _save_tile(folder: Path, tile: Tile, inputs: Sequence[str] = ()) -> str:
    from napari_histolatent._pictures import save_picture

    path = _unlike(folder / f"{file_name_of(tile.name)}.png", inputs)
    return str(save_picture(path, tile.pixels, tile.provenance))


def _unlike(path: Path, inputs: Sequence[str]) -> Path:
    """Return the path, unless it is one of the files that were given: those are never written over."""
    if any(Path(name).exists() and Path(name).resolve() == path.resolve() for name in inputs):
        msg = f"{path} is one of the images given, and would be written over; choose another --out."
        raise UserError(msg)
    return path


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
        with _progress() as progress:
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
        _messages.print(f"Stopped; go on with: histolatent resume {run.path}", markup=False, soft_wrap=True)
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
    _report(_run_facts(run, status), as_json, [line for line in lines if line])


def _report(facts: dict[str, Any], as_json: bool, lines: Sequence[str]) -> None:
    if as_json:
        _print(json.dumps(without_nan(facts), default=_plain))
    else:
        for line in lines:
            _print(line)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else asdict(value)


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Where nobody watches, a bar is only noise in the log.
    with Progress(*columns, console=_messages, transient=True, disable=not _messages.is_terminal) as progress:
        yield progress


class _DemoConsole:
    """The demo's words, on the rich progress display."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = progress.add_task("", total=None)
        self._title = ""

    def begin(self, title: str) -> None:
        self._title = title
        self._progress.reset(self._bar, description=title, total=None)

    def update(self, done: int, total: int, text: str = "") -> None:
        description = f"{self._title} ({text})" if text else self._title
        self._progress.update(self._bar, completed=done, total=total or None, description=description)

    def end(self, text: str, seconds: float) -> None:
        self._progress.console.print(
            f"{self._title} ({seconds:.1f} s): {text}", markup=False, highlight=False, soft_wrap=True
        )


def _has_display() -> bool:
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def _open_viewer(result: Any) -> None:
    try:
        from napari_histolatent._napari.show_demo import show_demo
    except ImportError as error:
        _messages.print(
            f"napari is not installed ({error}); install it with: pip install 'napari-histolatent[all]'",
            markup=False,
        )
        return
    show_demo(result)
