"""From a specialisation to a kernel on a GPU: CuPy compiles it at first use and keeps it on disk.

Nothing of CuPy or CUDA is touched before the first load, so processes may fork until then.
"""

import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable

import torch

from ..errors import UserError
from .specialisations import (
    DTYPE_INDEX,
    DTYPES,
    GENERIC,
    TILED,
    Specialisation,
    compile_options,
    is_fast,
    source_of,
    specialisation,
)

# Shared memory of a multiprocessor, in KB, by compute capability (CUDA programming guide); a block gets 1 KB less.
_SHARED_KB = {(7, 0): 96, (7, 5): 64, (8, 0): 164, (8, 7): 164, (9, 0): 228, (10, 0): 228, (10, 3): 228, (11, 0): 228}
_shared: dict[torch.device, int] = {}


def shared_memory(device: torch.device) -> int:
    """Bytes of a multiprocessor of that GPU."""
    if device not in _shared:
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
        _shared[device] = 1024 * _SHARED_KB.get(capability, 100)
    return _shared[device]


_kernels: dict[tuple[Specialisation, torch.device], Callable[..., None]] = {}
_lock = threading.Lock()  # autograd runs backward passes in threads of its own


def _forget() -> None:
    """In a forked process: its parent's kernels do not exist there, and its lock may be held."""
    global _lock
    _kernels.clear()
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def load(wanted: Specialisation, device: torch.device) -> Callable[..., None]:
    """The compiled kernel, ready on that device; from CuPy's disk cache where it was compiled before."""
    with _lock, torch.cuda.device(device):
        if (wanted, device) in _kernels:
            return _kernels[wanted, device]
        cupy = _import_cupy()
        try:
            module = cupy.RawModule(code=source_of(wanted), options=compile_options(wanted), backend="nvrtc")
            kernel = module.get_function(wanted.kernel)
            if wanted.file in TILED:
                kernel.max_dynamic_shared_size_bytes = shared_memory(device) - 1024
            _ = kernel.num_regs  # asking compiles and loads it now, not at its first launch
        except Exception as error:  # of CuPy, NVRTC or the driver: each has its own
            raise UserError(_sentence(f"CuPy {cupy.__version__} could not compile a kernel", error)) from error
        _kernels[wanted, device] = kernel
        return kernel


def _import_cupy():
    if torch.version.cuda is None:
        raise UserError("ddf: the CUDA kernels need PyTorch built for CUDA; pass backend='reference' on this one")
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # ImportError, or a CUDA error of a CuPy for another CUDA
        raise UserError(_sentence("CuPy does not work here", error, misfit=True)) from error
    return cupy


def _sentence(what: str, error: Exception, misfit: bool = False) -> str:
    """With what helps: another CuPy where a library is missing, another folder where the cache cannot be written."""
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    if misfit or isinstance(error, ImportError) or re.search(r"lib\w+\.so|\.dll|shared object", str(error)):
        major = (torch.version.cuda or "13").split(".")[0]
        remedy = (
            f"run `pip install cupy-cuda{major}x`, which fits this PyTorch (CUDA {torch.version.cuda}), without another"
            " cupy beside it"
        )
    elif isinstance(error, OSError):
        remedy = "set CUPY_CACHE_DIR to a folder that can be written, or CUPY_CACHE_IN_MEMORY=1"
    else:
        remedy = "that has to be mended first"
    return f"ddf: {what} ({reason}): {remedy}; or pass backend='reference'"


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
    """Compiles and loads kernels, so that a CUDA graph can be captured that has never run before.

    Takes about 0.3 s per kernel the first time on a machine, then milliseconds. Call it in the thread that captures.

    Args:
        device: the GPU.
        dtypes, memory_formats, kernel_sizes, strides, dilations, combine: of the jobs to come, one of each or several,
            as `ddf` takes them; inside autocast the dtype is that of the region. Every combination is loaded.
        backward: the gradients' kernels too, and one small backward pass, which sets up autograd's thread; without it
            those that a network fused for inference runs.

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
    wanted = set()
    for dtype, layout, size, stride, dilation, how in jobs:
        number, nhwc = DTYPE_INDEX[dtype], layout == torch.channels_last
        if not backward:
            wanted |= {specialisation("branches", number, nhwc), specialisation("branches_mean", number)}
        if is_fast(size, stride, dilation):
            for kind in ("forward", "grad_x") if backward else ("forward",):
                wanted.add(specialisation(kind, number, nhwc, size, stride, how == "add"))
            if backward:
                wanted.add(specialisation("filter_grad", number, nhwc, size, stride))
                wanted.add(specialisation("sum_partials", number))
        else:
            wanted |= {specialisation(f"generic_{name}", number) for name in (GENERIC if backward else GENERIC[:1])}
    for one in wanted:
        load(one, device)
    if backward and jobs:
        _run_backward(device, *jobs[0])
    return len(wanted)


def _run_backward(device: torch.device, dtype, layout, size: int, stride: int, dilation: int, combine: str) -> None:
    """In autograd's own thread for that GPU: CuPy asks for the context at the first launch of each thread."""
    side = stride + 1  # of x, for two rows and columns of y: a single pixel would not show its layout
    shapes = ((1, 4, side, side), (1, 4, size, size), (1, size**2, 2, 2))
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        x, c, s = (torch.ones(shape, dtype=dtype, device=device, requires_grad=True) for shape in shapes)
        y = torch.ops.ddfnet.ddf(x.contiguous(memory_format=layout), c, s, size, stride, dilation, 1, combine)
        torch.autograd.grad(y, (x, c, s), torch.ones_like(y))


def _several(name: str, values, allowed) -> list:
    values = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    for value in values:
        if value not in allowed:
            expected = "positive integers" if isinstance(allowed, range) else ", ".join(map(str, allowed))
            odd = "odd " if name == "kernel_sizes" else ""
            raise ValueError(f"warmup: {name} has {value!r}, expected {odd}{expected}")
    return values
