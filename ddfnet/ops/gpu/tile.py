"""What a tile is: its sizes, its place in shared memory, its threads. tiling.py makes them, in this order."""

from typing import NamedTuple

from .job import Job
from .specialisations import vector_of


class Work:
    """What a job asks of every tile."""

    def __init__(self, job: Job):
        (n, channels, height, width), options, self.nhwc = job.problem
        self.job, self.norm = job, options.spatial_norm
        self.is_grad_x, self.is_filter_grad = job.kind == "grad_x", job.kind == "filter_grad"
        self.item, self.accumulated = (
            job.dtype.itemsize,
            max(4, job.dtype.itemsize),
        )  # bytes, of an element and of a sum
        self.vector = vector_of(job.dtype_index)
        self.size, self.taps = options.kernel_size, options.taps
        # the gradient of x has stride * stride phases, each of which meets every stride-th tap
        self.step = 1 if self.is_grad_x else options.stride  # of the source, from unit to unit
        self.phases = options.stride if self.is_grad_x else 1  # results of a unit, in each direction
        self.window = (self.size - 1) // self.phases + 1
        self.out_height, self.out_width = job.problem.out_size
        self.units_high, self.units_wide = self.out_height, self.out_width
        self.source_width, self.result_width = width, self.out_width
        if self.is_grad_x:
            self.units_high, self.units_wide = -(-height // self.phases), -(-width // self.phases)
            self.source_width, self.result_width = self.out_width, width
        self.per_head = channels // options.heads
        self.maps = n * options.heads


class Tile(NamedTuple):
    """A tile's sizes. The first three decide all others."""

    rows: int
    across: int  # strips side by side
    chunk: int  # channels
    columns: int
    rows_in: int  # of the source
    columns_in: int
    tiles: int  # of a map
    tiles_across: int
    chunks: int  # of a head


class Areas(NamedTuple):
    """A tile's two areas of shared memory: of the source, and of what stands beside it."""

    source_copy: int  # bytes that are copied at a time
    source_pitch: int  # elements (NHWC: pixels) from row to row
    source_size: int  # elements
    other_copy: int
    other_pitch: int
    other_size: int


class Block(NamedTuple):
    """A tile's threads, and how often it holds its areas in shared memory."""

    threads: int
    chunks: int  # that a block goes through
    groups: int  # blocks that share a head's chunks
    slots: int  # filter_grad: shares of the pixels, for the channel filter's gradient
    parts: int  # filter_grad: shares of the channels, for the spatial filter's
    normalized: int  # spatial filters whose statistics are kept
    buffers: int
    shared: int  # bytes
    grid: int


def round_up(value: int, to: int) -> int:
    return -(-value // to) * to
