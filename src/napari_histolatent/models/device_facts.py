"""What devices this machine has, with their memory: for whoever has to choose one."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from napari_histolatent.models.devices import available_devices


@dataclass(frozen=True)
class DeviceFacts:
    """A device by the name that configs take, what it is, and its memory in bytes (None where unknown)."""

    name: str
    title: str
    memory_bytes: int | None
    free_bytes: int | None


def device_facts() -> tuple[DeviceFacts, ...]:
    """Return the devices of this machine, best first; the first is what "auto" takes."""
    found: list[DeviceFacts] = []
    for kind in available_devices():
        if kind == "cuda":
            found += [_cuda(index) for index in range(torch.cuda.device_count())]
        elif kind == "mps":
            found.append(DeviceFacts("mps", "Apple GPU", int(torch.mps.recommended_max_memory()), None))
        else:
            memory = psutil.virtual_memory()
            n = torch.get_num_threads()
            title = f"processor, {n} thread{'s' if n != 1 else ''}"
            found.append(DeviceFacts("cpu", title, int(memory.total), int(memory.available)))
    return tuple(found)


def _cuda(index: int) -> DeviceFacts:
    free, total = torch.cuda.mem_get_info(index)
    return DeviceFacts(f"cuda:{index}", torch.cuda.get_device_name(index), int(total), int(free))
