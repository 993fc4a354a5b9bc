"""Patch datasets: `extract` and `dataset ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_histolatent.cli._options import (
    JsonOption,
    LevelOption,
    MagOption,
    MppOption,
    SlideMppOption,
    progress_bar,
    resolution,
    write_report,
)
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari_histolatent.patches import ExtractReport, Recipe, SlideSource

app = typer.Typer()
dataset_app = typer.Typer(no_args_is_help=True, help="Look at patch datasets, and make others of them.")

_GRID, _TISSUE, _LABELS, _MEMBERS, _STORE = "Grid", "Tissue", "Labels", "Split and balance", "Store"


def _list(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


DatasetArgument = Annotated[Path, typer.Argument(help="Dataset folder.", metavar="DS")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a dataset that is there.")]
RuleOption = Annotated[
    str | None,
    typer.Option(help="area (default), majority, any, inside, centre or priority.", rich_help_panel=_LABELS),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        help="Least share of the class in a patch, for area and priority (default 0.75).",
        rich_help_panel=_LABELS,
    ),
]
PriorityOption = Annotated[
    str | None,
    typer.Option(
        help="Classes, first wins: tumour,stroma; implies --rule priority.", rich_help_panel=_LABELS
    ),
]
ExcludeOption = Annotated[
    str | None,
    typer.Option(help="Classes that rule out the patches they touch: artefact,pen.", rich_help_panel=_LABELS),
]
DefaultClassOption = Annotated[
    str | None, typer.Option(help="Class of tissue that no region covers.", rich_help_panel=_LABELS)
]
AnnotatedAsOption = Annotated[
    str | None, typer.Option(help="One class for whatever is annotated.", rich_help_panel=_LABELS)
]
IgnoreAboveOption = Annotated[
    float | None,
    typer.Option(
        help="Annotated share up to which a patch still is of the default class (default 0).",
        rich_help_panel=_LABELS,
    ),
]
SplitByOption = Annotated[
    str | None,
    typer.Option(
        help="auto (default: patient, else slide, else block), patient, slide or block.",
        rich_help_panel=_MEMBERS,
    ),
]
SharesOption = Annotated[
    tuple[float, float, float] | None,
    typer.Option("--shares", help="Train, val, test (default 0.7 0.15 0.15).", rich_help_panel=_MEMBERS),
]
BalanceOption = Annotated[
    str | None,
    typer.Option(
        help="none (default), or smallest: as many of each class as of the smallest.",
        rich_help_panel=_MEMBERS,
    ),
]
PerClassOption = Annotated[
    int | None, typer.Option(help="Most patches of a class.", rich_help_panel=_MEMBERS)
]
PerSlideOption = Annotated[
    int | None, typer.Option(help="Most patches of a class from one slide.", rich_help_panel=_MEMBERS)
]
PerPatientOption = Annotated[
    int | None, typer.Option(help="Most patches of a class from one patient.", rich_help_panel=_MEMBERS)
]
MinFocusOption = Annotated[
    float | None,
    typer.Option(help="Least variance of the Laplacian; blurred patches are out.", rich_help_panel=_TISSUE),
]
MaxPenOption = Annotated[
    float | None, typer.Option(help="Most share of pen marks in a patch.", rich_help_panel=_TISSUE)
]
MaxWhiteOption = Annotated[
    float | None, typer.Option(help="Most share of white in a patch.", rich_help_panel=_TISSUE)
]
DrawSeedOption = Annotated[
    int | None,
    typer.Option("--seed", help="Seed of split and balance (default 0).", rich_help_panel=_MEMBERS),
]


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@app.command()
def extract(
    slides: Annotated[
        list[Path],
        typer.Argument(
            help="Slide files, a folder of slides, or a CSV with the columns slide, annotation, patient, label, mpp, mask, coords.",
            metavar="SLIDE...",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Dataset folder to make.")],
    annotations: Annotated[
        Path | None, typer.Option(help="Regions of the slide, or a folder with a file named as each slide.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Begin with a recipe: s1, or the dataset.json of another dataset.")
    ] = None,
    coords: Annotated[
        Path | None, typer.Option(help="CLAM or TRIDENT coordinates (HDF5) of the slide, instead of a grid.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Side of a patch, px (default 256).", rich_help_panel=_GRID)
    ] = None,
    level: LevelOption = None,
    mpp: MppOption = None,
    mag: MagOption = None,
    zoom: Annotated[
        str | None,
        typer.Option(help="Zoom levels, 0 or 0,1: downsample 1, or 1 and 2.", rich_help_panel=_GRID),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(help="Step between patches, px (default: the size).", rich_help_panel=_GRID),
    ] = None,
    stride_um: Annotated[
        float | None, typer.Option(help="Step between patches, µm.", rich_help_panel=_GRID)
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Overlap of patches, px.", rich_help_panel=_GRID)
    ] = None,
    overlap_um: Annotated[
        float | None, typer.Option(help="Overlap of patches, µm.", rich_help_panel=_GRID)
    ] = None,
    origin: Annotated[
        tuple[float, float] | None,
        typer.Option(help="A corner of the grid, level-0 px (x y).", rich_help_panel=_GRID),
    ] = None,
    edge: Annotated[
        str | None,
        typer.Option(help="At the slide's edge: whole (default), shift or pad.", rich_help_panel=_GRID),
    ] = None,
    tissue: Annotated[
        str | None,
        typer.Option(
            help="How tissue is found: auto (default), saturation, density, fixed, dark or none.",
            rich_help_panel=_TISSUE,
        ),
    ] = None,
    tissue_threshold: Annotated[
        float | None,
        typer.Option(help="Threshold of the tissue mask instead of Otsu's.", rich_help_panel=_TISSUE),
    ] = None,
    min_tissue: Annotated[
        float | None,
        typer.Option(help="Least share of tissue in a patch (default 0.5).", rich_help_panel=_TISSUE),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="A tissue mask of your own: a picture of the slide.", rich_help_panel=_TISSUE),
    ] = None,
    fill_holes: Annotated[
        float | None, typer.Option(help="Fill holes of the mask below so many µm².", rich_help_panel=_TISSUE)
    ] = None,
    drop_islands: Annotated[
        float | None,
        typer.Option(help="Drop islands of the mask below so many µm².", rich_help_panel=_TISSUE),
    ] = None,
    pens: Annotated[
        str | None,
        typer.Option(
            help="Pen colours to take out of the mask: green,red (default), blue, black; or none.",
            rich_help_panel=_TISSUE,
        ),
    ] = None,
    reject_blur: Annotated[
        bool | None,
        typer.Option("--reject-blur/--keep-blur", help="Take blurred tissue out.", rich_help_panel=_TISSUE),
    ] = None,
    min_focus: MinFocusOption = None,
    max_pen: MaxPenOption = None,
    max_white: MaxWhiteOption = None,
    rule: RuleOption = None,
    threshold: ThresholdOption = None,
    priority: PriorityOption = None,
    exclude: ExcludeOption = None,
    default_class: DefaultClassOption = None,
    annotated_as: AnnotatedAsOption = None,
    ignore_above: IgnoreAboveOption = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="Class of the slides' unannotated tissue; a CSV says it for each slide.",
            rich_help_panel=_LABELS,
        ),
    ] = None,
    split_by: SplitByOption = None,
    shares: SharesOption = None,
    balance: BalanceOption = None,
    per_class: PerClassOption = None,
    per_slide: PerSlideOption = None,
    per_patient: PerPatientOption = None,
    seed: DrawSeedOption = None,
    stain: Annotated[
        str | None, typer.Option(help="none (default), reinhard or macenko.", rich_help_panel=_STORE)
    ] = None,
    stain_target: Annotated[
        str | None,
        typer.Option(help="A picture or slide to match, or standard (default).", rich_help_panel=_STORE),
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="zstd (default), raw, or jpeg.", rich_help_panel=_STORE)
    ] = None,
    jpeg_quality: Annotated[
        int | None, typer.Option(help="Quality of codec jpeg (default 90).", rich_help_panel=_STORE)
    ] = None,
    index_only: Annotated[
        bool, typer.Option("--index-only", help="Store no pixels; read the slides.", rich_help_panel=_STORE)
    ] = False,
    keep: Annotated[
        str | None,
        typer.Option(
            help="labelled (default), or tissue: cut unlabelled patches too, for a later relabel.",
            rich_help_panel=_STORE,
        ),
    ] = None,
    slide_mpp: SlideMppOption = None,
    workers: Annotated[
        int, typer.Option(help="Threads that decode; with --scheduler local, processes.", min=1)
    ] = 2,
    scheduler: Annotated[
        str | None,
        typer.Option(help="A Dask scheduler, tcp://host:8786, or local for processes of this machine."),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cut labelled patches into a dataset, split by patient, else by slide (one slide alone: by blocks).

    Stopped or killed, the same command goes on where it was.

    Example: histolatent extract slide.svs --annotations regions.geojson --out patches --size 64 --mpp 0.5
    """
    from napari_histolatent.patches import extract as cut

    steps = {
        "stride_px": stride,
        "stride_um": stride_um,
        "overlap_px": overlap,
        "overlap_um": overlap_um,
    }
    grid = _given(size_px=size, origin_px=origin, edge=edge)
    if _given(**steps):
        grid |= steps  # whichever a preset gives is not meant any more
    grid |= _resolution(level, mpp, mag, zoom, is_needed=preset is None and coords is None)
    changes = {
        "grid": grid,
        "tissue": _given(
            method=tissue,
            threshold=tissue_threshold,
            min_tissue=min_tissue,
            fill_holes_below_um2=fill_holes,
            drop_islands_below_um2=drop_islands,
            reject_blur=reject_blur,
            **_pens(pens),
        ),
        "stain": _given(method=stain, target=stain_target),
        "store": _given(codec=codec, jpeg_quality=jpeg_quality, keep=keep, index_only=index_only or None),
    } | _membership(
        rule=rule,
        threshold=threshold,
        priority=_list(priority),
        exclude=_list(exclude),
        default_class=default_class,
        annotated_as=annotated_as,
        ignore_above=ignore_above,
        split_by=split_by,
        shares=shares,
        balance=balance,
        per_class=per_class,
        per_slide=per_slide,
        per_patient=per_patient,
        seed=seed,
        min_focus=min_focus,
        max_pen=max_pen,
        max_white=max_white,
    )
    recipe = _recipe(preset, changes)
    sources, failed = _sources(slides, annotations, mpp=slide_mpp, label=label, mask=mask, coords=coords)
    with progress_bar() as progress:
        bar = progress.add_task("looking at tissue and regions", total=None)
        report = cut(
            sources,
            out,
            recipe=recipe,
            workers=workers,
            scheduler=scheduler,
            overwrite=overwrite,
            on_progress=lambda done, total: progress.update(
                bar, completed=done, total=total, description="cutting patches"
            ),
        )
    facts = report.to_json()
    facts["failed"] = failed + list(report.failed)
    write_report(facts, as_json, [*_lines_of(out, report), *report.messages, *facts["failed"]])
    if facts["failed"]:
        raise typer.Exit(3)


def _lines_of(out: Path, report: ExtractReport) -> list[str]:
    left_out = ", ".join(f"{n} for {reason}" for reason, n in report.left_out.items())
    taken_up = f", {report.taken_up} of them cut before" if report.taken_up else ""
    return [
        f"{out}: {report.patches} patches in {report.seconds:.1f} s{taken_up}",
        "classes: " + ", ".join(f"{n} {name}" for name, n in report.classes.items()),
        "splits: " + ", ".join(f"{n} {name}" for name, n in report.splits.items()),
        *([f"left out: {left_out}"] if left_out else []),
    ]


def _resolution(
    level: int | None, mpp: float | None, mag: float | None, zoom: str | None, *, is_needed: bool
) -> dict[str, Any]:
    """Return the grid's fields of resolution, one of them set; none where another recipe has it."""
    if zoom is not None:
        if (level, mpp, mag) != (None, None, None):
            msg = "Give one of --zoom, --mpp, --level or --mag; for example --zoom 0,1."
            raise UserError(msg)
        try:
            downsamples = tuple(float(2 ** int(text)) for text in zoom.split(","))
        except ValueError as error:
            msg = f"The zoom {zoom!r} is not a list of whole numbers; give 0, or 0,1."
            raise UserError(msg) from error
        return {"downsamples": downsamples, "mpp": None, "level": None}
    if (level, mpp, mag) == (None, None, None) and not is_needed:
        return {}
    level, mpp = resolution(level, mpp, mag)
    return {"level": level, "mpp": mpp, "downsamples": ()}


def _pens(text: str | None) -> dict[str, Any]:
    colors = _list(text)
    if colors is None:
        return {}
    return {"reject_pen": False} if colors in ((), ("none",)) else {"reject_pen": True, "pen_colors": colors}


def _membership(
    *,
    split_by: str | None,
    shares: tuple[float, float, float] | None,
    balance: str | None,
    per_class: int | None,
    per_slide: int | None,
    per_patient: int | None,
    seed: int | None,
    min_focus: float | None,
    max_pen: float | None,
    max_white: float | None,
    **labels: Any,
) -> dict[str, dict[str, Any]]:
    """Return the changes to what can be changed without cutting again: labels, quality, balance, split."""
    if labels["priority"]:
        if labels["rule"] not in (None, "priority"):
            msg = f"An order of the classes (--priority) means nothing to the rule {labels['rule']}; leave one of the two out."
            raise UserError(msg)
        labels["rule"] = "priority"
    return {
        "labels": _given(**labels),
        "quality": _given(min_focus=min_focus, max_pen=max_pen, max_white=max_white),
        "balance": _given(
            method=balance, per_class=per_class, per_slide=per_slide, per_patient=per_patient, seed=seed
        ),
        "split": _given(by=split_by, fractions=shares, seed=seed),
    }


def _recipe(preset: str | None, changes: Mapping[str, Mapping[str, Any]]) -> Recipe:
    import json

    from napari_histolatent.patches import GridSpec, Recipe, recipe_named

    if preset is None:
        grid = changes["grid"] if "downsamples" in changes["grid"] else {"level": 0, **changes["grid"]}
        base = Recipe(grid=GridSpec(**grid))
    elif Path(preset).is_file():
        try:
            base = Recipe.from_json(json.loads(Path(preset).read_text(encoding="utf-8"))["recipe"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = f"{preset} holds no recipe ({error!r}); name the dataset.json of a dataset that was cut."
            raise UserError(msg) from error
    else:
        base = recipe_named(preset)
    return base.changed(**changes)


def _sources(
    slides: Sequence[Path],
    annotations: Path | None,
    *,
    mpp: float | None,
    label: str | None,
    mask: Path | None,
    coords: Path | None,
) -> tuple[list[SlideSource], list[str]]:
    """Return the slides that a command names, and a sentence for each that lacks its annotations."""
    from dataclasses import replace

    from napari_histolatent.patches import (
        SlideSource,
        annotations_for,
        read_batch,
        require_own_names,
        slides_in,
    )

    if len(slides) == 1 and slides[0].suffix.lower() == ".csv":
        given = {"--annotations": annotations, "--mask": mask, "--coords": coords}
        doubled = [name for name, value in given.items() if value is not None]
        if doubled:
            msg = f"The table {slides[0]} says it for each slide; leave {' and '.join(doubled)} out."
            raise UserError(msg)
        sources = read_batch(slides[0])
        return [
            replace(source, mpp=source.mpp or mpp, label=source.label or label or "") for source in sources
        ], []
    paths = [
        path
        for given_path in slides
        for path in (
            slides_in(given_path)
            if given_path.is_dir() and given_path.suffix != ".zarr" and not any(given_path.glob("*.dcm"))
            else [given_path]
        )
    ]
    one_for_many = {"--annotations": annotations, "--mask": mask, "--coords": coords}
    for name, path in one_for_many.items():
        if len(paths) > 1 and path is not None and not path.is_dir():
            msg = f"{len(paths)} slides need a folder with a file named as each slide, not one file ({name} {path})."
            raise UserError(msg)
        if path is not None and path.is_dir():
            require_own_names(paths)
    sources, failed = [], []
    for path in paths:
        try:
            sources.append(
                SlideSource(
                    path,
                    annotations_for(path, annotations) if annotations is not None else None,
                    mpp=mpp,
                    label=label or "",
                    mask=_beside(path, mask, (".png", ".tif", ".tiff")),
                    coords=_beside(path, coords, (".h5", ".hdf5")),
                )
            )
        except UserError as error:
            failed.append(str(error))
    if not sources:
        raise UserError(failed[0])
    return sources, failed


def _beside(slide: Path, given: Path | None, suffixes: Sequence[str]) -> Path | None:
    """Return the file of a slide: the path itself, or in a folder the one of the slide's name."""
    if given is None or not given.is_dir():
        return given
    for suffix in suffixes:
        if (given / f"{slide.stem}{suffix}").is_file():
            return given / f"{slide.stem}{suffix}"
    names = ", ".join(f"{slide.stem}{suffix}" for suffix in suffixes)
    msg = f"{given} holds nothing for {slide.name} ({names}); add it or leave the slide out."
    raise UserError(msg)


@dataset_app.command("info")
def dataset_info(
    path: DatasetArgument,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read everything and compare it with the digests; fail if it differs."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a patch dataset holds, and whether its splits leak.

    Example: histolatent dataset info patches --json
    """
    from napari_histolatent.patches import PatchDataset, leaks

    dataset = PatchDataset(path)
    facts = dataset.report()
    found = leaks(dataset.columns)
    facts["leaks"] = [leak.sentence for leak in found]
    lines = [*_lines_about(path, facts), *facts["messages"], *facts["leaks"]]
    if verify:
        dataset.verify()
        facts["verified"] = True
        lines.append("Everything is as it was written.")
    write_report(facts, as_json, lines)


def _lines_about(path: Path, facts: Mapping[str, Any]) -> list[str]:
    mpp = f" at {facts['mpp']:g} µm per px" if facts["mpp"] else ""
    left_out = ", ".join(f"{n} for {reason}" for reason, n in facts["left_out"].items())
    return [
        f"{path}: {facts['patches']} patches of {facts['size_px']} px{mpp}, digest {facts['digest'][:12]}",
        *(
            f"{split}: " + ", ".join(f"{n} {name}" for name, n in classes.items())
            for split, classes in facts["classes_per_split"].items()
        ),
        *([f"left out: {left_out}"] if left_out else []),
    ]


@dataset_app.command("relabel")
def dataset_relabel(
    path: DatasetArgument,
    out: Annotated[Path, typer.Option("--out", help="Folder to make; the pixels stay where they are.")],
    rule: RuleOption = None,
    threshold: ThresholdOption = None,
    priority: PriorityOption = None,
    exclude: ExcludeOption = None,
    default_class: DefaultClassOption = None,
    annotated_as: AnnotatedAsOption = None,
    ignore_above: IgnoreAboveOption = None,
    min_focus: MinFocusOption = None,
    max_pen: MaxPenOption = None,
    max_white: MaxWhiteOption = None,
    zoom: Annotated[int | None, typer.Option(help="Take only this zoom: 0, or 1.", min=0)] = None,
    split_by: SplitByOption = None,
    shares: SharesOption = None,
    balance: BalanceOption = None,
    per_class: PerClassOption = None,
    per_slide: PerSlideOption = None,
    per_patient: PerPatientOption = None,
    seed: DrawSeedOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a view of a dataset with other labels, limits, split or balance; no slide is read.

    What is not given stays as it was. Only patches that were cut can be labelled: see extract --keep tissue.

    Example: histolatent dataset relabel patches --threshold 0.5 --balance smallest --out patches-50
    """
    from napari_histolatent.patches import PatchDataset, recipe_of, relabel

    dataset = PatchDataset(path)
    changes = _membership(
        rule=rule,
        threshold=threshold,
        priority=_list(priority),
        exclude=_list(exclude),
        default_class=default_class,
        annotated_as=annotated_as,
        ignore_above=ignore_above,
        split_by=split_by,
        shares=shares,
        balance=balance,
        per_class=per_class,
        per_slide=per_slide,
        per_patient=per_patient,
        seed=seed,
        min_focus=min_focus,
        max_pen=max_pen,
        max_white=max_white,
    )
    facts = relabel(
        dataset,
        out,
        recipe=recipe_of(dataset).changed(**changes),
        downsample=None if zoom is None else float(2**zoom),
        overwrite=overwrite,
    )
    write_report(facts, as_json, [*_lines_about(out, facts), *facts["messages"]])


@dataset_app.command("import-folder")
def dataset_import_folder(
    folder: Annotated[Path, typer.Argument(help="Folder with pictures in CLASS/ folders.", metavar="DIR")],
    out: Annotated[Path, typer.Option("--out", help="Dataset folder to make.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV with the columns file and label (or class), and group: the patient."),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel of the pictures, if known.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Resize to this side, px; default: as they are.")] = None,
    shares: SharesOption = None,
    seed: DrawSeedOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a dataset of pictures; those of one group (patient) stay in one split.

    Example: histolatent dataset import-folder tiles --labels tiles/labels.csv --out patches
    """
    from napari_histolatent.patches import SplitSpec
    from napari_histolatent.patches.formats import import_folder

    with progress_bar() as progress:
        bar = progress.add_task("reading pictures", total=None)
        facts = import_folder(
            folder,
            labels=labels,
            out=out,
            split=SplitSpec(**_given(fractions=shares, seed=seed)),
            mpp=mpp,
            size_px=size,
            overwrite=overwrite,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    write_report(facts, as_json, [f"{out}: {facts['patches']} patches of {facts['size_px']} px"])


@dataset_app.command("export")
def dataset_export(
    path: DatasetArgument,
    out: Annotated[Path, typer.Argument(help="Folder to make.", metavar="OUT")],
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="imagefolder-png, imagefolder-jpeg, webdataset, webdataset-jpeg, clam, trident or geojson.",
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Write a dataset for another program.

    Example: histolatent dataset export patches tiles --format imagefolder-png
    """
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.patches.formats import export_format

    chosen = export_format(format_name)
    with progress_bar() as progress:
        bar = progress.add_task("writing", total=None)
        facts = chosen.function(
            PatchDataset(path),
            out,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    write_report(facts, as_json, [f"{out}: {chosen.what}"])
