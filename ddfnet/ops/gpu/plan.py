"""From a job to its launches.

A plan is a function of the job and of the multiprocessor's shared memory alone, so it is made once per shape, without a
GPU, and the results are the same on every run. Where x lies is part of the job, and which gradients are asked for: a
slice of it that begins at another multiple of bytes, or the gradient of one filter alone, may be cut into other tiles,
and sums may end in other last bits.
"""

from .job import Job
from .records import PROBLEM, Launch, record
from .specialisations import is_fast, specialisation
from .tiling import THREADS, best_tiling


def plan(job: Job, shared_memory: int) -> tuple[Launch, ...]:
    """Return the launches of a job, one after the other, on a multiprocessor with that many bytes of shared memory.

    Empty where only the generic kernels could serve, which do not normalise and make one filter's gradient at a time:
    then the operator asks for those.
    """
    if job.kind.startswith("generic_"):
        return (_generic(job),)
    options = job.problem.options
    fast = is_fast(options.kernel_size, options.stride, options.dilation)
    tiled = best_tiling(job, shared_memory) if fast else None  # none where it had more blocks than a grid
    if tiled is not None:
        return tiled, *_sum_of_partials(job, tiled)
    if job.kind == "filter_grad" or options.spatial_norm:
        return ()
    return (_generic(job._replace(kind=f"generic_{job.kind}")),)


def _sum_of_partials(job: Job, tiled: Launch) -> tuple[Launch, ...]:
    """Return the launch that adds what several tiles gave for one channel filter's gradient."""
    (n, channels, _, _), options = job.problem.shape, job.problem.options
    tiles = tiled.grid // (n * options.heads)
    if not job.want_channel or tiles == 1:
        return ()
    size = channels * options.taps
    wanted = specialisation("sum_partials", job.dtype_index)
    return (Launch(wanted, -(-n * size // THREADS), THREADS, 0, (n * size, size, tiles)),)


def _generic(job: Job) -> Launch:
    (n, channels, height, width), options, nhwc = job.problem
    out_height, out_width = job.problem.out_size
    heads, taps = options.heads, options.taps
    results = {
        "generic_forward": channels * out_height * out_width,
        "generic_grad_x": channels * height * width,
        "generic_grad_spatial": heads * taps * out_height * out_width,
        "generic_grad_channel": channels * taps,
    }
    filters_added = job.kind in ("generic_forward", "generic_grad_x") and options.combine == "add"
    problem = record(
        PROBLEM,
        n=n,
        channels=channels,
        heads=heads,
        height=height,
        width=width,
        out_height=out_height,
        out_width=out_width,
        kernel_size=options.kernel_size,
        stride=options.stride,
        dilation=options.dilation,
        add=filters_added,
        relu=job.relu,
        x=_strides(nhwc, channels, height, width),
        y=_strides(nhwc, channels, out_height, out_width),
        s=job.ds if job.kind == "generic_grad_spatial" else job.s,
    )
    blocks = min(-(-n * results[job.kind] // THREADS), 2**20)  # the kernels loop over the rest
    return Launch(specialisation(job.kind, job.dtype_index), blocks, THREADS, 0, (problem,))


def _strides(nhwc: bool, channels: int, height: int, width: int) -> tuple[int, int, int, int]:
    image = channels * height * width
    return (image, 1, width * channels, channels) if nhwc else (image, height * width, width, 1)
