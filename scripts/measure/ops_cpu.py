"""The operator on a CPU beside what could stand in its place: forward, forward and backward, peak memory.

Methods take turns (one round runs every method once, so that a drifting machine is fair to all); medians over the
rounds. Peak memory is that of one forward and backward, in a process of its own; not of the compiled formula, where it
would be the compiler's.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from ddfnet.ops import ddf

from . import ops_gpu
from .timing import print_table

BENCHMARK = Path(__file__).resolve().parent.parent / "benchmark.py"
# The GPU's shapes, with fewer images and a quarter of the large map
SHAPES = [((8, *shape[1:]), stride) for shape, stride in ops_gpu.SHAPES[:-1]] + [((2, 256, 100, 150), 1)]
COMPILED = "compiled formula"
METHODS = ["ddf", "depthwise", "full", COMPILED, "unfold+einsum"]


def build(method: str, shape: tuple[int, ...], stride: int = 1, channels_last: bool = False):
    """(function of no arguments, its inputs that want gradients) for a 3x3 filtering of (N, C, H, W)."""
    n, channels, height, width = shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
    if method in ("depthwise", "full"):
        groups = channels if method == "depthwise" else 1
        weight = torch.randn(channels, channels // groups, 3, 3, requires_grad=True)
        return (lambda: F.conv2d(x, weight, stride=stride, padding=1, groups=groups)), (x, weight)
    c = torch.randn(n, channels, 3, 3, requires_grad=True)
    size = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    s = torch.randn(n, 9, *size).contiguous(memory_format=layout).requires_grad_()
    if method == "ddf":
        return (lambda: ddf(x, c, s, stride=stride)), (x, c, s)
    formula = torch.compile(ops_gpu.formula, dynamic=False) if method == COMPILED else ops_gpu.unfolded
    return (lambda: formula(x, c, s, stride)), (x, c, s)


def seconds(function) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def time_shape(shape: tuple[int, ...], stride: int, channels_last: bool, rounds: int) -> dict[str, dict[str, float]]:
    """Method -> milliseconds of a forward without gradients and of a forward with backward."""
    runs = {}
    for method in METHODS:
        function, inputs = build(method, shape, stride, channels_last)
        with torch.no_grad():
            grad = torch.randn_like(function())

        def forward(function=function):
            with torch.no_grad():
                function()

        def both(function=function, inputs=inputs, grad=grad):
            torch.autograd.grad(function(), inputs, grad)

        runs[method] = (forward, both)
    taken: dict[str, tuple[list[float], list[float]]] = {method: ([], []) for method in METHODS}
    for round_number in range(rounds + 1):
        for method, functions in runs.items():
            for times, function in zip(taken[method], functions, strict=True):
                took = seconds(function)
                if round_number:  # the first warms up
                    times.append(took * 1e3)
    return {
        method: {"forward_ms": statistics.median(a), "forward_backward_ms": statistics.median(b)}
        for method, (a, b) in taken.items()
    }


def peak_memory(method: str, shape: tuple[int, ...], stride: int) -> int | None:
    """Bytes above the inputs at the peak of one forward+backward, by Linux's counter; None on other systems."""
    if method == COMPILED:
        return None
    command = [sys.executable, str(BENCHMARK), "memory", method, *map(str, (*shape, "--stride", stride))]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return int(printed) if printed else None


def print_peak_memory(method: str, shape: tuple[int, ...], stride: int) -> None:
    """What `peak_memory` runs in a process of its own."""
    if not Path("/proc/self/clear_refs").exists():
        return

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

    torch.set_num_threads(1)  # the threads' own stacks are not the method's
    small, inputs = build(method, (1, 8, 8, 8))
    torch.autograd.grad(small().sum(), inputs)  # libraries load here
    function, inputs = build(method, shape, stride)
    with torch.no_grad():
        grad = torch.randn_like(function())
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status("VmRSS")
    torch.autograd.grad(function(), inputs, grad)
    print(status("VmHWM") - before)


def measure(figures: dict, threads: int, rounds: int) -> None:
    """Fills figures["methods"]."""
    torch.set_num_threads(threads)
    results: list[dict] = figures.setdefault("methods", [])
    for shape, stride in SHAPES:
        memory = {method: peak_memory(method, shape, stride) for method in METHODS}
        for channels_last in (False, True):
            layout = "channels_last" if channels_last else "nchw"
            torch._dynamo.reset()
            times = time_shape(shape, stride, channels_last, rounds)
            base, base_memory = times["depthwise"], memory["depthwise"]
            rows = []
            for method in METHODS:
                entry: dict = {"shape": shape, "stride": stride, "layout": layout, "method": method} | times[method]
                if layout == "nchw" and memory[method] is not None:
                    entry["peak_bytes"] = memory[method]
                results.append(entry)
                both, peak = entry["forward_backward_ms"], entry.get("peak_bytes")
                ratio = f"{both / base['forward_backward_ms']:.2f}"
                sizes = (f"{peak / 1e6:.0f}", f"{peak / base_memory:.2f}") if peak and base_memory else ("", "")
                rows.append((method, f"{entry['forward_ms']:.1f}", f"{both:.1f}", ratio, *sizes))
            title = f"{'x'.join(map(str, shape))} stride {stride} float32 {layout}, {threads} threads"
            header = ("", "forward ms", "fwd+bwd ms", "x depthwise", "peak MB", "x depthwise")
            print_table(title, header, rows)
