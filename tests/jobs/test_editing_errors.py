"""What can go wrong with an edit: which sentence it is, and which test holds it.

Commands are `invert`, `flip`, `interpolate`, `arithmetic` and `gradcam`; paths are those below `tests`. A refusal is
one sentence and leaves nothing behind; what is only said is a remark of the tile, on stderr and in the report.

| what | what is done | jobs | command line | Edit dock |
|---|---|---|---|---|
| a generator without classes is to flip | refused | jobs/test_edits.py::test_a_generator_without_classes_cannot_flip | test_cli_editing.py::test_a_generator_without_classes_cannot_flip_but_can_search | _napari/widgets/test_edit_binding.py::test_a_generator_without_classes_searches_and_draws_but_cannot_flip |
| a flip to the class that the tile has | refused; of several tiles the others are flipped | jobs/test_edits.py::test_a_flip_to_the_tiles_own_class_is_refused | test_cli_editing.py::test_a_flip_to_the_class_a_tile_already_has_is_told, test_cli_editing.py::test_a_flip_to_the_class_that_is_searched_is_refused_before_the_search | not offered: _napari/editing/test_edits.py::test_an_edit_goes_towards_the_other_classes |
| classifier and generator of different classes | refused, both named | jobs/test_seeing.py::test_other_classes_are_refused_and_both_models_named | test_cli.py::test_a_classifier_of_other_classes_is_refused | _napari/widgets/test_edit_binding.py::test_a_generator_is_not_paired_with_a_classifier_of_other_classes |
| classifier of another pixel size | resampled, said | jobs/test_seeing.py::test_a_tile_of_another_pixel_size_is_resampled_and_that_is_said, jobs/test_seeing.py::test_a_pixel_size_that_the_classifiers_card_assumes_is_called_so | test_cli_editing.py::test_a_classifier_of_another_pixel_size_is_shown_tiles_resampled_and_that_is_said | |
| the same, more than 4 times | refused before any search; passed over where nobody named it | jobs/test_seeing.py::test_a_classifier_of_pixels_too_far_apart_is_no_match, jobs/test_companions.py::test_one_of_pixels_too_far_apart_is_taken_only_where_it_is_named_and_then_refused | test_cli_editing.py::test_a_classifier_of_pixels_too_far_apart_is_refused_before_any_search | |
| a picture of another pixel size | resampled, said | jobs/test_tiles.py::test_a_resampled_picture_says_so | test_cli_editing.py::test_a_picture_of_another_size_is_resampled_and_that_is_said | |
| the same, more than 4 times | refused | jobs/test_tiles.py::test_pixel_sizes_more_than_four_times_apart_are_refused, jobs/test_tiles.py::test_scanners_that_miss_a_round_pixel_size_by_little_are_not_refused | | |
| a picture of unknown pixel size | taken as one tile of the size that the model's card says or assumes, said | jobs/test_tiles.py::test_a_plain_picture_of_another_size_is_taken_as_one_tile | test_cli_editing.py::test_a_picture_of_another_size_is_resampled_and_that_is_said | |
| the same, no square or more than 4 times | refused | jobs/test_tiles.py::test_what_cannot_be_one_tile_is_refused | | |
| a slide of another pixel size | its nearest level is resampled, said | jobs/test_tiles.py::test_a_tile_of_another_pixel_size_than_any_level_says_so, jobs/test_tiles.py::test_a_level_of_the_models_pixel_size_is_read_as_it_is_stored | test_cli_editing.py::test_a_tile_at_the_rim_of_a_slide_of_another_pixel_size_says_both | |
| a slide more than 4 times too coarse | refused | jobs/test_tiles.py::test_a_slide_that_is_too_coarse_is_refused | | |
| a slide of unknown pixel size | refused unless it is stated; the dock cuts level 0, said | jobs/test_tiles.py::test_a_slide_without_a_pixel_size_is_refused_unless_it_is_stated, jobs/test_tiles.py::test_where_neither_pixel_size_is_known_that_is_said | | |
| a tile partly off the slide | said, with its share | jobs/test_tiles.py::test_a_tile_partly_off_the_slide_says_how_much | test_cli_editing.py::test_a_tile_at_the_rim_of_a_slide_of_another_pixel_size_says_both | |
| a blank tile | said | jobs/test_tiles.py::test_a_blank_tile_is_called_so | test_cli_editing.py::test_a_blank_tile_and_one_of_another_stain_are_remarked_on | |
| a tile of another stain | said; its colours are changed on request | jobs/test_stains.py::test_a_tile_of_the_same_stain_passes_and_another_is_remarked_on, jobs/test_stains.py::test_on_request_a_tile_gets_the_known_colours | test_cli_editing.py::test_a_blank_tile_and_one_of_another_stain_are_remarked_on | _napari/widgets/test_edit_binding.py::test_a_tile_is_cut_again_with_the_generators_colours |
| NaN during the search | refused | latent/test_invert.py::test_an_error_that_is_lost_on_the_way_is_refused, latent/test_invert.py::test_a_search_that_never_has_an_error_is_refused | test_cli_editing.py::test_a_search_that_leaves_the_numbers_is_one_sentence | _napari/widgets/test_edit_binding.py::test_a_search_that_fails_is_one_sentence_and_the_next_works |
| the checkpoint is deleted meanwhile | what is loaded goes on | jobs/test_edits.py::test_networks_that_are_loaded_need_their_files_no_more | test_cli_editing.py::test_a_checkpoint_that_was_deleted_is_one_sentence | _napari/widgets/test_edit_binding.py::test_a_checkpoint_that_is_deleted_meanwhile_stops_nothing_that_is_loaded |
| napari is closed during a search | the search ends | | | _napari/widgets/test_edit_binding.py::test_a_search_ends_with_its_dock, _napari/test_closing.py::test_a_window_that_is_closed_ends_the_reverse_search |
| an expression with a missing name | refused, with the column and what there is | latent/test_arithmetic.py::test_a_fault_says_where_it_is | test_cli_editing.py::test_a_wrong_word_is_one_sentence_and_leaves_nothing | _napari/widgets/test_arithmetic.py::test_an_expression_that_cannot_be_drawn_is_marked_and_shows_nothing |
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from napari_histolatent.errors import UserError
from napari_histolatent.jobs import edits
from napari_histolatent.jobs.tiles import Tile, cut_tile, open_tile
from napari_histolatent.latent.library import Library

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari_histolatent.slides import Slide
    from napari_histolatent.training.load import LoadedClassifier, LoadedGenerator

NAMED = re.findall(r"([\w/]+\.py)::(\w+)", __doc__ or "")


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_the_table_names_tests_that_exist(file: str, test: str) -> None:
    text = (Path(__file__).parents[1] / file).read_text()
    assert f"def {test}(" in text


def test_every_refusal_is_one_sentence_that_says_what_to_do(
    generator: LoadedGenerator,
    classifier: LoadedClassifier,
    slide_of: Callable[..., Slide],
    tmp_path: Path,
) -> None:
    """All of them in one test, side by side: they are to read alike."""
    (sample,) = edits.sample_tiles(generator, 1, label="stroma", seed=0)
    without = replace(generator, checkpoint=replace(generator.checkpoint, classes=()))
    of_others = replace(classifier, checkpoint=replace(classifier.checkpoint, classes=("tumour", "fat")))
    coarser = replace(classifier, checkpoint=replace(classifier.checkpoint, mpp=8.0))
    slide = slide_of(np.zeros((64, 64, 3), np.uint8), mpp=(8.0, 8.0))
    Image.new("RGB", (300, 300)).save(tmp_path / "large.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "oblong.png")
    library = Library(tmp_path / "library")
    edits.add_to_library(library, sample, name="a")
    lost = Tile("lost", np.full((32, 32, 3), 90, np.uint8))
    network: Any = _Broken(generator.network)
    broken = replace(generator, network=network)
    refused: list[Callable[[], object]] = [
        lambda: edits.flip_tile(without, sample, to="stroma"),
        lambda: edits.flip_tile(generator, sample, to="stroma"),
        lambda: edits.require_match(generator, of_others),
        lambda: edits.require_match(generator, coarser),
        lambda: cut_tile(slide, (32, 32), size_px=32, mpp=1.0),
        lambda: cut_tile(slide, (99, 32), size_px=32, mpp=1.0),
        lambda: open_tile(str(tmp_path / "large.png"), size_px=32, mpp=1.0),
        lambda: open_tile(str(tmp_path / "oblong.png"), size_px=32, mpp=1.0),
        lambda: edits.reverse_search(broken, [lost], label="stroma", method="fast", steps=1),
        lambda: edits.arithmetic_tile(generator, "a + b", library),
        lambda: edits.flip_tile(generator, lost, to="stroma"),
    ]
    for call in refused:
        with pytest.raises(UserError) as caught:
            call()
        said = str(caught.value)
        assert re.fullmatch(r"[^;\n]+; [^;\n]+\.", said), said
        assert not re.search(r"\. [A-Z]", said), said


class _Broken:
    """A generator whose images are no numbers."""

    def __init__(self, network: Any) -> None:
        self._network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def synthesize(self, w: Any) -> Any:
        return self._network.synthesize(w) * float("nan")
