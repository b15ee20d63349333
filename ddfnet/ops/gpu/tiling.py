"""How a job is cut into blocks for the tiled kernels: which tile, how it lies in shared memory, how many threads.

A tile is some rows and columns of units: a unit is an output pixel or, for the gradient of x, the stride * stride input
pixels of one output pixel. STRIP neighbouring units of a row are a strip, which a thread makes at a time; a chunk is
the channels that lie in shared memory at a time. Four steps lead to a launch: a tile's sizes (`_tile_of`), its place in
shared memory (`_areas`), its threads and buffers (`_block_of`), and what it costs (cost.py). Of the tiles that fit the
one with the shortest estimated time is taken.
"""

import itertools
import math
from collections.abc import Iterator

from .cost import spread_pitch, time_of
from .instructions import instructions_of
from .job import Job
from .records import TILING, Launch, record
from .specialisations import FILTER_GRAD_PAD, PIXEL_BYTES, STRIP, specialisation
from .tile import Areas, Block, Tile, Work, round_up

THREADS = 256  # as in cuda/ddf_tile.cuh
STATISTICS = 4  # likewise, numbers of one filter's


def best_tiling(job: Job, shared_memory: int) -> Launch | None:
    """Return the launch of the best tile; None where each needs more blocks than a grid has."""
    chosen = choose(job, shared_memory)
    return None if chosen is None else _launch(*chosen)


def choose(job: Job, shared_memory: int) -> tuple[Work, Tile, Areas, Block] | None:
    """Return the tile with the shortest estimated time, in the steps above; None where each needs too many blocks."""
    work = Work(job)
    fitting = [
        (_time_of(work, tile, areas, block, shared_memory), tile[:3], budget)
        for budget in (shared_memory // 2 - 1024, shared_memory - 1024)  # beside a second block, or alone
        for tile in _tiles(work)
        if (areas := _areas(work, tile)) and (block := _block_of(work, tile, areas, budget * 9 // 10))
    ]
    if not fitting:
        return None
    # a tenth of the budget was left to spread the chosen tile's rows over the banks
    _, sizes, budget = min(fitting)
    tile = _tile_of(work, *sizes)
    areas = _areas(work, tile, spread=True)
    block = _block_of(work, tile, areas, budget)
    if block is None:
        areas = _areas(work, tile)
        block = _block_of(work, tile, areas, budget)
        assert block is not None, "it fitted in less"
    return work, tile, areas, block


def _tiles(work: Work) -> Iterator[Tile]:
    strips = -(-work.units_wide // STRIP)
    acrosses = {-(-strips // -(-strips // most)) for most in range(1, 9)}  # strips of a tile, evenly over the tiles
    whole = round_up(work.per_head, work.vector)
    chunks = [PIXEL_BYTES // work.item] if work.nhwc else sorted({min(whole, c) for c in (4, 8, 16, 32, 64)})
    for across, rows, chunk in itertools.product(acrosses, range(1, min(16, work.units_high) + 1), chunks):
        yield _tile_of(work, rows, across, chunk)


def _tile_of(work: Work, rows: int, across: int, chunk: int) -> Tile:
    columns = across * STRIP
    tiles_across = -(-work.units_wide // columns)
    return Tile(
        rows=rows,
        across=across,
        chunk=chunk,
        columns=columns,
        rows_in=(rows - 1) * work.step + work.window,
        columns_in=(columns - 1) * work.step + work.window,
        tiles=-(-work.units_high // rows) * tiles_across,
        tiles_across=tiles_across,
        chunks=-(-work.per_head // chunk),
    )


def _areas(work: Work, tile: Tile, spread: bool = False) -> Areas:
    """Lay the tile out, with its rows spread over the banks of shared memory where that takes room."""
    return (_areas_nhwc if work.nhwc else _areas_nchw)(work, tile, spread)


def _areas_nhwc(work: Work, tile: Tile, spread: bool) -> Areas:
    copy = math.gcd(work.job.alignment, work.per_head * work.item)
    pixel = (PIXEL_BYTES + (FILTER_GRAD_PAD if work.is_filter_grad else 0)) // work.item
    source_pitch, other_pitch = tile.columns_in, tile.columns
    if spread and work.is_filter_grad:  # the other kernel's warps read neighbouring channels, which never meet
        access = pixel * work.item, work.vector * work.item
        source_pitch = spread_pitch(source_pitch, 1, work.step, tile.across, *access)
        other_pitch = spread_pitch(other_pitch, 1, 1, tile.across, *access)
    other_size = tile.rows * other_pitch * pixel if work.is_filter_grad else 0
    return Areas(copy, source_pitch, tile.rows_in * source_pitch * pixel, copy, other_pitch, other_size)


def _areas_nchw(work: Work, tile: Tile, spread: bool) -> Areas:
    item, alignment, phases = work.item, work.job.alignment, work.phases
    source_copy = math.gcd(alignment, work.source_width * item)
    source_pitch = round_up(tile.columns_in + source_copy // item - 1, source_copy // item)
    other_copy = math.gcd(alignment, work.result_width * item)
    if not work.is_filter_grad and tile.tiles_across > 1:  # a tile's first column must be aligned too
        other_copy = math.gcd(other_copy, tile.columns * phases * item)
    spare = other_copy // item - 1 if work.is_filter_grad else 0
    other_pitch = round_up(tile.columns * phases + spare, other_copy // item)
    if spread:
        source_pitch = spread_pitch(source_pitch, source_copy // item, work.step, tile.across, item, item)
        other_pitch = spread_pitch(other_pitch, other_copy // item, phases, tile.across, item, item)
    source_size = round_up(tile.chunk * tile.rows_in * source_pitch, 16 // item)
    other_size = round_up(tile.chunk * tile.rows * phases * other_pitch, 16 // item)
    return Areas(source_copy, source_pitch, source_size, other_copy, other_pitch, other_size)


def _block_of(work: Work, tile: Tile, areas: Areas, budget: int) -> Block | None:
    """Return the tile's threads and buffers; None where they need more than `budget` bytes or a grid has no room."""
    lanes, strips, units = tile.chunk // work.vector, tile.rows * tile.across, tile.rows * tile.columns
    slots = parts = 0
    if work.is_filter_grad:
        slots = min(THREADS // (lanes * work.size), strips)
        if not slots:
            return None
        parts = max(1, min(THREADS // (strips * work.size), lanes))
        threads = min(THREADS, round_up(max(slots * lanes, parts * strips) * work.size, 32))
        chunks, groups = tile.chunks, 1
    else:
        threads = min(THREADS, round_up(strips * lanes, 32))
        chunks = 1 if work.nhwc else min(tile.chunks, -(-64 // tile.chunk))
        groups = -(-tile.chunks // chunks)
    normalized = (tile.rows_in * tile.columns_in if work.is_grad_x else units) if work.norm else 0

    def bytes_with(buffers: int) -> int:
        elements, sums = _elements_and_sums(work, tile, areas, slots, parts, buffers)
        return elements * work.item + (sums + STATISTICS * normalized) * work.accumulated

    while bytes_with(1) > budget and max(slots, parts) > 1:  # fewer shares, where the tile alone would fit
        slots, parts = max(1, slots - 1), max(1, parts - 1)
    buffers = 2 if chunks > 1 and bytes_with(2) <= budget else 1
    shared, grid = bytes_with(buffers), work.maps * tile.tiles * groups
    if shared > budget or grid >= 2**31:
        return None
    return Block(threads, chunks, groups, slots, parts, normalized, buffers, shared, grid)


def _elements_and_sums(work: Work, tile: Tile, areas: Areas, slots: int, parts: int, buffers: int) -> tuple[int, int]:
    """Return how many elements and how many sums lie in shared memory."""
    tap_row = round_up(work.size, 4)
    unit_taps = work.size * tap_row + (4 if work.size * tap_row // 4 % 2 == 0 else 0)
    spatial = tile.rows * tile.columns * unit_taps
    channel = work.taps * tile.chunk
    if not work.is_filter_grad:
        return buffers * areas.source_size + areas.other_size, spatial + buffers * channel
    sums = 0
    if work.job.want_channel:
        sums += spatial + slots * channel
    if work.job.want_spatial:
        sums += buffers * channel + parts * spatial
    return buffers * (areas.source_size + areas.other_size), sums


def _time_of(work: Work, tile: Tile, areas: Areas, block: Block, shared_memory: int) -> float:
    """Estimate the time of the whole grid."""
    item, taps, chunk, units = work.item, work.taps, tile.chunk, tile.rows * tile.columns
    # what the block reads, the halo too, and writes; a partial sum is written, and read by the kernel that adds them
    pixels = tile.rows_in * tile.columns_in + units * work.phases**2
    spatial_filters = 1 + (work.is_filter_grad and work.job.want_spatial)
    moved = pixels * block.chunks * chunk * item + units * taps * item * spatial_filters
    if work.is_filter_grad and work.job.want_channel and tile.tiles > 1:
        moved += 2 * taps * block.chunks * chunk * work.accumulated
    registers = 128 if work.size == 3 and item < 8 else 256
    instructions = instructions_of(work, tile, areas, block)
    return time_of(instructions, moved, block.grid, block.threads, registers, block.shared, shared_memory)


def _launch(work: Work, tile: Tile, areas: Areas, block: Block) -> Launch:
    job, options = work.job, work.job.problem.options
    _, channels, height, width = job.problem.shape
    tiling = record(
        TILING,
        s=job.s,
        ds=job.ds,
        norm=math.sqrt(2) / work.size if work.norm else 0.0,
        channels=channels,
        heads=options.heads,
        per_head=work.per_head,
        height=height,
        width=width,
        out_height=work.out_height,
        out_width=work.out_width,
        rows=tile.rows,
        columns=tile.columns,
        tiles=tile.tiles,
        tiles_across=tile.tiles_across,
        chunk=tile.chunk,
        chunks=block.chunks,
        groups=block.groups,
        buffers=block.buffers,
        **areas._asdict(),
        slots=block.slots,
        parts=block.parts,
        relu=job.relu,
    )
    add = options.combine == "add"
    wanted = specialisation(job.kind, job.dtype_index, work.nhwc, work.size, options.stride, add)
    return Launch(wanted, block.grid, block.threads, block.shared, (tiling,))
