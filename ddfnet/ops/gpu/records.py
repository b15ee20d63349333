"""The kernels' parameter blocks, field by field as the sources declare them, and a launch, which carries one."""

from dataclasses import dataclass, field

import numpy

from .specialisations import Specialisation


def _ints(*lines: str) -> list[tuple[str, str]]:
    return [(name, "i4") for line in lines for name in line.split()]


TILING = numpy.dtype(  # Tiling in ddf_tile.cuh
    [
        ("s", "i8", 4),
        ("ds", "i8", 4),
        ("norm", "f8"),
        *_ints(
            "channels heads per_head height width out_height out_width",
            "rows columns tiles tiles_across chunk chunks groups buffers",
            "source_copy source_pitch source_size other_copy other_pitch other_size",
            "slots parts relu",
        ),
    ],
    align=True,
)
PROBLEM = numpy.dtype(  # Problem in ddf_generic.cu
    [
        *((name, "i8") for name in ["n", "channels", "heads", "height", "width", "out_height", "out_width"]),
        *((name, "i8") for name in ["kernel_size", "stride", "dilation", "add", "relu"]),
        *((name, "i8", 4) for name in "xys"),
    ],
    align=True,
)
BRANCHES = numpy.dtype(  # Branches in ddf_branches.cu
    _ints(
        "channels outputs height width stride out_width out_pixels",
        "pixels tiles groups bands buffers tile_size copy across",
    )
)


@dataclass(frozen=True)
class Launch:
    """A kernel and how it is launched."""

    specialisation: Specialisation
    grid: int  # blocks
    block: int  # threads
    shared: int  # bytes
    parameters: tuple = field(compare=False)  # what goes before the pointers, passed by value


def record(block: numpy.dtype, **values) -> numpy.ndarray:
    """Return a parameter block with all its fields given, as plain bytes: CuPy passes those by value as it does an
    array with many fields, which takes it 13 us to look at."""
    assert set(values) == set(block.names or ()), set(values) ^ set(block.names or ())
    filled = numpy.zeros(1, block)
    for name, value in values.items():
        filled[name] = value
    return filled.view(f"V{block.itemsize}")
