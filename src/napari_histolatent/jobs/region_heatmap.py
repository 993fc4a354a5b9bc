"""Where a classifier looks all over a region of a slide: tile after tile, into one multiscale heatmap on disk.

The file is an OME-Zarr image (0.5) of float32: level 0 has 16 by 16 pixels a tile, NaN where no tile was looked at, and
its transformations put it in its place on the slide. Beside its levels lies `probability`, one value a tile.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import shapely

from napari_histolatent._config import option
from napari_histolatent._files import (
    DamagedJsonError,
    data_folder,
    digest_of,
    file_name_of,
    json_field,
    read_json_object,
    replacing,
    write_json,
)
from napari_histolatent.errors import RunError, UserError, passing_through, writing_to
from napari_histolatent.explain.region import halved, mixed
from napari_histolatent.jobs.region_plan import READERS, box_on_slide, plan_region, read_tile
from napari_histolatent.runs import Run, RunEvent, known_runs
from napari_histolatent.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from napari_histolatent.explain.region import RegionGrid
    from napari_histolatent.jobs.region_plan import Box
    from napari_histolatent.slides import Slide, SlideInfo
    from napari_histolatent.training.load import LoadedClassifier

HEATMAP = "heatmap"

_FILE = "heatmap.ome.zarr"
_STATE = "heatmap_state.json"
_AREAS = "areas.wkb"
_BAND_PX = 256
"""Rows of the heatmap that are made, and remembered to be made, at once; also the side of the file's chunks."""
_SMALLEST_PX = 512
_AT_ONCE = 32
_BRIGHT_PERCENTILE = 99.5


@dataclass(frozen=True)
class RegionHeatmapConfig:
    """What is mapped, and how closely."""

    target: str = option("", "Class whose evidence is shown.")
    layer: str = option("", "Layer of the classifier whose maps are weighed; empty: its last.")
    overlap: int = option(
        2,
        "Tiles over each place, along one axis: 2 (half a tile apart, mixed), or 1 (side by side: quicker, with seams).",
    )
    min_tissue: float = option(0.1, "Least share of tissue in a tile, 0 to 1; 0 maps the glass, too.")

    def __post_init__(self) -> None:
        if self.overlap not in (1, 2):
            msg = f"An overlap of {self.overlap} is not possible; give 2 (tiles half a tile apart) or 1 (side by side)."
            raise UserError(msg)
        if not 0 <= self.min_tissue <= 1:
            msg = f"The least share of tissue has to lie between 0 and 1, not at {self.min_tissue:g}."
            raise UserError(msg)


@dataclass(frozen=True)
class RegionHeatmap:
    """A heatmap of a region, opened from its file."""

    path: Path
    levels: tuple[Any, ...]
    """zarr arrays of float32, (height, width), the finest first; NaN where no tile was looked at."""
    probability: NDArray[np.float32]
    """Of the target, of each tile of the grid, shape (rows, columns); NaN where none was looked at."""
    level0_box: tuple[float, float, float, float]
    """Left, top, right, bottom in level-0 pixels of level 0."""
    target: str
    layer: str
    maximum: float
    """The largest value of level 0, as the classifier's own maps have it."""
    bright: float
    """The value that 99.5 % of the coarsest level's are below: the upper end of a scale that shows something."""
    slide: str
    """Name of the slide's file."""
    slide_digest: str
    classifier_digest: str


def new_region_heatmap(
    slide: str | Path,
    classifier: str | Path,
    box: Box | None,
    config: RegionHeatmapConfig,
    *,
    areas: BaseGeometry | None = None,
    out: str | Path | None = None,
    slide_mpp: float | None = None,
    device: str = "auto",
) -> Run:
    """Make a run that will map a region; `runs.launch` starts it, and starts it again where it was stopped.

    Parameters
    ----------
    slide
        The slide's location.
    classifier
        A classifier's run, checkpoint or exported folder, or the word shipped.
    box
        Left, top, right, bottom of the region in level-0 pixels; what lies off the slide is left out. None: what the
        areas cover, or the whole slide without them.
    config
        What is mapped, and how closely.
    areas
        Polygons in level-0 pixels: tiles that touch none of them are left out.
    out
        Folder of the run, in which the file will be; None: one in the user's data folder.
    slide_mpp
        Micrometres per level-0 pixel, where the slide does not say.
    device
        Where to compute.

    Raises
    ------
    UserError
        If the slide or the classifier cannot be opened, the box is none or off the slide, or the folder cannot be made.
    """
    spec, packed = _spec_of(slide, classifier, box, config, areas, slide_mpp)
    name = f"{file_name_of(Path(slide).stem)}-{uuid4().hex[:8]}"
    folder = Path(out) if out else data_folder() / "heatmaps" / name
    run = Run.create(folder, kind=HEATMAP, spec=spec | {"device": device})
    _keep(run, packed)
    return run


def keep_areas(run: Run, areas: BaseGeometry) -> None:
    """Write the areas of a run anew: of one that was killed before it had them.

    Raises
    ------
    UserError
        If they cannot be written.
    """
    _keep(run, shapely.to_wkb(areas))


def _keep(run: Run, packed: bytes | None) -> None:
    if packed is not None:
        with writing_to(run.path), replacing(run.path / _AREAS) as part:
            part.write_bytes(packed)


def earlier_region_heatmap(request: str) -> Run | None:
    """Return the newest run of a request (see `region_request`), a finished one if there is any, or None."""
    same = [run for run in _known() if run.spec.get("request") == request]
    return next((run for run in same if is_mapped(run)), same[0] if same else None)


def region_heatmaps_of(slide_digest: str) -> list[Run]:
    """Return the runs that map or have mapped regions of a slide, newest first."""
    return [run for run in _known() if run.spec.get("slide_digest") == slide_digest]


def is_mapped(run: Run) -> bool:
    """Return whether a run has finished and its file is there."""
    return run.status().state == "finished" and (run.path / _FILE / "zarr.json").is_file()


def region_request(
    slide: str | Path,
    classifier: str | Path,
    box: Box | None,
    config: RegionHeatmapConfig,
    *,
    areas: BaseGeometry | None = None,
    slide_mpp: float | None = None,
) -> str:
    """Return a digest of what is asked for: runs that map the very same have it as their spec's `request`.

    The slide and the classifier are known by what they hold, not by where they are. See `new_region_heatmap`.
    """
    return str(_spec_of(slide, classifier, box, config, areas, slide_mpp)[0]["request"])


def _known() -> list[Run]:
    found = []
    for path in known_runs():
        try:
            run = Run(path)
        except UserError:
            continue
        if run.kind == HEATMAP:
            found.append(run)
    return found


def _spec_of(
    slide: str | Path,
    classifier: str | Path,
    box: Box | None,
    config: RegionHeatmapConfig,
    areas: BaseGeometry | None,
    slide_mpp: float | None,
) -> tuple[dict[str, Any], bytes | None]:
    """Return what a run's process needs to know, but for the device, and the areas as WKB."""
    from napari_histolatent.training.load import find_checkpoint

    with open_slide(slide, mpp=slide_mpp) as opened:
        inside, digest = box_on_slide(box, areas, opened.info), opened.info.digest
    checkpoint = find_checkpoint(classifier, kind="classifier")
    packed = None if areas is None else shapely.to_wkb(areas)
    wanted = {
        "box": list(inside),
        "config": asdict(config),
        "slide_mpp": slide_mpp,
        "slide_digest": digest,
        "areas_digest": None if packed is None else sha256(packed).hexdigest(),
    }
    spec = wanted | {
        # The process may be started again from elsewhere.
        "slide": str(Path(slide).absolute() if Path(slide).exists() else slide),
        "classifier": str(checkpoint.path.absolute()),
        "request": digest_of(wanted | {"classifier": checkpoint.digest}),
    }
    return spec, packed


def run_region_heatmap(
    run: Run,
    *,
    classifier: LoadedClassifier | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Do the work of a region's run folder, telling how it goes in its events; what is done is not done again.

    Parameters
    ----------
    run
        Of `new_region_heatmap`.
    classifier
        The run's, where it is loaded already.
    on_progress
        Called with (tiles done, tiles in all), besides the run's events.

    Raises
    ------
    UserError
        See `map_region`.
    """
    from napari_histolatent.training.load import load_classifier

    asked = _Asked.of(run)
    run.append(RunEvent("started", message="Opening the slide and the classifier"))
    classifier = classifier or load_classifier(asked.classifier, device=asked.device)
    with open_slide(asked.slide, mpp=asked.slide_mpp) as slide:

        def tell(done: int, total: int) -> None:
            with writing_to(run.path):
                run.append(RunEvent("progress", done, total))
            if on_progress:
                on_progress(done, total)

        finished = map_region(
            slide,
            classifier,
            asked.box,
            asked.config,
            areas=asked.areas,
            folder=run.path,
            on_progress=tell,
            should_stop=lambda: run.stop_requested,
        )
    status = run.status()
    if finished is None:
        message = "Stopped; start it again to go on where it was"
        run.append(RunEvent("stopped", status.step, status.steps, message=message))
        return
    facts = {
        "file": _FILE,
        "tiles": int(np.count_nonzero(~np.isnan(finished.probability))),
        "maximum": finished.maximum,
        "level0_box": list(finished.level0_box),
    }
    run.append(RunEvent("finished", status.steps, status.steps, data={"report": facts}))


@dataclass(frozen=True)
class _Asked:
    """What a run's spec says, which anybody may have written."""

    slide: str
    classifier: str
    box: Box
    areas: BaseGeometry | None
    config: RegionHeatmapConfig
    slide_mpp: float | None
    device: str

    @classmethod
    def of(cls, run: Run) -> _Asked:
        spec = run.spec
        try:
            config = json_field(spec, "config", dict)
            box = json_field(spec, "box", list)
            left, top, right, bottom = (json_field({"box": v}, "box", float) for v in box)
            mpp = spec.get("slide_mpp")
            has_areas = spec.get("areas_digest") is not None
            return cls(
                slide=json_field(spec, "slide", str),
                classifier=json_field(spec, "classifier", str),
                box=(left, top, right, bottom),
                areas=shapely.from_wkb((run.path / _AREAS).read_bytes()) if has_areas else None,
                config=RegionHeatmapConfig(
                    target=json_field(config, "target", str),
                    layer=json_field(config, "layer", str),
                    overlap=json_field(config, "overlap", int),
                    min_tissue=json_field(config, "min_tissue", float),
                ),
                slide_mpp=None if mpp is None else json_field(spec, "slide_mpp", float),
                device=json_field(spec, "device", str),
            )
        except ValueError as error:
            msg = f"{run.path / 'run.json'} lacks or garbles {error}; map the region anew."
            raise RunError(msg) from error
        except (OSError, shapely.GEOSException) as error:
            msg = f"The areas of the region in {run.path / _AREAS} cannot be read ({error}); map the region anew."
            raise RunError(msg) from error


def map_region(
    slide: Slide,
    classifier: LoadedClassifier,
    box: Box | None,
    config: RegionHeatmapConfig,
    *,
    folder: Path,
    areas: BaseGeometry | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RegionHeatmap | None:
    """Map a region into a file of a folder, going on where an earlier call was stopped or killed.

    Parameters
    ----------
    slide, box
        The region: left, top, right, bottom in level-0 pixels; None: what the areas cover, or the whole slide. Tiles
        are cut at the pixel size that the classifier learnt from; where that is not known, from level 0.
    classifier
        Whose maps are made.
    config
        What is mapped, and how closely.
    folder
        Where the file is made, and what remembers how far it is.
    areas
        Polygons in level-0 pixels: tiles that touch none of them are left out.
    on_progress
        Called with (tiles done, tiles in all).
    should_stop
        Asked every few tiles.

    Returns
    -------
    RegionHeatmap | None
        None if it was stopped.

    Raises
    ------
    UserError
        If the classifier has no such class or layer, the slide's pixels are more than 4 times as large as those it
        learnt from, there is no tile with tissue, what was begun is of another classifier or slide, or the disk
        refuses.
    """
    layer = _layer_of(classifier, config)
    plan = plan_region(slide, classifier, box, config, areas=areas)
    grid, wanted = plan.grid, plan.wanted
    facts = {
        "target": config.target,
        "layer": layer,
        "classifier_digest": classifier.checkpoint.digest,
        "slide": slide.info.path.name,
        "slide_digest": slide.info.digest,
        "level0_box": list(grid.level0_box),
        "overlap": grid.overlap,
        "min_tissue": config.min_tissue,
        "areas_digest": None if areas is None else sha256(shapely.to_wkb(areas)).hexdigest(),
    }
    with writing_to(folder):
        done = _begun(folder, facts)
        if done is None:
            _create(folder / _FILE, grid)
            done = 0
            write_json(folder / _STATE, {"bands": done, "facts": facts})
        total = plan.n_tiles
        tell = passing_through(on_progress or (lambda _done, _total: None))
        for band in range(done, _bands(grid)):
            first, last = band * _BAND_PX, min((band + 1) * _BAND_PX, grid.shape[0])
            before = int(wanted[: -(-first // grid.step_cells)].sum())
            is_whole = _map_band(
                slide,
                classifier,
                config,
                grid,
                wanted,
                rows=(first, last),
                file=folder / _FILE,
                on_tiles=lambda n, before=before: tell(min(before + n, total), total),  # type: ignore[misc]
                should_stop=should_stop,
            )
            if not is_whole:
                return None
            write_json(folder / _STATE, {"bands": band + 1, "facts": facts})
        _finish(folder / _FILE, grid, facts, slide.info)
    return open_region_heatmap(folder / _FILE)


def open_region_heatmap(path: str | Path) -> RegionHeatmap:
    """Open the heatmap that `map_region` made; a run's folder stands for the file in it.

    Raises
    ------
    UserError
        If there is none, it is not finished, or it is garbled.
    """
    import zarr

    path = Path(path)
    path = path / _FILE if (path / _FILE).is_dir() else path
    try:
        facts = json_field(
            json_field(read_json_object(path / "zarr.json"), "attributes", dict), "histolatent", dict
        )
        group = zarr.open_group(path, mode="r")
        box = [float(v) for v in json_field(facts, "level0_box", list)]
        if len(box) != 4:
            raise ValueError(f"'level0_box' ({box})")
        return RegionHeatmap(
            path=path,
            levels=tuple(group[str(i)] for i in range(json_field(facts, "levels", int, least=1, most=64))),
            probability=np.asarray(group["probability"][:]),
            level0_box=(box[0], box[1], box[2], box[3]),
            maximum=json_field(facts, "maximum", float, least=0),
            bright=json_field(facts, "bright", float, least=0),
            **{
                name: json_field(facts, name, str)
                for name in ("target", "layer", "slide", "slide_digest", "classifier_digest")
            },
        )
    except (DamagedJsonError, ValueError, KeyError, TypeError, OSError) as error:
        msg = f"{path} is no finished heatmap of a region ({error}); map the region again."
        raise UserError(msg) from error


# The work


def _layer_of(classifier: LoadedClassifier, config: RegionHeatmapConfig) -> str:
    """Return the name of the layer; that there is such a class and layer is seen before anything is read."""
    from napari_histolatent.explain.gradcam import layer_name

    classes = classifier.checkpoint.classes
    if config.target not in classes:
        msg = f"The classifier has no class {config.target!r}; its classes are {', '.join(classes)}."
        raise UserError(msg)
    return layer_name(classifier.network, config.layer or None)


def _bands(grid: RegionGrid) -> int:
    return -(-grid.shape[0] // _BAND_PX)


def _map_band(
    slide: Slide,
    classifier: LoadedClassifier,
    config: RegionHeatmapConfig,
    grid: RegionGrid,
    wanted: NDArray[np.bool_],
    *,
    rows: tuple[int, int],
    file: Path,
    on_tiles: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> bool:
    """Write some rows of the heatmap, and the probabilities of the tiles in them; return False if stopped."""
    import zarr

    from napari_histolatent.explain.region import CELLS

    first, last = rows
    reaching = [
        row
        for row in range(grid.rows)
        if row * grid.step_cells < last and row * grid.step_cells + CELLS > first
    ]
    probability = np.full((len(reaching), grid.columns), np.nan, np.float32)
    places = [(row, int(column)) for row in reaching for column in np.flatnonzero(wanted[row])]
    # Tiles that begin above were counted with the rows before.
    counted = [place for place in places if place[0] * grid.step_cells >= first]
    stopped = False

    def maps() -> Iterator[tuple[tuple[int, int], NDArray[np.float32]]]:
        nonlocal stopped
        for portion, found in _maps_of(slide, classifier, config, grid, places):
            for place, (values, chance) in zip(portion, found, strict=True):
                probability[place[0] - reaching[0], place[1]] = chance
                yield place, values
            on_tiles(sum(place <= portion[-1] for place in counted))
            stopped = stopped or should_stop()
            if stopped:
                return

    values = mixed(grid, maps(), first_row=first, n_rows=last - first)
    if stopped:
        return False
    group = zarr.open_group(file, mode="r+")
    group["0"][first:last] = values
    group["probability"][reaching[0] : reaching[-1] + 1] = probability
    return True


def _maps_of(
    slide: Slide,
    classifier: LoadedClassifier,
    config: RegionHeatmapConfig,
    grid: RegionGrid,
    places: list[tuple[int, int]],
) -> Iterator[tuple[list[tuple[int, int]], list[tuple[NDArray[np.float32], float]]]]:
    """Yield the maps and probabilities of tiles, some at a time; the next are read while these are computed."""
    from napari_histolatent.explain.gradcam import grad_cam
    from napari_histolatent.models.images import to_tensor

    def read(place: tuple[int, int]) -> NDArray[np.uint8]:
        return read_tile(slide, grid, place, classifier.network.size_px)

    portions = [places[start : start + _AT_ONCE] for start in range(0, len(places), _AT_ONCE)]
    with ThreadPoolExecutor(READERS) as readers:
        try:
            ahead = [readers.submit(read, place) for place in portions[0]] if portions else []
            for i, portion in enumerate(portions):
                pixels = np.stack([item.result() for item in ahead])
                ahead = [readers.submit(read, place) for place in (portions[i + 1 : i + 2] or [[]])[0]]
                found = grad_cam(
                    classifier.network,
                    to_tensor(pixels).to(classifier.device),
                    [config.target] * len(portion),
                    layer=config.layer or None,
                )
                yield portion, [(item.values, item.probability) for item in found]
        finally:
            readers.shutdown(cancel_futures=True)


# The file


def _begun(folder: Path, facts: dict[str, Any]) -> int | None:
    """Return how many bands an earlier call has made here, or None where nothing was begun.

    Raises
    ------
    UserError
        If it was of something else.
    """
    if not (folder / _STATE).exists():
        return None
    try:
        state = read_json_object(folder / _STATE)
        before, bands = json_field(state, "facts", dict), json_field(state, "bands", int, least=0)
    except ValueError as error:
        msg = f"{folder / _STATE} is garbled ({error}); map the region anew, in another folder."
        raise UserError(msg) from error
    other = [name for name, value in facts.items() if before.get(name) != value]
    if other:
        name = other[0]
        msg = f"The heatmap in {folder} was begun with another {name.replace('_', ' ')} ({before.get(name)}, now {facts[name]}); map the region anew, in another folder."
        raise UserError(msg)
    return bands


def _create(file: Path, grid: RegionGrid) -> None:
    import zarr

    # What a killed process began before it could say so goes.
    group = zarr.open_group(file, mode="w", zarr_format=3)
    chunk = _BAND_PX
    for name, shape in (("0", grid.shape), ("probability", (grid.rows, grid.columns))):
        group.create_array(
            name,
            shape=shape,
            dtype="float32",
            chunks=(chunk, chunk),
            fill_value=float("nan"),
            dimension_names=("y", "x"),
        )


def _finish(file: Path, grid: RegionGrid, facts: dict[str, Any], info: SlideInfo) -> None:
    """Add the coarser levels, and then what says that the file is whole."""
    import zarr

    group = zarr.open_group(file, mode="r+")
    shapes = [grid.shape]
    while max(shapes[-1]) > _SMALLEST_PX:
        finer, level = group[str(len(shapes) - 1)], len(shapes)
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
        array = group.create_array(
            str(level),
            shape=shapes[-1],
            dtype="float32",
            chunks=(_BAND_PX, _BAND_PX),
            fill_value=float("nan"),
            dimension_names=("y", "x"),
            overwrite=True,
        )
        for start in range(0, shapes[-1][0], _BAND_PX):
            array[start : start + _BAND_PX] = halved(finer[2 * start : 2 * (start + _BAND_PX)])
    finest, coarsest = group["0"], np.asarray(group[str(len(shapes) - 1)][:])
    maximum = max(
        float(np.nanmax(finest[start : start + _BAND_PX], initial=0))
        for start in range(0, grid.shape[0], _BAND_PX)
    )
    group.attrs["ome"] = {"version": "0.5", "multiscales": [_multiscale(grid, len(shapes), facts, info)]}
    group.attrs["histolatent"] = facts | {
        "levels": len(shapes),
        "maximum": maximum,
        "bright": float(np.nanpercentile(coarsest, _BRIGHT_PERCENTILE)),
        "tile_side_level0_px": list(grid.tile_side),
    }


def _multiscale(grid: RegionGrid, n_levels: int, facts: dict[str, Any], info: SlideInfo) -> dict[str, Any]:
    """Return the image's place as OME-NGFF 0.5 writes it: a translation is where the first pixel's middle lies."""
    unit = {"unit": "micrometer"} if info.mpp_x and info.mpp_y else {}
    per_px = (info.mpp_y or 1.0, info.mpp_x or 1.0)
    side, corner = grid.pixel_side[::-1], grid.origin[::-1]
    datasets = []
    for level in range(n_levels):
        pixel = [length * 2**level for length in side]
        # The middle of the slide's own first pixel lies at 0.
        middle = [start + length / 2 - 0.5 for start, length in zip(corner, pixel, strict=True)]
        scale = [length * um for length, um in zip(pixel, per_px, strict=True)]
        translation = [place * um for place, um in zip(middle, per_px, strict=True)]
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": scale},
                    {"type": "translation", "translation": translation},
                ],
            }
        )
    return {
        "name": f"Grad-CAM of {facts['target']} on {facts['slide']}",
        "axes": [{"name": name, "type": "space", **unit} for name in ("y", "x")],
        "datasets": datasets,
    }
