"""The operators for inference: `ddf_inference`, a DDF and the batch norm and ReLU after it in one launch, and
`ddf_branches`, one pass over x for both branches of a DDF layer; and their registration with torch."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import dispatch
from .checks import check_branches, check_ddf, check_epilogue
from .gpu import branches as gpu_branches
from .gpu import ddf as gpu_ddf
from .options import DDFOptions, Epilogue, output_size
from .reference import branches_reference, ddf_reference
from .tensors import accumulation_dtype, empty, memory_format_of


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
    """Apply `ddf`, times a scale and plus a bias per channel, then a ReLU: a DDF and the batch norm after it, in one
    launch.

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
    x, channel_filter, spatial_filter = dispatch.follow_autocast(x, channel_filter, spatial_filter)
    options = DDFOptions(kernel_size, stride, dilation, heads, combine, spatial_norm)
    check_ddf("ddf_inference", x, channel_filter, spatial_filter, options)
    check_epilogue("ddf_inference", x, scale, bias)
    dtype = accumulation_dtype(x.dtype)
    scale, bias = scale.to(dtype), bias.to(dtype)
    if dispatch.served_by_kernels(x) and dispatch.goes_straight(*tensors):
        return gpu_ddf.forward(x, channel_filter, spatial_filter, options, Epilogue(scale, bias, relu))
    return ddf_inference_op(x, channel_filter, spatial_filter, scale, bias, relu, *options)


def ddf_branches(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> tuple[Tensor, Tensor]:
    """Compute the spatial branch's 1x1 convolution and the channel branch's mean, by reading x once. For inference: it
    has no derivative.

    Args:
        x: (N, C, H, W), float64, float32, float16 or bfloat16; sums are in float32, in float64 for float64.
        weight: (O, C), of the convolution; O = heads*k*k.
        bias: (O), or None.
        stride: of the convolution, at least 1; the output size is Ho = (H-1)//stride + 1.

    Returns:
        The spatial filter before its normalisation, (N, O, Ho, Wo), in the dtype and memory format of x, and the mean
        over all H*W pixels, (N, C), in the dtype of x; inside autocast in the autocast dtype.

    Raises:
        TypeError, ValueError: naming the argument, what came and what was expected.
        ddfnet.errors.UserError: on a GPU, where CuPy is missing or does not fit; it names the line to run.
    """
    x, weight, bias = dispatch.follow_autocast(x, weight, bias)
    check_branches("ddf_branches", x, weight, bias, stride)
    if dispatch.served_by_kernels(x) and dispatch.goes_straight(x, weight, bias):
        return gpu_branches.branches(x, weight, bias, stride)
    return ddf_branches_op(x, weight, bias, stride)


def inference_reference(
    x: Tensor, channel_filter: Tensor | None, spatial_filter: Tensor | None, options: DDFOptions, epilogue: Epilogue
) -> Tensor:
    """Compute `ddf_inference` in plain operations, with the arguments already checked."""
    return _affine(ddf_reference(x, channel_filter, spatial_filter, options), epilogue)


def _affine(y: Tensor, epilogue: Epilogue) -> Tensor:
    assert epilogue.scale is not None and epilogue.bias is not None
    dtype = accumulation_dtype(y.dtype)
    scale, bias = (value.to(dtype).view(-1, 1, 1) for value in (epilogue.scale, epilogue.bias))
    z = torch.addcmul(bias, y.to(dtype), scale)
    return (z.relu() if epilogue.relu else z).to(y.dtype)


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
    options = DDFOptions(kernel_size, stride, dilation, heads, combine, spatial_norm)
    y = torch.ops.ddfnet.ddf(x, channel_filter, spatial_filter, *options)
    return _affine(y, Epilogue(scale, bias, relu)).contiguous(memory_format=memory_format_of(x))


@ddf_inference_op.register_fake
def _(x, channel_filter, spatial_filter, scale, bias, relu, *options):
    return empty(x, *x.shape[:2], *DDFOptions(*options).output_size(*x.shape[2:]))


@torch.library.custom_op("ddfnet::ddf_branches", mutates_args=())
def ddf_branches_op(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> tuple[Tensor, Tensor]:
    return branches_reference(x, weight, bias, stride)


@ddf_branches_op.register_fake
def _(x, weight, bias, stride):
    n, channels, height, width = x.shape
    return empty(x, n, weight.shape[0], *output_size(height, width, stride)), x.new_empty(n, channels)


if dispatch.HAS_KERNELS:

    @ddf_inference_op.register_kernel("cuda")
    def _(x, channel_filter, spatial_filter, scale, bias, relu, *options):
        epilogue = Epilogue(scale, bias, relu)
        return gpu_ddf.forward(x, channel_filter, spatial_filter, DDFOptions(*options), epilogue)

    ddf_branches_op.register_kernel("cuda")(gpu_branches.branches)


@register_flop_formula(torch.ops.ddfnet.ddf_inference)
def _inference_flops(x_shape, channel, spatial, scale, bias, relu, kernel_size, *args, out_shape=None, **kwargs) -> int:
    n, channels, height, width = out_shape
    return 2 * kernel_size**2 * n * channels * height * width


@register_flop_formula(torch.ops.ddfnet.ddf_branches)
def _branches_flops(x_shape, weight_shape, bias_shape, stride, *args, **kwargs) -> int:
    """The convolution's."""
    n, channels, height, width = x_shape
    out_height, out_width = output_size(height, width, stride)
    return 2 * n * weight_shape[0] * channels * out_height * out_width
