"""Plans and kernels, made once and kept, and their launch. At each call, so this is kept to a few microseconds."""

import os
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .compile import compile_kernel, shared_memory_of
from .records import Launch
from .specialisations import Specialisation

KEPT = 4096  # plans; those of shapes that never come again are dropped with the rest


class Ready(NamedTuple):
    """A launch and the kernel that it launches."""

    launch: Launch
    kernel: Callable[..., None]


class Launcher:
    """Keeps plans and kernels for all operators and launches them. `load`, `shared_memory` and `run` are what it asks
    of a GPU: a simulator or a benchmark puts its own in their place and itself in that of `launcher`, below."""

    def __init__(self):
        self.forget()

    def forget(self) -> None:
        """Drop all plans and kernels. In a forked process its parent's do not exist, and its locks may be held."""
        self.plans: dict[tuple, tuple[Ready, ...]] = {}
        self.kernels: dict[tuple[Specialisation, torch.device], Callable[..., None]] = {}
        self._streams: dict[int, _Stream] = {}
        # One for each kernel: autograd runs backward passes in threads of its own, and those of several GPUs compile
        # theirs at once.
        self._locks: dict[tuple[Specialisation, torch.device], threading.Lock] = {}

    def ready(
        self, plan: Callable[[Any, int], tuple[Launch, ...]], job: tuple, device: torch.device
    ) -> tuple[Ready, ...]:
        """Return what `plan` plans for the job, with the kernels to launch."""
        key = plan, job, device
        try:
            return self.plans[key]
        except KeyError:
            if len(self.plans) >= KEPT:
                self.plans.clear()
            launches = plan(job, self.shared_memory(device))
            ready = tuple(Ready(launch, self.load(launch.specialisation, device)) for launch in launches)
            self.plans[key] = ready
            return ready

    def shared_memory(self, device: torch.device) -> int:
        """Return the bytes of shared memory of a multiprocessor of that GPU."""
        return shared_memory_of(device)

    def load(self, wanted: Specialisation, device: torch.device) -> Callable[..., None]:
        """Return the compiled kernel, ready on that device; raises UserError where it cannot be made."""
        key = wanted, device
        with self._locks.setdefault(key, threading.Lock()):
            kernel = self.kernels.get(key)
            if kernel is None:
                kernel = self.kernels[key] = compile_kernel(wanted, device)
            return kernel

    def run(self, ready: Ready, device: torch.device, pointers: list[int]) -> None:
        """Launch on the current stream of that device."""
        launch, kernel = ready
        if torch.cuda.current_device() != device.index:
            with torch.cuda.device(device.index):
                return self.run(ready, device, pointers)
        address = torch._C._cuda_getCurrentRawStream(device.index)  # torch.cuda.current_stream takes 1 us
        stream = self._streams.get(address) or self._streams.setdefault(address, _Stream(address))
        arguments = (*launch.parameters, *pointers)
        kernel((launch.grid,), (launch.block,), arguments, shared_mem=launch.shared, stream=stream)


launcher = Launcher()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: launcher.forget())


class _Stream:
    """What CuPy asks of a stream."""

    __slots__ = ("ptr",)

    def __init__(self, ptr: int):
        self.ptr = ptr


def pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def pointers_of(*tensors: Tensor | None) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def alignment_of(*addresses: int) -> int:
    """Return how many bytes divide all of the addresses, 16 at most."""
    bits = 16
    for address in addresses:
        bits |= address
    return bits & -bits
