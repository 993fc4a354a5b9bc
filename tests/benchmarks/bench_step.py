"""How long a step of a training takes, beside a plain PyTorch loop of the same networks.

    python tests/benchmarks/bench_step.py [--parts step modern latency rewriting gpu] [--threads 1] [--pairs 7]
                                          [--size 256] [--batch 8] [--steps 2] [--out FOLDER] [--json FILE]

step
    The preset s1 at --size px: the product's own `train` (its data feed, events into a run, health) beside a loop with
    the structure of PyTorch's DCGAN tutorial (eager float32; images from a tensor in memory by a DataLoader), of the same
    networks, batch, optimisers, losses, noise and steps of the generator. --pairs turns of --steps steps each, in one process
    and one pool of threads, either side first in every second turn; seconds are those of a step, the ratio is the median of
    the turns'. Then how long the product's steps waited for data, as its progress events say.
modern
    Real patches per second of the preset modern at 64 px, its batch; median of 5 stretches of 48 steps after one.
latency
    One picture of a generator of either design, ready for use: median of 20.
rewriting
    Forward and backward pass of s1's generator as it is, beside the same with each transposed convolution (5 x 5, stride 2)
    written as a convolution (3 x 3) and a pixel shuffle, which gives the same pictures and gradients (checked first).
gpu
    Where there is one: the preset s1 at --size px with a batch of --gpu-batch, as it is and with --gpu-settings, beside the
    plain loop; share of the floor (floating-point operations of a step over the measured rate of a large matrix product in
    the same precision) and peak memory.

Data: normal lung and adenocarcinoma of LC25000; those tiles have 224 px, for larger sides they are enlarged. --out
keeps the datasets. "ours / beside" is one of seconds where the figures are seconds or ms, of rates where they are rates.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any
from unittest import mock

import napari_histolatent  # noqa: F401  (before torch: it sets how threads wait)

# isort: split
import numpy as np
import torch
from _lung import CLASSES, lung_dataset
from _stats import add_json_option, interleaved, median, median_ratio, report
from mosaic import default_data
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from napari_histolatent.models import build_gan
from napari_histolatent.models.priors import draw_latents
from napari_histolatent.runs import Run
from napari_histolatent.training import TrainingConfig, loop, preset
from napari_histolatent.training._data import one_hot
from napari_histolatent.training._gan_task import GanTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from napari_histolatent.patches import PatchDataset
    from napari_histolatent.runs import RunEvent

PARTS = ("step", "modern", "latency", "rewriting", "gpu")
HEADERS = ("what", "ours", "beside", "ours / beside", "wanted")
TILE_PX = 224
"""Side of the tiles that there are."""
PLAIN_IMAGES = 256
"""What the plain loop has in memory, as float32."""
MODERN_PX, STRETCH_STEPS, STRETCHES = 64, 48, 5
LATENCIES = 20
SAME = 1e-4
NEVER = 10**9


class PlainLoop:
    """A conditional GAN's training with nothing around it, as a tutorial writes it.

    Parameters
    ----------
    config
        Networks, batch, optimisers, smoothing, noise and steps of the generator.
    dataset
        Some of its training patches are put into memory.
    device
        Where the networks are.
    """

    def __init__(self, config: TrainingConfig, dataset: PatchDataset, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        generator, discriminator = build_gan(
            config.network, classes=dataset.classes, size_px=config.size_px, **config.network_options
        )
        self._config, self._device = config, device
        self.generator, self.discriminator = generator.to(device), discriminator.to(device)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), config.learning_rate, (config.beta1, config.beta2))
            for network in (self.discriminator, self.generator)
        ]
        self._criterion = nn.BCEWithLogitsLoss()
        self._rng = torch.Generator().manual_seed(config.seed)
        rows = dataset.rows_of("train")
        if len(rows) < config.batch_size:
            sys.exit(
                f"The dataset has {len(rows)} training patches: too few for a batch of {config.batch_size}."
            )
        wanted = max(PLAIN_IMAGES, config.batch_size)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, wanted).astype(np.int64))]
        images = torch.from_numpy(dataset.read(rows)).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
        vectors = one_hot(torch.from_numpy(np.asarray(dataset.labels)[rows]), len(dataset.classes))
        loader = DataLoader(
            TensorDataset(images, vectors), batch_size=config.batch_size, shuffle=True, drop_last=True
        )
        self._batches = _endless(loader)

    def step(self) -> tuple[float, float]:
        """Update the discriminator once and the generator as often as the config says; return the losses."""
        config = self._config
        update_discriminator, update_generator = self.optimizers
        real, y = (tensor.to(self._device) for tensor in next(self._batches))
        of_real = torch.full((len(real),), 1 - config.label_smoothing, device=self._device)
        of_fake = torch.zeros(len(real), device=self._device)
        right = torch.ones(len(real), device=self._device)

        self.discriminator.zero_grad()
        on_real = self._criterion(self._score(real, y), of_real)
        on_real.backward()
        fake = self._draw(y)
        on_fake = self._criterion(self._score(fake.detach(), y), of_fake)
        on_fake.backward()
        update_discriminator.step()

        for turn in range(config.generator_steps):
            self.generator.zero_grad()
            loss = self._criterion(self._score(self._draw(y) if turn else fake, y), right)
            loss.backward()
            update_generator.step()
        return on_real.item() + on_fake.item(), loss.item()

    def _draw(self, y: Tensor) -> Tensor:
        z = draw_latents(self.generator.prior, len(y), self.generator.z_dim, self._rng)
        return self.generator(z.to(self._device), y)

    def _score(self, images: Tensor, y: Tensor) -> Tensor:
        if self._config.instance_noise:
            images = images + self._config.instance_noise * torch.randn_like(images)
        return self.discriminator(images, y)


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


class Clock:
    """A clock that can be made to stand still."""

    def __init__(self) -> None:
        self._stood = 0.0

    def __call__(self) -> float:
        """Return seconds, those of pauses not counted."""
        return perf_counter() - self._stood

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still inside."""
        started = perf_counter()
        try:
            yield
        finally:
            self._stood += perf_counter() - started


class _EnoughError(Exception):
    """Ends a training that has been timed before it writes a checkpoint."""


@dataclass(frozen=True)
class Stretches:
    """Times of a training's steps."""

    seconds: list[float]
    """Per step, of each stretch."""
    data_share: float
    """Of the steps' time, what was spent on waiting for patches, as the progress events say."""


def timed_stretches(
    config: TrainingConfig,
    dataset: PatchDataset,
    *,
    steps: int,
    count: int,
    between: Callable[[int], None] = lambda turn: None,
) -> Stretches:
    """Train for `count` stretches of `steps` steps after one to warm up, by the product's own loop, into a run.

    `between` is called with 0 to `count`: before each stretch, and after the last. The loop's clock stands still
    meanwhile, or it would take that for steps.
    """
    config = config.with_changes(log_every=steps, checkpoint_every=NEVER, metrics_every=0)
    clock, seconds = Clock(), list[float]()
    done, started, said = 0, 0.0, 0
    waited = told = 0.0

    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(folder, kind="train", spec={})

        # Asked once after each step; what is told of a step comes after that, and counts for the next stretch.
        def should_stop() -> bool:
            nonlocal done, started
            done += 1
            if done % steps == 0:
                synchronise()
                if done > steps:
                    seconds.append((clock() - started) / steps)
                with clock.paused():
                    between(done // steps - 1)
                started = clock()
            return run.stop_requested

        def on_event(event: RunEvent) -> None:
            nonlocal said, waited, told
            run.append(event)
            if event.kind != "progress":
                return
            spent = event.data["seconds_per_step"] * (event.step - said)
            said = event.step
            if said > steps:
                told, waited = told + spent, waited + spent * event.data["data_share"]
            if len(seconds) == count:
                raise _EnoughError

        with mock.patch.object(loop, "perf_counter", clock), contextlib.suppress(_EnoughError):
            loop.train(config, dataset, folder=run.path, on_event=on_event, should_stop=should_stop)
    return Stretches(seconds, waited / told if told else float("nan"))


def in_turns(
    config: TrainingConfig, dataset: PatchDataset, plain: Callable[[], Any], *, pairs: int, steps: int
) -> tuple[Stretches, list[float]]:
    """Return the times of the product's steps, and seconds per step of the plain ones: turn by turn.

    `plain` does one step. Our turn is first in the even pairs, theirs in the odd ones.
    """
    theirs: list[float] = []

    def of_plain() -> float:
        started = perf_counter()
        for _ in range(steps):
            plain()
        synchronise()
        return (perf_counter() - started) / steps

    def between(turn: int) -> None:
        is_after, is_before = turn - 1, turn
        if turn > 0 and is_after % 2 == 0:
            theirs.append(of_plain())
        if turn < pairs and is_before % 2 == 1:
            theirs.append(of_plain())

    of_plain()
    ours = timed_stretches(config, dataset, steps=steps, count=pairs, between=between)
    return ours, theirs


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


# Parts. Each returns rows of the table and the single figures.

Part = tuple[list[list[Any]], dict[str, Any]]


def s1_config(size_px: int, batch_size: int, **changes: Any) -> TrainingConfig:
    """Return the preset s1 at a size, on the CPU unless it is changed."""
    return preset("s1").with_changes(size_px=size_px, batch_size=batch_size, **{"device": "cpu"} | changes)


def step_part(config: TrainingConfig, dataset: PatchDataset, *, pairs: int, steps: int) -> Part:
    """Time the product's steps beside plain ones."""
    plain = PlainLoop(config, dataset, torch.device(config.device))
    ours, theirs = in_turns(config, dataset, plain.step, pairs=pairs, steps=steps)
    name = f"{config.design} {config.size_px} px, batch {config.batch_size}"
    ratio = median_ratio(ours.seconds, theirs)
    rows = [
        [f"step of {name}, s", median(ours.seconds), median(theirs), ratio, "1.05"],
        [f"data waiting in a step of {name}, %", 100 * ours.data_share, "", "", "5"],
    ]
    return rows, {"step_s": {"ours": ours.seconds, "plain": theirs}, "data_share": ours.data_share}


def modern_part(
    config: TrainingConfig, dataset: PatchDataset, *, steps: int = STRETCH_STEPS, count: int = STRETCHES
) -> Part:
    """Count the real patches that the product learns from."""
    seconds = timed_stretches(config, dataset, steps=steps, count=count).seconds
    rates = [config.batch_size / value for value in seconds]
    row = [f"modern {config.size_px} px, real images/s", median(rates), "", "", "90 a core"]
    return [row], {"modern_images_per_s": rates}


def latency_part(configs: Sequence[TrainingConfig], classes: tuple[str, ...]) -> Part:
    """Time one picture at a time."""
    rows, raw = [], {}
    for config in configs:
        generator, _ = build_gan(
            config.network, classes=classes, size_px=config.size_px, **config.network_options
        )
        generator.eval()
        z = draw_latents(generator.prior, 1, generator.z_dim, torch.Generator().manual_seed(0))
        y = one_hot(torch.tensor([0]), len(classes))
        ms = []
        with torch.inference_mode():
            for turn in range(3 + LATENCIES):
                started = perf_counter()
                generator(z, y)
                if turn >= 3:
                    ms.append(1000 * (perf_counter() - started))
        rows.append([f"one picture of {config.design} {config.size_px} px, ms", median(ms), "", "", ""])
        raw[f"latency_ms_{config.design}"] = ms
    return rows, raw


class PixelShuffled(nn.ConvTranspose2d):
    """The same as the 5 x 5 transposed convolution of stride 2 that it is made of, by other operations.

    With padding 2, what comes out at 2 m + a (a 0 or 1) is the sum over j = 0, 1, 2 of x[m + j - 1] times the weight
    at 4 - 2 j + a, the sixth being 0: for each a a convolution of three, and their maps side by side.
    """

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        before, after = self.weight.shape[:2]
        six = nn.functional.pad(self.weight, (0, 1, 0, 1)).reshape(before, after, 3, 2, 3, 2).flip(2, 4)
        weight = six.permute(1, 3, 5, 0, 2, 4).reshape(4 * after, before, 3, 3)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return nn.functional.pixel_shuffle(nn.functional.conv2d(x, weight, bias, padding=1), 2)


def rewritten(generator: nn.Module) -> nn.Module:
    """Return a copy of s1's generator that computes its transposed convolutions by convolution and shuffle."""
    copied = copy.deepcopy(generator)
    for stage in copied.stages:
        assert stage.kernel_size == (5, 5)
        stage.__class__ = PixelShuffled
    return copied


def difference(ours: nn.Module, other: nn.Module, z: Tensor, y: Tensor) -> float:
    """Return how far pictures and gradients of two networks are apart at most, relative to the largest of either.

    Not of each tensor: what normalisation cancels has a gradient of 0, and rounding alone is left of it.
    """
    found = []
    for network in (ours, other):
        network.zero_grad()
        images = network(z, y)
        _pulled(images).backward()
        found.append([images.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    apart = [float((a - b).abs().max()) for a, b in zip(*found, strict=True)]
    largest = [float(a.abs().max()) for a in found[0]]
    return max(apart[0] / largest[0], max(apart[1:]) / max(largest[1:]))


def _pulled(images: Tensor) -> Tensor:
    """Return a loss whose gradient differs from pixel to pixel, as a discriminator's does."""
    chance = torch.Generator().manual_seed(1)
    return (images * torch.randn(images.shape, generator=chance)).sum()


def rewriting_part(config: TrainingConfig, *, batches: Sequence[int], pairs: int) -> Part:
    """Time the generator as it is beside its rewriting; end if they do not compute the same."""
    torch.manual_seed(0)
    generator, _ = build_gan(
        config.network, classes=("a", "b"), size_px=config.size_px, **config.network_options
    )
    other = rewritten(generator)
    rows, raw = [], {}
    for batch in batches:
        z = draw_latents(generator.prior, batch, generator.z_dim, torch.Generator().manual_seed(0))
        y = one_hot(torch.arange(batch) % 2, 2)
        # In double precision: in single, rounding decides which side of a ReLU what is near 0 lies.
        both = (copy.deepcopy(network).double() for network in (generator, other))
        apart = difference(*both, z.double(), y.double())
        if not apart <= SAME:
            sys.exit(f"The rewriting differs by {apart:.1e}: it is not the same network.")

        gradient = torch.randn(batch, 3, config.size_px, config.size_px)

        def seconds(network: nn.Module, z: Tensor = z, y: Tensor = y, gradient: Tensor = gradient) -> float:
            network.zero_grad()
            started = perf_counter()
            network(z, y).backward(gradient)
            return perf_counter() - started

        sides = {"transposed": partial(seconds, generator), "shuffled": partial(seconds, other)}
        figures = interleaved(sides, repeats=pairs, warm_up=True)
        ours, theirs = figures["transposed"], figures["shuffled"]
        name = f"s1's generator forward and backward, {config.size_px} px, batch {batch}, s"
        rows.append([name, median(ours), median(theirs), median_ratio(ours, theirs), "the faster"])
        raw[f"rewriting_s_batch_{batch}"] = figures | {"difference": apart}
    return rows, raw


def gpu_part(config: TrainingConfig, dataset: PatchDataset, *, pairs: int, steps: int) -> Part:
    """Time the product's steps beside plain ones, and beside what the device could do at most."""
    device = torch.device(config.device)
    is_gpu = device.type == "cuda"
    name = f"{config.design} {config.size_px} px, batch {config.batch_size}, {told_of(config)}"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    timed_stretches(config, dataset, steps=steps, count=1)
    peak = torch.cuda.max_memory_allocated() / 1e9 if is_gpu else float("nan")
    floor_s = operations_of_step(config, dataset) / matrix_rate(device, config.precision)
    ours, theirs = in_turns(
        config, dataset, PlainLoop(config, dataset, device).step, pairs=pairs, steps=steps
    )
    rates = [[config.batch_size / value for value in side] for side in (ours.seconds, theirs)]
    rows = [
        [f"{name}: images/s", median(rates[0]), median(rates[1]), median_ratio(*rates), "3"],
        [f"{name}: share of the floor, %", 100 * floor_s / median(ours.seconds), "", "", ""],
        [f"{name}: data waiting in a step, %", 100 * ours.data_share, "", "", "5"],
        [f"{name}: peak memory, GB", peak, "", "", ""],
    ]
    return rows, {name: {"ours": rates[0], "plain": rates[1], "floor_s": floor_s, "peak_gb": peak}}


def told_of(config: TrainingConfig) -> str:
    """Return the settings that speed depends on."""
    words = [config.precision, *(name for name in ("channels_last", "compile") if getattr(config, name))]
    return " ".join(words)


def operations_of_step(config: TrainingConfig, dataset: PatchDataset) -> int:
    """Return the floating-point operations of a step's matrix products and convolutions, two for each product."""
    # Compiled code is not looked into; it has as much to do.
    task = GanTask(config.with_changes(compile=False), dataset, torch.device(config.device))
    counter = FlopCounterMode(display=False)
    with counter:
        task.step(1)  # the first has a lazy penalty, where there is one
    return int(counter.get_total_flops())


def matrix_rate(device: torch.device, precision: str, *, side: int = 0) -> float:
    """Return the operations per second of a large matrix product: the best of five trials."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    n = side or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    allowed = torch.backends.cuda.matmul.allow_tf32
    # As convolutions are computed: those may round to TF32 by default, matrix products may not.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    times = []
    try:
        for _ in range(6):
            synchronise()
            started = perf_counter()
            a @ b
            synchronise()
            times.append(perf_counter() - started)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return 2 * n**3 / min(times[1:])


# Data


def tiles_dataset(data: Path, out: Path, *, size_px: int) -> PatchDataset:
    """Return the dataset of lung tiles at a size; made once in `out`."""
    if size_px > TILE_PX and not (out / f"lung{size_px}" / "dataset.json").is_file():
        with tempfile.TemporaryDirectory() as folder:
            _enlarge(data, Path(folder), size_px=size_px)
            return lung_dataset(Path(folder), out / f"lung{size_px}", size_px=size_px)
    return lung_dataset(data, out / f"lung{size_px}", size_px=size_px)


def _enlarge(data: Path, out: Path, *, size_px: int) -> None:
    """Write the tiles at a larger side, in folders of the same names: how fast a step is, it does not depend on."""
    tiles, enlarged = (root / "patches" / "lc25000_lung" for root in (data, out))
    enlarged.mkdir(parents=True)
    table = (tiles / "labels.csv").read_text(encoding="utf-8")
    (enlarged / "labels.csv").write_text(table, encoding="utf-8")
    for row in csv.DictReader(table.splitlines()):
        if row["class"] in CLASSES:
            target = enlarged / row["file"]
            target.parent.mkdir(exist_ok=True)
            with Image.open(tiles / row["file"]) as tile:
                tile.resize((size_px, size_px), Image.Resampling.BICUBIC).save(target, quality=90)


def main(arguments: list[str] | None = None) -> None:
    """Measure what was asked for, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--threads", type=int, default=1, help="of all sides alike")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument(
        "--size", type=int, default=256, help="side of the pictures in all parts but modern, px"
    )
    parser.add_argument("--batch", type=int, default=8, help="of the part step")
    parser.add_argument("--steps", type=int, default=2, help="steps in a turn")
    parser.add_argument("--noise", type=float, help="instance noise of both sides; default: the preset's")
    parser.add_argument("--gpu-batch", type=int, default=64)
    parser.add_argument("--gpu-steps", type=int, default=20, help="steps in a turn on a GPU")
    parser.add_argument("--gpu-settings", nargs="+", default=["precision=bf16", "channels_last=yes"])
    parser.add_argument("--data", type=Path, default=default_data(), help="folder of the tests' data")
    parser.add_argument("--out", type=Path, help="where datasets are kept; default: nowhere")
    add_json_option(parser)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows: list[list[Any]] = []
    raw: dict[str, Any] = {}

    def take(part: Part) -> None:
        rows.extend(part[0])
        raw.update(part[1])

    with tempfile.TemporaryDirectory() as temporary:

        def tiles(size_px: int) -> PatchDataset:
            return tiles_dataset(options.data, options.out or Path(temporary), size_px=size_px)

        s1 = s1_config(options.size, options.batch, instance_noise=options.noise)
        if "step" in options.parts:
            take(step_part(s1, tiles(options.size), pairs=options.pairs, steps=options.steps))
        if "modern" in options.parts:
            modern = preset("modern").with_changes(size_px=MODERN_PX, device="cpu")
            take(modern_part(modern, tiles(MODERN_PX)))
        if "latency" in options.parts:
            configs = (preset("modern").with_changes(size_px=options.size), s1)
            take(latency_part(configs, tuple(CLASSES.values())))
        if "rewriting" in options.parts:
            take(rewriting_part(s1, batches=(8, 16), pairs=options.pairs))
        if "gpu" in options.parts and not torch.cuda.is_available():
            rows.append(["on a GPU", "not measured: no GPU", "", "", ""])
        elif "gpu" in options.parts:
            on_gpu = s1.with_changes(device="cuda", batch_size=options.gpu_batch)
            for config in (on_gpu, on_gpu.with_settings(options.gpu_settings)):
                take(gpu_part(config, tiles(options.size), pairs=options.pairs, steps=options.gpu_steps))
    title = f"Steps of training, {options.threads} thread{'s' * (options.threads > 1)}, PyTorch {torch.__version__}"
    report(title, HEADERS, rows, raw=raw, json_path=options.json)


if __name__ == "__main__":
    main()
