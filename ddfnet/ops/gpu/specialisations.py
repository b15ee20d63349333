"""Which kernels there are: files of cuda/ and the macros that make a kernel of them. What NVRTC compiles, exactly."""

import itertools
from typing import NamedTuple

import torch

from .sources import kernel_sources

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)  # the order of -DDTYPE
DTYPE_INDEX = {dtype: index for index, dtype in enumerate(DTYPES)}
STRIP = 7  # as in cuda/ddf_tile.cuh
PIXEL_BYTES = 128  # likewise, of one staged pixel in NHWC
FILTER_GRAD_PAD = 16  # bytes: -DPIXEL_PAD of the filter gradients
GENERIC = ("forward", "grad_x", "grad_spatial", "grad_channel")  # ddf_generic.cu has a kernel for each


def vector_of(dtype: int) -> int:
    """Channels of one thread, as VECTOR in cuda/ddf_tile.cuh."""
    return 2 if DTYPES[dtype] == torch.float64 else 4


class Specialisation(NamedTuple):
    """What is compiled: a kernel of a source file, and its macros."""

    file: str
    kernel: str
    macros: tuple[tuple[str, int], ...]


TILED = ("ddf_apply.cu", "ddf_filter_grad.cu")  # the files that stand on ddf_tile.cuh


def specialisation(
    kind: str, dtype: int, nhwc: bool = True, kernel_size: int = 3, stride: int = 1, add: bool = False
) -> Specialisation:
    if kind.startswith("generic_"):
        return Specialisation("ddf_generic.cu", kind.replace("generic", "ddf"), (("DTYPE", dtype),))
    if kind == "sum_partials":
        return Specialisation("ddf_sum_partials.cu", "ddf_sum_partials", (("DTYPE", dtype),))
    if kind == "branches":
        return Specialisation("ddf_branches.cu", "ddf_branches", (("DTYPE", dtype), ("NHWC", int(nhwc))))
    if kind == "branches_mean":
        return Specialisation("ddf_branches_mean.cu", "ddf_branches_mean", (("DTYPE", dtype),))
    macros = dict(DTYPE=dtype, NHWC=int(nhwc), KERNEL_SIZE=kernel_size, STRIDE=stride)
    if kind == "filter_grad":
        macros |= dict(GRAD_X=0, ADD=0, PIXEL_PAD=FILTER_GRAD_PAD)
        return Specialisation("ddf_filter_grad.cu", "ddf_filter_grad", tuple(macros.items()))
    macros |= dict(GRAD_X=int(kind == "grad_x"), ADD=int(add))
    return Specialisation("ddf_apply.cu", "ddf_apply", tuple(macros.items()))


def is_fast(kernel_size: int, stride: int, dilation: int) -> bool:
    """Whether the tiled kernels serve it; the generic ones serve everything."""
    return kernel_size in (3, 5, 7) and stride in (1, 2) and dilation == 1


def all_specialisations() -> list[Specialisation]:
    """Every kernel that `plan` can ask for."""
    found = []
    for dtype in range(len(DTYPES)):
        found += [specialisation(f"generic_{name}", dtype) for name in GENERIC]
        found.append(specialisation("sum_partials", dtype))
        found += [specialisation("branches", dtype, nhwc) for nhwc in (True, False)]
        found.append(specialisation("branches_mean", dtype))
        for nhwc, size, stride in itertools.product((True, False), (3, 5, 7), (1, 2)):
            for kind, add in itertools.product(("forward", "grad_x"), (False, True)):
                found.append(specialisation(kind, dtype, nhwc, size, stride, add))
            found.append(specialisation("filter_grad", dtype, nhwc, size, stride))
    return found


def compile_options(wanted: Specialisation) -> tuple[str, ...]:
    """What NVRTC is given beside the architecture, which CuPy adds."""
    return ("-std=c++17", *(f"-D{name}={value}" for name, value in wanted.macros))


def source_of(wanted: Specialisation) -> str:
    files = kernel_sources()
    names = ["ddf_types.cuh", *(["ddf_tile.cuh"] if wanted.file in TILED else []), wanted.file]
    return "".join(f'#line 1 "{name}"\n{files[name].read_text()}' for name in names)
