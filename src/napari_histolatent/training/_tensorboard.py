"""Event files for TensorBoard, as an option: what events.jsonl says, once more in its format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_histolatent._pictures import open_picture
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.runs import RunEvent

FOLDER = "tensorboard"
"""In the run's folder."""


class TensorBoard:
    """Writes the events of one training as scalars and images.

    Parameters
    ----------
    folder
        The run's folder; the files go to folder/tensorboard.

    Raises
    ------
    UserError
        If the package tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            msg = f"TensorBoard event files need the package tensorboard ({error}); install napari-histolatent[tensorboard], or train without them."
            raise UserError(msg) from error
        self._folder, self._open = folder, SummaryWriter
        self._writer: Any = None

    def close(self) -> None:
        """Finish the files."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write(self, event: RunEvent) -> None:
        """Write what an event says in numbers and pictures; one that says nothing of these is left out."""
        if event.kind == "started" or self._writer is None:
            # What an earlier process wrote of later steps is taken back: they are done again.
            self.close()
            self._writer = self._open(str(self._folder / FOLDER), purge_step=event.step + 1)
        # The events of checkpoints and of the end say once more what those before them said.
        groups: dict[str, dict[str, Any]] = {
            "progress": {"loss": event.losses, "speed": event.data},
            "metrics": {"metrics": event.data.get("metrics", {})},
        }.get(event.kind, {})
        for group, values in groups.items():
            for name, value in values.items():
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    self._writer.add_scalar(f"{group}/{name}", value, event.step, event.time)
        if event.kind == "sample":
            pixels, _ = open_picture(self._folder / event.data["sample"])
            self._writer.add_image("SYNTHETIC samples", pixels, event.step, event.time, dataformats="HWC")
        if event.kind == "metrics":
            for sentence in event.data["metrics"].get("warnings", []):
                self._writer.add_text("warnings", sentence, event.step, event.time)
