"""A CuPy and a CUDA that answer, as far as the launcher asks."""

import contextlib
import sys
import types

import torch

from ddfnet.ops.gpu import launch
from ddfnet.ops.gpu.launch import Launcher

DEVICE = torch.device("cuda", 0)


class FakeKernel:
    num_regs = 42

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def __call__(self, grid, block, arguments, *, shared_mem, stream):
        self.calls.append((self.name, grid, block, arguments, shared_mem, stream.ptr))


class FakeCupy(types.ModuleType):
    """The few names of CuPy that the launcher uses; counts what it compiles."""

    __version__ = "14.2.0"

    def __init__(self):
        super().__init__("cupy")
        self.compiled, self.calls = [], []
        self.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=lambda: 1))

    def RawModule(self, *, code, options, backend):
        assert "\n#include" not in code and backend == "nvrtc" and all(isinstance(option, str) for option in options)
        self.compiled.append((code, options))
        return types.SimpleNamespace(get_function=lambda name: FakeKernel(name, self.calls))


def install(monkeypatch) -> FakeCupy:
    fake = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    answer_for_cuda(monkeypatch)
    return fake


def answer_for_cuda(monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    hopper = types.SimpleNamespace(shared_memory_per_multiprocessor=233472, shared_memory_per_block_optin=232448)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: hopper)
    monkeypatch.setattr(launch, "launcher", Launcher())
