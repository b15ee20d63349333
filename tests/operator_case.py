"""A DDF problem with its answers in float64: what the simulated kernels and those on a GPU are both compared with."""

from dataclasses import dataclass, field

import torch

from ddfnet.ops import ddf
from ddfnet.ops.options import DDFOptions
from ddfnet.ops.tensors import memory_format_of

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
# Largest error, relative to the largest value. The 16-bit types: one rounding of a float32 sum.
TOLERANCES = dict(zip(DTYPES, (2e-6, 1e-3, 8e-3, 1e-13), strict=True))
LAYOUTS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}
FAST = [(k, s) for k in (3, 5, 7) for s in (1, 2)]  # kernel size, stride


@dataclass
class Case:
    """Random inputs; `x`, `channel`, `spatial` and `grad` are what the operator and its gradients get."""

    shape: tuple[int, int, int, int]
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    heads: int = 1
    combine: str = "mul"
    filters: str = "both"  # or "channel", "spatial"
    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = torch.channels_last
    device: str = "cpu"
    spatial_norm: bool = False  # the spatial filter is raw
    want: dict = field(default_factory=dict)

    def __post_init__(self):
        n, channels, height, width = self.shape
        out = ((height - 1) // self.stride + 1, (width - 1) // self.stride + 1)
        taps = self.kernel_size**2
        generator = torch.Generator().manual_seed(hash((self.shape, self.options[:4])) % 2**31)

        def draw(*shape, image=True):
            values = torch.randn(shape, generator=generator, dtype=torch.float64).to(self.device, self.dtype)
            return values.contiguous(memory_format=self.layout) if image else values

        self.x, self.grad = draw(n, channels, height, width), draw(n, channels, *out)
        self.channel = draw(n, channels, self.kernel_size, self.kernel_size, image=False)
        self.spatial = draw(n, self.heads * taps, *out)
        if self.filters == "spatial":
            self.channel = None
        if self.filters == "channel":
            self.spatial = None
        inputs = [None if t is None else t.double().requires_grad_() for t in (self.x, self.channel, self.spatial)]
        y = ddf(*inputs, **self.keywords, backend="reference")
        y.backward(self.grad.double())
        gradients = [None if t is None else t.grad for t in inputs]
        self.want = dict(zip(("y", "dx", "dc", "ds"), (y.detach(), *gradients), strict=True))

    @property
    def options(self) -> DDFOptions:
        return DDFOptions(self.kernel_size, self.stride, self.dilation, self.heads, self.combine, self.spatial_norm)

    @property
    def keywords(self) -> dict:
        return self.options._asdict()

    def run(self, backend) -> dict[str, torch.Tensor]:
        """All passes by the functions that `backend` (ddfnet.ops.cpu or gpu.ddf) has for them."""
        x, grad, c, s = self.x, self.grad, self.channel, self.spatial
        wants = (c is not None, s is not None)
        dc, ds = backend.grad_filters(grad, x, c, s, self.options, wants)
        return dict(
            y=backend.forward(x, c, s, self.options),
            dx=backend.grad_x(grad, c, s, x.shape[2:], self.options),
            **({"dc": dc} if wants[0] else {}),
            **({"ds": ds} if wants[1] else {}),
        )

    def check(self, results: dict[str, torch.Tensor]) -> None:
        for name, result in results.items():
            want = self.want[name]
            assert result.shape == want.shape and result.dtype == self.dtype, name
            if name != "dc":
                like = self.x if name == "y" else self.grad
                assert result.is_contiguous(memory_format=memory_format_of(like)), name
            scale = want.abs().max().clamp(min=1)  # the inputs' size: a single value may be what is left of larger ones
            error = ((result.double() - want).abs().max() / scale).item()
            assert error <= TOLERANCES[self.dtype], f"{name}: error {error:.1e} in {self}"  # NaN fails too

    def __repr__(self) -> str:
        layout = "channels_last" if self.layout == torch.channels_last else "nchw"
        return f"Case({self.shape}, {self.keywords}, {self.filters}, {self.dtype}, {layout})"


def cases_of(dtype, layout, kernel_size, stride, combine, device="cpu", spatial_norm=False) -> list[Case]:
    """Shapes that end inside, at and beyond the edges of tiles, strips, chunks and copies."""
    common: dict = dict(kernel_size=kernel_size, stride=stride, combine=combine, dtype=dtype, layout=layout)
    common |= dict(device=device, spatial_norm=spatial_norm)
    return [
        Case((2, 24, 9, 17), heads=2, **common),  # rows and columns that fill no tile
        Case((1, 21, 11, 7), heads=3, **common),  # channels that only element-wise copies reach
        Case((2, 72, 6, 8), **common),  # several chunks of channels, the last one short
        Case((1, 8, 5, 64), **common),  # several tiles across
        Case((2, 4, 1, 1), **common),  # all but one tap outside
    ]
