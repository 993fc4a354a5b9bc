"""The command line as a whole: its rooms in the order of the help, and what becomes of an error."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated, Any, Never

import typer

import napari_histolatent
from napari_histolatent.cli import (
    _annotations,
    _calibration,
    _demo,
    _direction,
    _editing,
    _heatmap,
    _patches,
    _slides,
    _training,
)
from napari_histolatent.cli._options import messages, write_line
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich")

# Without a name, a room's commands stand at the top level; the order here is that of the help.
for _room in (_demo, _slides, _patches, _training, _calibration, _editing, _heatmap):
    app.add_typer(_room.app)
app.add_typer(_annotations.annotations_app, name="annotations")
app.add_typer(_patches.dataset_app, name="dataset")
app.add_typer(_training.classifier_app, name="classifier")
app.add_typer(_direction.direction_app, name="direction")

# typer carries a click of its own, and which one differs from version to version.
_ClickError: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main() -> Never:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a class name the terminal cannot show is no reason to fail
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; nothing the user can mend ends in a traceback."""
    try:
        # Errors come here as exceptions instead of ending the program.
        result = typer.main.get_command(app).main(
            args=list(arguments), prog_name="histolatent", standalone_mode=False
        )
    except UserError as error:
        messages.print(f"Error: {error}", style="red", markup=False, soft_wrap=True)
        return 2
    except _ClickError as error:
        error.show()
        return int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        messages.print("Interrupted.")
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0


def _version(wanted: bool) -> None:
    if wanted:
        write_line(f"histolatent {napari_histolatent.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Whole-slide images, labelled patches, conditional GANs and latent editing."""
