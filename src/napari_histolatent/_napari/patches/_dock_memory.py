"""What the Patches dock was set to last, kept between sessions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_histolatent._files import data_folder, write_json
from napari_histolatent.errors import UserError, writing_to
from napari_histolatent.patches import Recipe

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 1


@dataclass(frozen=True)
class DockMemory:
    """The recipe, and whether the grid is shown on the slide."""

    recipe: Recipe
    shows_preview: bool = True


def memory_file() -> Path:
    """Return the file that keeps it."""
    return data_folder() / "recipe.json"


def read_memory(path: Path) -> DockMemory | None:
    """Return what a file keeps; None where there is none, or it cannot be used: then the dock has its defaults."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION or not isinstance(content["shows_preview"], bool):
            return None
        return DockMemory(Recipe.from_json(content["recipe"]), content["shows_preview"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError):
        return None


def write_memory(path: Path, memory: DockMemory) -> None:
    """Write a file, whole or not at all.

    Raises
    ------
    UserError
        If the folder cannot be written to.
    """
    content = {
        "version": VERSION,
        "recipe": memory.recipe.to_json(),
        "shows_preview": memory.shows_preview,
    }
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)
