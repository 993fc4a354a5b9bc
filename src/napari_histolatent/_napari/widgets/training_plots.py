from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtWidgets import QVBoxLayout, QWidget

from napari_histolatent._napari.widgets.loss_plot import LossPlot

if TYPE_CHECKING:
    from collections.abc import Mapping

_KIDS = {"kid": "KID", "kid_random": "KID, random features"}

_HEIGHT_PX = 170


class TrainingPlots(QWidget):
    """Losses over steps, and below them the KID, each as soon as there is one.

    Parameters
    ----------
    loss, kid
        What is written beside the axes.
    """

    def __init__(self, loss: str = "loss", kid: str = "KID") -> None:
        super().__init__()
        self.losses, self.kid = LossPlot(loss), LossPlot(kid, with_points=True, logarithmic=True)
        self.kid.setToolTip(
            "Kernel inception distance between generated and held-out real patches: lower is better, about 0 is as "
            "near as real patches are to each other."
        )
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for plot in (self.losses, self.kid):
            plot.setFixedHeight(_HEIGHT_PX)
            layout.addWidget(plot)
        self.clear()

    def clear(self) -> None:
        """Forget what is shown."""
        self.losses.clear_losses()
        self.kid.clear_losses()
        self._show_what_has_points()

    def add(self, step: int, losses: Mapping[str, float], metrics: Mapping[str, Any]) -> None:
        """Add what an event said; `redraw` shows it."""
        if losses:
            self.losses.add_losses(step, dict(losses))
        kids = kids_of(metrics)
        if kids:
            self.kid.add_losses(step, kids)

    def redraw(self) -> None:
        """Show what was added since."""
        self._show_what_has_points()
        self.losses.redraw()
        self.kid.redraw()

    def _show_what_has_points(self) -> None:
        for plot in (self.losses, self.kid):
            plot.setVisible(any(steps for steps, _ in plot.points.values()))


def kids_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the distances of an event's metrics, by the name they have in the plot.

    Without a judge both are that in random features.
    """
    if "kid_random" in metrics and metrics.get("kid") == metrics["kid_random"]:
        metrics = {"kid_random": metrics["kid_random"]}
    found = {title: metrics.get(name) for name, title in _KIDS.items()}
    return {title: float(value) for title, value in found.items() if isinstance(value, (int, float))}
