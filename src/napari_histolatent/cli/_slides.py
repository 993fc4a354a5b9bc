"""Slides as they are: `info`, `region`, `thumbnail`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from napari_histolatent.cli._options import (
    JsonOption,
    LevelOption,
    MagOption,
    MppOption,
    SlideArgument,
    SlideMppOption,
    resolution,
    write_report,
)
from napari_histolatent.errors import UserError

app = typer.Typer()

PngOption = Annotated[Path, typer.Option("--out", help="PNG to write.")]


@app.command()
def info(slide: SlideArgument, slide_mpp: SlideMppOption = None, as_json: JsonOption = False) -> None:
    """Say what a slide file is.

    Example: histolatent info slide.svs --json
    """
    from napari_histolatent.slides import open_slide

    with open_slide(slide, mpp=slide_mpp) as opened:
        facts = opened.info.to_json()
    lines = [
        f"{facts['path']}: {facts['vendor'] or 'vendor not stated'}, "
        f"read by {facts['backend']} ({facts['backend_reason']})"
    ]
    size = f"{facts['width_px']} x {facts['height_px']} px"
    mpp = (
        f"{facts['mpp_x']:g} x {facts['mpp_y']:g} µm per px ({facts['mpp_source']})"
        if facts["mpp_x"]
        else "pixel size not stated"
    )
    lines.append(f"{size}, {mpp}")
    lines += [
        f"level {i}: {v['width_px']} x {v['height_px']} px, downsample {v['downsample']:g}"
        for i, v in enumerate(facts["levels"])
    ]
    objective = facts["objective_power"]
    lines.append(f"objective: {f'{objective:g}x' if objective else 'not stated'}")
    lines.append(f"associated images: {', '.join(facts['associated']) or 'none'}")
    lines.append(f"ICC profile: {'yes' if facts['has_icc_profile'] else 'none'}")
    lines += facts["notes"]
    write_report(facts, as_json, lines)


@app.command()
def region(
    slide: SlideArgument,
    xy: Annotated[tuple[float, float], typer.Option("--xy", help="Top-left corner, level-0 pixels.")],
    size: Annotated[tuple[int, int], typer.Option("--size", help="Width and height of the result, px.")],
    out: PngOption,
    level: LevelOption = None,
    mpp: MppOption = None,
    mag: MagOption = None,
    slide_mpp: SlideMppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write exact pixels of a region as PNG.

    Example: histolatent region slide.svs --xy 1000 2000 --size 512 512 --mpp 0.5 --out region.png
    """
    from napari_histolatent._pictures import save_picture
    from napari_histolatent.slides import open_slide

    level, mpp = resolution(level, mpp, mag)
    with open_slide(slide, mpp=slide_mpp) as opened:
        pixels = opened.read_region(xy, size_px=size, level=level, mpp=mpp)
        own = opened.info.mpp_x
        if mpp is None and own is not None:
            mpp = own * opened.info.levels[level or 0].downsample
        downsample = mpp / own if mpp and own else opened.info.levels[level or 0].downsample
        # Tiles carry their centre: that is what `invert` and SLIDE@X,Y go by.
        centre = [xy[i] + size[i] * downsample / 2 for i in (0, 1)]
        right, bottom = (xy[i] + size[i] * downsample for i in (0, 1))
        provenance = {
            "synthetic": False,
            "name": out.stem,
            "slide_digest": opened.info.digest,
            "x": centre[0],
            "y": centre[1],
            "mpp": mpp,
            "level0_box": [*xy, right, bottom],
        }
    save_picture(out, pixels, provenance)
    facts = {
        "file": str(out),
        "width_px": size[0],
        "height_px": size[1],
        "level0_xy": list(xy),
        "mpp": mpp,
        "level": level,
    }
    write_report(facts, as_json, [f"{out}: {size[0]} x {size[1]} px"])


@app.command()
def thumbnail(
    slide: SlideArgument,
    out: PngOption,
    size: Annotated[int, typer.Option("--size", min=1, help="Longer side, px.")] = 1024,
    srgb: Annotated[bool, typer.Option("--srgb", help="Colours by the slide's ICC profile.")] = False,
    slide_mpp: SlideMppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a picture of the whole slide as PNG.

    Example: histolatent thumbnail slide.svs --size 1024 --out thumbnail.png
    """
    from napari_histolatent._pictures import save_picture
    from napari_histolatent.slides import open_slide, to_srgb_with

    with open_slide(slide, mpp=slide_mpp) as opened:
        info = opened.info
        pixels, downsample = opened.thumbnail(longest_px=size)
        if srgb:
            profile = opened.icc_profile()
            if profile is None:
                msg = f"{info.path.name} has no ICC profile to go by; leave --srgb out."
                raise UserError(msg)
            pixels = to_srgb_with(profile)(pixels)
    height, width = pixels.shape[:2]
    provenance = {
        "synthetic": False,
        "name": out.stem,
        "slide_digest": info.digest,
        "x": info.width_px / 2,
        "y": info.height_px / 2,
        "mpp": info.mpp_x * downsample if info.mpp_x else None,
        "level0_box": [0, 0, info.width_px, info.height_px],
    }
    save_picture(out, pixels, provenance)
    facts = {
        "file": str(out),
        "width_px": width,
        "height_px": height,
        "level0_xy": [0, 0],
        "downsample": downsample,
        "mpp": provenance["mpp"],
    }
    write_report(facts, as_json, [f"{out}: {width} x {height} px"])
