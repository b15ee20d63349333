"""Clocks, memory counters, and what must be said of the machine. Needs torch alone, and CuPy for an empty kernel."""

import contextlib
import datetime
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch

import ddfnet
from ddfnet.ops.gpu.compile import import_cupy

Function = Callable[[], object]
CACHE_BYTES = 256 << 20  # inputs and outputs of a rotation outgrow every cache of a GPU


class Timing(NamedTuple):
    """Milliseconds of a call over the repeats: the median, the shortest and the longest."""

    median: float
    shortest: float
    longest: float

    @property
    def spread(self) -> float:
        """How far the repeats lie apart, as a part of the median."""
        return (self.longest - self.shortest) / self.median


def time_cuda(functions: Sequence[Function], repeats: int = 5) -> float:
    """Return the median of `timing_cuda`."""
    return timing_cuda(functions, repeats).median


def timing_cuda(functions: Sequence[Function], repeats: int = 5) -> Timing:
    """Time one call: the functions, which do the same on buffers of their own, in turns, in a CUDA graph.

    A graph, because a launch from Python takes longer than the smaller kernels; turns, so that no call finds its data
    in the cache. What a node of a graph takes that does nothing (`empty_node`) is in it.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for function in functions[:2]:
            function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        kept = [function() for function in functions]
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def replay(times: int) -> float:
        start.record()
        for _ in range(times):
            graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / times

    replay(2)
    times = max(1, int(40 / max(replay(1), 1e-3)))
    taken = [replay(times) / len(kept) for _ in range(repeats)]  # kept: a call's outputs must not become the next one's
    return Timing(statistics.median(taken), min(taken), max(taken))


def empty_node() -> float:
    """Milliseconds of a kernel that does nothing, in a graph: the part of a small kernel's time that is not its own."""
    cupy = import_cupy()
    kernel = cupy.RawKernel('extern "C" __global__ void empty() {}', "empty")

    def launch() -> None:
        stream = cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream)
        kernel((1,), (32,), (), stream=stream)

    return time_cuda([launch] * 64)


def clocks() -> dict[str, str]:
    """Return the clocks, power and temperature of the moment, and what holds the clocks down, in the driver's words."""
    names = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "clocks_throttle_reasons.active")
    gpu = f"--id=GPU-{torch.cuda.get_device_properties(0).uuid}"
    query = ["nvidia-smi", f"--query-gpu={','.join(names)}", "--format=csv,noheader", gpu]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in said.split("\n")[0].split(",")]
    return dict(zip(names, values, strict=True)) if len(values) == len(names) else {}


def time_eager(function: Function, device: torch.device, repeats: int = 30, warm: int = 5) -> list[float]:
    """Milliseconds of single calls, each waited for, as a user's loop would see them."""
    taken = []
    for number in range(warm + repeats):
        synchronize(device)
        started = time.perf_counter()
        function()
        synchronize(device)
        if number >= warm:
            taken.append((time.perf_counter() - started) * 1e3)
    return taken


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copies_for(tensors: Sequence[torch.Tensor]) -> int:
    """How many sets of these tensors outgrow the cache."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return max(2, min(64, -(-CACHE_BYTES // size)))


def copy_bandwidth() -> float:
    """Bytes read and written per second by a device-to-device copy of 1 GB."""
    source = torch.empty(1 << 28, device="cuda", dtype=torch.float32).normal_()
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / (time_cuda([lambda: target.copy_(source)]) * 1e-3)


def peak_bytes(make: Callable[[], Function], device: torch.device) -> int | None:
    """Bytes at the peak of one call, inputs and weights included; None where nobody counts."""
    if device.type != "cuda":
        return None
    torch.cuda.empty_cache()
    base = torch.cuda.memory_allocated()
    function = make()
    function()  # libraries take their workspace
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - base


def environment(device: torch.device) -> dict:
    """Device, driver, versions, commit and date of a run."""
    versions = {"python": platform.python_version(), "torch": str(torch.__version__), "ddfnet": ddfnet.__version__}
    for package in ("timm", "torchvision"):  # they define the compared networks; not imported for this
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    found: dict = {"date": datetime.date.today().isoformat(), "commit": commit()}
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0].strip()
        except FileNotFoundError:
            driver = ""
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        for module in ("cupy", "triton"):
            try:
                versions[module] = __import__(module).__version__
            except ImportError:
                continue
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        memory = torch.cuda.get_device_properties(device).total_memory
        found["machine"] = {"device": name, "driver": driver or "unknown", "capability": capability, "memory": memory}
    else:
        found["machine"] = {
            "device": "cpu",
            "processor": processor(),
            "cores": os.cpu_count() or 0,
            "system": platform.system(),
        }
    return {**found, "versions": versions}


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The commit, "-dirty" if more than results changed since. DDFNET_COMMIT says it where the checkout has no git."""
    folder = Path(__file__).resolve().parent.parent.parent
    try:
        changed = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"]
        named, dirty = (
            subprocess.run(command, capture_output=True, text=True, cwd=folder).stdout.strip()
            for command in (["git", "rev-parse", "--short", "HEAD"], changed)
        )
    except FileNotFoundError:
        named = dirty = ""
    return f"{named}{'-dirty' if dirty else ''}" if named else os.environ.get("DDFNET_COMMIT", "unknown")


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print(f"\n{title}")
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(c.rjust(width) for c, width in zip(others, widths[1:], strict=True))]
        print("  ".join(cells).rstrip(), flush=True)
