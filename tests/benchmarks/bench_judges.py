"""Are the two judges right on tiles that they have not seen, and once stain and sharpness are no clue any more?

    python tests/benchmarks/bench_judges.py --out FOLDER [--seeds 0 1 2] [--augmentations robust plain] [--steps N]
                                            [--dataset DS] [--threads 1] [--json FILE]

Data: normal lung and adenocarcinoma of LC25000 at 64 px, one group (source tile) in one split; --dataset DS takes another
dataset. Each judge is a convnet, trained on the training groups and judged on the held-out ones: as they are, in the mean
stain of the other class (Reinhard), out of focus (a disk of radius 2 px; trainings use Gaussians and reductions), and
both at once. Wanted of the robust judge: 0.90 of the held-out tiles in each of these, in at most 6 minutes of one core.
The plain judge, which is the colour judge, is there to show that the same tiles fail it. Seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _lung import lung_dataset
from _stats import add_json_option, report
from mosaic import default_data

if TYPE_CHECKING:
    from napari_histolatent.patches import PatchDataset

WANTED, MOST_SECONDS = 0.90, 360
CHANGES = ("as they are", "recoloured", "blurred", "recoloured_and_blurred")


def trained_judge(dataset: PatchDataset, folder: Path, config: Any) -> tuple[Path, float]:
    """Return the run's folder and the seconds of processor that its training took; what is there is kept."""
    from napari_histolatent.training.loop import train

    seconds = folder / "seconds.txt"
    if not seconds.exists():
        folder.mkdir(parents=True, exist_ok=True)
        start = time.process_time()
        train(config, dataset, folder=folder, on_event=lambda _: None, should_stop=lambda: False)
        seconds.write_text(f"{time.process_time() - start:.1f}")
    return folder / "checkpoints" / f"step-{config.steps:08d}", float(seconds.read_text())


def row_of(name: str, seed: int, seconds: float, judgement: Any) -> list[Any]:
    """Return a row of the table: shares right, each with the class that fares worst."""
    verdicts = {"as they are": judgement.plain, **judgement.changed}
    worst = [min(verdicts[change].per_class.values()) for change in CHANGES]
    shares = [verdicts[change].accuracy for change in CHANGES]
    # The three that are wanted; both changes at once are beside them.
    kept = min(shares[:3]) >= WANTED and seconds <= MOST_SECONDS
    figures = [value for pair in zip(shares, worst, strict=True) for value in pair]
    return [name, seed, seconds, *figures, "yes" if kept else "NO"]


def main() -> None:
    """Train and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--augmentations", nargs="+", default=["robust", "plain"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=1)
    add_json_option(parser)
    options = parser.parse_args()

    import torch

    from napari_histolatent.jobs.judging import judge
    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.training import ClassifierConfig
    from napari_histolatent.training.load import load_classifier

    torch.set_num_threads(options.threads)
    dataset = (
        PatchDataset(options.dataset)
        if options.dataset
        else lung_dataset(default_data(), options.out / "lung64")
    )
    rows, raw = [], {}
    for augmentation in options.augmentations:
        for seed in options.seeds:
            config = ClassifierConfig(
                size_px=dataset.size_px, augmentation=augmentation, seed=seed, device="cpu"
            ).with_changes(steps=options.steps)
            config = config.with_changes(checkpoint_every=config.steps)
            name = f"{augmentation}-{seed}-{config.steps}"
            checkpoint, seconds = trained_judge(dataset, options.out / name, config)
            judgement = judge(load_classifier(checkpoint, device="cpu"), dataset, recolour=True, blur=True)
            rows.append(row_of(augmentation, seed, seconds, judgement))
            raw[name] = {"seconds": seconds, **judgement.to_json()}
    headers = ["judge", "seed", "s"] + [
        text for change in CHANGES for text in (change.replace("_", " "), "worst class")
    ]
    report("Judges, share right of held-out tiles", [*headers, "kept"], rows, raw=raw, json_path=options.json)


if __name__ == "__main__":
    main()
