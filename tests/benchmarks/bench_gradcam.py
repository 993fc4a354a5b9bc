"""How long a Grad-CAM takes, beside one bare pass forward and `autograd.grad` to the same layer.

    python tests/benchmarks/bench_gradcam.py [--networks convnet inception_v3] [--repeats 15] [--batch 1] [--json FILE]

ours
    `explain.gradcam.grad_cam` of one input: checks, map and probability, resampled to the input, as a value.
bare
    The network, the logit, and `torch.autograd.grad` of it to the layer's output, found by a hook; the weights are frozen as
    in a classifier that was loaded, the input wants a gradient.
cut
    The same without a graph before the layer: the least there is.

The inputs are noise and the weights random: neither matters to the time. One thread; times are those of the processor.
Turn by turn, either first in every second turn; the ratio is the median of the turns'. Maps of ours and bare have to agree
to 1e-5 of their largest value first. InceptionV3 sees 299 px and needs the extra `inception`; where it is missing, that is
said and the rest is measured. Wanted: 1.2 x bare, for InceptionV3 (of a small network's 3 ms, a third is the way there).
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from time import process_time
from typing import TYPE_CHECKING, Any

import napari_histolatent  # noqa: F401  (before torch: it sets how threads wait)

# isort: split
import numpy as np
import torch
from _stats import add_json_option, interleaved, median, median_ratio, report
from torch import nn

from napari_histolatent.errors import UserError
from napari_histolatent.explain.gradcam import grad_cam
from napari_histolatent.models import build_classifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

SIZES = {"convnet": 64, "inception_v3": 299}
CLASSES = ("normal", "adenocarcinoma")
HEADERS = ("one input", "ours, ms", "bare, ms", "cut, ms", "ours / bare", "ours / cut", "wanted")
WANTED = {"inception_v3": 1.2}
"""Ratio of ours and bare."""
SAME = 1e-5


def bare_maps(network: Any, images: Tensor, index: int, *, cut: bool = False) -> Tensor:
    """Return the maps (B, 1, h, w) of equations 1 and 2 of Selvaraju et al. 2017, and nothing around them."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        kept.append(output.detach().requires_grad_(True) if cut else output)
        return kept[-1].clone()

    hook = network.cam_layer.register_forward_hook(keep)
    try:
        logits = network(images if cut else images.clone().requires_grad_(True))
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(logits[:, index].sum(), kept[0])
    return torch.relu((gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True)).detach()


def difference(network: Any, images: Tensor) -> float:
    """Return how far our maps and bare ones are apart, as a share of the largest value."""
    ours = np.stack([item.values for item in grad_cam(network, images, [CLASSES[0]] * len(images))])
    size = tuple(images.shape[-2:])
    bare = nn.functional.interpolate(bare_maps(network, images, 0), size=size, mode="bilinear")[:, 0].numpy()
    return float(np.abs(ours - bare).max() / max(float(bare.max()), 1e-12))


def measured(network: Any, images: Tensor, *, repeats: int) -> dict[str, list[float]]:
    """Return milliseconds of each side, turn by turn."""

    def ms(work: Callable[[], Any]) -> float:
        started = process_time()
        work()
        return 1000 * (process_time() - started)

    sides = {
        "ours": partial(ms, lambda: grad_cam(network, images, [CLASSES[0]] * len(images))),
        "bare": partial(ms, lambda: bare_maps(network, images, 0)),
        "cut": partial(ms, lambda: bare_maps(network, images, 0, cut=True)),
    }
    interleaved(sides, repeats=1)
    return interleaved(sides, repeats=repeats)


def prepared(name: str, *, batch: int, size_px: int | None = None) -> tuple[Any, Tensor]:
    """Return a classifier as a loaded one is, with random weights, and its inputs."""
    torch.manual_seed(0)
    size_px = size_px or SIZES[name]
    network: Any = build_classifier(name, classes=CLASSES, size_px=size_px)
    network.eval().requires_grad_(False)
    return network, torch.rand(batch, 3, size_px, size_px) * 2 - 1


def row_of(name: str, size_px: int, figures: dict[str, list[float]]) -> list[Any]:
    """Return a row of the table."""
    ours, bare, cut = (figures[side] for side in ("ours", "bare", "cut"))
    return [
        f"{name} {size_px} px",
        median(ours),
        median(bare),
        median(cut),
        median_ratio(ours, bare),
        median_ratio(ours, cut),
        WANTED.get(name, ""),
    ]


def main() -> int:
    """Measure, print and write; 1 if a ratio is beyond what is wanted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    add_json_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, raw = [], {}
    for name in options.networks:
        try:
            network, images = prepared(name, batch=options.batch)
        except UserError as error:
            sys.stderr.write(f"{name} is left out: {error}\n")
            continue
        apart = difference(network, images)
        if not apart <= SAME:
            sys.exit(f"{name}: ours and bare maps differ by {apart:.1e} of their largest value.")
        figures = measured(network, images, repeats=options.repeats)
        rows.append(row_of(name, SIZES[name], figures))
        raw[name] = figures | {"difference": apart}
    report(
        f"Grad-CAM, batch of {options.batch}, one thread",
        HEADERS,
        rows,
        raw=raw,
        json_path=options.json,
    )
    return int(any(row[4] > row[6] for row in rows if row[6] != ""))


if __name__ == "__main__":
    sys.exit(main())
