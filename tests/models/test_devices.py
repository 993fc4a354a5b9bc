from __future__ import annotations

import pytest
import torch

from napari_histolatent.errors import UserError
from napari_histolatent.models.devices import available_devices, resolve_device


@pytest.fixture
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with as many CUDA devices as the parameter says, and MPS where it is "mps"."""
    count = request.param if isinstance(request.param, int) else 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: request.param == "mps")


@pytest.mark.parametrize(
    ("machine", "devices"),
    [(0, ("cpu",)), (1, ("cuda", "cpu")), ("mps", ("mps", "cpu"))],
    indirect=["machine"],
)
@pytest.mark.usefixtures("machine")
def test_the_best_device_comes_first_and_is_the_one_chosen(devices: tuple[str, ...]) -> None:
    assert available_devices() == devices
    assert resolve_device("auto") == torch.device(devices[0])


@pytest.mark.parametrize(
    ("machine", "name"),
    [(0, "cpu"), (1, "cpu"), (1, "cuda"), (1, "cuda:0"), (2, "cuda:1"), ("mps", "mps")],
    indirect=["machine"],
)
@pytest.mark.usefixtures("machine")
def test_a_device_that_is_there(name: str) -> None:
    assert resolve_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (0, "cuda"),
        (0, "cuda:0"),
        (0, "mps"),
        (1, "cuda:1"),
        (2, "cuda:7"),
        (1, "mps"),
        ("mps", "cuda"),
        (0, "meta"),
    ],
    indirect=["machine"],
)
@pytest.mark.usefixtures("machine")
def test_an_absent_device_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"^The device '{name}' is not on this machine; use auto, .*cpu\.$"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "the fast one"])
def test_what_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"^'{name}' is not the name of a device; use auto, .*cpu\.$"):
        resolve_device(name)
