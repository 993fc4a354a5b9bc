"""Arithmetic and the report of the benchmarks: plain numbers in, one table and one JSON file out."""

from __future__ import annotations

import json
import os
import platform
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path


def median(values: Iterable[float]) -> float:
    """Return the median, NaN of nothing."""
    numbers = list(values)
    return float(np.median(numbers)) if numbers else float("nan")


def percentile(values: Iterable[float], percent: float) -> float:
    """Return a percentile (linear between neighbours), NaN of nothing."""
    numbers = list(values)
    return float(np.percentile(numbers, percent)) if numbers else float("nan")


def slope_per_minute(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Return the least-squares slope of values over time, per minute; NaN below two moments."""
    times, numbers = np.asarray(seconds, float), np.asarray(values, float)
    if len(times) < 2 or np.ptp(times) == 0:
        return float("nan")
    return float(np.polyfit(times - times[0], numbers, 1)[0] * 60)


def second_half(seconds: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the moments at or after the middle of the time that was sampled."""
    if not seconds:
        return [], []
    middle = (seconds[0] + seconds[-1]) / 2
    kept = [(t, v) for t, v in zip(seconds, values, strict=True) if t >= middle]
    return [t for t, _ in kept], [v for _, v in kept]


def interleaved(
    sides: dict[str, Callable[[], float]], *, repeats: int, warm_up: bool = False
) -> dict[str, list[float]]:
    """Return figures of each side, taken in turns; every second turn in the opposite order.

    What the machine does meanwhile meets both sides alike, and neither always comes second.
    """
    if warm_up:
        for measure in sides.values():
            measure()
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        names = list(sides) if turn % 2 == 0 else list(sides)[::-1]
        for name in names:
            figures[name].append(sides[name]())
    return figures


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of the turns: each compares two neighbours in time."""
    return median(a / b for a, b in zip(ours, theirs, strict=True) if b > 0)


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as aligned text: names to the left, numbers to the right."""
    texts = [list(headers), *([shown(v) for v in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(headers))]
    is_number = [all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(headers))]
    lines = [
        "  ".join(
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(row, widths, is_number, strict=True)
        ).rstrip()
        for row in texts
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def shown(value: Any) -> str:
    """Return a value as the tables show it: three significant figures, whole from 100 on."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add --json FILE."""
    parser.add_argument("--json", metavar="FILE", help="write the same figures, and each single one, here")


def report(
    title: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    raw: dict[str, Any],
    json_path: str | Path | None = None,
) -> None:
    """Print one table; write it and the single figures as JSON too if asked."""
    sys.stdout.write(f"\n{title}\n{table(headers, rows)}\n")
    if json_path is not None:
        record = {
            "title": title,
            "machine": f"{platform.platform()}, {os.cpu_count()} cores",
            "rows": [dict(zip(headers, row, strict=True)) for row in rows],
            "raw": raw,
        }
        with open(json_path, "w", encoding="utf-8") as file:
            json.dump(_without_nan(record), file, indent=1)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    if isinstance(value, np.generic):
        return _without_nan(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value
