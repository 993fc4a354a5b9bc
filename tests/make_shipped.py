"""Make the models that the package ships, from three runs: a generator's and two judges'.

    python tests/make_shipped.py RUN --colour-judge CLF --robust-judge CLF --dataset DS --licence TEXT

The weights are halved on disk; the samples are measured as they then are (evaluation.gates) and the figures written
into the generator's facts and card. All together may take 6 MB. Only exports are written: no patch, no optimiser.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "src" / "napari_histolatent" / "shipped"


def main(arguments: list[str] | None = None) -> None:
    """Write the folders and say what they are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the generator's run or checkpoint folder")
    parser.add_argument("--colour-judge", type=Path, required=True, help="classifier trained plainly")
    parser.add_argument("--robust-judge", type=Path, required=True, help="classifier trained with jitter")
    parser.add_argument("--dataset", type=Path, required=True, help="what all three learnt from")
    parser.add_argument("--step", type=int, help="the checkpoint of this step; default: the newest")
    parser.add_argument("--best", action="store_true", help="the checkpoint of the lowest KID")
    parser.add_argument("--licence", default="", help="of the weights, for the cards")
    parser.add_argument("--assumed-mpp", type=float, default=2.0, help="where the data do not say, µm per px")
    parser.add_argument("--out", type=Path, default=OUT, help="the folder of the parts")
    options = parser.parse_args(arguments)
    from napari_histolatent.evaluation.gates import missed
    from napari_histolatent.jobs.shipping import ship

    made = ship(
        options.run,
        colour_judge=options.colour_judge,
        robust_judge=options.robust_judge,
        dataset=options.dataset,
        out=options.out,
        step=options.step,
        best=options.best,
        licence=options.licence,
        assumed_mpp=options.assumed_mpp,
    )
    record = {
        "folder": str(made.folder),
        "bytes": made.n_bytes,
        "digests": dict(made.digests),
        "figures": made.figures.to_json(),
        "bounds_missed": missed(made.figures),
    }
    sys.stdout.write(f"{json.dumps(record, indent=1)}\n")


if __name__ == "__main__":
    main()
