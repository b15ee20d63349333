"""The DDF operation as a loop over the k*k taps: the kernel behind the registered operator where no better one exists.

Each tap touches the part of the image it can reach (clipped slices: no padded copy, no unfold) and reuses one buffer of
the size of the output, so forward and backward together need what a depth-wise convolution needs. The backward is
written by hand in the two pieces a network asks for separately. Nothing here records for autograd; library.py does.
Written for the CPU; it is plain torch, so other devices without a kernel of their own run it too.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .reference import accumulation_dtype, memory_format_of, output_size

Slices = tuple[slice, slice]


def forward(
    x: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    kernel_size: int,
    stride: int,
    dilation: int,
    heads: int,
    combine: str,
) -> Tensor:
    n, channels, height, width = x.shape
    dtype = accumulation_dtype(x.dtype)
    y = zeros_like_map(x, (n, channels, *output_size(height, width, stride)), dtype)
    source, target = x.to(dtype).unflatten(1, (heads, -1)), y.unflatten(1, (heads, -1))
    filters = Filters(channel_filter, spatial_filter, kernel_size, heads, combine, y)
    for tap, out, inp in taps(height, width, kernel_size, stride, dilation):
        target[(..., *out)].addcmul_(filters.of(tap, out), source[(..., *inp)])
    return y.to(x.dtype)


def grad_x(
    grad: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    height: int,
    width: int,
    kernel_size: int,
    stride: int,
    dilation: int,
    heads: int,
    combine: str,
) -> Tensor:
    dtype = accumulation_dtype(grad.dtype)
    dx = zeros_like_map(grad, (*grad.shape[:2], height, width), dtype)
    source, target = grad.to(dtype).unflatten(1, (heads, -1)), dx.unflatten(1, (heads, -1))
    filters = Filters(channel_filter, spatial_filter, kernel_size, heads, combine, grad)
    for tap, out, inp in taps(height, width, kernel_size, stride, dilation):
        target[(..., *inp)].addcmul_(filters.of(tap, out), source[(..., *out)])
    return dx.to(grad.dtype)


def grad_filters(
    grad: Tensor,
    x: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    kernel_size: int,
    stride: int,
    dilation: int,
    heads: int,
    combine: str,
    need_channel: bool,
    need_spatial: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the channel filter (N,C,k,k) and the spatial filter (N,heads*k*k,Ho,Wo); empty where not needed."""
    n, channels, height, width = x.shape
    dtype = accumulation_dtype(x.dtype)
    per_group = channels // heads
    g, source = grad.to(dtype).unflatten(1, (heads, -1)), x.to(dtype).unflatten(1, (heads, -1))
    filters = Filters(channel_filter, spatial_filter, kernel_size, heads, combine, grad)
    product = Buffer(grad)
    dc = grad.new_zeros((n, heads, per_group, kernel_size**2) if need_channel else 0, dtype=dtype)
    ds_map = zeros_like_map(grad, (n, heads * kernel_size**2, *grad.shape[2:]), dtype) if need_spatial else grad.new_empty(0)
    ds = ds_map.unflatten(1, (heads, -1)) if need_spatial else ds_map
    # matmul and einsum would follow an enclosing autocast down to 16 bits
    with torch.autocast(grad.device.type, enabled=False):
        for tap, out, inp in taps(height, width, kernel_size, stride, dilation):
            u = g[(..., *out)]  # N, G, C/G, rows, columns
            u = torch.mul(u, source[(..., *inp)], out=product.view_as(u))
            if need_channel:
                weight = filters.per_pixel_of(tap, out) if combine == "mul" else None
                dc[..., tap] = u.sum((3, 4)) if weight is None else torch.einsum("ngchw,nghw->ngc", u, weight)
            if need_spatial:
                weight = filters.per_channel_of(tap) if combine == "mul" else None
                ds[(slice(None), slice(None), tap, *out)] = u.sum(2) if weight is None else torch.einsum("ngchw,ngc->nghw", u, weight)
    dc = dc.reshape(n, channels, kernel_size, kernel_size) if need_channel else dc
    return dc.to(x.dtype), ds_map.to(x.dtype)


def taps(height: int, width: int, kernel_size: int, stride: int, dilation: int) -> Iterator[tuple[int, Slices, Slices]]:
    """(tap, output pixels it contributes to, input pixels it reads there); taps wholly outside the image are left out."""
    out_height, out_width = output_size(height, width, stride)

    def clip(offset: int, size: int, out_size: int) -> tuple[slice, slice] | None:
        first = max(0, -(offset // stride))  # the smallest p with p * stride + offset >= 0
        last = min(out_size - 1, (size - 1 - offset) // stride)
        if last < first:
            return None
        start = first * stride + offset
        return slice(first, last + 1), slice(start, start + (last - first) * stride + 1, stride)

    radius = kernel_size // 2
    for tap in range(kernel_size**2):
        rows = clip((tap // kernel_size - radius) * dilation, height, out_height)
        columns = clip((tap % kernel_size - radius) * dilation, width, out_width)
        if rows and columns:
            yield tap, (rows[0], columns[0]), (rows[1], columns[1])


class Buffer:
    """One allocation of the size of `like`, handed out again for every tap; allocating anew costs page faults."""

    def __init__(self, like: Tensor):
        self.memory = torch.empty(like.numel(), dtype=accumulation_dtype(like.dtype), device=like.device)
        self.channels_last = memory_format_of(like) == torch.channels_last

    def view_as(self, window: Tensor) -> Tensor:
        """Dense memory of the window's shape (N, G, C/G, rows, columns), channels innermost for channels_last."""
        n, heads, per_group, rows, columns = window.shape
        memory = self.memory[: window.numel()]
        if self.channels_last:
            return memory.view(n, rows, columns, heads, per_group).permute(0, 3, 4, 1, 2)
        return memory.view(window.shape)


class Filters:
    """The two filters with the head axis apart, and their combination tap by tap."""

    def __init__(
        self,
        channel_filter: Tensor | None,
        spatial_filter: Tensor | None,
        kernel_size: int,
        heads: int,
        combine: str,
        out: Tensor,
    ):
        dtype = accumulation_dtype(out.dtype)
        self.combine = combine
        self.per_channel = self.per_pixel = None
        if channel_filter is not None:  # taps outermost, so that one tap's channels are contiguous
            taps_first = channel_filter.to(dtype).flatten(2).permute(2, 0, 1).contiguous()
            self.per_channel = taps_first.unflatten(2, (heads, -1))  # k*k, N, G, C/G
        if spatial_filter is not None:
            self.per_pixel = spatial_filter.to(dtype).unflatten(1, (heads, kernel_size**2))  # N, G, k*k, Ho, Wo
        both = channel_filter is not None and spatial_filter is not None
        self.buffer = Buffer(out) if both else None

    def per_channel_of(self, tap: int) -> Tensor | None:
        return None if self.per_channel is None else self.per_channel[tap]

    def per_pixel_of(self, tap: int, out: Slices) -> Tensor | None:
        return None if self.per_pixel is None else self.per_pixel[(slice(None), slice(None), tap, *out)]

    def of(self, tap: int, out: Slices) -> Tensor:
        """One tap of the combined filter, broadcastable to (N, G, C/G, rows, columns)."""
        c, s = self.per_channel_of(tap), self.per_pixel_of(tap, out)
        c = None if c is None else c[..., None, None]
        s = None if s is None else s[:, :, None]
        if c is None or s is None:
            present = s if c is None else c
            assert present is not None, "checked by ddf: at least one filter is given"
            return present
        window = c.expand(*c.shape[:3], *s.shape[3:])
        combine = torch.mul if self.combine == "mul" else torch.add
        return combine(c, s, out=self.buffer.view_as(window))


def zeros_like_map(x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    y = torch.empty(shape, dtype=dtype, device=x.device, memory_format=memory_format_of(x))
    return y.zero_()
