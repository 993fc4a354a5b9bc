from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from napari_histolatent.training import ClassifierConfig, TrainingConfig
from napari_histolatent.training.card import CardFacts, DatasetFacts, SplitFacts, dataset_facts, model_card
from napari_histolatent.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

DIGEST, DATA_DIGEST = "a1" * 32, "b2" * 32
DATA = DatasetFacts(
    classes=("normal", "tumour"),
    splits=(SplitFacts("train", 7, 9, (40, 30)), SplitFacts("val", 2, 3, (11, 12))),
    patients=9,
    slides=12,
    split_by="patient",
    stain="reinhard",
)


def checkpoint_of(kind: str = "gan", *, mpp: float | None = 0.5, **changes: Any) -> Checkpoint:
    config = TrainingConfig(size_px=64) if kind == "gan" else ClassifierConfig(size_px=64)
    facts: dict[str, Any] = {
        "path": Path("nowhere"),
        "kind": kind,
        "step": 4000,
        "steps": 6000,
        "config": config.to_json(),
        "classes": ("normal", "tumour"),
        "size_px": 64,
        "mpp": mpp,
        "dataset_digest": DATA_DIGEST,
        "digest": DIGEST,
        "metrics": {"kid": 0.0123449, "pixel_sd": 0.31},
    }
    return Checkpoint(**{**facts, **changes})


def card_of(checkpoint: Checkpoint | None = None, **changes: Any) -> str:
    facts = CardFacts(checkpoint=checkpoint or checkpoint_of(), parameters=342179, prior="normal", z_dim=64)
    return model_card(replace(facts, **{"dataset": DATA, **changes}))


def section(card: str, title: str) -> str:
    """The text below a heading, up to the next."""
    _, found, rest = card.partition(f"\n## {title}\n")
    assert found, f"no section {title}"
    return rest.partition("\n## ")[0].strip()


def table(text: str) -> dict[str, list[str]]:
    """First cell -> the others, of the first table of a text."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_the_same_facts_give_the_same_text_in_another_process_without_torch() -> None:
    code = (
        "from tests.training.test_card import card_of; import sys; assert 'torch' not in sys.modules;"
        "sys.stdout.write(card_of(judges={'b': '2', 'a': '1'}))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "7", "PYTHONIOENCODING": "utf-8"},
    )
    assert other.stdout == card_of(judges={"a": "1", "b": "2"})


def test_all_sections_are_there_in_order_and_the_text_ends_with_one_line_end() -> None:
    card = card_of()
    titles = [line[3:] for line in card.splitlines() if line.startswith("## ")]
    assert titles == ["Intended use", "Limits", "Data", "Metrics", "Training", "Files", "Licence"]
    assert card.endswith("not stated\n")
    assert not card.endswith("\n\n")


def test_what_it_is() -> None:
    head = card_of().partition("\n## ")[0]
    assert head.startswith("# Model card: cdcgan generator, 64 px\n")
    assert "SYNTHETIC" in head
    assert "342,179 weights" in head
    assert "normal, tumour" in head
    assert "64 values, N(0, I)" in head
    assert f"`{DIGEST}`" in head
    assert "uniform on [-1, 1]" in card_of(prior="uniform")
    assert "none (unconditional)" in card_of(checkpoint_of(classes=()))


def test_a_classifier_draws_nothing() -> None:
    card = card_of(checkpoint_of("classifier"), prior="")
    assert card.startswith("# Model card: convnet classifier, 64 px\n")
    for word in ("SYNTHETIC", "Latent vector", "histolatent sample", "class shows what this model"):
        assert word not in card
        assert word in card_of()


@pytest.mark.parametrize(
    ("mpp", "assumed", "words"),
    [
        (0.5, None, "0.5 µm per px; field of view 32 x 32 µm"),
        (0.5, 0.25, "0.5 µm per px; field of view 32 x 32 µm"),  # what is known is not assumed
        (None, 0.25, "unknown, assumed 0.25 µm per px; field of view then 16 x 16 µm"),
        (None, None, "unknown; so is the field of view"),
    ],
)
def test_the_field_of_view(mpp: float | None, assumed: float | None, words: str) -> None:
    card = card_of(checkpoint_of(mpp=mpp), assumed_mpp=assumed)
    assert f"- Pixel size: {words}\n" in card
    assert ("nothing may be measured in micrometres" in section(card, "Limits")) == (mpp is None)


def test_what_was_assumed_for_an_earlier_export_is_not_known_in_a_later_one() -> None:
    card = card_of(checkpoint_of(mpp=0.5, metrics={"mpp_is_assumed": True}))
    assert "- Pixel size: unknown, assumed 0.5 µm per px; field of view then 32 x 32 µm\n" in card
    assert "nothing may be measured in micrometres" in section(card, "Limits")
    assert "mpp_is_assumed" not in card


def test_the_data() -> None:
    data = section(card_of(), "Data")
    assert "Patients: 9; slides: 12" in data
    assert "Splits drawn by: patient" in data
    assert "Stain normalisation: reinhard" in data
    assert DATA_DIGEST in data
    assert table(data) == {
        "split": ["patients", "slides", "normal", "tumour", "patches"],
        "---": ["---"] * 5,
        "train": ["7", "9", "40", "30", "70"],
        "val": ["2", "3", "11", "12", "23"],
    }


def test_data_that_are_gone_and_data_without_patients() -> None:
    gone = card_of(dataset=None)
    assert f"(digest `{DATA_DIGEST}`) was not at hand" in section(gone, "Data")
    assert "No held-out patches are known of" in section(gone, "Limits")
    anonymous = replace(DATA, patients=None, splits=(SplitFacts("train", None, 9, (40, 30)),))
    card = card_of(dataset=anonymous)
    assert "Patients: not stated" in section(card, "Data")
    assert table(section(card, "Data"))["train"] == ["not stated", "9", "40", "30", "70"]
    assert "name no patients" in section(card, "Limits")
    assert "No held-out patches are known of" in section(card, "Limits")
    assert "No held-out" not in card_of()


def test_metrics_judges_and_warnings() -> None:
    metrics = {
        "kid": 0.0123449,
        "nan": math.nan,
        "per_class": {"normal": 0.5},
        "gates": {"kid_random": 0.25},
        "warnings": ["Samples repeat each other."],
    }
    card = card_of(checkpoint_of(metrics=metrics), judges={"robust": "c3" * 32})
    text = section(card, "Metrics")
    assert table(text)["kid"][0] == "0.01234"
    assert "0 is best" in table(text)["kid"][1]
    assert table(text)["nan"][0] == "not stated"
    assert table(text)["gates: kid_random"][0] == "0.25"
    assert "seeded random network" in table(text)["gates: kid_random"][1]
    assert table(text)["per_class: normal"][0] == "0.5"
    assert f"| robust | `{'c3' * 32}` |" in text
    assert "\n- Samples repeat each other.\n" in text + "\n"
    assert section(card_of(checkpoint_of(metrics={})), "Metrics") == "None were measured."


def test_training_files_and_where_it_came_from() -> None:
    config = {**TrainingConfig(size_px=64).to_json(), "learning_rate": 0.0005, "of_another_version": 3}
    card = card_of(
        checkpoint_of(config=config),
        forked_from={"digest": "d4" * 32, "step": 1234},
        files={"model.safetensors": "e5" * 32},
        onnx_difference=3.21e-7,
        licence="CC-BY-4.0",
    )
    text = section(card, "Training")
    assert text.startswith("4000 of 6000 steps.")
    assert table(text)["learning_rate"][0] == "0.0005"
    assert "Patches per step." in table(text)["batch_size"][1]
    assert table(text)["of_another_version"] == ["3", ""]
    assert f"`{'d4' * 32}` at step 1234" in card
    assert f"| model.safetensors | `{'e5' * 32}` |" in section(card, "Files")
    assert "3.2e-07" in section(card, "Files")
    assert section(card, "Licence") == "CC-BY-4.0"
    assert "ONNX" not in card_of()


def test_no_folder_of_this_machine_is_told() -> None:
    config = {
        **TrainingConfig(size_px=64).to_json(),
        "judge": str(Path.home().absolute() / "secret" / "judge"),
    }
    text = section(card_of(checkpoint_of(config=config)), "Training")
    assert "secret" not in text
    assert table(text)["judge"][0] == "judge"


def test_names_cannot_break_the_page() -> None:
    wild = ("a|b", "c\n## d <script>")
    card = card_of(checkpoint_of(classes=wild), dataset=replace(DATA, classes=wild))
    assert [line for line in card.splitlines() if line.startswith("## d")] == []
    assert "<script>" not in card
    rows = [line for line in section(card, "Data").splitlines() if line.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {7}


class Table(dict[str, Any]):
    """Columns as a dataset has them."""


class StubDataset:
    def __init__(self, rows: list[tuple[str, str, str, str]], settings: Mapping[str, Any]) -> None:
        import numpy as np

        split, slide, patient, label = (np.array(column, object) for column in zip(*rows, strict=True))
        self.columns = Table(split=split, slide=slide, patient=patient)
        self.classes = ("normal", "tumour")
        self.labels = np.array([self.classes.index(name) for name in label])
        self.settings = settings


def test_patients_and_slides_are_counted_once_each() -> None:
    rows = [
        ("val", "s3", "p2", "tumour"),
        ("train", "s1", "p1", "normal"),
        ("train", "s1", "p1", "tumour"),
        ("train", "s2", "p1", "tumour"),
    ]
    settings = {"split_by": "patient", "stain": {"target": {"method": "macenko"}, "fits": {}}}
    facts = dataset_facts(StubDataset(rows, settings))  # type: ignore[arg-type]
    assert facts == DatasetFacts(
        classes=("normal", "tumour"),
        splits=(SplitFacts("train", 1, 2, (1, 2)), SplitFacts("val", 1, 1, (0, 1))),
        patients=2,
        slides=3,
        split_by="patient",
        stain="macenko",
    )


def test_a_patch_without_a_patient_leaves_their_number_open() -> None:
    rows = [("train", "s1", "p1", "normal"), ("train", "s2", "", "tumour"), ("val", "s3", "p2", "tumour")]
    facts = dataset_facts(StubDataset(rows, {"split": {"by": "slide"}, "stain": None}))  # type: ignore[arg-type]
    assert facts.patients is None
    assert [split.patients for split in facts.splits] == [None, 1]
    assert (facts.split_by, facts.stain) == ("slide", "")


def test_a_real_dataset(tiny_dataset: Path) -> None:
    from napari_histolatent.patches import PatchDataset

    dataset = PatchDataset(tiny_dataset)
    facts = dataset_facts(dataset)
    assert {split.name: dict(zip(dataset.classes, split.patches, strict=True)) for split in facts.splits} == {
        name: counts for name, counts in dataset.settings["counts"].items() if sum(counts.values())
    }
    assert facts.slides == 1
    assert facts.patients is None
    assert facts.split_by == dataset.settings["split_by"]


def test_a_kid_without_a_judge_claims_none() -> None:
    alone = {"kid": 0.25, "kid_random": 0.25, "kid_space": "random"}
    meaning = table(section(card_of(checkpoint_of(metrics=alone)), "Metrics"))["kid"][1]
    assert "there was no judge" in meaning
    judged = {"kid": 0.125, "kid_random": 0.25, "kid_space": "judge"}
    meaning = table(section(card_of(checkpoint_of(metrics=judged)), "Metrics"))["kid"][1]
    assert "in the judge's features" in meaning
    text = section(card_of(judges={"random": "c3" * 32}), "Metrics")
    assert "| network | digest |" in text
    assert "judge" not in text
