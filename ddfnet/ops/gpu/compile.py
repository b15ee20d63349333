"""From a specialisation to a kernel on a GPU: CuPy compiles it at first use and keeps it on disk.

Nothing of CuPy or CUDA is touched before the first kernel, so processes may fork until then.
"""

import re
from collections.abc import Callable

import torch

from ...errors import UserError, first_line
from .specialisations import TILED, Specialisation, compile_options, source_of

RESERVED = 1024  # bytes of shared memory that the driver takes for itself in each block


def shared_memory_of(device: torch.device) -> int:
    """Return the bytes of shared memory of a multiprocessor of that GPU, as far as its blocks can have them."""
    properties = torch.cuda.get_device_properties(device)
    whole = properties.shared_memory_per_multiprocessor
    return min(whole, getattr(properties, "shared_memory_per_block_optin", whole) + RESERVED)  # not in torch 2.6


def compile_kernel(wanted: Specialisation, device: torch.device) -> Callable[..., None]:
    """Return the kernel, ready on that device; from CuPy's disk cache where it was compiled before.

    Raises:
        UserError: CuPy is missing or does not fit, or its cache cannot be written; it names the line to run.
    """
    with torch.cuda.device(device):
        cupy = import_cupy()
        try:
            module = cupy.RawModule(code=source_of(wanted), options=compile_options(wanted), backend="nvrtc")
            kernel = module.get_function(wanted.kernel)
            if wanted.file in TILED:
                kernel.max_dynamic_shared_size_bytes = shared_memory_of(device) - RESERVED
                kernel.preferred_shared_memory_carveout = 100  # percent: plans count on all of it, for two blocks
            _ = kernel.num_regs  # asking compiles and loads it now, not at its first launch
        except Exception as error:  # of CuPy, NVRTC or the driver: each has its own
            raise UserError(_sentence(f"CuPy {cupy.__version__} could not compile a kernel", error)) from error
        return kernel


def import_cupy():
    """Return the module cupy, which must see a GPU; raises UserError as `compile_kernel`."""
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
    reason = first_line(error)
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
