"""Filter normalisation (paper Eq. 3) and what the paper's Table 3(b) compares it with."""

import math

import torch
from torch import Tensor, nn

from ..ops import normalize


class FilterNorm(nn.Module):
    """Each k x k filter minus its mean, over its (unbiased) standard deviation, times a scale; float32 statistics.

    The scale is sqrt(2)/k. For spatial filters it is this constant; for channel filters a learnable `std` per channel
    and tap, drawn from N(0, 1) times it, as in the authors' code. (The paper writes a learnable shift too and calls
    both running values; the code behind its figures has neither.)

    Args:
        kernel_size: k.
        channels: None for spatial filters, (N, heads*k*k, H, W); C for channel filters, (N, C*k*k, 1, 1).

    A filter of equal taps becomes exactly zero in every dtype, with zero gradient.

    Raises:
        ValueError: kernel_size is 1; a single tap has no deviation to normalise by.
    """

    def __init__(self, kernel_size: int, channels: int | None = None, device=None, dtype=None):
        super().__init__()
        if kernel_size < 2:
            raise ValueError(f"FilterNorm: kernel_size is {kernel_size}, expected more than one tap; use norm='none'")
        self.kernel_size = kernel_size
        self.std = None
        if channels is not None:
            scale = math.sqrt(2) / kernel_size  # the gain of a ReLU over sqrt(k*k)
            self.std = nn.Parameter(torch.randn(channels * kernel_size**2, device=device, dtype=dtype) * scale)

    def forward(self, filters: Tensor) -> Tensor:
        return normalize(filters, self.kernel_size * self.kernel_size, self.std)  # TorchScript's 3**2 is 9.0

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, learnable={self.std is not None}"


def filter_norm(norm: str, kernel_size: int, filters: int, learnable: bool, device=None, dtype=None) -> nn.Module:
    """The normalisation named `norm` for that many k x k filters: C of a channel branch, `heads` of a spatial one.

    "filter" is the paper's; "batch" and "sigmoid" are its ablations (Table 3b); "none" leaves the filters as generated.
    """
    if norm == "filter":
        return FilterNorm(kernel_size, filters if learnable else None, device=device, dtype=dtype)
    if norm == "batch":
        return nn.BatchNorm2d(filters * kernel_size**2, device=device, dtype=dtype)
    if norm == "sigmoid":
        return nn.Sigmoid()
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"DDF: norm is {norm!r}, expected 'filter', 'batch', 'sigmoid' or 'none'")
