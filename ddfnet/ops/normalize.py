"""Filter normalisation (paper Eq. 3) in plain torch, and its derivative: what the kernels of cuda/ do in passing.

A filter of equal taps becomes exactly zero in every dtype, with zero gradient.
"""

import math

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

EPS = 1e-10  # the authors' value; it underflows in half types, so the statistics are float32 at least


def normalize(filters: Tensor, taps: int, scale: Tensor | None = None, eps: float = EPS) -> Tensor:
    """Each filter minus its mean, over its (unbiased) standard deviation, times sqrt(2/taps); float32 statistics.

    Args:
        filters: (N, F*taps, H, W), F filters of `taps` neighbouring channels.
        taps: k*k, at least 2.
        scale: (F*taps) in place of sqrt(2/taps).
        eps: added to the deviation.
    """
    if has_torch_function((filters, scale)):  # torch.fx's proxies, subclasses of Tensor
        return handle_torch_function(normalize, (filters, scale), filters, taps, scale, eps)
    centred, std = _centred(filters, taps)
    inverse = torch.where(std > 0, 1 / (std + eps), 0)  # no gradient of 1/eps from a filter without direction
    unit = centred * inverse
    scaled = unit * math.sqrt(2 / taps) if scale is None else unit * scale.view(1, -1, taps, 1, 1)
    return scaled.flatten(1, 2).to(filters.dtype)


def normalize_backward(grad: Tensor, filters: Tensor, taps: int) -> Tensor:
    """Gradient of the filters, from that of `normalize(filters, taps)`; differentiable."""
    centred, std = _centred(filters, taps)
    alive = std > 0
    unit = centred / torch.where(alive, std, 1)
    factor = torch.where(alive, math.sqrt(2 / taps) / (std + EPS), 0)
    grad = grad.unflatten(1, (-1, taps)).to(unit.dtype)
    along = (grad * unit).sum(2, keepdim=True) / (taps - 1) * (std / (std + EPS))
    return (factor * (grad - grad.mean(2, keepdim=True) - unit * along)).flatten(1, 2).to(filters.dtype)


def _centred(filters: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """The filters (N, F, taps, H, W) minus their means, and their standard deviations (N, F, 1, H, W)."""
    filters = filters.unflatten(1, (-1, taps))
    filters = filters if filters.dtype == torch.float64 else filters.float()
    # from the first tap on, so that equal taps differ by exactly zero: their mean need not equal them in floats
    centred = filters - filters[:, :, :1]
    centred = centred - centred.mean(2, keepdim=True)
    return centred, centred.std(2, keepdim=True)
