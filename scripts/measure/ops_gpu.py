"""The operator on a GPU: every pass at every shape of DDF-ResNet50, beside its floor and what could stand in its place.

The floor of a pass is the bytes that must move, once each, over the bandwidth of a copy measured in the same run. An
empty kernel's time is taken off the passes, ours and cuDNN's. First come the operator's passes, bfloat16 in
channels_last before all, and then the same passes of cuDNN's depth-wise and full convolution. What has no passes of its
own, the formula in torch, compiled or with unfold, is measured as forward and as forward with backward, the largest
maps first, for as long as there is time: the compiler takes most of it.
"""

import itertools
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from ddfnet.ops import ddf
from ddfnet.ops.gpu import ddf as gpu
from ddfnet.ops.options import DDFOptions

from . import branches
from .timing import (
    Function,
    clocks,
    copies_for,
    copy_bandwidth,
    empty_node,
    print_table,
    time_cuda,
    timing_cuda,
)

# (N, C, H, W), stride: the DDF layers of DDF-ResNet50 at batch 256, and the paper's Table 2
SHAPES = [
    ((256, 64, 56, 56), 1),
    ((256, 128, 56, 56), 2),
    ((256, 128, 28, 28), 1),
    ((256, 256, 28, 28), 2),
    ((256, 256, 14, 14), 1),
    ((256, 512, 14, 14), 2),
    ((256, 512, 7, 7), 1),
    ((2, 256, 200, 300), 1),
]
ALTERNATIVES = [SHAPES[0], SHAPES[-1], *SHAPES[1:-1]]  # in the order of what is worth knowing first
DTYPES = [torch.bfloat16, torch.float16, torch.float32]  # what matters first
LAYOUTS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}
PASSES = ["forward", "grad_x", "grad_filters"]


class Problem:
    """Tensors of one shape: x, its gradients, filters; and the weights of convolutions."""

    def __init__(self, shape, stride: int, dtype: torch.dtype, layout: torch.memory_format):
        n, channels, height, width = shape
        size = ((height - 1) // stride + 1, (width - 1) // stride + 1)

        def draw(*shape):
            return torch.randn(shape, device="cuda", dtype=dtype)

        self.stride = stride
        self.x, self.grad = (draw(n, channels, *s).contiguous(memory_format=layout) for s in ((height, width), size))
        self.c, self.s = draw(n, channels, 3, 3), draw(n, 9, *size).contiguous(memory_format=layout)
        self.depthwise = draw(channels, 1, 3, 3)
        self.full = draw(channels, channels, 3, 3).contiguous(memory_format=layout)

    def bytes_of(self, which: str) -> int:
        x, y, c, s = (tensor.numel() * tensor.element_size() for tensor in (self.x, self.grad, self.c, self.s))
        return {"forward": x + y + c + s, "grad_x": x + y + c + s, "grad_filters": x + y + 2 * (c + s)}[which]

    def ddf(self, which: str) -> Function:
        options = DDFOptions(stride=self.stride)
        return {
            "forward": lambda: gpu.forward(self.x, self.c, self.s, options),
            "grad_x": lambda: gpu.grad_x(self.grad, self.c, self.s, self.x.shape[2:], options),
            "grad_filters": lambda: gpu.grad_filters(self.grad, self.x, self.c, self.s, options, (True, True)),
        }[which]

    def convolution(self, which: str, weight: torch.Tensor) -> Function:
        """cuDNN's, by the same passes."""
        groups = self.x.shape[1] // weight.shape[1]
        if which == "forward":
            return lambda: F.conv2d(self.x, weight, stride=self.stride, padding=1, groups=groups)
        mask = [which == "grad_x", which == "grad_filters", False]
        options = (None, [self.stride] * 2, [1, 1], [1, 1], False, [0, 0], groups, mask)
        return lambda: torch.ops.aten.convolution_backward(self.grad, self.x, weight, *options)

    def leaves(self) -> tuple[torch.Tensor, ...]:
        return tuple(tensor.detach().requires_grad_() for tensor in (self.x, self.c, self.s))


def formula(x, c, s, stride: int):
    """The operator as one would write it in torch, for torch.compile."""
    padded, (height, width) = F.pad(x, (1, 1, 1, 1)), s.shape[2:]
    y = 0
    for tap in range(9):
        rows = slice(tap // 3, tap // 3 + (height - 1) * stride + 1, stride)
        columns = slice(tap % 3, tap % 3 + (width - 1) * stride + 1, stride)
        y = y + c[:, :, tap // 3, tap % 3, None, None] * s[:, tap, None] * padded[:, :, rows, columns]
    return y


def unfolded(x, c, s, stride: int):
    n, channels = x.shape[:2]
    patches = F.unfold(x, 3, padding=1, stride=stride).view(n, channels, 9, *s.shape[2:])
    return torch.einsum("nckhw,nck,nkhw->nchw", patches, c.flatten(2), s)


def both_ways(function: Callable, problem: Problem) -> Function:
    leaves = problem.leaves()
    return lambda: torch.autograd.grad(function(*leaves), leaves, problem.grad)


def measure(figures: dict, deadline: float) -> None:
    """Fills figures: copy_bytes_per_second, empty_ms, clocks, passes, branches, alternatives. Ends early, and says so,
    at the deadline: first what matters most, the operator's own passes before its rivals."""
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    bandwidth, empty = copy_bandwidth(), empty_node()  # the copy warms the device up
    print(f"copy: {bandwidth / 1e12:.2f} TB/s; an empty kernel: {empty * 1e3:.1f} us, taken off the passes")
    passes: list[dict] = []
    alternatives: list[dict] = []
    figures |= {"tf32": False, "copy_bytes_per_second": bandwidth, "empty_ms": empty, "clocks": [busy_clocks()]}
    figures |= {"passes": passes, "branches": [], "alternatives": alternatives}
    kinds = list(itertools.product(DTYPES, LAYOUTS))
    for dtype, layout in kinds:
        passes += own_passes(dtype, layout, bandwidth, empty, deadline)
        figures["clocks"].append(busy_clocks())
    for dtype, layout in kinds:
        branches.measure(figures["branches"], SHAPES, dtype, layout, bandwidth, deadline)
    for dtype, layout in kinds:
        entries = [one for one in passes if (one["dtype"], one["layout"]) == (name_of(dtype), layout)]
        rival_passes(entries, dtype, layout, empty, deadline)
    for layout, (shape, stride), dtype in itertools.product(LAYOUTS, ALTERNATIVES, DTYPES):
        if time.time() > deadline:
            print("out of time: the rest is left out")
            return
        slow_ones(alternatives, shape, stride, dtype, layout)


def busy_clocks() -> dict[str, str]:
    """Return the clocks under load: while the device copies, for about as long as the driver takes to answer."""
    source = torch.empty(1 << 28, device="cuda", dtype=torch.float32)
    target = torch.empty_like(source)
    for _ in range(1500):
        target.copy_(source)
    said = clocks()
    torch.cuda.synchronize()
    return said


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def run_once() -> None:
    """Run every pass of every shape once, in bfloat16 and channels_last, for a profiler to watch."""
    for shape, stride in SHAPES:
        problem = Problem(shape, stride, torch.bfloat16, torch.channels_last)
        for which in PASSES:
            problem.ddf(which)()
    torch.cuda.synchronize()


def problems_of(shape, stride: int, dtype: torch.dtype, layout: str) -> list[Problem]:
    """Return as many of the same as outgrow the cache."""
    first = Problem(shape, stride, dtype, LAYOUTS[layout])
    return [
        first,
        *(Problem(shape, stride, dtype, LAYOUTS[layout]) for _ in range(copies_for([first.x, first.grad]) - 1)),
    ]


def own_passes(dtype: torch.dtype, layout: str, bandwidth: float, empty: float, deadline: float) -> list[dict]:
    """Measure the operator's passes beside their floors."""
    entries, rows = [], []
    for shape, stride in SHAPES:
        if time.time() > deadline:
            print("out of time: the rest is left out")
            break
        problems = problems_of(shape, stride, dtype, layout)
        for which in PASSES:
            timing = timing_cuda([problem.ddf(which) for problem in problems])
            taken, floor = timing.median - empty, problems[0].bytes_of(which) / bandwidth * 1e3
            entry = dict(shape=shape, stride=stride, dtype=name_of(dtype), layout=layout)
            entry |= {"pass": which, "ms": taken, "spread": timing.spread, "floor_ms": floor}
            entries.append(entry | {"fraction_of_floor": floor / taken})
            name = f"{'x'.join(map(str, shape))} s{stride} {which}"
            numbers = (f"{taken * 1e3:.1f}", f"{timing.spread:.0%}", f"{floor * 1e3:.1f}", f"{floor / taken:.0%}")
            rows.append((name, *numbers))
        del problems
    print_table(f"{name_of(dtype)} {layout}", ("", "us", "spread", "floor us", "of floor"), rows)
    return entries


def rival_passes(entries: list[dict], dtype: torch.dtype, layout: str, empty: float, deadline: float) -> None:
    """Add to the entries what cuDNN's convolutions take for the same passes."""
    rows = []
    for (shape, stride), group in itertools.groupby(entries, key=lambda entry: (entry["shape"], entry["stride"])):
        if time.time() > deadline:
            print("out of time: the rest is left out")
            break
        problems = problems_of(shape, stride, dtype, layout)
        for entry in group:
            shown = []
            for name in ("depthwise", "full"):
                calls = [problem.convolution(entry["pass"], getattr(problem, name)) for problem in problems]
                entry[f"{name}_ms"] = taken = time_cuda(calls) - empty
                shown += [f"{taken * 1e3:.1f}", f"{entry['ms'] / taken:.2f}"]
            rows.append((f"{'x'.join(map(str, shape))} s{stride} {entry['pass']}", f"{entry['ms'] * 1e3:.1f}", *shown))
        del problems
    header = ("", "us", "depth-wise us", "x depth-wise", "full us", "x full")
    print_table(f"{name_of(dtype)} {layout}, beside cuDNN", header, rows)


def slow_ones(results: list[dict], shape, stride: int, dtype: torch.dtype, layout: str) -> None:
    """Forward, and forward with backward, of everything; None where it did not run."""
    torch._dynamo.reset()
    problem = Problem(shape, stride, dtype, LAYOUTS[layout])
    channels = shape[1]
    compiled = torch.compile(formula, dynamic=False)

    def convolution(weight, groups):
        leaves = (problem.x.detach().requires_grad_(), weight.detach().requires_grad_())

        def forward():
            return F.conv2d(*leaves, stride=stride, padding=1, groups=groups)

        return forward, lambda: torch.autograd.grad(forward(), leaves, problem.grad)

    def of(function):
        leaves = problem.leaves()
        return lambda: function(*leaves), both_ways(function, problem)

    methods = {
        "ddf": of(lambda x, c, s: ddf(x, c, s, stride=stride)),
        "depthwise": convolution(problem.depthwise, channels),
        "full": convolution(problem.full, 1),
        "compiled formula": of(lambda x, c, s: compiled(x, c, s, stride)),
        "unfold+einsum": of(lambda x, c, s: unfolded(x, c, s, stride)),
    }
    rows = []
    for name, (forward, both) in methods.items():
        entry: dict = dict(shape=shape, stride=stride, dtype=str(dtype).removeprefix("torch."), layout=layout)
        entry["method"] = name
        for key, function in (("forward_ms", forward), ("forward_backward_ms", both)):
            try:
                if key == "forward_ms":
                    with torch.no_grad():
                        entry[key] = time_cuda([function], repeats=5)
                else:
                    entry[key] = time_cuda([function], repeats=5)
            except RuntimeError as error:  # out of memory, or a compiler that is not there
                entry[key], entry["error"] = None, str(error).split("\n")[0][:200]
                torch.cuda.synchronize()
        results.append(entry)
        shown = [f"{entry[key]:.3f}" if entry[key] else "failed" for key in ("forward_ms", "forward_backward_ms")]
        rows.append((name, *shown))
    title = f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')} {layout}"
    print_table(title, ("", "forward ms", "fwd+bwd ms"), rows)
