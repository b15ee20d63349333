"""How many instructions a tile takes, estimated for tiling.py to choose by.

The constants below are thread instructions of sm_90 for what their names say: those with the smallest largest error
beside what scripts/counting counts, over a thousand tiles of every pass, dtype, layout, stride and kernel size.
tests/test_kernel_counts.py holds the estimates of the tiles that are chosen within a quarter of the counts.
"""

from .specialisations import PIXEL_BYTES, STRIP
from .tile import Areas, Block, Tile, Work, round_up

COPY = 60  # from global to shared memory, whatever its width
UNIT_TAP = 20  # a tap of the spatial filter, where it is read, and once more where its statistics are
CHUNK, TAP = 350, 30  # what a thread does once in a chunk; a tap of a channel filter
PRODUCT, RESULT, WRITE = 2.6, 16, 45  # forward and the gradient of x; writes are copies from shared memory, in NCHW
# the filters' gradients: a tap's are read, summed over shares, derived and written
GRAD_CHUNK, GRAD_TAP, GRAD_PRODUCT, GRAD_UNIT_TAP_READ, GRAD_UNIT_TAP_WRITTEN = 640, 65, 2.3, 100, 235


def instructions_of(work: Work, tile: Tile, areas: Areas, block: Block) -> float:
    """Estimate what the threads of a block issue; tests/test_kernel_counts.py holds it beside what is counted."""
    taps, chunk, units, job = work.taps, tile.chunk, tile.rows * tile.columns, work.job
    strips, lanes = tile.rows * tile.across, chunk // work.vector
    in_chunk: float
    copies = _copies(work, tile.rows_in, tile.columns_in, areas.source_copy, chunk)
    product = STRIP * work.vector * taps
    if work.is_filter_grad:
        copies += _copies(work, tile.rows, tile.columns, areas.other_copy, chunk)
        in_chunk = GRAD_CHUNK * block.threads + GRAD_TAP * _warps(chunk * taps) * (job.want_channel + job.want_spatial)
        if job.want_channel:
            rows = _warps(block.slots * lanes * work.size) * -(-strips // block.slots)
            in_chunk += GRAD_PRODUCT * product / work.size * rows
        if job.want_spatial:
            rows = _warps(block.parts * work.size * strips) * -(-lanes // block.parts)
            in_chunk += GRAD_PRODUCT * product / work.size * rows
        once = (GRAD_UNIT_TAP_READ * job.want_channel + GRAD_UNIT_TAP_WRITTEN * job.want_spatial) * _warps(units * taps)
    else:
        results = STRIP * work.phases**2
        in_chunk = CHUNK * block.threads + TAP * _warps(chunk * taps)
        in_chunk += (PRODUCT * product + RESULT * results) * _warps(strips * lanes)
        if not work.nhwc:
            side = tile.rows * work.phases, tile.columns * work.phases
            in_chunk += WRITE * _warps(chunk * side[0] * side[1] * work.item // areas.other_copy)
        once = UNIT_TAP * taps * (_warps(units) + _warps(block.normalized))
    return block.chunks * (COPY * copies + in_chunk) + once


def _copies(work: Work, rows: int, columns: int, copy: int, chunk: int) -> int:
    """Return how many copies of so many bytes the threads make of a chunk."""
    if work.nhwc:
        return _warps(rows * columns * PIXEL_BYTES // copy)
    spare = copy // work.item - 1  # elements before an aligned address
    return _warps(chunk * rows * -(-(columns + spare) * work.item // copy))


def _warps(threads: int) -> int:
    """Return the threads of whole warps: those without work in a warp that has some issue too."""
    return round_up(threads, 32)
