"""Is what the presets learn good enough? The gates of a training, on real lung tiles of 64 px, split by group.

    python tests/benchmarks/bench_training.py --minutes 8 --out FOLDER [--presets s1 modern] [--seeds 0 1 2]
    python tests/benchmarks/bench_training.py --steps 6000 --out FOLDER
    python tests/benchmarks/bench_training.py --steps modern=4800 s1=250 --out FOLDER
    python tests/benchmarks/bench_training.py --runs A B C --out FOLDER

Data: normal lung and adenocarcinoma of LC25000, one group (source tile) in one split; --dataset DS takes another
dataset of two classes. First a colour judge (plain) and a robust judge are trained on the training groups, unless
--colour-judge and --robust-judge name them; they and a seeded random network are named by digest before any
generator is trained. Then each preset is trained with each seed, in a process of its own with --threads threads,
for so many steps or for so many minutes; --runs judges run folders (or exported ones) that were trained elsewhere.
What --out holds already is not trained again; if it was trained otherwise than asked for now, that is refused.

A set of as many samples as held-out tiles, of the same classes, has to keep all bounds of `evaluation.gates`. Real tiles of
the training groups show that they can be kept; an untrained generator, one after 100 steps, blurred real tiles and
tiles of their own mean colour show that they fail what is bad. "s1 / modern" divides the presets' KIDs, seed by
seed, at equal time; the runs of s1 are there to be compared, and need not keep the bounds. The exit code is 1
where anything else that should keep a bound misses it, real tiles among them, where a set that should fail keeps
them all, and where s1 / modern is below 10 (median, colour judge).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _lung import SIZE_PX, lung_dataset
from _stats import add_json_option, median, report
from mosaic import default_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_histolatent.evaluation.gates import Gates, Labelled, SampleFigures
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training import ClassifierConfig, TrainingConfig

CALIBRATION_SECONDS = 20
USED_SHARE = 0.97
"""Of the minutes: the estimate of the steps is never exact, and the clock ends what takes longer."""
BARELY_STEPS = 100
LEAST_RATIO = 10.0
"""Of the KIDs of s1 and modern, by the colour judge: the median of the seeds."""
GOOD_CONTROL = "real tiles"
BAD_CONTROLS = (
    "blurred real tiles",
    "mean-colour tiles",
    "untrained generator",
    f"after {BARELY_STEPS} steps",
)
HEADERS = (
    "images",
    "steps",
    "KID colour",
    "/ between",
    "KID random",
    "/ between",
    "SD / real",
    "colour judge",
    "robust judge",
    "bounds missed",
)


def judge_configs() -> dict[str, ClassifierConfig]:
    """Return what the two judges are trained with."""
    from napari_histolatent.training import ClassifierConfig

    return {
        f"{name}_judge": ClassifierConfig.from_json(
            {"size_px": SIZE_PX, "device": "cpu", "augmentation": augmentation}
        )
        for name, augmentation in (("colour", "plain"), ("robust", "robust"))
    }


def train_in_child(
    dataset: Path,
    folder: Path,
    config: TrainingConfig | ClassifierConfig,
    *,
    minutes: float | None,
    threads: int,
) -> None:
    """Train in a process of its own; with `minutes` for so long, in as many steps as fit."""
    order = {
        "dataset": str(dataset),
        "folder": str(folder),
        "kind": type(config).__name__,
        "config": config.to_json(),
        "minutes": minutes,
        "threads": threads,
    }
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, __file__, "--train-one", json.dumps(order)], check=True, env=environment)


def train_one(order: dict[str, Any]) -> None:
    """Train what `train_in_child` ordered: this is the child."""
    import torch

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.runs import Run
    from napari_histolatent.training import ClassifierConfig, TrainingConfig
    from napari_histolatent.training.loop import train

    torch.set_num_threads(order["threads"])
    kinds = {"TrainingConfig": TrainingConfig, "ClassifierConfig": ClassifierConfig}
    config = kinds[order["kind"]].from_json(order["config"])
    dataset, folder = PatchDataset(Path(order["dataset"])), Path(order["folder"])
    deadline = float("inf")
    if order["minutes"]:
        seconds = 60 * order["minutes"] * USED_SHARE
        config = config.with_changes(steps=steps_within(seconds, seconds_per_step(config, dataset, folder)))
        deadline = time.perf_counter() + seconds
    config = config.with_changes(checkpoint_every=config.steps)
    spec = {"config": config.to_json(), "dataset": order["dataset"], "dataset_digest": dataset.digest}
    spec["minutes"] = order["minutes"]
    run = Run.create(folder, kind="classifier" if order["kind"] == "ClassifierConfig" else "train", spec=spec)
    start = time.perf_counter()
    train(
        config,
        dataset,
        folder=run.path,
        on_event=run.append,
        should_stop=lambda: time.perf_counter() > deadline,
    )
    sys.stdout.write(f"{folder.name}: {config.steps:,} steps, {time.perf_counter() - start:,.0f} s\n")


def require_trained_so(
    folder: Path, config: TrainingConfig | ClassifierConfig, *, dataset_digest: str, minutes: float | None
) -> None:
    """End with a sentence if a run that is there already was not trained as is asked for now."""
    from napari_histolatent.runs import Run

    spec = Run(folder).spec
    # By the clock the number of steps is what came of it, and the one checkpoint is at the end always.
    found_by = {"checkpoint_every"} | ({"steps"} if minutes else set())
    wanted: dict[str, Any] = {k: v for k, v in config.to_json().items() if k not in found_by}
    own = {k: v for k, v in spec["config"].items() if k not in found_by}
    wanted["dataset_digest"], own["dataset_digest"] = dataset_digest, spec.get("dataset_digest")
    # In so many steps it is the same training, however their number was found, unless the clock ended it.
    if "minutes" in spec and (minutes or Run(folder).status().state != "finished"):
        wanted["minutes"], own["minutes"] = minutes, spec["minutes"]
    differing = sorted(k for k in wanted.keys() | own.keys() if wanted.get(k) != own.get(k))
    if differing:
        said = ", ".join(f"{k} {own.get(k)!r} instead of {wanted.get(k)!r}" for k in differing)
        sys.exit(f"{folder} was trained with {said}; choose another --out, or remove the folder.")


def faults_of(
    figures: dict[str, SampleFigures], ratios: Sequence[float], *, compared: Sequence[str] = ()
) -> list[str]:
    """Return what is not as it has to be, a sentence each.

    Parameters
    ----------
    figures
        Of every set, the controls among them.
    ratios
        KID of s1 through that of modern, by the colour judge, seed by seed; none: not asked for.
    compared
        Sets that need not keep the bounds.
    """
    from napari_histolatent.evaluation.gates import missed

    faults = []
    for name, found in figures.items():
        bounds = missed(found)
        if name in BAD_CONTROLS:
            if not bounds:
                faults.append(f"{name}: keeps all bounds, though it is bad")
        elif bounds and name not in compared:
            faults.append(f"{name}: misses {', '.join(bounds)}")
    if ratios and not median(ratios) >= LEAST_RATIO:
        faults.append(f"s1 / modern: {median(ratios):.3g}, at least {LEAST_RATIO:g} is asked for")
    return faults


def seconds_per_step(config: Any, dataset: PatchDataset, folder: Path) -> float:
    """Return how long a step takes here, from some seconds of the same training, thrown away."""
    import tempfile

    from napari_histolatent.training.loop import train

    moments: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        begin = time.perf_counter()
        train(
            config.with_changes(log_every=1, steps=1_000_000, checkpoint_every=1_000_000),
            dataset,
            folder=Path(name),
            on_event=lambda event: moments.append((event.step, time.perf_counter())),
            should_stop=lambda: time.perf_counter() > begin + CALIBRATION_SECONDS and len(moments) > 20,
        )
    return rate_of(moments)


def rate_of(moments: Sequence[tuple[int, float]]) -> float:
    """Return seconds per step of the later half of (step, moment); the first steps are slow.

    The last moments are left out: those of a stop are of the checkpoint that it writes.
    """
    first = dict(reversed(moments))
    steps = sorted(first)
    start, end = steps[len(steps) // 2], steps[-1]
    return (first[end] - first[start]) / (end - start)


def steps_within(seconds: float, per_step: float) -> int:
    """Return how many steps of `per_step` seconds fit, at least 1."""
    return max(1, int(seconds / per_step))


def steps_by_preset(asked: Sequence[str], presets: Sequence[str]) -> dict[str, int]:
    """Return the steps of each preset, of `N` for all or of `PRESET=N` for each; none asked for: an empty dict.

    Raises
    ------
    ValueError
        If a preset has no number, or a number no preset.
    """
    if not asked:
        return {}
    if len(asked) == 1 and asked[0].isdigit():
        return dict.fromkeys(presets, int(asked[0]))
    steps = {name: int(n) for name, _, n in (item.partition("=") for item in asked)}
    if set(steps) != set(presets):
        msg = f"--steps names {', '.join(steps)}, the presets are {', '.join(presets)}; give N, or PRESET=N for each"
        raise ValueError(msg)
    return steps


def real_controls(train: Labelled, held_out: Labelled) -> dict[str, Labelled]:
    """Return sets made of real training tiles, as many as were held out: one that is good, and two that are not."""
    import torch

    from napari_histolatent.evaluation.gates import Labelled, blurred, mean_coloured

    chosen = torch.cat(
        [
            torch.nonzero(train.labels == label)[:, 0][: int((held_out.labels == label).sum())]
            for label in torch.unique(held_out.labels)
        ]
    )
    images, labels = train.images[chosen], train.labels[chosen]
    return {
        GOOD_CONTROL: Labelled(images, labels, train.classes),
        BAD_CONTROLS[0]: Labelled(blurred(images), labels, train.classes),
        BAD_CONTROLS[1]: Labelled(mean_coloured(images), labels, train.classes),
    }


def row_of(name: str, steps: int | None, figures: SampleFigures) -> list[Any]:
    """Return a row under `HEADERS`."""
    from napari_histolatent.evaluation.gates import missed

    return [
        name,
        float("nan") if steps is None else steps,
        figures.kid_colour,
        figures.kid_colour_ratio,
        figures.kid_random,
        figures.kid_random_ratio,
        figures.pixel_sd_ratio,
        figures.own_class_colour,
        float("nan") if figures.own_class_robust is None else figures.own_class_robust,
        ", ".join(missed(figures)) or "none",
    ]


def ratios_of_presets(kid: dict[tuple[str, int], float], worse: str, better: str) -> list[float]:
    """Return KID of one preset through that of another, seed by seed; a KID at or below 0 counts as infinitely far."""
    return [
        value / kid[better, seed] if kid[better, seed] > 0 else float("inf")
        for (preset, seed), value in kid.items()
        if preset == worse and (better, seed) in kid
    ]


def judged(gates: Gates, run: Path, held_out: Labelled, *, seed: int) -> tuple[int, SampleFigures]:
    """Return the steps of a run's newest checkpoint, and the figures of its samples."""
    from napari_histolatent.evaluation.gates import sampled
    from napari_histolatent.training.load import load_generator

    generator = load_generator(run, device="cpu")
    samples = sampled(generator, held_out.labels, seed=seed, classes=held_out.classes)
    return generator.checkpoint.step, gates.measure(samples)


def untrained(folder: Path, dataset: PatchDataset, config: TrainingConfig) -> Path:
    """Return a checkpoint of a generator with fresh weights."""
    import torch

    from napari_histolatent.training._gan_task import GanTask
    from napari_histolatent.training.checkpoint import save_checkpoint

    task = GanTask(config, dataset, torch.device("cpu"))
    facts = {
        "kind": "gan",
        "steps": 0,
        "config": config.to_json(),
        "classes": list(dataset.classes),
        "size_px": dataset.size_px,
        "mpp": dataset.mpp,
        "dataset_digest": dataset.digest,
        "metrics": task.finish(),
    }
    return save_checkpoint(folder, task, step=0, facts=facts).path


def main(arguments: list[str] | None = None) -> int:
    """Train what is to be trained, judge it, print one table, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder for the dataset, the judges and the runs")
    parser.add_argument("--dataset", type=Path, help="a dataset of two classes, instead of lung tiles")
    parser.add_argument("--data", type=Path, default=default_data(), help="folder with patches/lc25000_lung")
    parser.add_argument("--colour-judge", type=Path, help="a classifier's folder, trained without jitter")
    parser.add_argument("--robust-judge", type=Path, help="a classifier's folder; 'none' for none")
    parser.add_argument("--runs", type=Path, nargs="+", help="judge these folders; train nothing")
    parser.add_argument("--presets", nargs="+", default=["s1", "modern"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, help="train each for so long")
    parser.add_argument(
        "--steps", nargs="+", help="train each for so many steps: N, or PRESET=N for each (on a busy machine)"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--train-one", help=argparse.SUPPRESS)
    add_json_option(parser)
    options = parser.parse_args(arguments)
    if options.train_one:
        train_one(json.loads(options.train_one))
        return 0
    if options.out is None or (not options.runs and bool(options.minutes) == bool(options.steps)):
        parser.error("give --out, and --minutes, --steps or --runs")
    try:
        steps = steps_by_preset(options.steps or (), options.presets)
    except ValueError as error:
        parser.error(str(error))
    import torch

    from napari_histolatent.evaluation.gates import Gates, real_images
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training import preset
    from napari_histolatent.training.load import load_classifier

    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    dataset = (
        PatchDataset(options.dataset)
        if options.dataset
        else lung_dataset(options.data, options.out / "dataset")
    )
    judges = {"colour_judge": options.colour_judge, "robust_judge": options.robust_judge}
    for name in judges:
        if judges[name] is None:
            judges[name] = options.out / name
            judge_config = judge_configs()[name]
            if judges[name].exists():
                require_trained_so(judges[name], judge_config, dataset_digest=dataset.digest, minutes=None)
            else:
                train_in_child(
                    dataset.path, judges[name], judge_config, minutes=None, threads=options.threads
                )
    train, held_out = real_images(dataset, "train"), real_images(dataset, "val")
    gates = Gates(
        train=train.images,
        held_out=held_out,
        colour_judge=load_classifier(judges["colour_judge"], device="cpu"),
        robust_judge=(
            None
            if str(judges["robust_judge"]) == "none"
            else load_classifier(judges["robust_judge"], device="cpu")
        ),
    )
    for name, digest in gates.digests.items():
        sys.stdout.write(f"{name}: {digest}\n")
    between = gates.kid_between_classes
    sys.stdout.write(
        f"KID between {' and '.join(dataset.classes[:2])}, held out: {between['colour']:.4g} (colour judge), "
        f"{between['random']:.4g} (random network)\n"
    )

    figures: dict[str, tuple[int | None, SampleFigures]] = {
        name: (None, gates.measure(samples)) for name, samples in real_controls(train, held_out).items()
    }
    modern = preset("modern").with_changes(device="cpu", size_px=dataset.size_px)
    fresh = untrained(options.out / "untrained", dataset, modern)
    figures[BAD_CONTROLS[2]] = judged(gates, fresh, held_out, seed=1)
    barely = options.out / "barely-trained"
    barely_config = modern.with_changes(steps=BARELY_STEPS)
    if barely.exists():
        require_trained_so(barely, barely_config, dataset_digest=dataset.digest, minutes=None)
    else:
        train_in_child(dataset.path, barely, barely_config, minutes=None, threads=options.threads)
    figures[BAD_CONTROLS[3]] = judged(gates, barely, held_out, seed=1)

    kid: dict[str, dict[tuple[str, int], float]] = {"colour": {}, "random": {}}
    for run in options.runs or ():
        figures[run.name] = judged(gates, run, held_out, seed=1)
    for name in () if options.runs else options.presets:
        for seed in options.seeds:
            folder = options.out / f"{name}-seed-{seed}"
            config = preset(name).with_changes(
                seed=seed, steps=steps.get(name), device="cpu", size_px=dataset.size_px
            )
            if folder.exists():
                require_trained_so(folder, config, dataset_digest=dataset.digest, minutes=options.minutes)
            else:
                train_in_child(dataset.path, folder, config, minutes=options.minutes, threads=options.threads)
            found = judged(gates, folder, held_out, seed=1)
            figures[folder.name] = found
            kid["colour"][name, seed] = found[1].kid_colour
            kid["random"][name, seed] = found[1].kid_random
    raw: dict[str, Any] = {
        "digests": gates.digests,
        "dataset_digest": dataset.digest,
        "between_classes": between,
        "figures": {name: {"steps": steps, **found.to_json()} for name, (steps, found) in figures.items()},
    }
    for space, values in kid.items():
        ratios = ratios_of_presets(values, "s1", "modern")
        if ratios:
            raw[f"s1_over_modern_{space}"] = ratios
            sys.stdout.write(
                f"KID {space}, s1 / modern, seed by seed: {', '.join(f'{v:.3g}' for v in ratios)} "
                f"(median {median(ratios):.3g}{f'; at least {LEAST_RATIO:g} is asked for' if space == 'colour' else ''})\n"
            )
    report(
        "Gates of training",
        HEADERS,
        [row_of(name, steps, found) for name, (steps, found) in figures.items()],
        raw=raw,
        json_path=options.json,
    )
    faults = faults_of(
        {name: found for name, (_, found) in figures.items()},
        ratios_of_presets(kid["colour"], "s1", "modern"),
        compared=[f"s1-seed-{seed}" for seed in options.seeds if ("s1", seed) in kid["colour"]],
    )
    sys.stdout.write("".join(f"NOT AS IT SHOULD BE: {fault}\n" for fault in faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
