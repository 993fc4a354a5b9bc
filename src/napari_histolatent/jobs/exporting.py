"""A path of frames as files: film (MP4, GIF), PNG strip, table of probabilities (CSV). All of them say SYNTHETIC."""

from __future__ import annotations

import csv
import io
import json
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from napari_histolatent._files import file_name_of, replacing
from napari_histolatent._pictures import enlarged, marked, save_picture, strip
from napari_histolatent.errors import UserError, writing_to

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from napari_histolatent.jobs.tiles import Tile

FORMATS: tuple[str, ...] = ("strip", "gif", "mp4", "csv")
"""strip: the frames side by side, PNG; gif, mp4: films; csv: what the classifier sees in each frame."""

_SUFFIX = {"strip": "_strip.png", "gif": ".gif", "mp4": ".mp4", "csv": ".csv"}
_LEAST_FILM_PX = 256
_FPS = 15.0
_LEAST_FPS = 0.01
"""A GIF counts hundredths of a second, 65,535 at most."""
_MOST_FPS = 120.0

_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"crf": "10"},
    "libopenh264": {"b": "8000000"},
    "mpeg4": {"b": "8000000", "qmax": "3"},
}
"""H.264 and, where FFmpeg was built without it, MPEG-4: the first one there is taken. The options (b: bits a second)
are for pictures to be looked at closely: errors of a grey level or two."""
_VIDEO_RANGE, _BT_709, _BT_601 = 1, 1, 6
"""Samples of 16 to 235, primaries and transfer as of sRGB, and the matrix that players which do not look take for
films of this size (ITU-T H.273, tables 2 to 4)."""


def export_frames(
    folder: Path,
    name: str,
    frames: Sequence[Tile],
    *,
    formats: Sequence[str] = FORMATS,
    probabilities: Sequence[Mapping[str, float]] | None = None,
    provenance: Mapping[str, Any] | None = None,
    fps: float = _FPS,
) -> dict[str, Path]:
    """Write a path of frames in several formats and return the file of each.

    Films and strips carry the word SYNTHETIC in their corner, and every file the provenance: model digest, seed,
    latent points, source slide and position.

    Parameters
    ----------
    folder
        Where to; made if needed.
    name
        Of the files, without their endings.
    frames
        In their order; all of one size.
    formats
        Some of `FORMATS`.
    probabilities
        What the classifier sees in each frame; None: the table has none.
    provenance
        Added to that of the first frame.
    fps
        Frames a second of a film.

    Raises
    ------
    UserError
        If a format is unknown, there are no frames or fps is not a speed, a film cannot be encoded (then no file is
        written), or the files cannot be written.
    """
    for wanted in formats:
        if wanted not in FORMATS:
            msg = f"There is no export format {wanted!r}; choose from {', '.join(FORMATS)}."
            raise UserError(msg)
    if not frames:
        msg = "There are no frames to export; make a path first."
        raise UserError(msg)
    if not _LEAST_FPS <= fps <= _MOST_FPS:
        msg = f"A film of {fps:g} frames a second is not possible; give a number from {_LEAST_FPS:g} to {_MOST_FPS:g}."
        raise UserError(msg)
    says = provenance_of(frames) | dict(provenance or {})
    film = _film(frames, says) if {"gif", "mp4"} & set(formats) else []
    # All of them before the first is written: a film that cannot be encoded leaves nothing behind.
    made: dict[str, bytes] = {}
    for wanted in formats:
        if wanted == "csv":
            made[wanted] = _table(frames, probabilities).encode()
        elif wanted == "gif":
            made[wanted] = _gif(film, fps, says)
        elif wanted == "mp4":
            made[wanted] = _mp4(film, fps, says)
    files = {}
    for wanted in dict.fromkeys(formats):
        path = folder / f"{file_name_of(name)}{_SUFFIX[wanted]}"
        if wanted == "strip":
            save_picture(path, _marked_as_is(strip([tile.pixels for tile in frames]), says), says)
        else:
            _write(path, made[wanted])
        files[wanted] = path
    return files


def provenance_of(frames: Sequence[Tile]) -> dict[str, Any]:
    """Return what files of several frames say of them."""
    return frames[0].provenance | {
        "synthetic": any(tile.synthetic for tile in frames),
        "frames": len(frames),
        "last_latent_point": frames[-1].point.to_json() if frames[-1].point else None,
    }


def _marked_as_is(pixels: NDArray[np.uint8], says: Mapping[str, Any]) -> NDArray[np.uint8]:
    return marked(pixels) if says["synthetic"] else pixels


def _film(frames: Sequence[Tile], says: Mapping[str, Any]) -> list[NDArray[np.uint8]]:
    """Return the frames large enough to be looked at, of even sides, as films need them."""
    height, width = frames[0].pixels.shape[:2]
    factor = max(1, -(-_LEAST_FILM_PX // max(height, width)))
    pictures = []
    for tile in frames:
        large = enlarged(tile.pixels, factor)
        large = np.pad(large, ((0, large.shape[0] % 2), (0, large.shape[1] % 2), (0, 0)), mode="edge")
        pictures.append(_marked_as_is(large, says))
    return pictures


def _gif(pictures: Sequence[NDArray[np.uint8]], fps: float, says: Mapping[str, Any]) -> bytes:
    """Return a GIF that goes round; 256 colours for all frames together, so that none flickers."""
    every = np.concatenate(list(pictures))
    palette = Image.fromarray(every).quantize(256, method=Image.Quantize.MEDIANCUT)
    images = [
        Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures
    ]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        # In milliseconds, of which the file keeps whole hundredths of a second; viewers slow down what is below two.
        duration=10 * max(2, round(100 / fps)),
        loop=0,
        comment=json.dumps(dict(says)).encode(),
    )
    return buffer.getvalue()


def _mp4(pictures: Sequence[NDArray[np.uint8]], fps: float, says: Mapping[str, Any]) -> bytes:
    """Return a film, H.264 where there is an encoder for it, whose metadata say what it shows.

    Raises
    ------
    UserError
        If PyAV is not installed, there is no encoder, or it refuses the pictures.
    """
    try:
        import av
    except ImportError as error:
        msg = "MP4 films need the package av, which is not installed; run `pip install 'napari-histolatent[video]'`, or export a gif instead."
        raise UserError(msg) from error

    height, width = pictures[0].shape[:2]
    name = _encoder()
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="mp4") as file:
            file.metadata.update(_said_in_mp4(says))
            # MPEG-4 counts 65,535 ticks a second at most.
            rate = Fraction(fps).limit_denominator(500)
            stream = cast("VideoStream", file.add_stream(name, rate=rate, options=_ENCODERS[name]))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            codec = stream.codec_context
            codec.color_range, codec.colorspace = _VIDEO_RANGE, _BT_601
            codec.color_primaries, codec.color_trc = _BT_709, _BT_709
            for picture in pictures:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    except av.FFmpegError as error:
        msg = f"A film of {width} x {height} px cannot be encoded by {name} ({error.strerror or error}); export a gif instead of mp4."
        raise UserError(msg) from error
    return buffer.getvalue()


def _encoder() -> str:
    """Return the first of the encoders that this FFmpeg has."""
    import av

    for name in _ENCODERS:
        try:
            av.Codec(name, "w")
        except ValueError:
            continue
        return name
    msg = f"PyAV {av.__version__} has no encoder for MP4 films ({', '.join(_ENCODERS)}); export a gif instead, or install PyAV from PyPI."
    raise UserError(msg)


def _said_in_mp4(says: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of a film: the comment in words, which players show, and all of it as JSON."""
    words = {"description": json.dumps(dict(says))}
    if says["synthetic"]:
        digest = says.get("model_digest") or "unknown"
        words["comment"] = (
            f"SYNTHETIC: drawn by a generative model (digest {digest}), not tissue that was scanned"
        )
    return words


def _table(frames: Sequence[Tile], probabilities: Sequence[Mapping[str, float]] | None) -> str:
    """Return a line a frame: where on the path, what it is, what it is drawn from, what the classifier sees."""
    classes = list(probabilities[0]) if probabilities else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["frame", "name", "synthetic", "source", "model_digest", "seed", "class_weights", "z"]
        + [f"probability_{name}" for name in classes]
    )
    for i, tile in enumerate(frames):
        point = tile.point
        row = [
            i,
            tile.name,
            "SYNTHETIC" if tile.synthetic else "",
            tile.source,
            point.checkpoint_digest if point else "",
            "" if tile.seed is None else tile.seed,
            " ".join(f"{v:.6g}" for v in point.class_weights) if point else "",
            " ".join(f"{v:.8g}" for v in point.values) if point else "",
        ]
        writer.writerow(row + ([probabilities[i][name] for name in classes] if probabilities else []))
    return text.getvalue()


def _write(path: Path, data: bytes) -> None:
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(data)
