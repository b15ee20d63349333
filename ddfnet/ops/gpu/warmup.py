"""Kernels compiled and loaded before they are needed."""

import itertools
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch

from . import launch
from .specialisations import DTYPE_INDEX, DTYPES, GENERIC, Specialisation, is_fast, specialisation


def warmup(
    device: torch.device | str = "cuda",
    *,
    dtypes: torch.dtype | Iterable[torch.dtype] = torch.float32,
    memory_formats: torch.memory_format | Iterable[torch.memory_format] = torch.channels_last,
    kernel_sizes: int | Iterable[int] = 3,
    strides: int | Iterable[int] = (1, 2),
    dilations: int | Iterable[int] = 1,
    combine: str | Iterable[str] = "mul",
    backward: bool = True,
) -> int:
    """Compile and load kernels, so that a CUDA graph can be captured that has never run before.

    Takes about 0.3 s of a core per kernel the first time on a machine, as many at once as there are cores, then
    milliseconds. Call it in the thread that captures.

    Args:
        device: the GPU.
        dtypes, memory_formats, kernel_sizes, strides, dilations, combine: of the jobs to come, one of each or several,
            as `ddf` takes them; inside autocast the dtype is that of the region. Every combination is loaded.
        backward: the gradients' kernels too, and one small backward pass, which sets up autograd's thread; without it
            those that a network fused for inference runs, and one small launch, which sets up the calling thread.

    Returns:
        How many kernels are ready.

    Raises:
        ValueError: naming the argument, what came and what was expected.
        ddfnet.errors.UserError: where CuPy is missing or does not fit.
    """
    device = torch.device(device)
    if device.type != "cuda" or not torch.cuda.is_available():
        raise ValueError(f"warmup: device is {device}, expected a GPU that PyTorch sees")
    if device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    jobs = list(
        itertools.product(
            _several("dtypes", dtypes, DTYPES),
            _several("memory_formats", memory_formats, (torch.channels_last, torch.contiguous_format)),
            _several("kernel_sizes", kernel_sizes, range(1, 1 << 16, 2)),
            _several("strides", strides, range(1, 1 << 16)),
            _several("dilations", dilations, range(1, 1 << 16)),
            _several("combine", combine, ("mul", "add")),
        )
    )
    wanted = {kernel for job in jobs for kernel in _kernels_of(*job, backward)}
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:  # NVRTC runs outside of Python's lock
        for loaded in [pool.submit(launch.launcher.load, kernel, device) for kernel in wanted]:
            loaded.result()
    if jobs:
        (run_backward if backward else run_forward)(device, *jobs[0])
    return len(wanted)


def _kernels_of(dtype, layout, kernel_size, stride, dilation, combine, backward) -> set[Specialisation]:
    """Return what a training needs, or a network fused for inference."""
    number, nhwc, add = DTYPE_INDEX[dtype], layout == torch.channels_last, combine == "add"
    found = set()
    if not backward:
        found |= {specialisation("branches", number, nhwc), specialisation("branches_mean", number)}
    if not is_fast(kernel_size, stride, dilation):
        return found | {specialisation(f"generic_{name}", number) for name in (GENERIC if backward else GENERIC[:1])}
    for kind in ("forward", "grad_x") if backward else ("forward",):
        found.add(specialisation(kind, number, nhwc, kernel_size, stride, add))
    if backward:
        found.add(specialisation("filter_grad", number, nhwc, kernel_size, stride))
        found.add(specialisation("sum_partials", number))
    return found


def run_forward(device: torch.device, dtype, layout, size: int, stride: int, dilation: int, combine: str) -> None:
    """Run the operator once, in this thread: CuPy asks for the context at the first launch of each."""
    with torch.no_grad():
        _run(device, dtype, layout, size, stride, dilation, combine)


def run_backward(device: torch.device, dtype, layout, size: int, stride: int, dilation: int, combine: str) -> None:
    """Run every gradient once, in autograd's own thread for that GPU."""
    with torch.enable_grad():
        y, operands = _run(device, dtype, layout, size, stride, dilation, combine)
        torch.autograd.grad(y, operands, torch.ones_like(y))


def _run(device, dtype, layout, size, stride, dilation, combine) -> tuple[torch.Tensor, list[torch.Tensor]]:
    side = stride + 1  # of x, for two rows and columns of y: a single pixel would not show its layout
    shapes = ((1, 4, side, side), (1, 4, size, size), (1, size**2, 2, 2))
    x, c, s = (torch.ones(shape, dtype=dtype, device=device, requires_grad=True) for shape in shapes)
    with torch.autocast(device.type, enabled=False):
        y = torch.ops.ddfnet.ddf(x.contiguous(memory_format=layout), c, s, size, stride, dilation, 1, combine)
    return y, [x, c, s]


def _several(name: str, values, allowed) -> list:
    values = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    for value in values:
        if value not in allowed:
            expected = "positive integers" if isinstance(allowed, range) else ", ".join(map(str, allowed))
            odd = "odd " if name == "kernel_sizes" else ""
            raise ValueError(f"warmup: {name} has {value!r}, expected {odd}{expected}")
    return values
