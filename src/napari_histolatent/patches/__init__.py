"""From slides and regions to a labelled patch dataset on disk: mask, grid (a plan), split, extraction."""

from napari_histolatent.patches._dataset import PatchDataset
from napari_histolatent.patches._extract import ExtractReport, SlideSource, annotations_for, extract
from napari_histolatent.patches._grid import GridSpec, PatchGrid, patch_downsample, plan_grid, tile_box
from napari_histolatent.patches._labels import RULES, coverage_of, label_of
from napari_histolatent.patches._split import SPLITS, SplitSpec
from napari_histolatent.patches._tissue import TissueMask, tissue_mask

__all__ = [
    "RULES",
    "SPLITS",
    "ExtractReport",
    "GridSpec",
    "PatchDataset",
    "PatchGrid",
    "SlideSource",
    "SplitSpec",
    "TissueMask",
    "annotations_for",
    "coverage_of",
    "extract",
    "label_of",
    "patch_downsample",
    "plan_grid",
    "tile_box",
    "tissue_mask",
]
