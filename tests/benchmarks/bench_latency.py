"""How long one picture of a generator takes, as it is and with its normalisation folded away.

    python tests/benchmarks/bench_latency.py [--designs s1 modern] [--size 256] [--repeats 20]
                                             [--run RUN ...] [--json FILE]

One picture of one latent point. Each design has the widths of its own preset and random weights, whose statistics are those
of 64 pictures of its own; --run adds trained generators (a run, a checkpoint, an exported folder, or shipped). Eager
is the network as it is loaded, folded is what `models.folding.folded` makes of it. One thread; times are those of the
processor. Turn by turn, either first in every second turn; the ratio is the median of the turns'. Their pictures have to
agree to 1e-4 (of values from -1 to 1).

Wanted at 256 px: s1 folded 0.85 x eager, modern 15 ms.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from time import process_time
from typing import TYPE_CHECKING, Any

import napari_histolatent  # noqa: F401  (before torch: it sets how threads wait)

# isort: split
import torch
from _stats import add_json_option, interleaved, median, median_ratio, report
from torch import nn

from napari_histolatent.models import build_gan
from napari_histolatent.models.folding import SAME, folded
from napari_histolatent.models.priors import draw_latents

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = ("normal", "adenocarcinoma")
WANTED = {"s1": (0.85, None), "modern": (None, 15.0)}
"""Ratio, and milliseconds of the folded one."""
HEADERS = ("generator", "eager, ms", "folded, ms", "folded / eager", "wanted", "largest difference")
SETTLED_ON = 64


def generator_of(design: str, size_px: int, **options: Any) -> Any:
    """Return a generator with random weights, ready to draw."""
    torch.manual_seed(0)
    network: Any = build_gan("cdcgan", classes=CLASSES, size_px=size_px, design=design, **options)[0]
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None
    with torch.no_grad():
        for start in range(0, SETTLED_ON, 8):
            network(*latents_of(network, 8, seed=start))
    return network.eval().requires_grad_(False)


def latents_of(network: Any, n: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return z (n, z_dim) and classes (n, K), the classes in turn."""
    z = draw_latents(network.prior, n, network.z_dim, torch.Generator().manual_seed(seed))
    n_classes = len(network.classes)
    y = torch.eye(n_classes)[torch.arange(n) % n_classes] if n_classes else torch.zeros(n, 0)
    return z, y


def measured(network: Any, *, repeats: int) -> tuple[dict[str, list[float]], float]:
    """Return milliseconds of each side, turn by turn, and the largest difference of their pictures."""
    sides = {"eager": network, "folded": folded(network)}
    z, y = latents_of(network, 4)
    with torch.inference_mode():
        pictures = [side.synthesize(side.map(z, y)) for side in sides.values()]
        apart = float((pictures[0] - pictures[1]).abs().max())

        def ms(side: Any) -> float:
            started = process_time()
            side.synthesize(side.map(z[:1], y[:1]))
            return 1000 * (process_time() - started)

        timed = {name: partial(ms, side) for name, side in sides.items()}
        interleaved(timed, repeats=3)
        return interleaved(timed, repeats=repeats), apart


def row_of(name: str, figures: dict[str, list[float]], apart: float, wanted: str) -> list[Any]:
    """Return a row of the table."""
    eager, quick = figures["eager"], figures["folded"]
    return [name, median(eager), median(quick), median_ratio(quick, eager), wanted, f"{apart:.0e}"]


def faults_of(design: str, figures: dict[str, list[float]], apart: float) -> list[str]:
    """Return what is not as it is wanted, in sentences."""
    ratio, most_ms = WANTED[design]
    faults = []
    if not apart <= SAME:
        faults.append(f"{design}: the pictures differ by {apart:.1e}, at most {SAME:g} is wanted")
    if ratio is not None and median_ratio(figures["folded"], figures["eager"]) > ratio:
        faults.append(f"{design}: folded takes more than {ratio} x eager")
    if most_ms is not None and median(figures["folded"]) > most_ms:
        faults.append(f"{design}: a picture takes more than {most_ms} ms")
    return faults


def main() -> int:
    """Measure, print and write; 1 if anything is not as it is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--designs", nargs="*", choices=list(WANTED), default=list(WANTED))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--run", nargs="*", default=[], metavar="RUN")
    add_json_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, raw, faults = [], {}, []
    for design in options.designs:
        figures, apart = measured(generator_of(design, options.size), repeats=options.repeats)
        ratio, most_ms = WANTED[design]
        wanted = f"{ratio} x eager" if ratio else f"{most_ms} ms"
        is_judged = options.size == 256
        rows.append(row_of(f"{design} {options.size} px", figures, apart, wanted if is_judged else ""))
        raw[design] = figures | {"difference": apart}
        faults += faults_of(design, figures, apart) if is_judged else []
    for named in options.run:
        from napari_histolatent.training.load import load_generator

        network = load_generator(named, device="cpu").network
        figures, apart = measured(network, repeats=options.repeats)
        rows.append(row_of(f"{named}, {network.size_px} px", figures, apart, ""))
        raw[named] = figures | {"difference": apart}
    report("One picture, one thread", HEADERS, rows, raw=raw, json_path=options.json)
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
