"""The whole job on one slide: `demo`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from napari_histolatent.cli._options import (
    DeviceOption,
    JsonOption,
    OutOption,
    SeedOption,
    messages,
    progress_bar,
    write_report,
)

if TYPE_CHECKING:
    from rich.progress import Progress

app = typer.Typer()


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
        with progress_bar() as progress:
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
        messages.print(
            f"Stopped; run the same command again to go on where it was (everything is in {out}).",
            markup=False,
            soft_wrap=True,
        )
        raise
    report = result.to_json()
    write_report(report, as_json, [f"Done in {report['seconds_in_all']:.0f} s: {report['report']}"])
    if headless or as_json:
        return
    if _has_display():
        _open_viewer(result)
    else:
        messages.print("There is no display here, so napari was not opened.")


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
        messages.print(
            f"napari is not installed ({error}); install it with: pip install 'napari-histolatent[all]'",
            markup=False,
        )
        return
    show_demo(result)
