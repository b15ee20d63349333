"""What a call of the operator costs in Python, without gradients: from ddf() to the driver.

On a GPU with all of it. Elsewhere with a kernel in CuPy's place that packs the arguments by CuPy's own classes and
launches nothing. Then the figure is too low by LEFT_OUT, which is printed and kept with it.
"""

import time

import torch

from ddfnet.ops import cuda, ddf, functional, kernels

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
    options = (3, 1, 1, 1, "mul")
    driver = "CuPy and the driver" if device.type == "cuda" else stub_the_driver()

    def whole():  # what ddf() does for a tensor on a GPU
        tensors = functional._follow_autocast(x, c, s)
        functional._check(*tensors, *options, False, None)
        if functional._is_plain_inference(*tensors):
            cuda.forward(*tensors, *options)

    with torch.no_grad():
        figures["driver"], figures["left_out"] = driver, [] if device.type == "cuda" else LEFT_OUT
        figures["launcher_us"] = microseconds(lambda: cuda.forward(x, c, s, *options))
        figures["ddf_us"] = microseconds((lambda: ddf(x, c, s)) if device.type == "cuda" else whole)
    rows = [(name.removesuffix("_us"), f"{figures[name]:.1f}") for name in ("launcher_us", "ddf_us")]
    print_table(f"one forward under no_grad, {driver}", ("", "us"), rows)
    for what in figures["left_out"]:
        print(f"left out: {what}")


def stub_the_driver() -> str:
    """A kernel that packs its arguments as CuPy does, where there is CuPy, and launches nothing; and what it is."""
    try:
        from cupy._core._scalar import CScalar
        from cupy.cuda.function import CNumpyArray
    except ImportError:

        def kernel(grid, block, arguments, shared_mem, stream):
            pass

        what = "no CuPy, no driver"
    else:

        def kernel(grid, block, arguments, shared_mem, stream):
            for argument in arguments:
                CScalar(argument) if isinstance(argument, int) else CNumpyArray(argument)

        what = "CuPy's packing, no driver"
    kernels.load = lambda wanted, device: kernel
    torch.cuda.current_device = lambda: None
    torch._C._cuda_getCurrentRawStream = lambda index: 0
    return what
