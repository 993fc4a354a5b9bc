"""What an edit of the dock is, and what is computed for it, in threads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from napari_histolatent._napari._editing import Models, Seen, seen_in
from napari_histolatent._napari.editing._words import in_dock
from napari_histolatent._napari.patches._facts import labelled_tile
from napari_histolatent.errors import UserError
from napari_histolatent.patches import LabelSpec

if TYPE_CHECKING:
    from napari_histolatent._napari.editing._searching import Found
    from napari_histolatent.annotations import Annotations
    from napari_histolatent.jobs.tiles import Tile
    from napari_histolatent.latent.blend import EditEffect
    from napari_histolatent.latent.library import Library, LibraryEntry
    from napari_histolatent.slides import Slide
    from napari_histolatent.training.checkpoint import Checkpoint

    Towards = str | Tile | LibraryEntry
    """What an edit goes towards: a class, a tile of the tray, or a point of the library."""


@dataclass(frozen=True, eq=False)
class EditState:
    """What is edited, and towards what: a step of the history."""

    tile: Tile | None = None
    """What was picked; None where the start was drawn, not picked."""
    slide: Slide | None = None
    """That the tile lies on, or that was open."""
    found: Found | None = None
    base: Tile | None = None
    """Where an edit starts, as the generator draws it: the reconstruction, a sample, a point of the library."""
    towards: Towards | None = None
    keeps_residual: bool = False
    is_recoloured: bool = False
    """Whether the tile has other colours than its place on the slide."""

    @property
    def place(self) -> Tile | None:
        """The tile whose place on the slide it is."""
        return self.tile if self.tile is not None else self.base


@dataclass(frozen=True, eq=False)
class Edit:
    """From where to where, what is seen there, and how much it is."""

    start: Tile
    end: Tile
    """As the generator draws it; the tile's own details, where they are kept, are put on when frames are drawn."""
    effect: EditEffect
    tile_seen: Seen
    start_seen: Seen
    end_seen: Seen


def targets_of(models: Models, state: EditState) -> tuple[str, ...]:
    """Return the classes an edit can go towards: all but the one it starts in."""
    classes = models.generator.checkpoint.classes
    if state.base is None or state.base.point is None or len(classes) < 2:
        return ()
    weights = state.base.point.class_weights
    own = classes[max(range(len(weights)), key=weights.__getitem__)]
    return tuple(name for name in classes if name != own)


def edit_of(
    models: Models,
    state: EditState,
    towards: str | Tile,
    *,
    evidence_for: str | None,
    layer: str | None = None,
) -> Edit:
    """Return an edit that is ready to be drawn. A tile without a latent point of this generator is searched first.

    Parameters
    ----------
    models
        The networks.
    state
        With a base.
    towards
        A class, or a tile of the generator's size.
    evidence_for, layer
        See `seen_in`.

    Raises
    ------
    UserError
        If the generator has no such class, or the tile cannot be searched.
    """
    from napari_histolatent.jobs import edits
    from napari_histolatent.latent.blend import effect_of

    assert state.base is not None
    generator, base = models.generator, state.base
    if isinstance(towards, str):
        end = edits.flip_tile(generator, base, to=towards)
    elif edits.has_point_of(generator, towards):
        end = towards
    else:
        end = _searched(models, towards)
    real = state.tile if state.found is not None else None
    shown = [tile for tile in (state.tile, base, end) if tile is not None]
    seen = seen_in(models, shown, evidence_for, layer=layer)
    return Edit(
        start=base,
        end=end,
        effect=effect_of(base.pixels, end.pixels, real=real.pixels if real is not None else None),
        tile_seen=seen[0] if state.tile is not None else Seen(),
        start_seen=seen[-2],
        end_seen=seen[-1],
    )


def _searched(models: Models, tile: Tile) -> Tile:
    from napari_histolatent._napari.editing._searching import find
    from napari_histolatent.latent.search_options import SearchOptions

    return find(models, tile, method="fast", options=SearchOptions()).search.reconstruction


def is_same_target(a: Towards | None, b: Towards | None) -> bool:
    """Return whether two are the same class, tile or point; not by ==, which would compare the tiles' pixels."""
    if a is b:
        return True
    if isinstance(a, str) or isinstance(b, str) or a is None or b is None:
        return isinstance(a, str) and isinstance(b, str) and a == b
    ids = getattr(a, "id", None), getattr(b, "id", None)  # the library's entries are read anew
    return ids[0] is not None and ids[0] == ids[1]


def library_tile(models: Models, library: Library, entry: LibraryEntry) -> Tile:
    """Return the image of a library's point.

    Raises
    ------
    UserError
        If it belongs to another generator, or its files are missing.
    """
    from napari_histolatent.jobs import edits

    return edits.tile_of_entry(models.generator, library, entry)


def tray_tile(models: Models, slide: Slide | None, annotations: Annotations | None, tile: Tile) -> Tile:
    """Return a patch of the tray, cut again at the generator's size and resolution.

    Raises
    ------
    UserError
        If its slide is not open.
    """
    if slide is None or tile.centre is None:
        msg = "That patch lies on a slide that is not open; open the slide, or choose another patch."
        raise UserError(msg)
    cut = tile_for(models.generator.checkpoint, slide, annotations, tile.centre)
    return replace(cut, label=tile.label)


def sample_of(models: Models, *, label: str | None, seed: int) -> Tile:
    """Return a tile that the generator draws at random, of a class where it has some."""
    from napari_histolatent.jobs import edits

    (tile,) = edits.sample_tiles(models.generator, 1, label=label, seed=seed)
    return replace(tile, name=f"sample of {label}, seed {seed}" if label else f"sample, seed {seed}")


def why_no_flip(classes: tuple[str, ...]) -> str:
    """Return why a generator of these classes cannot flip one; empty if it can."""
    from napari_histolatent.latent.blend import require_classes

    try:
        require_classes(classes)
    except UserError as error:
        return in_dock(str(error))
    return ""


def effect_words(effect: EditEffect) -> str:
    """Return what has to be known of an edit, in sentences."""
    said = [in_dock(sentence) for sentence in effect.sentences]
    size = f"The edit changes RMSE {effect.change_rmse:.3f}"
    against = f", the search missed {effect.error_rmse:.3f}" if effect.error_rmse else ""
    stain = f"; mean colour alone explains {effect.share_by_mean_colour:.0%} of it."
    return " ".join([size + against + stain, *said])


def tile_for(
    checkpoint: Checkpoint, slide: Slide, annotations: Annotations | None, centre: tuple[float, float]
) -> Tile:
    """Cut a tile at a model's size and resolution, or at level 0 where the model or the slide knows none.

    Raises
    ------
    UserError
        If the place lies off the slide.
    """
    mpp = checkpoint.mpp if slide.info.mpp_x else None
    labels = LabelSpec(rule="majority")
    return labelled_tile(slide, annotations, centre, size_px=checkpoint.size_px, mpp=mpp, labels=labels)
