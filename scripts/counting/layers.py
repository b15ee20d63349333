"""The DDF layers of DDF-ResNet-50 and what a GPU's kernels do for them."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from ddfnet.ops.gpu.job import NOTHING, Job, Problem
from ddfnet.ops.gpu.plan import plan
from ddfnet.ops.gpu.records import Launch
from ddfnet.ops.gpu.specialisations import Specialisation
from ddfnet.ops.options import DDFOptions

from .counts import SECTOR, count
from .program import Program
from .threads import WARP

# An H100: multiprocessors, cycles in a microsecond, warps that start an instruction in a cycle, bytes in a microsecond,
# of the memory as a copy has them
MULTIPROCESSORS, CYCLES, SCHEDULERS, BYTES = 132, 1755, 4, 3.0e6
BATCH = 256
SHARED = 228 * 1024  # bytes of a multiprocessor: sm_90
PASSES = ("forward", "grad_x", "filter_grad")


class Layer(NamedTuple):
    channels: int
    size: int  # of x, in each direction
    stride: int
    times: int  # in the network


LAYERS = (
    Layer(64, 56, 1, 3),
    Layer(128, 56, 2, 1),
    Layer(128, 28, 1, 3),
    Layer(256, 28, 2, 1),
    Layer(256, 14, 1, 5),
    Layer(512, 14, 2, 1),
    Layer(512, 7, 1, 2),
)


def job_of(kind: str, dtype: torch.dtype, nhwc: bool, layer: Layer) -> Job:
    """Return a pass over a batch, as training asks for it: raw spatial filters, and both filters' gradients."""
    options = DDFOptions(stride=layer.stride, spatial_norm=True)
    out = options.output_size(layer.size, layer.size)[0]
    spatial = (9 * out * out, 1, 9 * out, 9) if nhwc else (9 * out * out, out * out, out, 1)
    wants = kind == "filter_grad"
    problem = Problem((BATCH, layer.channels, layer.size, layer.size), options, nhwc)
    return Job(kind, dtype, problem, 16, spatial, spatial if wants else NOTHING, wants, wants)


def launches_of(job: Job) -> Iterator[tuple[Launch, list[bool]]]:
    """Yield the launches of a pass and which of their pointers are not null."""
    launches = plan(job, SHARED)
    if job.kind != "filter_grad":
        yield launches[0], [True, True, True, True, False, False]  # no scale, no bias
        return
    alone = len(launches) == 1  # dc without partial sums
    yield launches[0], [True, True, True, True, True, True, alone, not alone]
    for launch in launches[1:]:
        yield launch, [True, True]


def results_of(job: Job) -> int:
    """Return the elements of y or, for its gradient, of x: what instructions are counted per."""
    n, channels, height, width = job.problem.shape
    return n * channels * (height * width if job.kind == "grad_x" else out_pixels(job))


def out_pixels(job: Job) -> int:
    height, width = job.problem.out_size
    return height * width


def bytes_of(job: Job) -> int:
    """Return what has to be read and written at least: every tensor once."""
    n, channels, height, width = job.problem.shape
    large = n * channels * (height * width + out_pixels(job))  # x and y, or their gradients
    spatial, channel = n * 9 * out_pixels(job), n * channels * 9
    filters = 2 if job.kind == "filter_grad" else 1  # and their gradients
    return (large + filters * (spatial + channel)) * job.dtype.itemsize


def cost_of(job: Job, program_of: Callable[[Specialisation], Program]) -> dict:
    """Return what the pass takes, counted; times in microseconds, each of which it cannot be faster than."""
    instructions = wavefronts = sectors = 0.0
    accesses: Counter[str] = Counter()
    for launch, pointers in launches_of(job):
        counts = count(launch, pointers, program_of(launch.specialisation), BATCH)
        instructions += counts.instructions
        wavefronts += counts.wavefronts
        sectors += counts.sectors
        accesses.update(counts.accesses)
    times = {
        "issue_us": instructions / (MULTIPROCESSORS * SCHEDULERS * CYCLES),
        "shared_us": wavefronts / (MULTIPROCESSORS * CYCLES),
        "memory_us": bytes_of(job) / BYTES,
    }
    outputs = results_of(job)
    return {
        "instructions_per_output": round(WARP * instructions / outputs, 2),
        "wavefronts_per_output": round(WARP * wavefronts / outputs, 2),
        "bytes_per_output": round(SECTOR * sectors / outputs, 2),
        **{name: round(time, 1) for name, time in times.items()},
        "worst": max(times, key=lambda name: times[name]).removesuffix("_us"),
        "accesses": {kind: round(WARP * number / outputs, 4) for kind, number in accesses.items()},
    }
