"""What a call of the operator costs in Python, without gradients: from ddf() to the driver.

On a GPU with all of it. Elsewhere with a kernel in CuPy's place that packs the arguments by CuPy's own classes and
launches nothing. Then the figure is too low by LEFT_OUT, which is printed and kept with it.
"""

import time

import torch

from ddfnet.ops import ddf, dispatch
from ddfnet.ops.gpu import ddf as gpu
from ddfnet.ops.gpu import launch
from ddfnet.ops.options import DDFOptions

from .timing import Function, print_table

LEFT_OUT = [
    "the driver's launch",
    "CuPy's RawKernel.__call__ and Function.__call__, which ask the runtime for the device and check the context",
    "torch.cuda.current_device and the lookup of the current stream",
]


def microseconds(function: Function, calls: int = 2000, repeats: int = 9) -> float:
    """The best of the repeats: what the code takes when nothing disturbs it."""
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(calls):
            function()
        best = min(best, (time.perf_counter() - started) / calls)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return best * 1e6


def measure(figures: dict, device: torch.device) -> None:
    """Fills figures: launcher_us (from the operator's kernel function on), ddf_us (all), what the driver was and
    what the figures leave out."""
    x = torch.randn(1, 8, 7, 7, device=device).contiguous(memory_format=torch.channels_last)
    c = torch.randn(1, 8, 3, 3, device=device)
    s = torch.randn(1, 9, 7, 7, device=device).contiguous(memory_format=torch.channels_last)
    if device.type == "cuda":
        driver, left_out = "CuPy and the driver", []
    else:
        driver, left_out = stub_the_driver(), LEFT_OUT
        dispatch.served_by_kernels = lambda x: True  # tensors of the CPU go the way of a GPU's
    with torch.no_grad():
        figures["driver"], figures["left_out"] = driver, left_out
        figures["launcher_us"] = microseconds(lambda: gpu.forward(x, c, s, DDFOptions()))
        figures["ddf_us"] = microseconds(lambda: ddf(x, c, s))
    rows = [(name.removesuffix("_us"), f"{figures[name]:.1f}") for name in ("launcher_us", "ddf_us")]
    print_table(f"one forward under no_grad, {driver}", ("", "us"), rows)
    for what in figures["left_out"]:
        print(f"left out: {what}")


class WithoutDriver(launch.Launcher):
    """Launches by packing the arguments."""

    def __init__(self, pack):
        super().__init__()
        self.pack = pack

    def shared_memory(self, device):
        return 228 * 1024  # of sm_90

    def load(self, wanted, device):
        return None

    def run(self, ready, device, pointers):
        for argument in (*ready.launch.parameters, *pointers):
            self.pack(argument)


def stub_the_driver() -> str:
    """Put a launcher in the launcher's place that packs as CuPy does, where there is CuPy, and say what it is."""
    try:
        from cupy._core._scalar import CScalar
        from cupy.cuda.function import CNumpyArray
    except ImportError:
        launch.launcher = WithoutDriver(lambda argument: None)
        return "no CuPy, no driver"
    launch.launcher = WithoutDriver(lambda argument: (CScalar if isinstance(argument, int) else CNumpyArray)(argument))
    return "CuPy's packing, no driver"
