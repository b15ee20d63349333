"""How a DDF job is cut into blocks for the CUDA kernels: which kernel, which tile, how much shared memory.

A plan is a function of the shapes, strides, alignment and the multiprocessor's shared memory alone, so it is made once
per shape, without a GPU, and the results are the same on every run. Of the tiles that fit in shared memory the one with
the shortest estimated time (estimate.py) is taken.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy

from .estimate import spread_pitch, time_of
from .specialisations import DTYPES, FILTER_GRAD_PAD, STRIP, Specialisation, specialisation, vector_of

THREADS = 256  # as in cuda/ddf_tile.cuh
PIXEL_BYTES = 128  # likewise, of one staged pixel in NHWC
STATISTICS = 4  # likewise, numbers of one filter's

# The kernels' parameter blocks, field by field: Tiling in ddf_tile.cuh, Problem in ddf_generic.cu.
TILING = numpy.dtype(
    [("s", "i8", 4), ("ds", "i8", 4), ("norm", "f8")]
    + [
        (name, "i4")
        for name in (
            *("channels", "heads", "per_head", "height", "width", "out_height", "out_width"),
            *("rows", "columns", "tiles", "tiles_across", "chunk", "chunks", "groups", "buffers"),
            *("source_copy", "source_pitch", "source_size", "other_copy", "other_pitch", "other_size"),
            *("slots", "parts", "relu"),
        )
    ],
    align=True,
)
PROBLEM = numpy.dtype(
    [
        (name, "i8")
        for name in (
            *("n", "channels", "heads", "height", "width", "out_height", "out_width"),
            *("kernel_size", "stride", "dilation", "add", "relu"),
        )
    ]
    + [("x", "i8", 4), ("y", "i8", 4), ("s", "i8", 4)],
    align=True,
)


class Job(NamedTuple):
    """All that a plan depends on."""

    kind: str  # "forward", "grad_x", "filter_grad", or the generic ones: "generic_" and the kernel's name without ddf_
    dtype: int  # index into DTYPES
    n: int
    channels: int
    height: int  # of x
    width: int
    kernel_size: int
    stride: int
    dilation: int
    heads: int
    add: bool
    nhwc: bool
    s: tuple[int, ...]  # strides of the spatial filter
    ds: tuple[int, ...]  # strides of its gradient
    alignment: int  # bytes that divide the address of every tensor, 16 at most
    want_channel: bool = False
    want_spatial: bool = False
    shared_memory: int = 228 * 1024  # bytes of a multiprocessor
    norm: bool = False  # the spatial filter is raw, and normalised by the kernel
    relu: bool = False

    @property
    def out_size(self) -> tuple[int, int]:
        return (self.height - 1) // self.stride + 1, (self.width - 1) // self.stride + 1

    @property
    def item(self) -> int:
        return DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Launch:
    specialisation: Specialisation
    grid: int  # blocks
    block: int  # threads
    shared: int  # bytes
    parameters: tuple = field(compare=False)  # what goes before the pointers, passed by value


def plan(job: Job) -> Launch | None:
    """The launch of one kernel; None where a tiled one would need more blocks than a grid may have."""
    if not job.kind.startswith("generic_"):
        return _best_tiling(job)
    out_height, out_width = job.out_size
    values = numpy.zeros(1, PROBLEM)
    for name in ("n", "channels", "heads", "height", "width", "kernel_size", "stride", "dilation", "add", "relu", "s"):
        values[name] = getattr(job, name)
    values["out_height"], values["out_width"] = out_height, out_width
    values["x"] = _strides(job.nhwc, job.channels, job.height, job.width)
    values["y"] = _strides(job.nhwc, job.channels, out_height, out_width)
    taps = job.kernel_size**2
    if job.kind == "generic_grad_spatial":
        values["s"] = job.ds
    count = (
        job.n
        * {
            "generic_forward": job.channels * out_height * out_width,
            "generic_grad_x": job.channels * job.height * job.width,
            "generic_grad_spatial": job.heads * taps * out_height * out_width,
            "generic_grad_channel": job.channels * taps,
        }[job.kind]
    )
    blocks = min(-(-count // THREADS), 2**20)  # the kernels loop over the rest
    return Launch(specialisation(job.kind, job.dtype), blocks, THREADS, 0, (_by_value(values),))


def plan_sum_partials(dtype: int, n: int, size: int, tiles: int) -> Launch:
    blocks = -(-n * size // THREADS)
    return Launch(specialisation("sum_partials", dtype), blocks, THREADS, 0, (n * size, size, tiles))


def _by_value(record: numpy.ndarray) -> numpy.ndarray:
    """As plain bytes: CuPy passes both by value, but takes 13 us to look at an array with many fields."""
    return record.view(f"V{record.dtype.itemsize}")


def _strides(nhwc: bool, channels: int, height: int, width: int) -> tuple[int, int, int, int]:
    image = channels * height * width
    return (image, 1, width * channels, channels) if nhwc else (image, height * width, width, 1)


def _round_up(value: int, to: int) -> int:
    return -(-value // to) * to


def _best_tiling(job: Job) -> Launch | None:
    """The tile with the shortest estimated time."""
    units = -(-job.width // job.stride) if job.kind == "grad_x" else job.out_size[1]
    strips = -(-units // STRIP)
    acrosses = {-(-strips // -(-strips // most)) for most in range(1, 9)}  # strips of a tile, evenly over the tiles
    vector = vector_of(job.dtype)
    per_head = job.channels // job.heads
    most = _round_up(per_head, vector)
    chunks = [PIXEL_BYTES // job.item] if job.nhwc else sorted({min(most, c) for c in (4, 8, 16, 32, 64)})
    tilings = [
        (tiling[0], rows, across, chunk, budget)
        for budget in (job.shared_memory // 2 - 1024, job.shared_memory - 1024)  # beside a second block, or alone
        for across, rows, chunk in itertools.product(acrosses, range(1, 17), chunks)
        if (tiling := _tiling(job, rows, across, chunk, budget * 9 // 10)) is not None
    ]
    if not tilings:
        return None
    best = min(tilings)[1:]
    spread = _tiling(job, *best, spread=True) or _tiling(job, *best)
    assert spread is not None
    return spread[1]()


def _tiling(
    job: Job, rows: int, across: int, chunk: int, budget: int, spread: bool = False
) -> tuple[float, Callable[[], Launch]] | None:
    """(estimated time, what makes the launch); None if the tile needs more than `budget` bytes. `spread` rows over the
    banks."""
    item, accumulated = job.item, max(4, job.item)
    size, taps = job.kernel_size, job.kernel_size**2
    vector = vector_of(job.dtype)
    is_grad_x, is_filter_grad = job.kind == "grad_x", job.kind == "filter_grad"
    step = 1 if is_grad_x else job.stride
    phases = job.stride if is_grad_x else 1
    window = (size - 1) // phases + 1
    out_height, out_width = job.out_size
    units_high, units_wide = (
        (-(-job.height // job.stride), -(-job.width // job.stride)) if is_grad_x else (out_height, out_width)
    )
    if rows > units_high:
        return None
    source_width = out_width if is_grad_x else job.width
    result_width = job.width if is_grad_x else out_width
    per_head, columns = job.channels // job.heads, across * STRIP
    tiles_across = -(-units_wide // columns)
    tiles = -(-units_high // rows) * tiles_across
    rows_in, columns_in = (rows - 1) * step + window, (columns - 1) * step + window
    all_chunks = -(-per_head // chunk)

    # shared memory of the source and of what stands beside it, in elements
    if job.nhwc:
        source_copy = other_copy = math.gcd(job.alignment, per_head * item)
        pixel = (PIXEL_BYTES + (FILTER_GRAD_PAD if is_filter_grad else 0)) // item
        source_pitch, other_pitch = columns_in, columns
        if spread and is_filter_grad:  # the other kernel's warps read neighbouring channels, which never meet
            source_pitch = spread_pitch(columns_in, 1, step, across, pixel * item, vector * item)
            other_pitch = spread_pitch(columns, 1, 1, across, pixel * item, vector * item)
        source_size, other_size = rows_in * source_pitch * pixel, rows * other_pitch * pixel if is_filter_grad else 0
    else:
        source_copy = math.gcd(job.alignment, source_width * item)
        source_pitch = _round_up(columns_in + source_copy // item - 1, source_copy // item)
        if spread:
            source_pitch = spread_pitch(source_pitch, source_copy // item, step, across, item, item)
        source_size = _round_up(chunk * rows_in * source_pitch, 16 // item)
        other_copy = math.gcd(job.alignment, result_width * item)
        if not is_filter_grad and tiles_across > 1:  # a tile's first column must be aligned too
            other_copy = math.gcd(other_copy, columns * phases * item)
        spare = other_copy // item - 1 if is_filter_grad else 0
        other_pitch = _round_up(columns * phases + spare, other_copy // item)
        if spread:
            other_pitch = spread_pitch(other_pitch, other_copy // item, phases, across, item, item)
        other_size = _round_up(chunk * rows * phases * other_pitch, 16 // item)

    lanes, strips, units = chunk // vector, rows * across, rows * columns
    tap_row = _round_up(size, 4)
    unit_taps = size * tap_row + (4 if size * tap_row // 4 % 2 == 0 else 0)
    normalized = (rows_in * columns_in if is_grad_x else units) if job.norm else 0  # spatial filters
    slots = parts = 0
    if is_filter_grad:
        slots = min(THREADS // (lanes * size), strips)
        if not slots:
            return None
        parts = max(1, min(THREADS // (strips * size), lanes))
        threads = min(THREADS, _round_up(max(slots * lanes, parts * strips) * size, 32))
        chunks = all_chunks
    else:
        threads = min(THREADS, _round_up(strips * lanes, 32))
        chunks = 1 if job.nhwc else min(all_chunks, -(-64 // chunk))

    def bytes_with(buffers: int) -> int:
        if is_filter_grad:
            elements = buffers * (source_size + other_size)
            sums = job.want_channel * (units * unit_taps + slots * taps * chunk)
            sums += job.want_spatial * (buffers * taps * chunk + parts * units * unit_taps)
        else:
            elements = buffers * source_size + other_size
            sums = units * unit_taps + buffers * taps * chunk
        return elements * item + (sums + STATISTICS * normalized) * accumulated

    while bytes_with(1) > budget and max(slots, parts) > 1:  # fewer shares, where the tile alone would fit
        slots, parts = max(1, slots - 1), max(1, parts - 1)
    buffers = 2 if chunks > 1 and bytes_with(2) <= budget else 1
    shared = bytes_with(buffers)
    if shared > budget:
        return None
    groups = 1 if is_filter_grad else -(-all_chunks // chunks)
    grid = job.n * job.heads * tiles * groups
    if grid >= 2**31:
        return None

    # instructions of the whole block: copies, spatial taps, and per thread the rounds of strips that it makes
    copies = rows_in * source_pitch * chunk * item / source_copy
    strip = STRIP * vector * taps * 2.5
    if is_filter_grad:
        copies += rows * other_pitch * chunk * item / other_copy
        per_row = strip / size
        work = job.want_channel * -(-strips // slots) * per_row
        work += job.want_spatial * -(-parts * size * strips // threads) * -(-lanes // parts) * per_row
    else:
        if not job.nhwc:
            copies += rows * phases * other_pitch * chunk * item / other_copy
        work = -(-strips * lanes // threads) * strip
    instructions = chunks * (copies * 12 + threads * (work + 100)) + (units + normalized) * taps * 9
    # what the block reads, the halo too, and writes; a partial sum is written, and read by the kernel that adds them
    pixels = rows_in * columns_in + rows * columns * phases**2
    moved = pixels * chunks * chunk * item + units * taps * item * (1 + is_filter_grad * job.want_spatial)
    if is_filter_grad and job.want_channel and tiles > 1:
        moved += 2 * taps * chunks * chunk * accumulated
    registers = 128 if size == 3 and item < 8 else 256
    cost = time_of(instructions, moved, grid, threads, registers, shared, job.shared_memory)

    def launch() -> Launch:  # of the chosen tile alone: a record takes longer to fill than a time to estimate
        values = numpy.zeros(1, TILING)
        given = dict(
            **dict(s=job.s, ds=job.ds, channels=job.channels, heads=job.heads, per_head=per_head),
            **dict(height=job.height, width=job.width, out_height=out_height, out_width=out_width),
            **dict(rows=rows, columns=columns, tiles=tiles, tiles_across=tiles_across),
            **dict(chunk=chunk, chunks=chunks, groups=groups, buffers=buffers),
            **dict(source_copy=source_copy, source_pitch=source_pitch, source_size=source_size),
            **dict(other_copy=other_copy, other_pitch=other_pitch, other_size=other_size, slots=slots, parts=parts),
            **dict(norm=math.sqrt(2) / size if job.norm else 0.0, relu=job.relu),
        )
        for name, value in given.items():
            values[name] = value
        chosen = specialisation(job.kind, job.dtype, job.nhwc, size, job.stride, job.add)
        return Launch(chosen, grid, threads, shared, (_by_value(values),))

    return cost, launch
