from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from napari_histolatent.errors import CheckpointError, RunError, UserError
from napari_histolatent.models.protocols import Classifier, Generator
from napari_histolatent.training import load as load_module
from napari_histolatent.training import shipped
from napari_histolatent.training.checkpoint import latest_checkpoint
from napari_histolatent.training.load import find_checkpoint, load_classifier, load_generator

if TYPE_CHECKING:
    from collections.abc import Callable

loaders = pytest.mark.parametrize(
    ("load", "run"), [(load_generator, "gan_run"), (load_classifier, "classifier_run")]
)


@pytest.fixture
def copied(request: pytest.FixtureRequest, run: str, tmp_path: Path) -> Path:
    """A run of the test's own, to damage."""
    return Path(shutil.copytree(request.getfixturevalue(run), tmp_path / "run"))


def newest(run: Path) -> Path:
    return latest_checkpoint(run / "checkpoints").path


def change_config(run: Path, **changes: Any) -> None:
    file = newest(run) / "checkpoint.json"
    info = json.loads(file.read_text())
    info["config"] |= changes
    file.write_text(json.dumps(info))


@pytest.mark.parametrize("as_text", [False, True])
def test_a_generator_ready_for_use(gan_run: Path, patches: Any, as_text: bool) -> None:
    loaded = load_generator(str(gan_run) if as_text else gan_run, device="cpu")
    assert isinstance(loaded.network, Generator)
    assert (loaded.network.classes, loaded.network.size_px) == (patches.classes, 16)
    assert loaded.checkpoint == latest_checkpoint(gan_run / "checkpoints")
    assert loaded.device == torch.device("cpu")


def test_a_classifier_ready_for_use(classifier_run: Path, patches: Any) -> None:
    loaded = load_classifier(classifier_run, device="cpu")
    assert isinstance(loaded.network, Classifier)
    assert (loaded.network.classes, loaded.network.size_px) == (patches.classes, 16)
    assert loaded.checkpoint == latest_checkpoint(classifier_run / "checkpoints")


@loaders
def test_the_weights_are_those_on_disk_and_frozen(load: Callable[..., Any], copied: Path) -> None:
    network = load(copied, device="cpu").network
    state = load_file(newest(copied) / "model.safetensors")
    assert state.keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())


def test_the_generator_is_the_moving_average(gan_run: Path) -> None:
    network = load_generator(gan_run, device="cpu").network
    state = load_file(newest(gan_run) / "training.safetensors")
    assert not torch.equal(network.state_dict()["seed.weight"], state["module.generator.seed.weight"])


@loaders
def test_a_checkpoint_can_be_named_itself(load: Callable[..., Any], copied: Path) -> None:
    *_, older, newer = sorted((copied / "checkpoints").iterdir())  # and perhaps the best one
    assert load(older, device="cpu").checkpoint.step == 4
    assert load(newer, device="cpu").checkpoint.step == 6
    assert load(copied, device="cpu").checkpoint.path == newer


@loaders
def test_a_checkpoint_that_was_copied_elsewhere(
    load: Callable[..., Any], copied: Path, tmp_path: Path
) -> None:
    alone = newest(copied).rename(tmp_path / "exported")
    shutil.rmtree(copied)
    (alone / "training.safetensors").unlink()  # only training needs it
    assert load(alone, device="cpu").checkpoint.path == alone


@pytest.mark.parametrize(
    ("load", "run", "sentence"),
    [
        (
            load_generator,
            "classifier_run",
            "holds a classifier, where a generator is needed; name another run",
        ),
        (load_classifier, "gan_run", "holds a gan, where a classifier is needed; name another run"),
    ],
)
def test_the_wrong_kind_is_refused(load: Callable[..., Any], copied: Path, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        load(copied, device="cpu")


@pytest.mark.parametrize("load", [load_generator, load_classifier, find_checkpoint])
def test_shipped_is_refused_as_long_as_there_is_none(
    load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "_root", lambda: tmp_path)
    with pytest.raises(CheckpointError, match=r"^This version ships no trained model yet; name a run folder"):
        load("shipped")


@pytest.mark.parametrize("load", [load_generator, load_classifier])
def test_what_is_no_run_is_refused(load: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"elsewhere is not a run folder \(run\.json is missing\)"):
        load(tmp_path / "elsewhere")


@loaders
def test_a_run_without_a_checkpoint_is_refused(load: Callable[..., Any], copied: Path) -> None:
    shutil.rmtree(copied / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        load(copied)


@loaders
def test_an_absent_device_is_refused(load: Callable[..., Any], copied: Path) -> None:
    with pytest.raises(UserError, match="'cuda:99' is not on this machine"):
        load(copied, device="cuda:99")


@loaders
def test_broken_weights_are_refused(load: Callable[..., Any], copied: Path) -> None:
    for file in copied.glob("checkpoints/*/model.safetensors"):
        file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read as safetensors"):
        load(copied, device="cpu")


@loaders
def test_weights_of_another_width_are_refused(load: Callable[..., Any], copied: Path) -> None:
    change_config(copied, base_channels=8)
    with pytest.raises(CheckpointError, match="are not those of the network"):
        load(copied, device="cpu")


@loaders
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network": "stylegan9"}, "named 'stylegan9'; choose one of"),
        ({"blur": 3}, "unknown fields blur; update napari-histolatent"),
    ],
)
def test_settings_of_a_newer_version_are_refused(
    load: Callable[..., Any], copied: Path, changes: dict[str, Any], sentence: str
) -> None:
    change_config(copied, **changes)
    with pytest.raises(UserError, match=sentence):
        load(copied, device="cpu")


@pytest.fixture
def built_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the devices on which networks are built from now on."""
    devices: list[str] = []

    def watched(build: Callable[..., Any]) -> Callable[..., Any]:
        def built(*args: Any, **options: Any) -> Any:
            devices.append(torch.empty(0).device.type)
            return build(*args, **options)

        return built

    for name in ("build_gan", "build_classifier", "build_encoder"):
        monkeypatch.setattr(load_module, name, watched(getattr(load_module, name)))
    return devices


@loaders
@pytest.mark.parametrize("width", [8, 1024])
def test_the_header_of_the_weights_is_looked_at_before_memory_is_taken(
    load: Callable[..., Any], copied: Path, built_on: list[str], width: int
) -> None:
    load(copied, device="cpu")
    assert built_on == ["meta", "cpu"]
    # BUG: a checkpoint.json was believed, and a network of some gigabytes built, before its weights were opened.
    change_config(copied, base_channels=width)
    with pytest.raises(CheckpointError, match="are not those of the network"):
        load(copied, device="cpu")
    assert built_on == ["meta", "cpu", "meta"]


@pytest.mark.parametrize(
    ("load", "run", "changes"),
    [
        (load_generator, "gan_run", {"config": {"z_dim": 10**9}}),
        (load_generator, "gan_run", {"config": {"base_channels": 10**6}}),
        (load_generator, "gan_run", {"config": {"base_channels": 2**62}}),
        (load_generator, "gan_run", {"config": {"z_dim": 4096}}),
        (load_generator, "gan_run", {"size_px": 2**40}),
        (load_generator, "gan_run", {"size_px": 2048}),
        (load_generator, "gan_run", {"size_px": 17}),
        (load_generator, "gan_run", {"classes": [str(i) for i in range(10**4)]}),
        (load_generator, "gan_run", {"classes": []}),
        (load_generator, "gan_run", {"config": {"network": "dcgan"}}),
        (load_generator, "gan_run", {"config": {"network": ["cdcgan"]}}),
        (load_generator, "gan_run", {"config": {"design": "s1"}}),
        (load_classifier, "classifier_run", {"config": {"base_channels": 10**6}}),
        (load_classifier, "classifier_run", {"size_px": 10**9}),
        (load_classifier, "classifier_run", {"classes": [str(i) for i in range(1000)]}),
        (load_classifier, "classifier_run", {"classes": []}),
        (load_classifier, "classifier_run", {"config": {"size_px": None}}),
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value)[:40],  # workers have to agree on them
)
def test_sizes_that_anybody_may_have_written_are_a_sentence_and_take_no_memory(
    load: Callable[..., Any], copied: Path, changes: dict[str, Any], built_on: list[str]
) -> None:
    file = newest(copied) / "checkpoint.json"
    info = json.loads(file.read_text())
    config = info["config"] | changes.get("config", {})
    file.write_text(json.dumps(info | changes | {"config": config}))
    with pytest.raises(UserError) as caught:
        load(copied, device="cpu")
    assert len(str(caught.value)) < 500
    assert "cpu" not in built_on


@loaders
@pytest.mark.parametrize("dtype", ["F4", "NO", "C64", "F8_E8M0", "BOOL", 3])
def test_weights_of_strange_types_are_refused(load: Callable[..., Any], copied: Path, dtype: object) -> None:
    place = newest(copied)
    content = (place / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for tensor in header.values():
        tensor["dtype"] = dtype
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + content[8 + length :]
    (place / "model.safetensors").write_bytes(content)
    info = json.loads((place / "checkpoint.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    (place / "checkpoint.json").write_text(json.dumps(info | {"digest": digest}))
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read as safetensors"):
        load(place, device="cpu")
