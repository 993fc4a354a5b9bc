"""From slides and regions to a labelled patch dataset on disk: mask, grid (a plan), split, extraction."""

from napari_histolatent.patches._balance import BALANCE_METHODS, BalanceSpec
from napari_histolatent.patches._coverage import CancelledError, Coverage, cover, coverage_of
from napari_histolatent.patches._dataset import PatchDataset
from napari_histolatent.patches._extract import ExtractionStoppedError, ExtractReport, extract, working_folder
from napari_histolatent.patches._grid import (
    EDGES,
    GridSpec,
    Positions,
    Resolution,
    patch_downsample,
    positions_on,
    resolutions,
    tile_box,
)
from napari_histolatent.patches._labels import RULES, UNLABELLED, LabelSpec, label_of
from napari_histolatent.patches._leakage import Leak, leaks
from napari_histolatent.patches._plan import HandMark, PatchGrid, SlideSource, plan_grid, plan_slide
from napari_histolatent.patches._quality import QualitySpec, quality_of
from napari_histolatent.patches._recipe import PRESETS, Recipe, recipe_named
from napari_histolatent.patches._relabel import recipe_of, relabel
from napari_histolatent.patches._sources import annotations_for, read_batch, require_own_names, slides_in
from napari_histolatent.patches._split import SPLITS, SplitSpec
from napari_histolatent.patches._stain import StainFit, StainSpec, fit_stain, normalise
from napari_histolatent.patches._store import CODECS, StoreSpec
from napari_histolatent.patches._tissue import TissueMask, TissueSpec, mask_from_image, tissue_mask

__all__ = [
    "BALANCE_METHODS",
    "CODECS",
    "EDGES",
    "PRESETS",
    "RULES",
    "SPLITS",
    "UNLABELLED",
    "BalanceSpec",
    "CancelledError",
    "Coverage",
    "ExtractReport",
    "ExtractionStoppedError",
    "GridSpec",
    "HandMark",
    "LabelSpec",
    "Leak",
    "PatchDataset",
    "PatchGrid",
    "Positions",
    "QualitySpec",
    "Recipe",
    "Resolution",
    "SlideSource",
    "SplitSpec",
    "StainFit",
    "StainSpec",
    "StoreSpec",
    "TissueMask",
    "TissueSpec",
    "annotations_for",
    "cover",
    "coverage_of",
    "extract",
    "fit_stain",
    "label_of",
    "leaks",
    "mask_from_image",
    "normalise",
    "patch_downsample",
    "plan_grid",
    "plan_slide",
    "positions_on",
    "quality_of",
    "read_batch",
    "recipe_named",
    "recipe_of",
    "relabel",
    "require_own_names",
    "resolutions",
    "slides_in",
    "tile_box",
    "tissue_mask",
    "working_folder",
]
