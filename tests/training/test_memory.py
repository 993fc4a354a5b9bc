from __future__ import annotations

import weakref

import pytest
import torch

from napari_histolatent.training._memory import batch_that_fits, is_out_of_memory, out_of_memory

CPU_WORDS = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4398046511104 bytes. Error code 12 (Cannot allocate memory)"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError(CPU_WORDS),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.12 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_memory_that_ran_out_is_known(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(12, "Cannot allocate memory"),
        KeyboardInterrupt(),
        ValueError(CPU_WORDS),
    ],
)
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_the_allocator_of_this_machine_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value)


class Allocator:
    """A step that fits up to a batch; beyond it, what it tried to hold hangs on the error's frames."""

    def __init__(self, fits: int, error: Exception | None = None) -> None:
        self.fits, self.error = fits, error or RuntimeError(CPU_WORDS)
        self.tried: list[int] = []
        self.held: list[weakref.ref[torch.Tensor]] = []

    def step(self, batch: int) -> None:
        assert not [held for held in self.held if held() is not None], "the trial before holds memory still"
        self.tried.append(batch)
        block = torch.zeros(batch)
        self.held.append(weakref.ref(block))
        if batch > self.fits:
            raise type(self.error)(*self.error.args)


@pytest.mark.parametrize(
    ("batch", "fits", "options", "found", "tried"),
    [
        (64, 20, {}, 16, [32, 16]),
        (64, 63, {}, 32, [32]),
        (4, 0, {}, None, [2, 1]),
        (1, 0, {}, None, []),
        (48, 13, {"multiple_of": 4}, 12, [24, 12]),
        (24, 5, {"multiple_of": 4}, 4, [12, 4]),
        (24, 2, {"multiple_of": 4}, None, [12, 4]),
        (16, 0, {"least": 8}, None, [8]),
    ],
)
def test_the_batch_is_halved_until_a_step_passes(
    batch: int, fits: int, options: dict[str, int], found: int | None, tried: list[int]
) -> None:
    allocator = Allocator(fits)
    assert batch_that_fits(batch, allocator.step, **options) == found
    assert allocator.tried == tried


def test_another_fault_of_a_trial_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="a slip"):
        batch_that_fits(8, Allocator(0, ValueError("a slip")).step)
    with pytest.raises(RuntimeError, match="a slip"):
        batch_that_fits(8, Allocator(0, RuntimeError("a slip")).step)


def test_the_sentence_names_the_batch_that_fits() -> None:
    said = out_of_memory(64, 16, size_px=256, device="cuda:0")
    assert "memory of cuda:0 does not suffice for a batch of 64 patches of 256 px" in said
    assert "--batch-size 16" in said
    assert "nor for any smaller one" in out_of_memory(64, None, size_px=256, device="cpu")
