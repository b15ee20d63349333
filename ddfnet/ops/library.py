"""The three operators registered with torch: ddfnet::ddf and its two gradients.

The gradients are operators of their own, so torch.compile and FLOP counters see them, and each is differentiated by the
other two: the operation is linear in x and in each filter, so its derivatives of every order are again DDF operations.
What is saved for backward are the inputs themselves, never a product of them. With `spatial_norm` the spatial filter is
normalised on the way, and its gradient is that of the raw one; derivatives beyond the first take the normalisation as
operations of its own.
"""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import cpu
from .dispatch import HAS_KERNELS
from .gpu import ddf as gpu
from .normalize import normalize, normalize_backward
from .options import DDFOptions
from .tensors import empty, memory_format_of


@torch.library.custom_op("ddfnet::ddf", mutates_args=())
def ddf_op(
    x: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    kernel_size: int,
    stride: int,
    dilation: int,
    heads: int,
    combine: str,
    spatial_norm: bool = False,
) -> Tensor:
    options = DDFOptions(kernel_size, stride, dilation, heads, combine, spatial_norm)
    return cpu.forward(x, channel_filter, spatial_filter, options)


@torch.library.custom_op("ddfnet::ddf_grad_x", mutates_args=())
def ddf_grad_x_op(
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
    spatial_norm: bool = False,
) -> Tensor:
    options = DDFOptions(kernel_size, stride, dilation, heads, combine, spatial_norm)
    return cpu.grad_x(grad, channel_filter, spatial_filter, (height, width), options)


@torch.library.custom_op("ddfnet::ddf_grad_filters", mutates_args=())
def ddf_grad_filters_op(
    grad: Tensor,
    x: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    need_channel: bool,
    need_spatial: bool,
    kernel_size: int,
    stride: int,
    dilation: int,
    heads: int,
    combine: str,
    spatial_norm: bool = False,
) -> tuple[Tensor, Tensor]:
    options = DDFOptions(kernel_size, stride, dilation, heads, combine, spatial_norm)
    return cpu.grad_filters(grad, x, channel_filter, spatial_filter, options, (need_channel, need_spatial))


if HAS_KERNELS:

    @ddf_op.register_kernel("cuda")
    def _(x, channel_filter, spatial_filter, *options):
        return gpu.forward(x, channel_filter, spatial_filter, DDFOptions(*options))

    @ddf_grad_x_op.register_kernel("cuda")
    def _(grad, channel_filter, spatial_filter, height, width, *options):
        return gpu.grad_x(grad, channel_filter, spatial_filter, (height, width), DDFOptions(*options))

    @ddf_grad_filters_op.register_kernel("cuda")
    def _(grad, x, channel_filter, spatial_filter, need_channel, need_spatial, *options):
        wants = need_channel, need_spatial
        return gpu.grad_filters(grad, x, channel_filter, spatial_filter, DDFOptions(*options), wants)


# ---- shapes, for torch.compile and torch.export -----------------------------------------------------------------


@ddf_op.register_fake
def _(x, channel_filter, spatial_filter, *options):
    return empty(x, *x.shape[:2], *DDFOptions(*options).output_size(*x.shape[2:]))


@ddf_grad_x_op.register_fake
def _(grad, channel_filter, spatial_filter, height, width, *options):
    return empty(grad, *grad.shape[:2], height, width)


@ddf_grad_filters_op.register_fake
def _(grad, x, channel_filter, spatial_filter, need_channel, need_spatial, kernel_size, stride, dilation, heads, *rest):
    dc = x.new_empty((*x.shape[:2], kernel_size, kernel_size) if need_channel else 0)
    if not need_spatial:
        return dc, x.new_empty(0)
    return dc, empty(grad, x.shape[0], heads * kernel_size**2, *grad.shape[2:])


# ---- derivatives ------------------------------------------------------------------------------------------------

OPTIONS = (None,) * len(DDFOptions._fields)  # have no gradient


def _setup_ddf(ctx, inputs, output):
    x, channel_filter, spatial_filter, *options = inputs
    filters_need_grad = any(ctx.needs_input_grad[1:3])  # only their gradients read x
    ctx.save_for_backward(x if filters_need_grad else None, channel_filter, spatial_filter)
    ctx.options, ctx.size, ctx.layout = DDFOptions(*options), x.shape[2:], memory_format_of(x)


def _backward_ddf(ctx, grad):
    x, channel_filter, spatial_filter = ctx.saved_tensors
    need_x, need_channel, need_spatial = ctx.needs_input_grad[:3]
    grad = grad.contiguous(memory_format=ctx.layout)  # once for both: that of y.sum() is expanded, dense in no layout
    dx = dc = ds = None
    raw, options = spatial_filter, ctx.options
    apart = options.spatial_norm and torch.is_grad_enabled()  # to be differentiated again
    if apart:
        spatial_filter, options = normalize(raw, options.taps), options._replace(spatial_norm=False)
    if need_x:
        dx = ddf_grad_x_op(grad, channel_filter, spatial_filter, *ctx.size, *options)
    if need_channel or need_spatial:
        dc, ds = ddf_grad_filters_op(grad, x, channel_filter, spatial_filter, need_channel, need_spatial, *options)
    if apart and need_spatial and ds is not None:
        ds = normalize_backward(ds, raw, options.taps)
    return dx, dc if need_channel else None, ds if need_spatial else None, *OPTIONS


def _setup_grad_x(ctx, inputs, output):
    grad, channel_filter, spatial_filter, _, _, *options = inputs
    ctx.options = DDFOptions(*options)
    assert not ctx.options.spatial_norm, "_backward_ddf takes it apart"
    ctx.save_for_backward(grad, channel_filter, spatial_filter)


def _backward_grad_x(ctx, a):  # a has the shape of x
    grad, channel_filter, spatial_filter = ctx.saved_tensors
    need_grad, need_channel, need_spatial = ctx.needs_input_grad[:3]
    dgrad = ddf_op(a, channel_filter, spatial_filter, *ctx.options) if need_grad else None
    dc = ds = None
    if need_channel or need_spatial:
        dc, ds = ddf_grad_filters_op(grad, a, channel_filter, spatial_filter, need_channel, need_spatial, *ctx.options)
    return dgrad, dc if need_channel else None, ds if need_spatial else None, None, None, *OPTIONS


def _setup_grad_filters(ctx, inputs, output):
    grad, x, channel_filter, spatial_filter, ctx.need_channel, ctx.need_spatial, *options = inputs
    ctx.options = DDFOptions(*options)
    assert not ctx.options.spatial_norm, "_backward_ddf takes it apart"
    ctx.save_for_backward(grad, x, channel_filter, spatial_filter)


def _backward_grad_filters(ctx, b, e):  # b and e have the shapes of the channel and the spatial filter
    grad, x, channel_filter, spatial_filter = ctx.saved_tensors
    need_grad, need_x, need_channel, need_spatial = ctx.needs_input_grad[:4]
    options = ctx.options
    if options.combine == "add":  # (F + S) * x: both cotangents act in one operation, a missing one as zeros
        pairs = [(b if ctx.need_channel else None, e if ctx.need_spatial else None)]
    else:
        pairs = [(b, spatial_filter)] * ctx.need_channel + [(channel_filter, e)] * ctx.need_spatial
    dgrad = sum(ddf_op(x, *pair, *options) for pair in pairs) if need_grad else None
    dx = sum(ddf_grad_x_op(grad, *pair, *x.shape[2:], *options) for pair in pairs) if need_x else None
    dc = ds = None
    if options.combine == "mul":  # under "add" the gradient of one filter reads neither filter
        if need_channel and ctx.need_spatial:
            dc, _ = ddf_grad_filters_op(grad, x, None, e, True, False, *options)
        if need_spatial and ctx.need_channel:
            _, ds = ddf_grad_filters_op(grad, x, b, None, False, True, *options)
    return dgrad, dx, dc, ds, None, None, *OPTIONS


ddf_op.register_autograd(_backward_ddf, setup_context=_setup_ddf)
ddf_grad_x_op.register_autograd(_backward_grad_x, setup_context=_setup_grad_x)
ddf_grad_filters_op.register_autograd(_backward_grad_filters, setup_context=_setup_grad_filters)


# ---- vmap: the mapped dimension is more batch ----------------------------------------------------------------------


def _register_vmap(op, tensors: int, outputs: int):
    def vmap(info, in_dims, *args):
        def fold(value, dim):
            if value is None:
                return None
            value = value.unsqueeze(0).expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            return value.flatten(0, 1)

        folded = [fold(value, dim) for value, dim in zip(args[:tensors], in_dims[:tensors], strict=True)]
        result = op(*folded, *args[tensors:])
        if outputs == 1:
            return result.unflatten(0, (info.batch_size, -1)), 0
        wanted = args[tensors : tensors + outputs]  # an unneeded gradient is empty and has no batch to unfold
        unfolded = [r.unflatten(0, (info.batch_size, -1)) if w else r for r, w in zip(result, wanted, strict=True)]
        return tuple(unfolded), tuple(0 if w else None for w in wanted)

    op.register_vmap(vmap)


_register_vmap(ddf_op, tensors=3, outputs=1)
_register_vmap(ddf_grad_x_op, tensors=3, outputs=1)
_register_vmap(ddf_grad_filters_op, tensors=4, outputs=2)


# ---- FLOPs, as torch counts them: two per multiply-accumulate; combining the filters is not counted ------------------


@register_flop_formula(torch.ops.ddfnet.ddf)
def _ddf_flops(x_shape, channel_shape, spatial_shape, kernel_size, *args, out_shape=None, **kwargs) -> int:
    n, channels, height, width = out_shape
    return 2 * kernel_size**2 * n * channels * height * width


@register_flop_formula(torch.ops.ddfnet.ddf_grad_x)
def _grad_x_flops(grad_shape, channel_shape, spatial_shape, height, width, kernel_size, *args, **kwargs) -> int:
    n, channels, out_height, out_width = grad_shape
    return 2 * kernel_size**2 * n * channels * out_height * out_width


@register_flop_formula(torch.ops.ddfnet.ddf_grad_filters)
def _grad_filters_flops(
    grad_shape, x_shape, channel_shape, spatial_shape, need_channel, need_spatial, kernel_size, *args, **kwargs
) -> int:
    n, channels, out_height, out_width = grad_shape
    return 2 * kernel_size**2 * n * channels * out_height * out_width * (need_channel + need_spatial)
