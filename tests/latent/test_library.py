from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from napari_histolatent._pictures import open_picture
from napari_histolatent.errors import UserError
from napari_histolatent.latent import LatentPoint
from napari_histolatent.latent.arithmetic import combine
from napari_histolatent.latent.directions import Direction
from napari_histolatent.latent.library import INDEX_FILE, Library
from napari_histolatent.latent.tuned import TunedWeights

if TYPE_CHECKING:
    from pathlib import Path

PIXELS = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
POINT = LatentPoint((0.5, -1.25), (0.0, 1.0), "abcd", origin="seed 1")
DIRECTION = Direction("darker", (0.6, 0.8), "measured", "abcd", {"feature": "haematoxylin"})
TILE = {"source": "slide.svs@200,300", "slide_digest": "5d", "x": 200, "y": 300, "mpp": 0.5, "seed": 3}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library")


@pytest.fixture
def filled(library: Library) -> Library:
    library.add("first", POINT, PIXELS, tags=["tumour", "with lumen"], provenance=TILE)
    library.add("second", replace(POINT, values=(1.0, 2.0)), 255 - PIXELS, tags=["tumour"])
    library.add("third", replace(POINT, values=(3.0, 4.0)), PIXELS)
    library.add_direction(DIRECTION)
    return library


def test_what_is_added_is_there_for_another_reader(filled: Library) -> None:
    other = Library(filled.folder)
    first, second, third = other.entries()
    assert [entry.name for entry in (first, second, third)] == ["first", "second", "third"]
    assert (first.point, first.tags, first.source) == (POINT, ("tumour", "with lumen"), "slide.svs@200,300")
    assert (first.slide_digest, first.centre) == ("5d", (200, 300))
    assert (second.slide_digest, second.centre, second.source) == (None, None, "seed 1")
    assert other.directions() == (DIRECTION,)
    assert other.direction("darker") == DIRECTION
    assert other.entry("second") == second
    np.testing.assert_array_equal(other.thumbnail(second), 255 - PIXELS)
    assert first.added.endswith("+00:00")


def test_a_thumbnail_says_that_it_is_synthetic(filled: Library) -> None:
    (path,) = (filled.folder / "points" / filled.entry("first").id).iterdir()
    _, says = open_picture(path)
    assert says["synthetic"] is True
    assert says["latent_point"] == json.loads(json.dumps(POINT.to_json()))
    assert (says["model_digest"], says["x"], says["name"]) == ("abcd", 200, "first")


def test_search(filled: Library) -> None:
    def names(*arguments: Any, **options: Any) -> list[str]:
        return [entry.name for entry in filled.search(*arguments, **options)]

    assert names() == ["first", "second", "third"]
    assert names("TUMOUR") == ["first", "second"]
    assert names("lumen fir") == ["first"]
    assert names("slide.svs") == ["first"]
    assert names(tag="tumour") == ["first", "second"]
    assert names("lumen", tag="other") == []
    assert filled.tags() == {"tumour": 2, "with lumen": 1}


def test_points_and_tags_go_into_arithmetic(filled: Library) -> None:
    found = combine("mean(tumour) - third", points=filled.points(), groups=filled.groups())
    assert found.norm_before == pytest.approx(np.linalg.norm([(0.5 + 1) / 2 - 3, (-1.25 + 2) / 2 - 4]))


def test_a_point_can_be_renamed_and_tagged_and_removed(filled: Library) -> None:
    first = filled.entry("first")
    changed = filled.change(first, name="  the  first ", tags=["odd", "odd"])
    assert (changed.name, changed.tags, changed.id) == ("the first", ("odd",), first.id)
    assert filled.entry("the first") == changed
    assert filled.change(changed, tags=()).tags == ()
    with pytest.raises(UserError, match="a point named 'second' already"):
        filled.change(changed, name="second")
    filled.remove(changed)
    assert [entry.name for entry in filled.entries()] == ["second", "third"]
    assert not (filled.folder / "points" / first.id).exists()
    filled.remove(changed)  # gone already
    with pytest.raises(UserError, match="'the first' is no longer in"):
        filled.change(changed, name="x")
    filled.remove_direction("darker")
    assert filled.directions() == ()


def test_a_name_is_taken_once(filled: Library) -> None:
    with pytest.raises(UserError, match="has a point named 'first' already; choose another name"):
        filled.add("first", POINT, PIXELS)
    with pytest.raises(UserError, match="has a direction named 'darker' already"):
        filled.add_direction(DIRECTION)
    assert len(list((filled.folder / "points").iterdir())) == 3


@pytest.mark.parametrize("name", ["", "  ", 'a"b', "a\x00b", "x" * 201])
def test_what_is_no_name_is_refused(library: Library, name: str) -> None:
    with pytest.raises(UserError, match="is no name for a point"):
        library.add(name, POINT, PIXELS)
    with pytest.raises(UserError, match="is no name for a tag"):
        library.add("good", POINT, PIXELS, tags=[name])
    assert not library.exists


def test_an_empty_library_has_nothing(library: Library) -> None:
    assert (library.entries(), library.directions(), library.exists) == ((), (), False)
    with pytest.raises(UserError, match="has no point named 'a'; its points are: none"):
        library.entry("a")
    assert not library.folder.exists()


def test_tuned_weights_are_kept_with_their_point(library: Library) -> None:
    tuned = TunedWeights.of({"w": np.arange(6.0, dtype=np.float32).reshape(2, 3)}, checkpoint_digest="abcd")
    point = replace(POINT, tuned_digest=tuned.digest)
    with pytest.raises(UserError, match="whose weights have to be given"):
        library.add("a", point, PIXELS)
    entry = library.add("a", point, PIXELS, tuned=tuned)
    again = Library(library.folder).tuned(entry)
    assert again is not None
    assert again.digest == tuned.digest
    np.testing.assert_array_equal(again.state["w"], tuned.state["w"])
    other = library.add("b", POINT, PIXELS)
    assert library.tuned(other) is None
    (library.folder / "points" / entry.id / "tuned.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"tuned\.safetensors"):
        library.tuned(entry)


def changed_index(library: Library, change: Any) -> None:
    path = library.folder / INDEX_FILE
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(change(saved)))


def with_entry(**fields: Any) -> Any:
    return lambda saved: saved | {"entries": [saved["entries"][0] | fields]}


@pytest.mark.parametrize(
    "change",
    [
        lambda _: [1, 2],
        lambda saved: saved | {"entries": None},
        lambda saved: saved | {"entries": [3]},
        lambda saved: saved | {"entries": [{}]},
        lambda saved: saved | {"entries": saved["entries"][:1] * 2},
        lambda saved: saved | {"directions": ["x"]},
        lambda saved: saved | {"directions": [{"name": "x"}]},
        with_entry(id="../../../etc"),
        with_entry(id="/tmp/abcdefab"),
        with_entry(id=12),
        with_entry(name=""),
        with_entry(name=["a"]),
        with_entry(tags="tumour"),
        with_entry(tags=["x" * 300]),
        with_entry(point={"values": "12"}),
        with_entry(point=None),
        with_entry(centre=[1]),
        with_entry(centre="here"),
    ],
)
def test_a_hostile_index_is_one_sentence(filled: Library, change: Any) -> None:
    changed_index(filled, change)
    before = (filled.folder / INDEX_FILE).read_bytes()
    with pytest.raises(UserError, match=r"cannot be read: index\.json"):
        filled.entries()
    with pytest.raises(UserError, match="cannot be read"):
        filled.add("new", POINT, PIXELS)
    assert (filled.folder / INDEX_FILE).read_bytes() == before


def test_a_newer_library_and_a_damaged_one(filled: Library) -> None:
    changed_index(filled, lambda saved: saved | {"format_version": 2})
    with pytest.raises(UserError, match="has format 2, this version reads 1; update"):
        filled.entries()
    (filled.folder / INDEX_FILE).write_bytes(b"\xff\x00")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        filled.entries()


def test_a_lost_thumbnail_is_one_sentence(filled: Library) -> None:
    entry = filled.entry("first")
    (filled.folder / "points" / entry.id / "thumbnail.png").unlink()
    with pytest.raises(UserError, match=r"thumbnail\.png cannot be opened"):
        filled.thumbnail(entry)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here first")
    with pytest.raises(UserError, match="a file is in the way"):
        Library(tmp_path / "file" / "library").add("a", POINT, PIXELS)


def test_a_point_that_cannot_be_written_leaves_the_library_as_it_was(
    filled: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_histolatent.latent.library.save_picture", full)
    with pytest.raises(UserError, match="the disk is full"):
        filled.add("new", POINT, PIXELS)
    assert len(filled.entries()) == len(list((filled.folder / "points").iterdir())) == 3
