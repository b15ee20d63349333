"""Both branches' reading of x on a GPU: one kernel for the convolution and the mean, another to add what tiles gave."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..options import output_size
from ..reference import branches_reference
from ..tensors import accumulation_dtype, contiguous, dense, empty
from . import launch
from .job import BranchesJob
from .launch import alignment_of, pointer, pointers_of
from .records import BRANCHES, Launch, record
from .specialisations import DTYPE_INDEX, specialisation

# As in cuda/ddf_branches.cu, and how many threads the mean gets
THREADS, PIXELS, GROUP, SLOTS, CHUNK_BYTES = 128, 4, 9, 16, 128
MEAN_THREADS = 512
BUDGET = 48 * 1024  # bytes of shared memory: what every GPU gives a block, and four blocks fit
FEWEST_BLOCKS = 256  # below that tiles are made smaller: two on each multiprocessor of a nominal GPU


def branches(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> tuple[Tensor, Tensor]:
    """Compute `ddf_branches`; shapes beyond the kernels' 32 bits take torch's operations."""
    if x.numel() == 0:
        return branches_reference(x, weight, bias, stride)
    (x, layout), weight, bias = dense(x), weight.contiguous(), contiguous(bias)
    outputs, nhwc = weight.shape[0], layout is torch.channels_last
    job = BranchesJob(x.dtype, x.shape, outputs, stride, nhwc, alignment_of(x.data_ptr()))
    launches = launch.launcher.ready(plan, job, x.device)
    if not launches:
        return branches_reference(x, weight, bias, stride)
    n, channels, height, width = x.shape
    spatial = empty(x, n, outputs, *output_size(height, width, stride))
    pooled = x.new_empty(n, channels)
    partial = None
    if len(launches) == 2:  # each tile writes sums of its own, which the second launch adds
        _, tiles, _ = launches[1].launch.parameters
        partial = torch.empty(n * tiles * channels, dtype=accumulation_dtype(x.dtype), device=x.device)
    pointers = pointers_of(x, weight, bias, spatial, pooled, partial)
    launch.launcher.run(launches[0], x.device, pointers)
    if partial is not None:
        launch.launcher.run(launches[1], x.device, [pointer(partial), pointer(pooled)])
    return spatial, pooled


class Tiling(NamedTuple):
    """How a job is cut: some pixels of x are a tile, some channels of it, CHUNK_BYTES of each pixel, lie in shared
    memory at a time, and GROUP outputs are a thread's."""

    step: int  # elements of a pixel in shared memory
    pixels: int
    tiles: int  # of an image
    groups: int  # of a block
    bands: int  # blocks that share a tile's outputs
    buffers: int
    shared: int  # bytes


def plan(job: BranchesJob, shared_memory: int) -> tuple[Launch, ...]:
    """Return the launches of the two kernels, the second where there is more than one tile; none where 32 bits do not
    do. All GPUs have the shared memory."""
    dtype = DTYPE_INDEX[job.dtype]
    n, channels, height, width = job.shape
    area, tiling = height * width, _tiling(job)
    grid = n * tiling.tiles * tiling.bands
    if grid >= 2**31 or area >= 2**30:  # the kernel adds a row and a stride in 32 bits
        return ()
    copy, across = _copies(job, tiling)
    out_height, out_width = output_size(height, width, job.stride)
    block = record(
        BRANCHES,
        channels=channels,
        outputs=job.outputs,
        height=height,
        width=width,
        stride=min(job.stride, max(height, width)),
        out_width=out_width,
        out_pixels=out_height * out_width,
        pixels=tiling.pixels,
        tiles=tiling.tiles,
        groups=tiling.groups,
        bands=tiling.bands,
        buffers=tiling.buffers,
        tile_size=tiling.pixels * tiling.step,
        copy=copy,
        across=across,
    )
    first = Launch(specialisation("branches", dtype, job.nhwc), grid, THREADS, tiling.shared, (block,))
    if tiling.tiles == 1:
        return (first,)
    blocks = n * -(-channels // 32)
    mean = specialisation("branches_mean", dtype)
    return first, Launch(mean, blocks, MEAN_THREADS, 8 * MEAN_THREADS, (channels, tiling.tiles, area))


def _tiling(job: BranchesJob) -> Tiling:
    n, channels, height, width = job.shape
    item, accumulated, area = job.dtype.itemsize, max(4, job.dtype.itemsize), height * width
    chunk = CHUNK_BYTES // item
    chunks, row = -(-channels // chunk), (chunk + 4) * accumulated
    # GROUP outputs a thread, up to four such groups a block: more would leave their weights no room
    all_groups = -(-job.outputs // GROUP)
    bands = -(-all_groups // 4)
    groups = -(-all_groups // bands)
    # elements of a pixel in the tile, and what a tile's pixels are a multiple of: in NCHW it begins where a copy may
    step, unit = (chunk + 16 // item, 1) if job.nhwc else (chunk, 16 // item)

    def bytes_with(pixels: int, buffers: int) -> int:
        walk = buffers * (pixels * step * item + groups * GROUP * row)
        return SLOTS * row + max(walk, THREADS * PIXELS * GROUP * accumulated)

    most = 256  # pixels of a tile; halved, the eight shares of a chunk's channels still go evenly to the threads
    while -(-most // PIXELS) * groups > THREADS or bytes_with(most, min(chunks, 2)) > BUDGET:
        most //= 2
    tiles = max(-(-area // most), min(-(-FEWEST_BLOCKS // n), -(-area // 32)))
    pixels = min(area, -(-area // (tiles * unit)) * unit, most // unit * unit)
    buffers = max(b for b in (1, 2, 3) if b <= chunks and bytes_with(pixels, b) <= BUDGET)
    return Tiling(step, pixels, -(-area // pixels), groups, bands, buffers, bytes_with(pixels, buffers))


def _copies(job: BranchesJob, tiling: Tiling) -> tuple[int, int]:
    """Return the bytes of a copy, and how many threads copy a row: in NHWC the chunk's channels of a pixel; in NCHW a
    channel's pixels, or all channels' where there is one tile."""
    channels, area, item = job.shape[1], job.shape[2] * job.shape[3], job.dtype.itemsize
    chunk = CHUNK_BYTES // item
    if job.nhwc:
        columns, together = chunk, channels  # elements of the row, and how many lie side by side in x
    elif tiling.tiles > 1:
        columns, together = tiling.pixels, area
    else:
        columns, together = chunk * area, channels * area
    copy = math.gcd(job.alignment, together * item, columns * item)
    copy = copy if copy >= 8 else item
    return copy, min(THREADS, 1 << (-(-columns * item // copy) - 1).bit_length())
