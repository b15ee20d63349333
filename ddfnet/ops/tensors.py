"""Dtypes and memory formats of tensors, as all backends treat them."""

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums: the half types accumulate in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def memory_format_of(x: Tensor) -> torch.memory_format:
    """Return channels_last where x is that and nothing else, or some channels, rows or columns of such a tensor: its
    channels lie side by side. Maps of one pixel or channel count as contiguous."""
    if x.is_contiguous():
        return torch.contiguous_format
    if x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    (_, channels, _, width), (_, channel_step, row_step, column_step) = x.shape, x.stride()
    sliced = channels > 1 and channel_step == 1 and column_step >= channels and row_step >= width * column_step
    return torch.channels_last if sliced else torch.contiguous_format


def dense(x: Tensor) -> tuple[Tensor, torch.memory_format]:
    """Return x and its memory format; a copy in that where x is not dense."""
    layout = memory_format_of(x)
    return x.contiguous(memory_format=layout), layout


def as_x(y: Tensor, x: Tensor) -> Tensor:
    """Return the contiguous y in the dtype and memory format of x, with torch.empty's strides even for one pixel."""
    y = y.to(x.dtype)
    if memory_format_of(x) == torch.contiguous_format:
        return y
    return torch.empty_like(y, memory_format=torch.channels_last).copy_(y)


def empty(like: Tensor, *shape) -> Tensor:
    """Return an uninitialised tensor of that shape, on the device and in the dtype and memory format of `like`."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format_of(like))


def contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
