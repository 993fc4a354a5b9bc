"""What the dock is set to, taken on the UI thread, and made into files in another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_histolatent._files import data_folder, replacing
from napari_histolatent.annotations import regions_folder, require_on_slide, write_annotations
from napari_histolatent.errors import DatasetError, writing_to
from napari_histolatent.patches import HandMark, Recipe, SlideSource, TissueMask

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.annotations import Annotations
    from napari_histolatent.slides import SlideInfo


@dataclass(frozen=True)
class CapturedRequest:
    """One slide with its regions, its marks and the recipe, as they were at one moment."""

    info: SlideInfo
    annotations: Annotations | None
    recipe: Recipe
    marks: tuple[HandMark, ...] = ()
    own_mask: TissueMask | None = None
    only_marks: bool = False

    def resolve(self) -> tuple[SlideSource, Recipe]:
        """Write regions and mask to files, and return what is extracted. For a worker thread.

        Raises
        ------
        UserError
            If no patch can get a class, or a file cannot be written.
        """
        info, recipe = self.info, self.recipe
        is_annotated = self.annotations is not None and bool(self.annotations.regions)
        if not (is_annotated or recipe.labels.default_class or any(m.label for m in self.marks)):
            msg = (
                f"{info.path.name} has no regions to label patches by; draw some in the Regions dock, import them, "
                "or name a class for unannotated tissue."
            )
            raise DatasetError(msg)
        file = None
        if self.annotations is not None and is_annotated:
            require_on_slide(self.annotations, info)
            # As they are now, drawn ones too: in a file, for whoever asks later what the patches were labelled by.
            file = regions_folder() / f"{info.digest}.geojson"
            with writing_to(file.parent):
                file.parent.mkdir(parents=True, exist_ok=True)
            write_annotations(file, self.annotations)
        mask = None
        if self.own_mask is not None:
            mask = mask_file(info.digest)
            write_mask(mask, self.own_mask)
        source = SlideSource(
            info.path,
            file,
            # What the file states itself may differ across and down; only the user's word is passed on.
            mpp=info.mpp_x if "user" in (info.mpp_source or "") else None,
            mask=mask,
            marks=self.marks,
            only_marks=self.only_marks,
        )
        return source, recipe


def mask_file(digest: str) -> Path:
    """Return the file that keeps the user's own tissue mask of a slide."""
    return data_folder() / "masks" / f"{digest}.png"


def write_mask(path: Path, mask: TissueMask) -> None:
    """Write a mask as a picture, white where there is tissue.

    Raises
    ------
    UserError
        If the folder cannot be written to.
    """
    from PIL import Image

    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            Image.fromarray(mask.mask.astype(np.uint8) * 255).save(temporary, format="PNG")
