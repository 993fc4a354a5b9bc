"""What an edit looks like on the canvas: pictures, heatmaps, lines and differences as layers at the tile's place.

While a slider moves, nothing but the data of layers that are there already is assigned. To put a layer into a napari window
costs some 50 ms, to take one out napari collects all garbage: what is not to be seen is hidden instead, and shows the next
tile's data when there are some.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_histolatent._napari._editing import Seen
from napari_histolatent._napari._layers import KEY, space_of, um_per_px, world_of
from napari_histolatent.errors import UserError
from napari_histolatent.explain import colored_difference, contours, difference_of, translucent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from napari_histolatent.explain import Heatmap
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.slides import Slide, SlideInfo

COLUMNS = ("tile", "reconstruction", "edit")
"""The pictures of a scene, from left to right where they lie side by side."""

PUT_AWAY = "is_put_away"
"""In the metadata of a layer that is hidden until there is something to be seen in it again."""

EARLIER, EARLIER_TILE = " (earlier)", " (earlier tile)"
"""Ends of the name of a layer that is put away: it holds what was seen in this tile before, or in another one."""

_FROM_BELOW = (
    "tile",
    "reconstruction",
    "edit",
    "residual",
    "heatmap tile",
    "heatmap reconstruction",
    "heatmap edit",
    "difference",
    "lines tile",
    "lines reconstruction",
    "lines edit",
)
_SHIFTS = {"tile": 0, "reconstruction": 1, "edit": 2, "residual": 3, "difference": 4}
"""Tile widths to the right of the tile, side by side."""
_LINE_COLORS = {"ember": "#00e5ff", "jet": "#000000"}
_LINE_WIDTH_PX = 0.4
_OFF_SLIDE_TILES = 6.0
"""How many of its own widths a tile without a place lies left of the slide: what is beside it fits between."""


@dataclass(frozen=True)
class Look:
    """How a scene is shown."""

    is_beside: bool = False
    """Side by side to the right of the tile; else all in the tile's place."""
    wipe: float = 0.0
    """Share of the edit's layer, from the left, that shows what was before the edit."""
    wipe_from: str = "tile"
    """What that is: tile or reconstruction."""
    picture_opacity: float = 1.0
    heatmap_opacity: float = 0.7
    colormap: str = "ember"
    shows_heatmaps: bool = True
    thresholds: tuple[float, ...] = ()
    """Of contour lines, as shares of the largest value."""
    shows_difference: bool = False
    shows_residual: bool = False

    @property
    def n_tiles_wide(self) -> int:
        """How many tile widths it takes."""
        if not self.is_beside:
            return 1
        last = "difference" if self.shows_difference else "residual" if self.shows_residual else "edit"
        return _SHIFTS[last] + 1


@dataclass(frozen=True)
class Ground:
    """The rectangle of the world that a tile covers."""

    corner: tuple[float, float]
    """Its outer upper left corner, (y, x)."""
    size: tuple[float, float]
    """(height, width)."""
    unit: str

    def placement(
        self,
        shape: tuple[int, ...],
        *,
        part: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
        shift: int = 0,
    ) -> dict[str, Any]:
        """Return scale, translate and units of a picture that covers a part (left, top, right, bottom, in shares)."""
        left, top, right, bottom = part
        height, width = self.size
        step = (bottom - top) * height / shape[0], (right - left) * width / shape[1]
        # napari puts the centre of the first pixel at translate.
        return {
            "scale": step,
            "translate": (
                self.corner[0] + top * height + step[0] / 2,
                self.corner[1] + (left + shift) * width + step[1] / 2,
            ),
            "units": (self.unit, self.unit),
        }

    @property
    def middle(self) -> tuple[float, float]:
        """The centre, (y, x)."""
        return self.corner[0] + self.size[0] / 2, self.corner[1] + self.size[1] / 2


def ground_of(tile: Tile, info: SlideInfo | None) -> Ground:
    """Return where a tile lies: at its place on the slide, else to the left of it."""
    if info is not None and is_on(tile, info):
        assert tile.level0_box is not None
        left, top, right, bottom = tile.level0_box
        scale_y, scale_x = um_per_px(info)
        corner = world_of((left, top), info)
        return Ground(corner, ((bottom - top) * scale_y, (right - left) * scale_x), _unit_of(info))
    step = (tile.mpp or 1.0) if info is None or info.mpp_x else 1.0
    height, width = (n * step for n in tile.pixels.shape[:2])
    if info is None:
        return Ground((0.0, 0.0), (height, width), "um" if tile.mpp else "pixel")
    return Ground((0.0, -_OFF_SLIDE_TILES * width), (height, width), _unit_of(info))


def is_on(tile: Tile, info: SlideInfo) -> bool:
    """Return whether a tile has a place on this slide."""
    return tile.level0_box is not None and tile.slide_digest == info.digest


def _unit_of(info: SlideInfo) -> str:
    return str(space_of(info)["units"][0])


def wiped(before: NDArray[np.uint8], after: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Return a picture whose left part, that share of its width, is `before`, and the rest `after`.

    Pictures of different shapes cannot be composed: then it is `after`.
    """
    if before.shape != after.shape or share <= 0:
        return after
    upto = round(share * after.shape[1])
    return np.concatenate([before[:, :upto], after[:, upto:]], axis=1)


def residual_picture(real: NDArray[np.uint8], drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return what a generator's image lacks of a tile, halved around grey: grey is nothing."""
    difference = real.astype(np.int16) - drawn.astype(np.int16)
    return (128 + difference // 2).clip(0, 255).astype(np.uint8)


def line_pieces(lines: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return lines (n, 2; x, y in a map's pixels) as napari's vectors, shape (m, 2, 2): start and way, (row, column)."""
    pieces = [np.stack([line[:-1, ::-1] - 0.5, np.diff(line[:, ::-1], axis=0)], axis=1) for line in lines]
    return np.concatenate(pieces) if pieces else np.zeros((0, 2, 2))


class Scene:
    """Puts a tile, its reconstruction and its edit on the canvas, each with its heatmap.

    What is generated says SYNTHETIC in its layer's name and metadata.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._look = Look()
        self._tile: Tile | None = None
        self._slide: Slide | None = None
        self._draws_tile = False
        self._pictures: dict[str, Tile] = {}
        self._seen: dict[str, Seen] = {}
        self._maximum = 0.0
        self._layers: dict[str, Any] = {}
        self._named: dict[str, str] = {}
        """What each layer was called last: a name that the user gave is kept."""
        self._usual_names: dict[str, str] = {}
        self._eyes: dict[str, bool] = {}
        """Whether each layer was shown or hidden last: where it is otherwise now, the user did that."""
        self._own_eyes: dict[str, bool] = {}
        """What the user did of that in this tile and layout."""
        self._of_earlier_tile: set[str] = set()
        self._shapes: dict[str, tuple[int, ...]] = {}
        """Of the pictures that the layers cover: lines have none of their own."""
        self._line_colors: dict[str, str] = {}

    # what is shown

    def place(self, tile: Tile, slide: Slide | None, *, draws_tile: bool) -> None:
        """Go to a tile; what was shown of the one before is put away.

        Parameters
        ----------
        tile
            Whose place it is.
        slide
            It lies on, or the one that is open; a tile without a place on it is put to its left.
        draws_tile
            Whether the tile needs a layer: the slide does not show it, or not as it is.
        """
        self.forget()
        self._tile, self._slide, self._draws_tile = tile, slide, draws_tile
        self._bring_to_top()
        info = slide.info if slide else None
        ground = ground_of(tile, info)
        for key, layer in self._in_list().items():
            # Where napari shows all that there is, what is hidden counts, too.
            if info is None or not _is_within(layer, self._shapes[key], info):
                _lay(layer, ground.placement(self._shapes[key]))
            layer.units = ground.unit, ground.unit  # of layers in several units napari knows no extent in any

    def show(self, column: str, tile: Tile | None, seen: Seen | None = None) -> None:
        """Show a tile in a column, and what a classifier sees in it; None takes both away."""
        if tile is None:
            self._pictures.pop(column, None)
            self._seen.pop(column, None)
        else:
            self._pictures[column] = tile
            self._seen[column] = seen or Seen()
        heatmap = seen.heatmap if seen else None
        top = float(heatmap.values.max(initial=0)) if heatmap is not None else 0.0
        if top > self._maximum:
            self._maximum = top  # one scale for all: the others are drawn on it, too
            self._draw(COLUMNS)
        else:
            self._draw((column,))

    def set_scale(self, heatmaps: Sequence[Heatmap | None]) -> None:
        """Start a new scale of heatmaps, one for all of these."""
        self._maximum = max(
            (float(item.values.max(initial=0)) for item in heatmaps if item is not None), default=0.0
        )

    @property
    def maximum(self) -> float:
        """The value of a heatmap that has the brightest colour."""
        return self._maximum

    @property
    def look(self) -> Look:
        """How it is shown."""
        return self._look

    def set_look(self, look: Look) -> None:
        """Show it another way."""
        was, self._look = self._look, look
        if self._tile is None:
            return
        self._draw(COLUMNS)
        if was.is_beside != look.is_beside:
            self._move()
        for key, layer in self._there().items():
            opacity = look.picture_opacity if _is_picture(key) else look.heatmap_opacity
            if not key.startswith("lines") and layer.opacity != opacity:
                layer.opacity = opacity

    @property
    def ground(self) -> Ground | None:
        """Where the tile lies now; None without one."""
        if self._tile is None:
            return None
        return ground_of(self._tile, self._slide.info if self._slide else None)

    @property
    def remark(self) -> str:
        """Why something that was asked for is not shown; empty if all is."""
        if not self._look.shows_difference:
            return ""
        if not self._look.shows_heatmaps:
            return "There is no heatmap difference while the heatmaps are off: tick “Show where the classifier looks”."
        try:
            self._difference()
        except UserError as error:
            return f"There is no heatmap difference: {error}"
        return ""

    def forget(self) -> None:
        """Put all layers away."""
        for key in self._layers:
            self._put_away(key, with_its_tile=True)
        self._of_earlier_tile = set(self._layers)
        self._own_eyes.clear()
        self._pictures.clear()
        self._seen.clear()
        self._maximum = 0.0
        self._tile = None

    def close(self) -> None:
        """Take the layers that are put away out of the list; what is to be seen, or has a name of its own, stays."""
        gone = [
            (key, layer)
            for key, layer in self._in_list().items()
            if _is_put_away(layer) and not layer.visible and layer.name == self._named[key]
        ]
        if not gone:
            return
        with self._viewer.layers.batched_update():  # garbage is collected once
            for key, layer in gone:
                del self._layers[key]
                self._viewer.layers.remove(layer)

    def layer(self, key: str) -> Any | None:
        """Return a layer, if it is there and something is to be seen in it.

        Parameters
        ----------
        key
            A column, residual, difference, "heatmap COLUMN" or "lines COLUMN".
        """
        layer = self._kept(key)
        return None if layer is None or _is_put_away(layer) else layer

    # drawing

    def _draw(self, columns: Sequence[str]) -> None:
        for column in columns:
            self._draw_picture(column)
            self._draw_heatmap(column)
            self._draw_lines(column)
        self._draw_residual()
        self._draw_difference()

    def _draw_picture(self, column: str) -> None:
        tile = self._pictures.get(column)
        if tile is None or (column == "tile" and not self._draws_tile):
            self._put_away(column)
            return
        pixels, extra = tile.pixels, {}
        before = self._pictures.get(self._look.wipe_from) if column == "edit" else None
        if before is not None and self._look.wipe > 0:
            pixels = wiped(before.pixels, pixels, self._look.wipe)
            extra["wipe"] = {"share": self._look.wipe, "left_part": self._look.wipe_from}
        name = f"SYNTHETIC {column}" if tile.synthetic else column
        metadata = {"role": column, **tile.provenance, **extra}
        self._put(column, pixels, name, metadata, opacity=self._look.picture_opacity)

    def _heatmap_of(self, column: str) -> Heatmap | None:
        if not self._look.shows_heatmaps or column not in self._seen:
            return None
        return self._seen[column].heatmap

    def _draw_heatmap(self, column: str) -> None:
        key, heatmap = f"heatmap {column}", self._heatmap_of(column)
        if heatmap is None:
            self._put_away(key)
            return
        colors = translucent(heatmap, maximum=self._maximum, colormap=self._look.colormap)
        before = self._heatmap_of(self._look.wipe_from) if column == "edit" else None
        if before is not None and self._look.wipe > 0:
            shown = translucent(before, maximum=self._maximum, colormap=self._look.colormap)
            colors = wiped(shown, colors, self._look.wipe)
        self._put(
            key,
            colors,
            f"Grad-CAM {column}: {heatmap.target}{self._of_synthetic(column)}",
            self._says_of(heatmap, column),
            opacity=self._look.heatmap_opacity,
            heatmap=heatmap,
        )

    def _draw_lines(self, column: str) -> None:
        key, heatmap = f"lines {column}", self._heatmap_of(column)
        if heatmap is None or not self._look.thresholds:
            self._put_away(key)
            return
        found = contours(heatmap, self._look.thresholds, maximum=self._maximum)
        pieces = line_pieces([line for contour in found for line in contour.lines])
        says = {**self._says_of(heatmap, column), "thresholds": list(self._look.thresholds)}
        name = f"Grad-CAM lines {column}: {heatmap.target}{self._of_synthetic(column)}"
        self._put(key, pieces, name, says, opacity=1.0, heatmap=heatmap)
        layer = self._layers[key]
        color = _LINE_COLORS[self._look.colormap]
        if self._line_colors.get(key) != color and len(pieces):
            layer.edge_color = color
            self._line_colors[key] = color

    def _draw_residual(self) -> None:
        real, drawn = self._pictures.get("tile"), self._pictures.get("reconstruction")
        wanted = self._look.shows_residual and real is not None and drawn is not None
        if not wanted or real is None or drawn is None or real.pixels.shape != drawn.pixels.shape:
            self._put_away("residual")
            return
        says = {**drawn.provenance, "role": "residual", "of": real.name}
        if not self._is_drawn("residual", (real, drawn)):
            picture = residual_picture(real.pixels, drawn.pixels)
            name = "SYNTHETIC residual: tile less reconstruction"
            self._put("residual", picture, name, says, opacity=self._look.picture_opacity)
            self._layers["residual"].metadata[KEY]["drawn_from"] = (id(real), id(drawn))

    def _is_drawn(self, key: str, parts: tuple[object, object]) -> bool:
        layer = self.layer(key)
        return layer is not None and layer.metadata[KEY].get("drawn_from") == tuple(id(v) for v in parts)

    def _difference(self) -> Any:
        """Return the difference of the heatmaps of edit and reconstruction, or None without one of them."""
        before, after = self._heatmap_of("reconstruction"), self._heatmap_of("edit")
        return None if before is None or after is None else difference_of(before, after)

    def _draw_difference(self) -> None:
        found = None
        if self._look.shows_difference:
            try:
                found = self._difference()
            except UserError:
                found = None  # `remark` says why
        if found is None:
            self._put_away("difference")
            return
        colors = colored_difference(found, largest=self._maximum)
        shares = (
            np.clip(np.abs(found.values) / self._maximum, 0, 1) if self._maximum > 0 else found.values * 0
        )
        heatmap = self._seen["edit"].heatmap
        assert heatmap is not None
        says = {**self._says_of(heatmap, "edit"), "role": "Grad-CAM difference"}
        self._put(
            "difference",
            np.dstack([colors, (shares * 255).round().astype(np.uint8)]),
            f"Grad-CAM difference, edit less reconstruction: {found.target} (of SYNTHETIC tiles)",
            says,
            opacity=self._look.heatmap_opacity,
            heatmap=heatmap,
        )

    # layers

    def _of_synthetic(self, column: str) -> str:
        return " (of a SYNTHETIC tile)" if self._pictures[column].synthetic else ""

    def _says_of(self, heatmap: Heatmap, column: str) -> dict[str, Any]:
        tile = self._pictures[column]
        keys = ("synthetic", "slide_digest", "model_digest", "source", "seed")
        says = tile.provenance
        return {"role": f"Grad-CAM {column}", **heatmap.to_json(), **{key: says[key] for key in keys}}

    def _placement(self, key: str, shape: tuple[int, ...], heatmap: Heatmap | None) -> dict[str, Any]:
        ground = self.ground
        assert ground is not None
        shift = _SHIFTS[key.split(" ")[-1]] if self._look.is_beside else 0
        return ground.placement(shape, part=self._part_of(heatmap), shift=shift)

    def _part_of(self, heatmap: Heatmap | None) -> tuple[float, float, float, float]:
        """Return which part of the tile a map covers: a classifier may be shown its middle only."""
        if heatmap is None or heatmap.level0_box is None or self._tile is None:
            return 0.0, 0.0, 1.0, 1.0
        height, width = self._tile.pixels.shape[:2]
        left, top, right, bottom = self._tile.level0_box or (0.0, 0.0, float(width), float(height))
        box = heatmap.level0_box
        across, down = right - left, bottom - top
        return (
            (box[0] - left) / across,
            (box[1] - top) / down,
            (box[2] - left) / across,
            (box[3] - top) / down,
        )

    def _put(
        self,
        key: str,
        data: NDArray[Any],
        name: str,
        says: dict[str, Any],
        *,
        opacity: float,
        heatmap: Heatmap | None = None,
    ) -> None:
        layer = self._kept(key)
        self._usual_names[key] = name
        if layer is None:
            self._add(key, data, name, says, opacity=opacity, heatmap=heatmap)
        elif _is_put_away(layer):
            self._take_out(key, data, name, says, opacity=opacity, heatmap=heatmap)
        else:
            _assign(layer, data)
            layer.metadata = {KEY: says}
            if self._named[key] == layer.name:  # one that the user gave stays
                self._call(key, name)

    def _add(
        self,
        key: str,
        data: NDArray[Any],
        name: str,
        says: dict[str, Any],
        *,
        opacity: float,
        heatmap: Heatmap | None,
    ) -> None:
        shape = heatmap.values.shape if heatmap is not None else data.shape
        options = {
            "name": name,
            "metadata": {KEY: says},
            "opacity": opacity,
            "visible": self._is_visible_at_first(key),
            **self._placement(key, shape, heatmap),
        }
        active = self._viewer.layers.selection.active
        if key.startswith("lines"):
            color = self._line_colors[key] = _LINE_COLORS[self._look.colormap]
            added = self._viewer.add_vectors(
                data, ndim=2, edge_width=_LINE_WIDTH_PX, edge_color=color, vector_style="line", **options
            )
        else:
            # A copy: what is shown next is written into it.
            added = self._viewer.add_image(data.copy(), rgb=True, interpolation2d="nearest", **options)
        self._layers[key], self._named[key], self._shapes[key] = added, added.name, shape
        self._eyes[key] = options["visible"]
        self._own_eyes.pop(key, None)
        self._of_earlier_tile.discard(key)
        self._hide_covered(key)
        self._stack(key)
        if active is not None and active in self._viewer.layers:
            # The user's own selection stays: picking goes on working on the slide that was chosen.
            self._viewer.layers.selection.active = active

    def _take_out(
        self,
        key: str,
        data: NDArray[Any],
        name: str,
        says: dict[str, Any],
        *,
        opacity: float,
        heatmap: Heatmap | None,
    ) -> None:
        """Have a layer that was put away show something, as a new one would; the same tile keeps its name and eye."""
        layer = self._layers[key]
        self._shapes[key] = shape = heatmap.values.shape if heatmap is not None else data.shape
        # What changes while a layer is hidden costs little, but the user may have looked at it.
        if layer.visible:
            layer.visible = False
        self._eyes[key] = False
        _assign(layer, data)
        layer.metadata = {KEY: says}
        _lay(layer, self._placement(key, shape, heatmap))
        if key in self._of_earlier_tile or self._named[key] == layer.name:
            self._call(key, name)
        self._of_earlier_tile.discard(key)
        if layer.opacity != opacity:
            layer.opacity = opacity
        self._hide_covered(key)
        self._stack(key)
        self._set_eye(key, self._is_visible_at_first(key))

    def _call(self, key: str, name: str) -> None:
        layer = self._layers[key]
        if layer.name != name:
            layer.name = name
        self._named[key] = layer.name  # napari adds a number to one that is taken

    def _hide_covered(self, key: str) -> None:
        """In place the edit's heatmap covers the others of its kind."""
        kind, _, column = key.rpartition(" ")
        if not kind or column != "edit" or self._look.is_beside:
            return
        for other in ("tile", "reconstruction"):
            if self.layer(f"{kind} {other}") is not None:
                self._set_eye(f"{kind} {other}", False)

    def _set_eye(self, key: str, is_wanted: bool) -> None:
        """Show or hide a layer; what the user did of that stays, as long as the tile does."""
        layer = self._layers[key]
        self._note_own_eye(key)
        is_visible = self._own_eyes.get(key, is_wanted)
        if layer.visible != is_visible:
            layer.visible = is_visible
        self._eyes[key] = is_visible

    def _note_own_eye(self, key: str) -> None:
        layer = self._layers[key]
        if layer.visible != self._eyes[key]:
            self._own_eyes[key] = layer.visible

    def _stack(self, key: str) -> None:
        """Put a layer above those that it is to be seen above, and below the others."""
        layers, height = self._viewer.layers, _height(key)
        at, found = layers.index(self._layers[key]), self._in_list().items()
        above = [layers.index(layer) for other, layer in found if _height(other) > height]
        below = [layers.index(layer) for other, layer in found if _height(other) < height]
        if above and min(above) < at:
            layers.move(at, min(above))
        elif below and max(below) > at:
            layers.move(at, max(below) + 1)

    def _bring_to_top(self) -> None:
        """Put the layers above all others that came since, each in its order, as new ones would be."""
        layers, there = self._viewer.layers, self._in_list()
        mine = sorted(layers.index(layer) for layer in there.values())
        lowest = len(layers) - len(mine)
        if mine and mine[0] != lowest:
            layers.move_multiple(mine, len(layers))
        # One by one: of several in another order than the list's napari loses count.
        for index, key in enumerate(sorted(there, key=_height), start=lowest):
            at = layers.index(there[key])
            if at != index:
                layers.move(at, index)

    def _is_visible_at_first(self, key: str) -> bool:
        """In place all heatmaps lie on one spot: one is seen, the others wait in the layer list."""
        kind, _, column = key.rpartition(" ")
        if not kind or self._look.is_beside:
            return True
        return column == "edit" or "edit" not in self._pictures

    def _move(self) -> None:
        """Put all layers where the layout wants them, and show those that it shows."""
        self._own_eyes.clear()
        for key, layer in self._there().items():
            column = key.split(" ")[-1]
            seen = self._seen.get("edit" if column == "difference" else column)
            is_map = key == "difference" or " " in key
            heatmap = seen.heatmap if seen is not None and is_map else None
            shape = heatmap.values.shape if heatmap is not None else layer.data.shape
            _lay(layer, self._placement(key, shape, heatmap))
            is_visible = self._is_visible_at_first(key)
            if layer.visible != is_visible:
                layer.visible = is_visible
            self._eyes[key] = is_visible

    def _in_list(self) -> dict[str, Any]:
        """Return the layers that the user has not taken away."""
        # Not by identity: plugins are handed proxies that come and go.
        return {key: layer for key, layer in self._layers.items() if layer in self._viewer.layers}

    def _there(self) -> dict[str, Any]:
        """Return the layers in which something is to be seen."""
        return {key: layer for key, layer in self._in_list().items() if not _is_put_away(layer)}

    def _kept(self, key: str) -> Any | None:
        layer = self._layers.get(key)
        return layer if layer is not None and layer in self._viewer.layers else None

    def _put_away(self, key: str, *, with_its_tile: bool = False) -> None:
        """Hide a layer; with its tile also one that was put away before, which the user may have looked at since."""
        layer = self._kept(key)
        if layer is None or (_is_put_away(layer) and not with_its_tile):
            return
        if not _is_put_away(layer):
            self._note_own_eye(key)
            # It goes on saying what it shows, for whoever looks at it still.
            layer.metadata = {KEY: {**layer.metadata.get(KEY, {}), PUT_AWAY: True}}
        if layer.name == self._named[key]:
            self._call(key, self._usual_names[key] + (EARLIER_TILE if with_its_tile else EARLIER))
        if layer.visible:
            layer.visible = False
        self._eyes[key] = False


def _is_put_away(layer: Any) -> bool:
    return PUT_AWAY in layer.metadata.get(KEY, {})


def _is_within(layer: Any, shape: tuple[int, ...], info: SlideInfo) -> bool:
    """Return whether a picture of this shape, as it is laid, ends nowhere outside a slide."""
    first = np.asarray(layer.translate)
    last = first + np.asarray(layer.scale) * (np.array(shape[:2]) - 1)
    ends = np.array([info.height_px, info.width_px]) * um_per_px(info)
    return bool((first >= 0).all() and (last <= ends).all())


def _height(key: str) -> int:
    """Return how high a layer lies above the others of a scene; no two are at one height."""
    return _FROM_BELOW.index(key)


def _lay(layer: Any, placement: dict[str, Any]) -> None:
    """Put a layer in its place; each of these that changes costs some milliseconds, even if it is the same as before."""
    for name in ("scale", "translate"):
        if not np.array_equal(getattr(layer, name), placement[name]):
            setattr(layer, name, placement[name])
    layer.units = placement["units"]  # napari does nothing where they are the same


def _assign(layer: Any, data: NDArray[Any]) -> None:
    """Give a layer other data; a picture of the same shape is written into the layer's own, at half the cost."""
    if data.dtype == np.uint8 and layer.data.shape == data.shape:
        np.copyto(layer.data, data)
        layer.refresh(extent=False, highlight=False)
    else:
        layer.data = data.copy()  # what is shown next is written into it


def _is_picture(key: str) -> bool:
    return key in ("tile", "reconstruction", "edit", "residual")
