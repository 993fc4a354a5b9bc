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


_MOST = 0.5


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
    """In what the right end of the slider shows: with the tile's own details, where they are kept."""
    evidence_for: str | None = None
    """The class whose evidence is mapped in all images; None: in each the one that is seen there."""


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
    compares: bool = False,
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
    compares
        Whether the heatmaps are to be compared: where no class is named, all are then of the class that the tile is
        seen as.

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
    effect = effect_of(base.pixels, end.pixels)
    if state.found is not None and state.tile is not None:
        # A slider may have moved the start away from what was found: that is no error of the search.
        drawn = state.found.search.reconstruction.pixels
        missed = effect_of(drawn, drawn, real=state.tile.pixels).error_rmse
        effect = replace(effect, error_rmse=missed)
    edit = Edit(base, end, effect, Seen(), Seen(), Seen())
    return looked_at(models, state, edit, evidence_for=evidence_for, layer=layer, compares=compares)


def looked_at(
    models: Models,
    state: EditState,
    edit: Edit,
    *,
    evidence_for: str | None,
    layer: str | None = None,
    compares: bool = False,
) -> Edit:
    """Return an edit of the same pictures, with what is seen in them for another class or in another layer.

    The parameters are those of `edit_of`.
    """
    ends = edit.start, with_tile_kept(state, edit.end)
    shown = [tile for tile in (state.tile, *ends) if tile is not None]
    if compares and evidence_for is None:
        evidence_for = seen_class(seen_in(models, shown[:1], None)[0])
    seen = seen_in(models, shown, evidence_for, layer=layer)
    return replace(
        edit,
        tile_seen=seen[0] if state.tile is not None else Seen(),
        start_seen=seen[-2],
        end_seen=seen[-1],
        evidence_for=evidence_for,
    )


def with_tile_kept(state: EditState, drawn: Tile) -> Tile:
    """Return what the generator draws, put onto the real tile where the state asks for that.

    What has changed since the reconstruction is put on: x + (G - reconstruction).
    """
    if not state.keeps_residual or state.found is None or state.tile is None:
        return drawn
    from napari_histolatent.latent.blend import residual_edit

    before = state.found.search.reconstruction
    pixels = residual_edit(state.tile.pixels, before.pixels, drawn.pixels)
    return replace(drawn, pixels=pixels, residual=1.0)


def seen_class(seen: Seen) -> str | None:
    """Return the class that is the most probable one; None without a classifier."""
    chances = seen.probabilities
    return max(chances, key=chances.__getitem__) if chances else None


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


EFFECT_TIP = (
    "Change: how far the picture at the right end of the slider is from the one at the left end. Missed: how far the "
    "reconstruction is from the real tile. Both are the root of the mean squared difference (RMSE) of pixels from -1 to "
    "1: 0 is the same picture, 0.1 about 13 of 255 levels of brightness, 2 black against white. An edit can be believed "
    "only as far as it changes more than was missed. Shift of colour: the share of the change that is the same in all "
    "pixels, as of another stain."
)
"""What the figures of `effect_words` are."""


def effect_words(effect: EditEffect) -> str:
    """Return what an edit changes and how far to believe it, and below it the figures."""
    change, missed, share = effect.change_rmse, effect.error_rmse, effect.share_by_mean_colour
    if change == 0:
        return "The edit changes nothing: both ends of the slider are the same picture."
    if effect.is_below_error:
        first = (
            "Do not rely on this edit: it changes less than the search missed of the tile, so what it shows may be the "
            "error of the search. The method Faithful misses least."
        )
    elif missed:
        first = f"The edit changes {change / missed:.1f} times as much as the search missed of the tile."
    else:
        first = "The generator drew the start itself, so all of the change is the edit's."
    if effect.is_stain_only:
        stain = (
            "It changes the stain alone: nearly all of the change is one shift of colour over the whole tile."
        )
    elif share >= _MOST:
        stain = "Most of it is one shift of colour over the whole tile, the smaller part is structure."
    else:
        stain = "Most of it is structure, not one shift of colour over the whole tile."
    against = f", missed {missed:.3f}" if missed else ""
    return f"{first} {stain}\nChange {change:.3f}{against}; shift of colour {share:.0%} of the change."


def flip_words(state: EditState, edit: Edit) -> str:
    """Return why an edit towards a class is no flip of it; empty if it is one."""
    towards, tile = state.towards, state.tile
    if not isinstance(towards, str):
        return ""
    if tile is not None and tile.label == towards:
        return f"This is no flip of what the tile is: it is annotated as {towards} already, and was searched in another class."
    seen, what = (edit.tile_seen, "tile") if tile is not None else (edit.start_seen, "start")
    if seen_class(seen) == towards:
        return f"To the classifier this is no flip: it sees the {what} as {towards} already."
    ends_as, chances = seen_class(edit.end_seen), edit.end_seen.probabilities or {}
    if ends_as is not None and ends_as != towards and towards in chances:
        return (
            f"To the classifier this is no flip: at the right end of the slider it sees {ends_as} "
            f"({chances[ends_as]:.2f}), not {towards} ({chances[towards]:.2f})."
        )
    return ""


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
