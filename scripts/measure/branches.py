"""What a DDF layer's branches read of x at inference, on a GPU: ddf_branches beside the operations that it replaces.

The floor is x once and the spatial filter, over the bandwidth of a copy. The convolution has 9 outputs, for which cuDNN
has no good kernel; padded to 16 it may be faster, though it writes more.
"""

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from ddfnet.ops import ddf_branches

from .timing import Function, copies_for, print_table, time_cuda

OUTPUTS = 9


def methods(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> dict[str, Function]:
    """Each gives the spatial filter, the padded one in the first of its channels, and the mean."""
    spare = -len(weight) % 8
    padded, padded_bias = F.pad(weight, (0, 0, 0, spare)), F.pad(bias, (0, spare))

    def apart(weight, bias):
        return F.conv2d(x, weight[:, :, None, None], bias, stride), x.mean((2, 3))

    return {
        "ddf_branches": lambda: ddf_branches(x, weight, bias, stride),
        "convolution + mean": lambda: apart(weight, bias),
        "padded convolution + mean": lambda: apart(padded, padded_bias),
    }


@torch.no_grad()
def measure(results: list[dict], shapes, dtype: torch.dtype, layout: str, bandwidth: float, deadline: float) -> None:
    """Adds a row for each (shape, stride) to the results. Ends early, and says so, at the deadline."""
    memory_format = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}[layout]
    name, rows, names = str(dtype).removeprefix("torch."), [], []
    for shape, stride in shapes:
        if time.time() > deadline:
            print("out of time: the rest is left out")
            break

        def draw(*shape):
            return torch.randn(shape, device="cuda", dtype=dtype)

        weight, bias = draw(OUTPUTS, shape[1]), draw(OUTPUTS)
        first = draw(*shape).contiguous(memory_format=memory_format)
        inputs = [first, *(first.clone() for _ in range(copies_for([first]) - 1))]
        calls = [methods(x, weight, bias, stride) for x in inputs]
        names = list(calls[0])
        taken = {method: time_cuda([call[method] for call in calls]) for method in names}
        pixels = ((shape[2] - 1) // stride + 1) * ((shape[3] - 1) // stride + 1)
        floor = (first.numel() + shape[0] * OUTPUTS * pixels) * first.element_size() / bandwidth * 1e3
        results.append(dict(shape=shape, stride=stride, dtype=name, layout=layout, floor_ms=floor, ms=taken))
        times = (f"{ms * 1e3:.1f}" for ms in taken.values())
        rows.append((f"{'x'.join(map(str, shape))} s{stride}", f"{floor * 1e3:.1f}", *times))
    print_table(f"{name} {layout}, both branches' reading of x, us", ("", "floor", *names), rows)
