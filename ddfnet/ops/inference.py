"""A DDF and the batch norm and ReLU after it in one launch, for inference: `ddf_inference` and its registration."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import cuda
from .functional import _check, _follow_autocast, _is_plain_inference
from .library import HAS_KERNELS, _empty
from .reference import accumulation_dtype, ddf_reference, memory_format_of, output_size


def ddf_inference(
    x: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    scale: Tensor,
    bias: Tensor,
    *,
    relu: bool = False,
    kernel_size: int = 3,
    stride: int = 1,
    dilation: int = 1,
    heads: int = 1,
    combine: str = "mul",
    spatial_norm: bool = False,
) -> Tensor:
    """`ddf`, times a scale and plus a bias per channel, then a ReLU: a DDF and the batch norm after it, in one launch.

    For inference: it has no gradient. On the CPU the three are operations of their own.

    Args:
        scale, bias: (C), of any floating dtype; applied to the float32 (float64) sums before they are rounded.
        relu: whether what is negative becomes zero.
        others: as `ddf`.

    Returns:
        (N, C, Ho, Wo) in the dtype and memory format of x; inside autocast in the autocast dtype.

    Raises:
        TypeError, ValueError, ddfnet.errors.UserError: as `ddf`; RuntimeError where a gradient would be lost.
    """
    tensors = (x, channel_filter, spatial_filter, scale, bias)
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in tensors):
        raise RuntimeError(
            "ddf_inference: a tensor requires grad, expected none of them to, or torch.no_grad() around it"
        )
    x, channel_filter, spatial_filter = _follow_autocast(x, channel_filter, spatial_filter)
    _check(x, channel_filter, spatial_filter, kernel_size, stride, dilation, heads, combine, spatial_norm, None)
    for name, value in (("scale", scale), ("bias", bias)):
        if not isinstance(value, Tensor):
            raise TypeError(f"ddf_inference: {name} is a {type(value).__name__}, expected a Tensor")
        if value.shape != x.shape[1:2]:
            raise ValueError(f"ddf_inference: {name} has shape {tuple(value.shape)}, expected ({x.shape[1]},) = (C,)")
        if value.device != x.device:
            raise ValueError(f"ddf_inference: {name} is on {value.device}, expected {x.device}, the device of x")
    dtype = accumulation_dtype(x.dtype)
    plain = HAS_KERNELS and x.is_cuda and _is_plain_inference(*tensors)
    run = cuda.inference if plain else ddf_inference_op
    geometry = (kernel_size, stride, dilation, heads, combine, spatial_norm)
    return run(x, channel_filter, spatial_filter, scale.to(dtype), bias.to(dtype), relu, *geometry)


# ---- registered with torch ---------------------------------------------------------------------------------------


@torch.library.custom_op("ddfnet::ddf_inference", mutates_args=())
def ddf_inference_op(
    x: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    scale: Tensor,
    bias: Tensor,
    relu: bool,
    kernel_size: int,
    stride: int,
    dilation: int,
    heads: int,
    combine: str,
    spatial_norm: bool,
) -> Tensor:
    geometry = kernel_size, stride, dilation, heads, combine, spatial_norm
    y = torch.ops.ddfnet.ddf(x, channel_filter, spatial_filter, *geometry)
    return _affine(y, scale, bias, relu).contiguous(memory_format=memory_format_of(x))


if HAS_KERNELS:
    ddf_inference_op.register_kernel("cuda")(cuda.inference)


@ddf_inference_op.register_fake
def _(x, channel_filter, spatial_filter, scale, bias, relu, kernel_size, stride, *rest):
    n, channels, height, width = x.shape
    return _empty(x, n, channels, *output_size(height, width, stride))


@register_flop_formula(torch.ops.ddfnet.ddf_inference)
def _inference_flops(x_shape, channel, spatial, scale, bias, relu, kernel_size, *args, out_shape=None, **kwargs) -> int:
    n, channels, height, width = out_shape
    return 2 * kernel_size**2 * n * channels * height * width


def inference_reference(x, channel_filter, spatial_filter, scale, bias, relu, *geometry):
    """As `ddf_inference`, in plain operations, with the arguments already checked."""
    return _affine(ddf_reference(x, channel_filter, spatial_filter, *geometry), scale, bias, relu)


def _affine(y: Tensor, scale: Tensor, bias: Tensor, relu: bool) -> Tensor:
    dtype = accumulation_dtype(y.dtype)
    z = torch.addcmul(bias.to(dtype).view(-1, 1, 1), y.to(dtype), scale.to(dtype).view(-1, 1, 1))
    return (z.relu() if relu else z).to(y.dtype)
