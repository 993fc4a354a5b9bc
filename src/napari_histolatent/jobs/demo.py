"""The main job, end to end: nothing but the commands, in order, with their results in one report."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from napari_histolatent._files import digest_of_file, file_name_of, write_json
from napari_histolatent.annotations import check_annotations, read_annotations
from napari_histolatent.errors import RunError, UserError, writing_to
from napari_histolatent.jobs.demo_slide import DemoInput, demo_input
from napari_histolatent.jobs.follow import follow, new_training, require_device
from napari_histolatent.patches import GridSpec, PatchDataset, Recipe, SlideSource, extract
from napari_histolatent.runs import Run, launch
from napari_histolatent.slides import open_slide
from napari_histolatent.training import ClassifierConfig, preset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from napari_histolatent.explain import Heatmap
    from napari_histolatent.jobs.edits import ReverseSearch
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.runs import RunEvent
    from napari_histolatent.training import TrainingConfig

_MPP, _STRIDE_PX, _FRAMES = 0.5, 12, 9


class DemoConsole(Protocol):
    """Where the demo says what it does."""

    def begin(self, title: str) -> None:
        """Say that a step begins."""

    def update(self, done: int, total: int, text: str = "") -> None:
        """Say how far the step has got."""

    def end(self, text: str, seconds: float) -> None:
        """Say that the step is done; `text` is what came of it, with counts."""


@dataclass
class DemoResult:
    """What the demo made, for the report and the viewer."""

    source: DemoInput
    out: Path
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    searches: dict[str, ReverseSearch] = field(default_factory=dict)
    """real (a test patch), other (one of another class), generated."""
    flip: Tile | None = None
    frames: list[Tile] = field(default_factory=list)
    heatmaps: list[Heatmap] = field(default_factory=list)
    """Of the real tile, its reconstruction and its flip, for one class."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields that `histolatent demo --json` reports."""
        return {
            "input": self.source.description,
            "slide": str(self.source.slide),
            "report": str(self.out / "report.html"),
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "seconds_in_all": round(sum(self.seconds.values()), 2),
            **self.facts,
        }


class _Demo:
    def __init__(self, result: DemoResult, console: DemoConsole, config: TrainingConfig) -> None:
        self.result, self.console, self.config = result, console, config
        self.out = result.out

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        self.console.begin(title)
        started, said = perf_counter(), list[str]()
        yield said
        seconds = perf_counter() - started
        self.result.seconds[title] = self.result.seconds.get(title, 0.0) + seconds
        self.console.end(" ".join(said), seconds)


def run_demo(
    *,
    slide: Path | None,
    annotations: Path | None,
    out: Path,
    preset_name: str,
    console: DemoConsole,
    seed: int = 0,
    steps: int | None = None,
    device: str = "auto",
) -> DemoResult:
    """Do the whole path and write report.html; a demo that was interrupted goes on where it was.

    Parameters
    ----------
    slide, annotations
        The user's own, or None for the demo slide.
    out
        Folder for everything that is made.
    preset_name
        Of the GAN's training.
    console
        Told what is done.
    seed
        Of training and sampling.
    steps
        Of the GAN's training, instead of the preset's.
    device
        auto, cpu, cuda, mps.

    Raises
    ------
    UserError
        If the input, the device or the folder is not right.
    """
    # Read before anything is made: a wrong word must not leave a folder behind.
    config = preset(preset_name).with_changes(seed=seed, steps=steps, device=device, calibrate=False)
    require_device(device)
    source = demo_input(slide, annotations, out)
    _claim(out, source, config)
    demo = _Demo(DemoResult(source, out), console, config)
    _describe(demo)
    dataset = _cut(demo)
    _train(demo, "train the generator", dataset, out / "gan", config)
    classifier = ClassifierConfig(size_px=dataset.size_px, steps=300, seed=seed, device=device)
    _train(demo, "train the classifier", dataset, out / "classifier", classifier)
    _edit(demo, dataset)
    _write_report(demo, dataset)
    return demo.result


def _claim(out: Path, source: DemoInput, config: TrainingConfig) -> None:
    """Make the folder the demo's own; what is there already is only touched if it is this same demo's.

    Raises
    ------
    UserError
        If the folder holds anything else, or a demo of another slide, other regions or other settings.
    """
    read_annotations(source.annotations)
    with open_slide(source.slide) as slide:
        digest = slide.info.digest
    made_of = {"slide": digest, "regions": digest_of_file(source.annotations), "training": config.to_json()}
    note = out / "demo.json"
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        if note.exists():
            stored = json.loads(note.read_text(encoding="utf-8"))
            # A setting that came with a later version is as it is now.
            if stored | {"training": made_of["training"] | stored["training"]} != made_of:
                msg = f"{out} holds a demo of another slide, other regions or other settings; choose another folder with --out."
                raise UserError(msg)
        elif any(not path.name.startswith("SYNTHETIC-slide") for path in out.iterdir()):
            msg = f"{out} holds other files, which the demo must not touch; choose a new folder with --out."
            raise UserError(msg)
        else:
            write_json(note, made_of)


def _describe(demo: _Demo) -> None:
    source = demo.result.source
    with demo.step("open the slide and its regions") as said, open_slide(source.slide) as slide:
        info = slide.info
        checked = check_annotations(read_annotations(source.annotations), info)
        said.append(
            f"{source.description}: {info.width_px} x {info.height_px} px, "
            f"{len(info.levels)} level{'s' * (len(info.levels) > 1)}, "
            f"{f'{info.mpp_x:g} µm per px' if info.mpp_x else 'no pixel size stated'}; "
            f"{checked.regions} regions ({', '.join(f'{n} {name}' for name, n in checked.classes.items())})."
        )
        demo.result.facts["regions"] = checked.classes


def _cut(demo: _Demo) -> PatchDataset:
    """Cut the dataset, or take the one that an interrupted demo left if it is of the same slide and regions."""
    source, path = demo.result.source, demo.out / "dataset"
    with open_slide(source.slide) as slide:
        has_mpp = slide.info.mpp_x is not None
    grid = GridSpec(
        size_px=demo.config.size_px,
        mpp=_MPP if has_mpp else None,
        level=None if has_mpp else 0,
        stride_px=_STRIDE_PX,
    )
    with demo.step("cut labelled patches") as said:
        if path.exists():
            said.append("kept from the demo that was interrupted:")
        else:
            extract(
                [SlideSource(source.slide, source.annotations)],
                path,
                recipe=Recipe(grid=grid),
                on_progress=lambda done, total: demo.console.update(done, total, "patches"),
            )
        dataset = PatchDataset(path)
        report = dataset.report()
        said.append(
            f"{len(dataset)} patches of {dataset.size_px} px"
            f"{f' at {dataset.mpp:g} µm per px' if dataset.mpp else ''} "
            f"({', '.join(f'{n} {name}' for name, n in report['classes'].items())}), split by region of the slide: "
            f"{', '.join(f'{n} {name}' for name, n in report['splits'].items())}."
        )
        demo.result.facts |= {key: report[key] for key in ("patches", "classes", "splits")}
    return dataset


def _train(
    demo: _Demo, title: str, dataset: PatchDataset, path: Path, config: TrainingConfig | ClassifierConfig
) -> None:
    """Train in a process of its own; take up what is there already."""
    with demo.step(title) as said:
        run = Run(path) if (path / "run.json").exists() else new_training(dataset.path, path, config)
        if run.spec["dataset_digest"] != dataset.digest:
            msg = (
                f"{path} was trained on other patches than {dataset.path}; choose another folder with --out."
            )
            raise RunError(msg)
        state = run.status().state
        _, offset = run.events()
        if state not in ("finished", "running", "starting", "stopping"):
            launch(run)
        elif state == "finished":
            said.append("kept from before:")

        def show(event: RunEvent) -> None:
            losses = ", ".join(f"{name} {value:.2f}" for name, value in event.losses.items())
            demo.console.update(event.step, event.steps, losses)

        try:
            status = follow(run, on_event=show, offset=offset)
        except KeyboardInterrupt:
            run.request_stop()
            follow(run, timeout_seconds=60)
            raise
        if status.state != "finished":
            msg = f"{title.capitalize()} ended as {status.state} at step {status.step}: {status.message or f'see {run.log_file}'}"
            raise RunError(msg)
        metrics = status.data.get("metrics", {})
        shown = {k: v for k, v in metrics.items() if isinstance(v, (int, float))}
        said.append(
            f"{status.step} steps on {status.data.get('device', '?')}"
            + "".join(f", {name.replace('_', ' ')} {value:.4g}" for name, value in shown.items())
            + "."
        )
        demo.result.facts[path.name] = {"steps": status.step, **metrics}


def _edit(demo: _Demo, dataset: PatchDataset) -> None:
    from napari_histolatent._pictures import save_picture
    from napari_histolatent.jobs import edits
    from napari_histolatent.jobs.tiles import cut_tile
    from napari_histolatent.training.load import load_classifier, load_generator

    result, out = demo.result, demo.out / "tiles"

    def keep(tile: Tile) -> Tile:
        save_picture(out / f"{file_name_of(tile.name)}.png", tile.pixels, tile.provenance)
        return tile

    with demo.step("load the networks") as said:
        generator = load_generator(demo.out / "gan", device=demo.config.device)
        classifier = load_classifier(demo.out / "classifier", device=demo.config.device)
        edits.require_same_classes(generator, classifier)
        said.append(
            f"generator {generator.checkpoint.digest[:12]}, classifier {classifier.checkpoint.digest[:12]}."
        )
    with demo.step("reverse-search tiles") as said:
        own, other = dataset.classes[:2]
        with open_slide(result.source.slide) as slide:
            size = generator.checkpoint.size_px
            real, second = (
                cut_tile(slide, _typical_centre(dataset, name), size_px=size, mpp=generator.checkpoint.mpp)
                for name in (own, other)
            )
        generated = edits.sample_tiles(generator, 1, label=own, seed=demo.config.seed + 100)[0]
        for role, label, tiles in (
            ("real", own, [real]),
            ("other", other, [second]),
            ("generated", own, [generated]),
        ):
            (search,) = edits.reverse_search(
                generator,
                [keep(tile) for tile in tiles],
                label=label,
                on_step=lambda step, _: demo.console.update(step, 500, "gradient steps"),
            )
            keep(search.reconstruction)
            result.searches[role] = search
        rmse = {role: search.inversion.rmse for role, search in result.searches.items()}
        said.append(
            f"RMSE on pixels in [-1, 1]: real tile {rmse['real']:.3f}, generated tile {rmse['generated']:.3f}."
        )
        result.facts |= {
            "rmse_real": rmse["real"],
            "rmse_generated": rmse["generated"],
            "rmse_other": rmse["other"],
        }
    reconstruction = result.searches["real"].reconstruction
    with demo.step("flip the class") as said:
        result.flip = keep(edits.flip_tile(generator, reconstruction, to=other))
        trio = [real, reconstruction, result.flip]
        chances = edits.probabilities_of(classifier, trio)
        named = {"real": 0, "reconstruction": 1, "flip": 2}
        result.facts["probability"] = {name: chances[i] for name, i in named.items()}
        said.append(
            f"{own} to {other}; the classifier's probability of {other}: "
            + ", ".join(f"{name} {chances[i][other]:.2f}" for name, i in named.items())
            + "."
        )
    with demo.step("interpolate between two tiles") as said:
        end = result.searches["other"].reconstruction
        result.frames = edits.interpolate_tiles(generator, reconstruction, end, frames=_FRAMES)
        for frame in result.frames:
            keep(frame)
        said.append(f"{_FRAMES} frames from a tile of {own} to one of {other}.")
    with demo.step("see where the classifier looks") as said:
        result.heatmaps = edits.heatmaps_of(classifier, trio, target=own)
        said.append(
            f"Grad-CAM for {own}, layer {result.heatmaps[0].layer}, on the real tile, its reconstruction and its flip."
        )


def _typical_centre(dataset: PatchDataset, class_name: str) -> tuple[float, float]:
    """Return the level-0 centre of a held-out patch that lies well inside its class."""
    columns = dataset.columns
    for split in ("test", "val", "train"):
        rows = [i for i in dataset.rows_of(split) if columns["label"][i] == class_name]
        if rows:
            # The fullest coverage and tissue; ties go to the middle of the list, away from the edges.
            score = [columns[f"coverage_{class_name}"][i] + columns["tissue"][i] for i in rows]
            best = np.flatnonzero(np.array(score) >= max(score) - 0.02)
            row = rows[int(best[len(best) // 2])]
            return (
                columns["x"][row] + columns["width_level0_px"][row] / 2,
                columns["y"][row] + columns["height_level0_px"][row] / 2,
            )
    msg = f"The dataset has no patch of class {class_name!r}; cut it again."
    raise UserError(msg)


def _write_report(demo: _Demo, dataset: PatchDataset) -> None:
    from napari_histolatent.evaluation import write_report
    from napari_histolatent.jobs.demo_report import draw_figures, sections

    with demo.step("write the report") as said:
        figures = demo.out / "figures"
        with writing_to(demo.out):
            draw_figures(demo.result, dataset, figures)
            write_report(
                demo.out / "report.html",
                title="Latent editing of one slide",
                notice=(
                    f"Made from {demo.result.source.description}. Pictures marked SYNTHETIC were drawn by a small "
                    "network trained for minutes on this slide alone: they show that the path works, and are no "
                    "evidence about tissue."
                ),
                sections=sections(demo.result),
            )
            write_json(demo.out / "report.json", demo.result.to_json())
        said.append(str(demo.out / "report.html"))
