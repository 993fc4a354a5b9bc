"""The pictures and words of the demo's report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from napari_histolatent._pictures import enlarged, marked, open_picture, save_picture, strip
from napari_histolatent.annotations import read_annotations
from napari_histolatent.evaluation import Figure, Section
from napari_histolatent.explain import overlaid
from napari_histolatent.explain.heatmap import shared_maximum
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from pathlib import Path

    from napari_histolatent.jobs.demo import DemoResult
    from napari_histolatent.patches import PatchDataset

_ZOOM = 4
_OVERVIEW_PX = 1000


def draw_figures(result: DemoResult, dataset: PatchDataset, folder: Path) -> None:
    """Write every picture of the report into `folder`."""
    assert result.flip is not None
    search = result.searches["real"]
    generated = result.searches["generated"]
    maximum = shared_maximum(result.heatmaps)
    real, reconstruction = search.tile, search.reconstruction
    of_tile = {"real": real, "gradcam_real": real, "flip": result.flip, "gradcam_flip": result.flip}
    of_tile |= {"generated": generated.tile, "generated_reconstruction": generated.reconstruction}
    of_tile |= {"other": result.searches["other"].tile, "interpolation": result.frames[-1]}
    pictures = {
        "overview": (_overview(result), False),
        "patches": (_patch_rows(dataset), False),
        "real": (enlarged(real.pixels, _ZOOM), False),
        "reconstruction": (enlarged(reconstruction.pixels, _ZOOM), True),
        "flip": (enlarged(result.flip.pixels, _ZOOM), True),
        "generated": (enlarged(generated.tile.pixels, _ZOOM), True),
        "generated_reconstruction": (enlarged(generated.reconstruction.pixels, _ZOOM), True),
        "other": (enlarged(result.searches["other"].tile.pixels, _ZOOM), False),
        "interpolation": (enlarged(strip([v.pixels for v in result.frames], gap_px=1), 2), True),
    }
    for name, tile, heatmap in zip(
        ("real", "reconstruction", "flip"), (real, reconstruction, result.flip), result.heatmaps, strict=True
    ):
        picture = enlarged(overlaid(tile.pixels, heatmap, maximum=maximum), _ZOOM)
        pictures[f"gradcam_{name}"] = (picture, tile.synthetic)
    for name, (pixels, synthetic) in pictures.items():
        tile = of_tile.get(name, reconstruction)
        provenance = tile.provenance | {"synthetic": synthetic, "figure": name}
        save_picture(folder / f"{name}.png", marked(pixels) if synthetic else pixels, provenance)
    samples = sorted((result.out / "gan" / "samples").glob("*.png"))
    if samples:
        pixels, provenance = open_picture(samples[-1])
        save_picture(folder / "samples.png", marked(enlarged(pixels, 2)), {**provenance, "figure": "samples"})


def sections(result: DemoResult) -> list[Section]:
    """Return the report's parts."""
    facts, classes = result.facts, list(result.facts["classes"])
    own, other = classes[:2]
    chances = facts["probability"]

    def chance(name: str) -> str:
        return ", ".join(f"{k} {v:.2f}" for k, v in chances[name].items())

    real, generated = result.searches["real"].inversion, result.searches["generated"].inversion
    return [
        Section(
            "The slide, its regions and patches",
            text=(
                f"{facts['patches']} patches ({', '.join(f'{n} {k}' for k, n in facts['classes'].items())}), split by region of the slide so that no pixel "
                f"is in two splits: {', '.join(f'{n} {k}' for k, n in facts['splits'].items())}.",
            ),
            figures=(
                Figure(
                    "figures/overview.png",
                    "The slide with its regions, and the two tiles below as white squares",
                ),
                Figure("figures/patches.png", f"Patches of the dataset: {own} above, {other} below"),
            ),
        ),
        Section(
            "What the generator draws",
            text=(
                f"{facts['gan']['steps']} steps. Columns share their latent vector; rows differ by class alone.",
            ),
            figures=(Figure("figures/samples.png", f"Random samples: {own} above, {other} below"),),
        ),
        Section(
            "Reverse search",
            text=("Gradient descent from a random start to the latent vector whose image is nearest (S1).",),
            rows=(
                ("", "RMSE on [-1, 1]", "PSNR", "SSIM"),
                ("real tile", f"{real.rmse:.3f}", f"{real.psnr_db:.1f} dB", f"{real.ssim:.2f}"),
                (
                    "generated tile",
                    f"{generated.rmse:.3f}",
                    f"{generated.psnr_db:.1f} dB",
                    f"{generated.ssim:.2f}",
                ),
            ),
            figures=(
                Figure("figures/real.png", f"Real tile ({own}, held out)"),
                Figure("figures/reconstruction.png", "Its reconstruction"),
                Figure("figures/generated.png", "Generated tile"),
                Figure("figures/generated_reconstruction.png", "Its reconstruction"),
            ),
        ),
        Section(
            "Class flip",
            text=(
                f"The reconstruction's latent vector, drawn as {other}. Classifier: real tile {chance('real')}; reconstruction {chance('reconstruction')}; flip {chance('flip')}.",
            ),
            figures=(
                Figure("figures/reconstruction.png", f"Reconstruction ({own})"),
                Figure("figures/flip.png", f"Flipped to {other}"),
            ),
        ),
        Section(
            "Interpolation between two tiles",
            text=(
                f"{len(result.frames)} frames from the reconstruction of the tile above to that of a real tile of {other}.",
            ),
            figures=(
                Figure("figures/interpolation.png", f"From {own} to {other}"),
                Figure("figures/other.png", f"The real tile at the other end ({other})"),
            ),
        ),
        Section(
            "Where the classifier looks",
            text=(
                f"Grad-CAM for {own}, one colour scale for all three (accuracy of the classifier on held-out patches: "
                f"{facts['classifier'].get('accuracy', float('nan')):.3f}).",
            ),
            figures=(
                Figure("figures/gradcam_real.png", "Real tile"),
                Figure("figures/gradcam_reconstruction.png", "Reconstruction"),
                Figure("figures/gradcam_flip.png", "Flip"),
            ),
        ),
        Section(
            "Seconds of each step",
            rows=tuple((name, f"{value:.1f}") for name, value in result.seconds.items()),
        ),
    ]


def _overview(result: DemoResult) -> np.ndarray:
    with open_slide(result.source.slide) as slide:
        pixels, downsample = slide.thumbnail(longest_px=_OVERVIEW_PX)
    annotations = read_annotations(result.source.annotations)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for region in annotations.regions:
        for polygon in region.polygons:
            for ring in (polygon.exterior, *polygon.interiors):
                outline = [(x / downsample, y / downsample) for x, y, *_ in ring.coords]
                draw.line(outline, fill=annotations.color_of(region.class_name), width=5)
    for role in ("real", "other"):
        box = result.searches[role].tile.level0_box
        assert box is not None
        corners = tuple(v / downsample for v in box)
        draw.rectangle(corners, outline=(0, 0, 0), width=4)
        draw.rectangle(corners, outline=(255, 255, 255), width=2)
    return np.asarray(image)


def _patch_rows(dataset: PatchDataset) -> np.ndarray:
    rows = []
    for label in range(len(dataset.classes)):
        of_class = np.flatnonzero(dataset.labels == label)
        chosen = of_class[np.linspace(0, len(of_class) - 1, 12).astype(int)]
        rows.append(strip(list(dataset.read(chosen)), gap_px=1))
    return np.concatenate(rows, axis=0)
