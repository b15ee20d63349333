"""The DDF operation from few calls of plain torch: the kernel of the registered operator where no better one exists.

Channels are taken in blocks small enough for the cache. A block is padded with zeros, so all its k*k taps are one
strided view; that view is multiplied by one filter, and the taps, the channels or the pixels of the product are
contracted with the other filter by a batched matrix product. This gives the output and both filter gradients in two
passes over cached data, without k*k copies of the image: in NCHW, forward and backward together need less memory than
a depth-wise convolution. channels_last is converted sample by sample on the way in and at once on the way out, which
costs time and another map. Heads are more batch: M = N * heads maps of C/heads channels each.

Nothing here records for autograd; library.py does, and can let a result be modified in place only where that is no view
of something else: each is allocated in its final shape and filled through views. Devices without a kernel of their own
run it too.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .normalize import normalize, normalize_backward
from .options import DDFOptions
from .tensors import accumulation_dtype, as_x, memory_format_of

# Elements of one block's products: 2 MB in float32, a present second-level cache. Measured on two cores, half of it
# costs more calls, and made 2x256x100x150 three times slower in a process that ran other methods too (cause unknown).
BLOCK_ELEMENTS = 2**19


def forward(x: Tensor, channel_filter: Tensor | None, spatial_filter: Tensor | None, options: DDFOptions) -> Tensor:
    spatial_filter = _normalized(spatial_filter, options)
    return _apply(x, channel_filter, spatial_filter, options.output_size(*x.shape[2:]), options)


def grad_x(
    grad: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    size: tuple[int, int],
    options: DDFOptions,
) -> Tensor:
    """Return the gradient of x, which has that size: the operation itself, with mirrored taps, on the gradient spread
    out to the pixels that it came from."""
    spatial_filter = _normalized(spatial_filter, options)
    if channel_filter is not None:
        channel_filter = channel_filter.flip(2, 3)
    if spatial_filter is not None:  # each output pixel's filter goes to the input pixels that it multiplied
        taps, heads = options.taps, options.heads
        per_output = spatial_filter.unflatten(1, (heads, taps))
        per_input = spatial_filter.new_zeros(grad.shape[0], heads, taps, *size)
        for tap, out, inp in _reach(*size, options):
            per_input[(..., taps - 1 - tap, *inp)] = per_output[(..., tap, *out)]
        spatial_filter = per_input.flatten(1, 2)
    return _apply(grad, channel_filter, spatial_filter, size, options._replace(stride=1), spread=options.stride)


def grad_filters(
    grad: Tensor,
    x: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    options: DDFOptions,
    wants: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the channel filter (N,C,k,k) and the spatial filter (N,heads*k*k,Ho,Wo).

    One that is not among `wants` is empty.
    """
    need_channel, need_spatial = wants
    raw, spatial_filter = spatial_filter, _normalized(spatial_filter, options)
    kernel_size, heads = options.kernel_size, options.heads
    if options.combine == "add":  # the gradient of one term of a sum does not read the other
        channel_filter = spatial_filter = None
    blocks = Blocks(x, tuple(grad.shape[2:]), options)
    rows, channels, taps, pixels = blocks.rows, blocks.channels, blocks.taps, blocks.pixels
    per_tap = by_pixel = None
    if channel_filter is not None:
        by_channel = channel_filter.to(blocks.dtype).reshape(-1, channels, taps)
        # contiguous, or the product below would run matrix by matrix
        per_tap = by_channel.mT.contiguous().view(len(blocks), rows * taps, 1, channels)
    if spatial_filter is not None:
        by_pixel = _nchw(spatial_filter).to(blocks.dtype).view(-1, rows * taps, 1, pixels)
    per_tap = blocks.ones(rows * taps, 1, channels) if per_tap is None else per_tap
    by_pixel = blocks.ones(rows * taps, 1, pixels) if by_pixel is None else by_pixel
    n, all_channels = x.shape[:2]
    dc = blocks.empty(len(blocks), rows * taps, 1, channels) if need_channel else None
    grad_spatial = blocks.empty(n, heads * taps, *blocks.out_size).zero_() if need_spatial else None
    ds = None if grad_spatial is None else grad_spatial.view(-1, rows * taps, 1, pixels)

    # grad * x at every tap, laid out (rows, taps, channels, pixels)
    products = blocks.empty(rows, taps, channels, pixels)
    target = products.view(rows, kernel_size, kernel_size, channels, *blocks.out_size).permute(0, 3, 1, 2, 4, 5)
    products = products.view(rows * taps, channels, pixels)
    for block, (windows, g) in enumerate(zip(blocks, blocks.of(grad), strict=True)):
        torch.mul(windows, g[:, :, None, None], out=target)
        row = block // blocks.per_row
        if dc is not None:  # sum over the pixels
            torch.bmm(by_pixel[row], products.mT, out=dc[block])
        if ds is not None:  # sum over the channels
            ds[row].baddbmm_(per_tap[block], products)

    grad_channel = x.new_empty((n, all_channels, kernel_size, kernel_size) if need_channel else 0)
    if dc is not None:
        grad_channel.view(-1, channels, taps).copy_(dc.view(-1, taps, channels).mT)
    if grad_spatial is None:
        return grad_channel, x.new_empty(0)
    grad_spatial = as_x(grad_spatial, grad)
    if options.spatial_norm:
        assert raw is not None, "checked by ddf"
        layout = memory_format_of(grad_spatial)
        # a copy, since autograd lets no view made in here be modified in place
        grad_spatial = normalize_backward(grad_spatial, raw, taps).clone(memory_format=layout)
    return grad_channel, grad_spatial


def _normalized(spatial_filter: Tensor | None, options: DDFOptions) -> Tensor | None:
    if spatial_filter is None or not options.spatial_norm:
        return spatial_filter
    return normalize(spatial_filter, options.taps)


def _apply(
    source: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    out_size: tuple[int, ...],
    options: DDFOptions,
    spread: int = 1,
) -> Tensor:
    """Sum filter times window over the taps; `spread` puts the source's pixels that far apart, zeros between."""
    blocks, kernel_size = Blocks(source, out_size, options, spread), options.kernel_size
    rows, channels, taps, pixels = blocks.rows, blocks.channels, blocks.taps, blocks.pixels
    weight = spatial = addend = None
    if channel_filter is not None:
        weight = channel_filter.to(blocks.dtype).reshape(len(blocks), rows * channels, 1, taps)
    if spatial_filter is not None:
        spatial = _nchw(spatial_filter).to(blocks.dtype).view(-1, rows, 1, kernel_size, kernel_size, *out_size)
        if options.combine == "add" and weight is not None:
            addend = weight.view(len(blocks), rows, channels, kernel_size, kernel_size, 1, 1)
    if weight is None or addend is not None:
        weight = blocks.ones(rows * channels, 1, taps)

    y = blocks.empty(*source.shape[:2], *out_size)
    by_block = y.view(-1, rows * channels, 1, pixels)
    products = blocks.empty(rows, channels, kernel_size, kernel_size, *out_size)
    by_channel = products.view(rows * channels, taps, pixels)
    for block, windows in enumerate(blocks):
        if spatial is None:
            products.copy_(windows)
        elif addend is None:
            torch.mul(windows, spatial[block // blocks.per_row], out=products)
        else:
            torch.add(addend[block], spatial[block // blocks.per_row], out=products).mul_(windows)
        torch.bmm(weight[block], by_channel, out=by_block[block])
    return as_x(y, source)


class Blocks:
    """The windows of (N, C, H, W), block by block: views (rows, channels, k, k, Ho, Wo) of one padded buffer.

    A block is some channels of one of the M = N * heads maps, or all channels of several; all blocks are of one size,
    so every tensor of the operation is a view with the block as its first dimension. Each view is valid until the next.
    """

    def __init__(self, source: Tensor, out_size: tuple[int, ...], options: DDFOptions, spread: int = 1):
        kernel_size, stride, dilation, heads = options[:4]
        n, all_channels, height, width = source.shape
        self.source, self.out_size = source, tuple(out_size)
        self.taps, self.pixels = kernel_size**2, math.prod(out_size)
        self.dtype, self.device = accumulation_dtype(source.dtype), source.device
        maps, per_head = n * heads, all_channels // heads
        wanted = -(-BLOCK_ELEMENTS // (self.taps * self.pixels))
        self.channels = _largest_divisor(per_head, wanted)
        self.rows = _largest_divisor(maps, wanted // per_head) if self.channels == per_head else 1
        self.per_row = per_head // self.channels  # blocks that share a spatial filter

        reach = (kernel_size - 1) * dilation
        inside = [(size - 1) * spread + 1 for size in (height, width)]
        padded = [
            max(reach // 2 + own, (out - 1) * stride + 1 + reach) for own, out in zip(inside, out_size, strict=True)
        ]
        buffer = self.empty(self.rows, self.channels, *padded).zero_()
        own_rows, own_columns = (slice(reach // 2, reach // 2 + own, spread) for own in inside)
        self.inside = buffer[:, :, own_rows, own_columns]
        by_map, by_channel, by_row, by_column = buffer.stride()
        self.windows = buffer.as_strided(
            (self.rows, self.channels, kernel_size, kernel_size, *out_size),
            (by_map, by_channel, by_row * dilation, by_column * dilation, by_row * stride, by_column * stride),
        )

    def __len__(self) -> int:
        return self.source.shape[0] * self.source.shape[1] // (self.rows * self.channels)

    def __iter__(self) -> Iterator[Tensor]:
        for block in self.of(self.source):
            self.inside.copy_(block)
            yield self.windows

    def of(self, x: Tensor) -> Iterator[Tensor]:
        """(N, C, h, w) block by block, (rows, channels, h, w); channels_last is converted a few samples at a time."""
        samples = x.shape[0] if memory_format_of(x) == torch.contiguous_format else self.rows
        for first in range(0, x.shape[0], max(1, samples)):
            part = _nchw(x[first : first + samples])
            yield from part.view(-1, self.rows, self.channels, *x.shape[2:])

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def ones(self, *shape: int) -> Tensor:
        """A filter of ones for every block, in the memory of one."""
        return torch.ones(shape, dtype=self.dtype, device=self.device).expand(len(self), *shape)


def _largest_divisor(number: int, limit: int) -> int:
    return next((d for d in range(min(number, max(1, limit)), 1, -1) if number % d == 0), 1)


def _nchw(x: Tensor) -> Tensor:
    """x in NCHW memory. Sample by sample a 2-d transpose, which torch copies five times as fast as the 4-d one."""
    if memory_format_of(x) == torch.contiguous_format:
        return x.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for source, target in zip(x, y, strict=True):
        target.flatten(1).copy_(source.permute(1, 2, 0).flatten(0, 1).t())
    return y


Slices = tuple[slice, slice]


def _reach(height: int, width: int, options: DDFOptions) -> Iterator[tuple[int, Slices, Slices]]:
    """Yield (tap, output pixels whose tap lies in the image, input pixels it reads there), for taps that have any."""
    kernel_size, stride, dilation = options[:3]
    out_height, out_width = options.output_size(height, width)

    def clip(offset: int, size: int, out_size: int) -> Slices | None:
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
