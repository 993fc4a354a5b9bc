"""Options of the config dataclasses: one source of names, defaults, units and help for forms and commands."""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any


def option(default: Any, help_text: str) -> Any:
    """Return a dataclass field that carries its help (with the unit), for forms and command lines."""
    return field(default=default, metadata={"help": help_text})


def help_of(config_class: type, name: str) -> str:
    """Return the help of a config's field."""
    for item in fields(config_class):
        if item.name == name:
            return str(item.metadata["help"])
    msg = f"{config_class.__name__} has no field {name!r}"
    raise AttributeError(msg)
