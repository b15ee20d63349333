"""The definition of the DDF operation (paper Eq. 2) in plain torch: the truth the other backends are tested against.

Differentiable any number of times and exportable, on any device; it costs the memory of k*k shifted copies of x under
autograd, so `ddfnet.ops.ddf` uses it only when asked by backend="reference".
"""

import torch.nn.functional as F
from torch import Tensor

from .normalize import normalize
from .options import DDFOptions
from .tensors import accumulation_dtype, as_x


def ddf_reference(
    x: Tensor, channel_filter: Tensor | None, spatial_filter: Tensor | None, options: DDFOptions
) -> Tensor:
    """Compute `ddfnet.ops.ddf`, with the arguments already checked."""
    kernel_size, stride, dilation, heads, combine, spatial_norm = options
    if spatial_norm and spatial_filter is not None:
        spatial_filter = normalize(spatial_filter, kernel_size**2)
    n, channels, height, width = x.shape
    out_height, out_width = options.output_size(height, width)
    dtype = accumulation_dtype(x.dtype)
    padding = kernel_size // 2 * dilation
    padded = F.pad(x.to(dtype), (padding,) * 4).unflatten(1, (heads, channels // heads))  # N, G, C/G, H+2p, W+2p
    per_channel = per_pixel = None
    if channel_filter is not None:
        per_channel = channel_filter.to(dtype).reshape(n, heads, channels // heads, kernel_size**2, 1, 1)
    if spatial_filter is not None:
        per_pixel = spatial_filter.to(dtype).reshape(n, heads, 1, kernel_size**2, out_height, out_width)

    y = padded.new_zeros(n, heads, channels // heads, out_height, out_width)
    for tap in range(kernel_size**2):
        top, left = tap // kernel_size * dilation, tap % kernel_size * dilation
        rows = slice(top, top + (out_height - 1) * stride + 1, stride)
        columns = slice(left, left + (out_width - 1) * stride + 1, stride)
        weight = combine_filters(
            None if per_channel is None else per_channel[:, :, :, tap],
            None if per_pixel is None else per_pixel[:, :, :, tap],
            combine,
        )
        y = y + weight * padded[..., rows, columns]
    return as_x(y.flatten(1, 2), x)


def branches_reference(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> tuple[Tensor, Tensor]:
    """Compute `ddfnet.ops.ddf_branches`, with the arguments already checked."""
    wide = x.to(accumulation_dtype(x.dtype))
    kernel, bias = weight.to(wide.dtype)[:, :, None, None], None if bias is None else bias.to(wide.dtype)
    spatial = F.conv2d(wide, kernel, bias, stride)
    return as_x(spatial.contiguous(), x), wide.mean((2, 3)).to(x.dtype)


def combine_filters(per_channel: Tensor | None, per_pixel: Tensor | None, combine: str) -> Tensor:
    """Return one tap of the filter; a missing one is the neutral element, ones for "mul" and zeros for "add"."""
    if per_channel is None or per_pixel is None:
        present = per_pixel if per_channel is None else per_channel
        assert present is not None, "checked by ddf: at least one filter is given"
        return present
    return per_channel * per_pixel if combine == "mul" else per_channel + per_pixel
