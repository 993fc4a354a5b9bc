"""Forms of the config dataclasses' fields, by magicgui: names, defaults and help come from one place."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container, create_widget

if TYPE_CHECKING:
    from collections.abc import Mapping


_DECIMALS = 4


def form_of(
    config: Any, labels: Mapping[str, str], options: Mapping[str, dict[str, Any]] | None = None
) -> Container[Any]:
    """Return a form of some fields of a config instance, filled with its values.

    Parameters
    ----------
    config
        A dataclass instance; a field that is None there cannot be shown.
    labels
        Field name -> label, in the order of the form.
    options
        Field name -> options of its widget (choices, min, max, step).
    """
    helps = {item.name: item.metadata.get("help", "") for item in fields(config)}
    widgets = []
    for name, label in labels.items():
        value = getattr(config, name)
        own = {"tooltip": helps[name], **((options or {}).get(name, {}))}
        annotation = None if "choices" in own else type(value)
        widget = create_widget(value=value, annotation=annotation, name=name, label=label, options=own)
        if isinstance(value, float):
            # Qt rounds to the two digits it shows; a scanner's pixel size has four.
            widget.native.setDecimals(_DECIMALS)
            widget.value = value
        widgets.append(widget)
    return Container(widgets=widgets, labels=True)


def values_of(form: Container[Any]) -> dict[str, Any]:
    """Return field name -> value of a form."""
    return {widget.name: widget.value for widget in form}
