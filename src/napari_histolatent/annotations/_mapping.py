"""Which class a file's group stands for: presets, and tables that users edit and save."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from napari_histolatent._files import data_folder, file_name_of, write_json
from napari_histolatent.errors import AnnotationError, writing_to

_KIND = "histolatent-class-mapping"


@dataclass(frozen=True)
class Target:
    """What becomes of a group's shapes."""

    class_name: str | None
    """The class they get; None if they become no regions."""
    cuts: bool = False
    """Whether what they cover is cut out of the regions of other classes: with no class, they are holes."""

    @property
    def words(self) -> str:
        """Say it as a report or a table does."""
        if self.class_name is None:
            return "holes" if self.cuts else "left out"
        return f"{self.class_name}, cut out of the others" if self.cuts else self.class_name


HOLE = Target(None, cuts=True)
IGNORED = Target(None)


@dataclass(frozen=True)
class ClassMapping:
    """From a file's group names to classes. Names are compared without case and outer spaces."""

    name: str
    targets: dict[str, Target] = field(default_factory=dict)
    """By group name; groups that are not named keep their own name as class."""

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "targets", {_folded(group): target for group, target in self.targets.items()}
        )

    def of(self, group: str) -> Target:
        """Return what becomes of a group."""
        return self.targets.get(_folded(group), Target(group.strip() or None))

    def with_target(self, group: str, target: Target) -> ClassMapping:
        """Return a copy in which one group is mapped otherwise."""
        return ClassMapping(self.name, {**self.targets, _folded(group): target})


def _folded(group: str) -> str:
    return group.strip().casefold()


_TUMOUR = Target("tumour")
HOLE_GROUPS = ("negative", "_2", "exclusion", "exclude")

AS_IN_FILE = ClassMapping("as in the file")
GROUPS_AS_HOLES = ClassMapping("holes by name", dict.fromkeys(HOLE_GROUPS, HOLE))
"""What is done where the user chose nothing and the format has groups instead of holes (ASAP, NCRF)."""

_FORMATS_WITH_HOLE_GROUPS = ("asap-xml", "ncrf-json")


def default_mapping(format_name: str) -> ClassMapping:
    """Return what is done with a format's groups where the user chose nothing."""
    return GROUPS_AS_HOLES if format_name in _FORMATS_WITH_HOLE_GROUPS else AS_IN_FILE


PRESETS = {
    "camelyon16": ClassMapping(
        "camelyon16",
        dict.fromkeys(("tumor", "tumour", "_0", "_1", "metastasis", "metastases", "positive"), _TUMOUR)
        | dict.fromkeys((*HOLE_GROUPS, "normal"), HOLE),
    ),
    "camelyon17": ClassMapping(
        "camelyon17",
        dict.fromkeys(("metastases", "metastasis", "tumor", "tumour", "positive"), _TUMOUR)
        | {"normal": Target("normal", cuts=True)}
        | dict.fromkeys(HOLE_GROUPS, HOLE),
    ),
}
"""CAMELYON16: groups _0, _1 and Tumor are tumour, _2 and Exclusion are normal tissue inside it. CAMELYON17:
metastases, and normal painted over them (challenge pages). The re-exported names metastasis / negative too."""


def mappings_folder() -> Path:
    """Return the folder of the tables that users saved."""
    return data_folder() / "mappings"


def mapping_names() -> tuple[str, ...]:
    """Return the names of the presets, then of the saved tables."""
    folder = mappings_folder()
    saved = sorted(path.stem for path in folder.glob("*.json")) if folder.is_dir() else []
    return (*PRESETS, *(name for name in saved if name not in PRESETS))


def find_mapping(name: str | Path) -> ClassMapping:
    """Return a preset, a table that was saved under this name, or the table in a JSON file.

    Raises
    ------
    AnnotationError
        If there is none of that name, or the file is no such table.
    """
    preset = PRESETS.get(str(name).casefold())
    if preset is not None:
        return preset
    saved = mappings_folder() / f"{file_name_of(str(name))}.json"
    for path in (saved, Path(name)):
        if path.is_file():
            return _read(path)
    msg = (
        f"There is no class mapping {str(name)!r}; known are {', '.join(mapping_names())}, "
        "or give the path of a JSON table."
    )
    raise AnnotationError(msg)


def save_mapping(mapping: ClassMapping) -> Path:
    """Save a table under its name, for later imports; return its file.

    Raises
    ------
    UserError
        If it cannot be written, or its name is a preset's.
    """
    if mapping.name.casefold() in PRESETS:
        msg = f"{mapping.name!r} is the name of a built-in mapping; save yours under another name."
        raise AnnotationError(msg)
    path = mappings_folder() / f"{file_name_of(mapping.name)}.json"
    groups = {group: {"class": t.class_name, "cuts": t.cuts} for group, t in mapping.targets.items()}
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"type": _KIND, "name": mapping.name, "groups": groups})
    return path


def _read(path: Path) -> ClassMapping:
    try:
        table = json.loads(path.read_bytes())
        groups = {str(group): _target(entry) for group, entry in table["groups"].items()}
        return ClassMapping(str(table.get("name") or path.stem), groups)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = (
            f"{path.name} is no class mapping ({type(error).__name__}: {error}); it needs "
            '{"groups": {"GROUP": {"class": "NAME or null", "cuts": false}}}.'
        )
        raise AnnotationError(msg) from error


def _target(entry: Any) -> Target:
    if isinstance(entry, str):
        return Target(entry)
    name = entry["class"]
    return Target(None if name is None else str(name), cuts=bool(entry.get("cuts", False)))
