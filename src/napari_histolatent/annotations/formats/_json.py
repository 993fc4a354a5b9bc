"""JSON of annotation files: parsed fast, and refused in a sentence where it is none."""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

import numpy as np
import orjson

from napari_histolatent.annotations._chunks import collecting_later
from napari_histolatent.errors import AnnotationError

MAX_DEPTH = 64
"""Brackets within brackets: QuPath's deepest hierarchies need some 20."""

_BLOCK_BYTES = 1 << 20
_BATCH_BYTES = 1 << 17
"""Of features that are parsed at once: their lists of numbers stay in the processor's cache."""
_FEATURES = re.compile(rb'"features"\s*:\s*\[')


def parse_json(data: bytes, file_name: str) -> Any:
    """Return the value of a JSON file; NaN and Infinity, which JSON has not but Python writes, are read.

    In a long list of GeoJSON features, the rings of polygons come as arrays of shape (n, 2) and measurements as
    True: as lists and dictionaries, those of 200,000 nuclei take three times the time and memory.

    Raises
    ------
    AnnotationError
        If the bytes are empty, cut off, of another encoding, nested too deep, or not JSON.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    _require_text(data, file_name)
    nesting = _Nesting(data)
    _require_shallow(nesting, file_name)
    with collecting_later():
        try:
            in_batches = _parsed_in_batches(data, nesting)
            return orjson.loads(data) if in_batches is None else in_batches[0]
        except orjson.JSONDecodeError as error:
            return _second_try(data, file_name, error)


def parse_share(data: bytes, file_name: str, share: tuple[int, int]) -> tuple[list[Any], int] | None:
    """Return one share of a long list of GeoJSON features, for processes that read a file together.

    Parameters
    ----------
    data
        The whole file.
    file_name
        For messages.
    share
        Which share, counted from 0, and of how many.

    Returns
    -------
    tuple or None
        The features, and how many come before them; None if it is no such list, or not one without a fault.

    Raises
    ------
    AnnotationError
        If it is nested too deep.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    _require_text(data, file_name)
    nesting = _Nesting(data)
    _require_shallow(nesting, file_name)
    with collecting_later():
        found = _parsed_in_batches(data, nesting, share)
    if found is None:
        return None
    document, before = found
    return (document if isinstance(document, list) else document["features"]), before


def _require_shallow(nesting: _Nesting, file_name: str) -> None:
    if nesting.deepest > MAX_DEPTH:
        msg = (
            f"{file_name} is nested {nesting.deepest:,} levels deep, more than the {MAX_DEPTH} that annotations need; "
            "export it again from the program that drew it."
        )
        raise AnnotationError(msg)


def _require_text(data: bytes, file_name: str) -> None:
    if not data.strip():
        msg = f"{file_name} is empty ({len(data):,} bytes); copy or export it again."
        raise AnnotationError(msg)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:4]:
        msg = f"{file_name} is not in UTF-8 (it begins like UTF-16 or a binary file); save it as UTF-8."
        raise AnnotationError(msg)
    if data.lstrip()[:1] == b"<":
        msg = f"{file_name} is not JSON but looks like XML or HTML; download or export it again."
        raise AnnotationError(msg)


class _Nesting:
    """Where the brackets of a JSON text are, outside strings: how deep they go, and where its features end."""

    def __init__(self, data: bytes) -> None:
        if b"\\" in data:
            # Escapes blanked out, so that every quote left opens or closes a string.
            data = re.sub(rb"\\.", b"  ", data, flags=re.DOTALL)
        text = np.frombuffer(data, np.uint8)
        self.deepest = 0
        self.features_depth = 1 if data.lstrip()[:1] == b"[" else 2
        opened, objects, closed = [], [], []
        depth = in_string = 0
        for start in range(0, len(text), _BLOCK_BYTES):
            block = text[start : start + _BLOCK_BYTES]
            folded = block | 32  # of both kinds of bracket, the code of the braces
            places = np.flatnonzero((folded == ord("{")) | (folded == ord("}")) | (block == ord('"')))
            marks = block[places]
            quotes = marks == ord('"')
            parity = (
                np.cumsum(quotes, dtype=np.uint8) + np.uint8(in_string) & 1
            )  # may wrap: the last bit stays
            is_outside = ~quotes & (parity == 0)
            marks, places = marks[is_outside], places[is_outside] + start
            in_string = int(parity[-1]) if len(parity) else in_string
            if not len(marks):
                continue
            is_opening = (marks | 32) == ord("{")
            depths = depth + np.cumsum(np.where(is_opening, 1, -1), dtype=np.int32)
            self.deepest = max(self.deepest, int(depths.max()))
            depth = int(depths[-1])
            opened.append(places[(marks == ord("[")) & (depths == self.features_depth)])
            objects.append(places[(marks == ord("}")) & (depths == self.features_depth)])
            closed.append(places[(marks == ord("]")) & (depths == self.features_depth - 1)])
        self.lists_opened, self.objects_closed, self.lists_closed = (
            np.concatenate([*found, np.empty(0, np.int64)]).astype(np.int64)
            for found in (opened, objects, closed)
        )


def _parsed_in_batches(
    data: bytes, nesting: _Nesting, share: tuple[int, int] = (0, 1)
) -> tuple[Any, int] | None:
    """Return the value of a long list of features, or None where it is none, or a fault is to be told.

    Of the features those of one share, and how many come before them.
    """
    opened, closed = _features_between(data, nesting)
    ends = nesting.objects_closed
    ends = ends[(ends > opened) & (ends < closed)] + 1
    if opened < 0 or closed - opened < 2 * _BATCH_BYTES or not len(ends) or data[ends[-1] : closed].strip():
        return None
    # The last object's end within each batch, and the very last.
    cuts = ends[np.flatnonzero(np.diff(ends // _BATCH_BYTES, append=-1))].tolist()
    k, n = share
    begin, stop = len(cuts) * k // n, len(cuts) * (k + 1) // n
    starts = [opened + 1, *cuts]
    before = int(np.searchsorted(ends, starts[begin], side="right"))
    features: list[Any] = []
    try:
        document = orjson.loads(data[: opened + 1] + data[closed:])
        for start, end in zip(starts[begin:stop], cuts[begin:stop], strict=True):
            batch = orjson.loads(b"[" + data[start:end].lstrip().removeprefix(b",") + b"]")
            for feature in batch:
                _compact(feature)
            features += batch
    except orjson.JSONDecodeError:
        return None
    if isinstance(document, list):
        return features, before
    if document.get("features") != []:
        return None  # features of something else
    document["features"] = features
    return document, before


def _features_between(data: bytes, nesting: _Nesting) -> tuple[int, int]:
    """Return where the brackets of the list of features are, or -1 and -1."""
    if nesting.features_depth == 1:
        opened = len(data) - len(data.lstrip())
    else:
        found = _FEATURES.search(data)
        opened = found.end() - 1 if found else -1
    after = nesting.lists_closed[nesting.lists_closed > opened]
    if opened not in nesting.lists_opened or not len(after):
        return -1, -1
    return opened, int(after[0])


def _compact(feature: Any) -> None:
    """Replace the rings of a feature by arrays, and its measurements by a mark that it has some."""
    if not isinstance(feature, dict):
        return
    properties = feature.get("properties")
    if isinstance(properties, dict) and properties.get("measurements"):
        properties["measurements"] = True
    for geometry in (feature.get("geometry"), feature.get("nucleusGeometry")):
        if isinstance(geometry, dict) and geometry.get("type") == "Polygon":
            coordinates = geometry.get("coordinates")
            if isinstance(coordinates, list):
                geometry["coordinates"] = [_as_array(ring) for ring in coordinates]


def _as_array(ring: Any) -> Any:
    try:
        array = np.array(ring, np.float64)
    except (ValueError, TypeError, OverflowError):
        return ring
    return array if array.ndim == 2 and array.shape[1] == 2 else ring


def _second_try(data: bytes, file_name: str, error: orjson.JSONDecodeError) -> Any:
    """Return the value of JSON that holds NaN or Infinity, or raise the sentence for any other fault."""
    try:
        text = data.decode()
    except UnicodeDecodeError as wrong:
        line = data.count(b"\n", 0, wrong.start) + 1
        msg = (
            f"{file_name} is not in UTF-8: byte {wrong.start:,} (in line {line:,}) is 0x{data[wrong.start]:02x}; "
            "save it as UTF-8."
        )
        raise AnnotationError(msg) from error
    fault: ValueError = error
    # Python's own parser also takes numbers too large for a float: they cost their feature, not the file.
    if "NaN" in text or "Infinity" in text or "infinity" in error.msg:
        try:
            value = json.loads(text)
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            msg = f"{file_name} has half a character (a lone surrogate) in one of its texts; export it again."
            raise AnnotationError(msg) from error
        except ValueError as other:
            fault = other
        else:
            return value
    if not isinstance(fault, json.JSONDecodeError):
        msg = f"{file_name} holds a whole number of thousands of digits; export it again from the program that drew it."
        raise AnnotationError(msg) from error
    line, column, position = fault.lineno, fault.colno, fault.pos
    if position >= len(text.rstrip()):
        msg = f"{file_name} is cut off: it ends within a value, in line {line:,}; copy or export it again."
    else:
        msg = (
            f"{file_name} is not JSON: {fault.msg} in line {line:,}, column {column:,}; "
            "export it again from the program that drew it."
        )
    raise AnnotationError(msg) from error
