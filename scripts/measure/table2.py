"""The paper's Table 2: latency and memory of four filters on 2x256x200x300 in float32, the paper's figures beside ours.

As the authors measured: in evaluation without gradients, each call waited for. Memory is the most that is allocated at
once, input and weights included. The paper does not name its GPU; the full convolution's memory depends on cuDNN's
workspace.
"""

import statistics

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddfnet import DDF
from ddfnet.ops import ddf

from .timing import environment, peak_bytes, print_table, time_eager

SHAPE = (2, 256, 200, 300)
PAPER = {  # ms, MiB
    "full convolution": (7.5, 356.3),
    "depth-wise convolution": (1.0, 236.0),
    "PAC": (46.4, 3406.4),
    "DDF module": (3.0, 245.7),
    "DDF operator": (None, None),
}


class PAC(nn.Module):
    """Pixel-adaptive convolution (Su et al., CVPR 2019, Eq. 3) 3x3, guided by its own input, as Table 2 has it:
    y_i = b + sum_j exp(-|g_i - g_j|^2 / 2) W[i - j] x_j, with zeros around x and around the guide g."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels * 9) / (9 * channels) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        guide = F.unfold(x, 3, padding=1).view(n, channels, 9, height * width)
        kernel = torch.exp(-0.5 * ((guide - x.flatten(2).unsqueeze(2)) ** 2).sum(1, keepdim=True))
        del guide
        patches = F.unfold(x, 3, padding=1).view(n, channels, 9, height * width) * kernel
        y = self.weight @ patches.view(n, channels * 9, height * width)
        return (y + self.bias[:, None]).view(n, -1, height, width)


class Operator(nn.Module):
    """The DDF operator with filters that are there already."""

    def __init__(self, shape):
        super().__init__()
        n, channels, height, width = shape
        self.c, self.s = nn.Parameter(torch.randn(n, channels, 3, 3)), nn.Parameter(torch.randn(n, 9, height, width))

    def forward(self, x: Tensor) -> Tensor:
        return ddf(x, self.c, self.s)


def measure(figures: dict, device: torch.device, repeats: int, shape=SHAPE) -> None:
    """Fills figures: shape, settings, rows."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    channels = shape[1]
    methods = {
        "full convolution": lambda: nn.Conv2d(channels, channels, 3, padding=1),
        "depth-wise convolution": lambda: nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        "PAC": lambda: PAC(channels),
        "DDF module": lambda: DDF(channels),
        "DDF operator": lambda: Operator(shape),
    }
    results: list[dict] = []
    rows = []
    figures |= {"shape": shape, "cudnn_benchmark": torch.backends.cudnn.benchmark, "tf32": False, "rows": results}
    for name, build in methods.items():

        def make(build=build):
            module, x = build().to(device).eval(), torch.randn(shape, device=device)

            def call():
                with torch.no_grad():
                    module(x)

            return call

        taken = time_eager(make(), device, repeats, warm=max(1, repeats // 10))
        memory = peak_bytes(make, device)
        entry = {"filter": name, "mean_ms": statistics.mean(taken), "min_ms": min(taken), "peak_bytes": memory}
        paper_ms, paper_mib = PAPER[name]
        results.append(entry | {"paper_ms": paper_ms, "paper_mib": paper_mib})
        mib = f"{memory / 2**20:.1f}" if memory else ""
        rows.append((name, f"{entry['mean_ms']:.3f}", f"{min(taken):.3f}", mib, paper_ms or "", paper_mib or ""))
    where = environment(device)["machine"]["device"]
    header = ("", "mean ms", "min ms", "MiB", "paper ms", "paper MiB")
    print_table(f"Table 2, {'x'.join(map(str, shape))} float32 NCHW without TF32, {where}", header, rows)
