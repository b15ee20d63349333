"""What a call of the operator costs in Python, without gradients: from ddf() to the driver.

On a GPU with CuPy and the driver in it. Elsewhere the same code up to CuPy, with a kernel that does nothing in its
place: checks, plan and packing of the arguments, but no driver.
"""

import time

import torch

from ddfnet.ops import cuda, ddf, functional, kernels

from .timing import Function, print_table


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


def measure(device: torch.device) -> dict:
    x = torch.randn(1, 8, 7, 7, device=device).contiguous(memory_format=torch.channels_last)
    c = torch.randn(1, 8, 3, 3, device=device)
    s = torch.randn(1, 9, 7, 7, device=device).contiguous(memory_format=torch.channels_last)
    options = (3, 1, 1, 1, "mul")
    if device.type != "cuda":
        stub_the_driver()
    with torch.no_grad():
        found = {"launcher_us": microseconds(lambda: cuda.forward(x, c, s, *options))}
        if device.type == "cuda":
            found["ddf_us"] = microseconds(lambda: ddf(x, c, s))
        else:

            def whole():  # what ddf() does for a tensor on a GPU
                tensors = functional._follow_autocast(x, c, s)
                functional._check(*tensors, *options, None)
                if functional._is_plain_inference(*tensors):
                    cuda.forward(*tensors, *options)

            found["ddf_us"] = microseconds(whole)
    rows = [(name.removesuffix("_us"), f"{value:.1f}") for name, value in found.items()]
    what = "with CuPy and the driver" if device.type == "cuda" else "up to CuPy, no driver"
    print_table(f"one forward under no_grad, {what}", ("", "us"), rows)
    return found | {"driver": device.type == "cuda"}


def stub_the_driver() -> None:
    kernels.load = lambda wanted, device: lambda grid, block, arguments, shared_mem, stream: None
    torch.cuda.current_device = lambda: None
    torch._C._cuda_getCurrentRawStream = lambda index: 0
