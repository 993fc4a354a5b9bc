from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from glob import escape
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from napari.utils.notifications import show_error
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QFileDialog

from napari_histolatent._files import file_name_of
from napari_histolatent._napari._workers import LatestWorker
from napari_histolatent._napari.editing._path import FRAMES, Frame, PathDrawer, PathRequest
from napari_histolatent._napari.editing._player import FramePlayer
from napari_histolatent._napari.editing._words import in_dock
from napari_histolatent._napari.widgets.path_panel import FEWEST_KEYS
from napari_histolatent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent._napari.widgets.path_panel import PathPanel
    from napari_histolatent.jobs.tiles import Tile

__all__ = ["PathBinding", "PathRequest"]

_PLAY_MS = 66
"""Between two steps while it plays: fifteen a second, as in the films."""
_CURVE_MS = 60
"""The curve is drawn at most so often while frames come."""


class PathBinding:
    """Draws the path that is asked for ahead, and shows the frame at the handle.

    Parameters
    ----------
    panel
        What it drives.
    current_path
        Asked after `path_changed`: the path to show, None: none.
    show
        Called on the UI thread with the frame that is to be seen.
    on_keys
        Called when the path goes through other images of the user's own, or through none any more.
    """

    def __init__(
        self,
        panel: PathPanel,
        *,
        current_path: Callable[[], PathRequest | None],
        show: Callable[[Frame], None],
        on_keys: Callable[[], None] = lambda: None,
    ) -> None:
        self._panel, self._current_path, self._show, self._on_keys = panel, current_path, show, on_keys
        self._request: PathRequest | None = None
        self._drawing: object = None
        """What the running drawer asks after: another one here means that it is stale."""
        self._drawer: PathDrawer | None = None
        self._keys: list[tuple[str, Tile]] = []
        """Caption and image of each that the path goes through."""
        self._frame: Frame | None = None
        self._folder = ""
        self._forwards = True
        self.player = FramePlayer()
        self.exporter = LatestWorker(in_turn=True, on_error=self._on_not_written, in_words=in_dock)
        self._timer, self._curve_timer = QTimer(), QTimer()
        self._timer.setInterval(_PLAY_MS)
        self._timer.timeout.connect(self._play_on)
        self._curve_timer.setInterval(_CURVE_MS)
        self._curve_timer.setSingleShot(True)
        self._curve_timer.timeout.connect(self._show_curve)
        self.player.shown.connect(self._show_frame)
        self.player.progress.connect(self._on_progress)
        self.player.failed.connect(self._on_failed)
        panel.moved.connect(self.player.move)
        panel.timing_chosen.connect(lambda _: self.path_changed())
        panel.play_switched.connect(self._play)
        panel.export_requested.connect(self._export)
        panel.key_added.connect(self._add_key)
        panel.key_removed.connect(self._remove_key)
        panel.key_moved.connect(self._move_key)
        panel.keys_cleared.connect(self._clear_keys)

    @property
    def frame(self) -> Frame | None:
        """The frame that is shown, if any."""
        return self._frame

    @property
    def request(self) -> PathRequest | None:
        """The path that is shown, with the panel's own timing and key points."""
        return self._request

    @property
    def has_own_keys(self) -> bool:
        """Whether the path goes through images that the user chose, not from the tile to its edit."""
        return len(self._keys) >= FEWEST_KEYS

    def path_changed(self) -> None:
        """Show the path that is asked for now, if it is another one."""
        asked = self._current_path()
        request = None if asked is None else self._as_chosen(asked)
        if request is not None and request.is_same_as(self._request):
            return
        self._request, self._frame = request, None
        self._drawing = drawing = object()
        self._curve_timer.stop()
        if request is None:
            self._drawer = None
            self.player.cancel()
            self._panel.set_path(0, has_classifier=False)
            return
        self._panel.set_path(FRAMES, has_classifier=request.classifier is not None)
        self._drawer = PathDrawer(
            request, FRAMES, should_stop=lambda: self._drawing is not drawing, before=self._drawer
        )
        self.player.start(self._drawer, n_frames=FRAMES, at=self._panel.slider.value())

    def go_to(self, place: float) -> None:
        """Move the handle to a place of the path, from 0 to 1."""
        self._panel.slider.setValue(round(place * (FRAMES - 1)))

    def close(self) -> None:
        """Let go of running work. What is being written is written to its end."""
        self._request = self._frame = self._drawing = self._drawer = None
        with suppress(RuntimeError):  # the application may have gone before
            self._timer.stop()
            self._curve_timer.stop()
            self.player.cancel()
        self.exporter.cancel()

    # the path

    def _as_chosen(self, asked: PathRequest) -> PathRequest:
        """Return the path with what the panel says of it: its timing, and the images it goes through."""
        timing = self._panel.timing
        if timing == "probability" and asked.classifier is None:
            self._panel.set_timing(asked.timing)
            timing = asked.timing
        digest = asked.generator.checkpoint.digest
        kept = [key for key in self._keys if key[1].point and key[1].point.checkpoint_digest == digest]
        if len(kept) < len(self._keys):
            self._keys = kept  # another generator cannot draw the others
            self._list_keys()
        if not self.has_own_keys:
            return replace(asked, timing=timing)
        keys = tuple(tile for _, tile in self._keys)
        real = asked.residual_on
        if real is not None and any(tile.source != real.source for tile in keys):
            real = None  # what is kept of one tile has no place in another
        return replace(asked, timing=timing, keys=keys, residual_on=real)

    def _show_frame(self, index: int, frame: Frame) -> None:
        self._frame = frame
        self._show(frame)
        # A slot of the owner may have asked for another path.
        if self._frame is frame:
            self._panel.set_step(index, _step_words(index, frame))

    def _on_progress(self, *_: int) -> None:
        frames = self.player.frames
        self._panel.set_ready([i for i, frame in enumerate(frames) if frame is not None])
        if not self._curve_timer.isActive():
            self._curve_timer.start()

    def _show_curve(self) -> None:
        values: dict[str, tuple[list[int], list[float]]] = {}
        for frame in self.player.frames:
            if frame is None or frame.seen.probabilities is None:
                continue
            for name, chance in frame.seen.probabilities.items():
                steps, chances = values.setdefault(name, ([], []))
                steps.append(frame.index)
                chances.append(chance)
        self._panel.curve.show_values(values)

    def _on_failed(self, error: Exception) -> None:
        self._request = None  # asked for again, it is tried again
        self._panel.set_path(0, has_classifier=False)
        if isinstance(error, UserError):
            said = in_dock(str(error))
            show_error(said)
            self._panel.note.setText(said)
        else:
            self._panel.note.setText("The path could not be drawn; the message of napari says why.")

    # playing

    def _play(self, is_on: bool) -> None:
        if is_on:
            self._timer.start()
        else:
            self._timer.stop()

    def _play_on(self) -> None:
        slider = self._panel.slider
        if slider.value() >= FRAMES - 1:
            self._forwards = False
        elif slider.value() <= 0:
            self._forwards = True
        slider.setValue(slider.value() + (1 if self._forwards else -1))

    # the images that the path goes through

    def _add_key(self) -> None:
        frame = self._frame
        if frame is None:
            return
        tile = frame.tile
        at = f"step {frame.index} " if 0 < frame.index < FRAMES - 1 else ""
        self._keys.append((f"{at}{'of ' if at else ''}{tile.source or tile.name}", tile))
        self._keys_changed(len(self._keys) - 1)

    def _remove_key(self, place: int) -> None:
        if 0 <= place < len(self._keys):
            del self._keys[place]
            self._keys_changed(min(place, len(self._keys) - 1))

    def _move_key(self, place: int, to: int) -> None:
        if 0 <= place < len(self._keys) and 0 <= to < len(self._keys):
            self._keys.insert(to, self._keys.pop(place))
            self._keys_changed(to)

    def _clear_keys(self) -> None:
        self._keys = []
        self._keys_changed(-1)

    def _keys_changed(self, current: int) -> None:
        self._list_keys(current)
        self.path_changed()
        self._on_keys()

    def _list_keys(self, current: int = -1) -> None:
        self._panel.set_keys([(caption, tile.pixels) for caption, tile in self._keys], current)

    # export

    def _export(self, formats: tuple[str, ...]) -> None:
        request, frames = self._request, [frame for frame in self.player.frames if frame is not None]
        if request is None or not self.player.is_complete:
            return
        chosen = QFileDialog.getExistingDirectory(self._panel, "Folder for the path's files", self._folder)
        if not chosen:
            return
        self._folder = chosen
        self._panel.note.setText("Writing…")

        def write(_: object) -> list[Path]:
            return exported(Path(chosen), request, frames, formats)

        def say(files: list[Path]) -> None:
            names = ", ".join(path.name for path in files)
            self._panel.note.setText(f"Written to {chosen}: {names}.")

        self.exporter.submit(write, say)

    def _on_not_written(self, error: Exception) -> None:
        self._panel.note.setText(in_dock(str(error)))


def exported(folder: Path, request: PathRequest, frames: list[Frame], formats: tuple[str, ...]) -> list[Path]:
    """Write the frames of a path under a name that is free in a folder, and return the files.

    Raises
    ------
    UserError
        If they cannot be written.
    """
    from napari_histolatent.jobs.exporting import export_frames

    tile = frames[0].tile
    name = _free_name(folder, f"{Path(tile.source or tile.name).stem}_path")
    chances = [frame.seen.probabilities for frame in frames]
    classifier = request.classifier
    written = export_frames(
        folder,
        name,
        [frame.tile for frame in frames],
        formats=formats,
        probabilities=[item for item in chances if item] if all(chances) else None,
        provenance={
            "path": request.kind,
            "timing": request.timing,
            "places": [round(frame.t, 6) for frame in frames],
            "key_points": [tile.point.to_json() for tile in request.keys if tile.point],
            "classifier_digest": classifier.checkpoint.digest if classifier else None,
        },
    )
    return list(written.values())


def _free_name(folder: Path, base: str) -> str:
    names = (f"{file_name_of(base)}_{n}" for n in count(1))
    return next(name for name in names if not any(folder.glob(f"{escape(name)}[._]*")))


def _step_words(index: int, frame: Frame) -> str:
    """Return what is said of a frame; while it is not the handle's own, that this one is on its way."""
    chances = frame.seen.probabilities
    seen = ": " + ", ".join(f"{name} {chance:.2f}" for name, chance in chances.items()) if chances else ""
    waits = "" if frame.index == index else f" (step {index} is being drawn)"
    return f"Step {frame.index} of {FRAMES - 1}{seen}{waits}"
