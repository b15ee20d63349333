"""The CUDA backend: the kernels of cuda/, compiled by CuPy at first use and launched on PyTorch's current stream.

Same functions as cpu.py. Memory is PyTorch's; nothing waits for the device; nothing of CUDA is touched before the first
call. x, its gradient and the outputs keep their layout, channels_last or NCHW; a tensor that is dense in neither, or a
gradient in the other layout than x, is copied once.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import kernels
from .geometry import Job, Launch, plan, plan_sum_partials
from .normalize import normalize, normalize_backward
from .reference import accumulation_dtype, memory_format_of, output_size
from .specialisations import DTYPE_INDEX, is_fast


def forward(
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
    geometry = kernel_size, stride, dilation, heads, combine
    return _forward(x, channel_filter, spatial_filter, geometry, spatial_norm)


def inference(
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
    geometry = kernel_size, stride, dilation, heads, combine
    affine = scale.contiguous(), bias.contiguous()
    return _forward(x, channel_filter, spatial_filter, geometry, spatial_norm, affine, relu)


def _forward(x, channel_filter, spatial_filter, geometry, spatial_norm, affine=(None, None), relu=False) -> Tensor:
    kernel_size, stride, dilation, heads, combine = geometry
    layout = memory_format_of(x)
    x, channel_filter = x.contiguous(memory_format=layout), _contiguous(channel_filter)
    n, channels, height, width = x.shape
    if stride == 1:
        y = torch.empty_like(x)  # half the time of the other
    else:
        size = output_size(height, width, stride)
        y = torch.empty((n, channels, *size), dtype=x.dtype, device=x.device, memory_format=layout)
    geometry = (n, channels, height, width, kernel_size, stride, dilation, heads, combine == "add")
    _apply("forward", geometry, layout, x, channel_filter, spatial_filter, y, spatial_norm, affine, relu)
    return y


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
    spatial_norm: bool = False,
) -> Tensor:
    layout = memory_format_of(grad)
    grad, channel_filter = grad.contiguous(memory_format=layout), _contiguous(channel_filter)
    n, channels = grad.shape[:2]
    dx = torch.empty((n, channels, height, width), dtype=grad.dtype, device=grad.device, memory_format=layout)
    geometry = (n, channels, height, width, kernel_size, stride, dilation, heads, combine == "add")
    _apply("grad_x", geometry, layout, grad, channel_filter, spatial_filter, dx, spatial_norm)
    return dx


def _apply(
    kind, geometry, layout, source, channel_filter, spatial_filter, result, norm, affine=(None, None), relu=False
):
    if result.numel() == 0:
        return
    tensors = (source, channel_filter, spatial_filter, result)
    nhwc, flags = layout == torch.channels_last, (norm, relu)
    ready, pointers = _prepare(kind, geometry, nhwc, source, tensors, spatial_filter, flags=flags)
    if ready is None:  # only the generic kernels serve, which do not normalise
        spatial_filter = normalize(spatial_filter, geometry[4] ** 2)
        return _apply(kind, geometry, layout, source, channel_filter, spatial_filter, result, False, affine, relu)
    _run(source, ready, (*pointers, *map(_pointer, affine)))


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
    spatial_norm: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gradients of the channel filter (N,C,k,k) and the spatial filter (N,heads*k*k,Ho,Wo); empty where not needed."""
    ds_layout, layout = memory_format_of(grad), memory_format_of(x)
    x, grad = x.contiguous(memory_format=layout), grad.contiguous(memory_format=layout)
    raw = spatial_filter if spatial_norm else None
    if combine == "add":  # the gradient of one term of a sum does not read the other
        channel_filter = spatial_filter = None
    channel_filter = _contiguous(channel_filter)
    n, channels, height, width = x.shape
    taps, empty = kernel_size**2, x.new_empty(0)
    dc = x.new_empty(n, channels, kernel_size, kernel_size) if need_channel else empty
    ds = empty
    if need_spatial:
        shape = (n, heads * taps, *grad.shape[2:])
        ds = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=ds_layout)
    if x.numel() == 0:
        return dc.zero_(), ds.zero_()
    geometry = (n, channels, height, width, kernel_size, stride, dilation, heads, False)
    nhwc, wants = layout == torch.channels_last, (need_channel, need_spatial)
    tensors: tuple = (grad, x, channel_filter, spatial_filter, raw, ds if need_spatial else None)
    s = spatial_filter if raw is None else raw
    job, pointers = _prepare("filter_grad", geometry, nhwc, x, tensors, s, ds, wants, (spatial_norm, False))
    if job is not None:
        tiles = job.launch.grid // (n * heads)
        partial = None
        if need_channel and tiles > 1:
            partial = torch.empty(n * tiles * channels * taps, dtype=accumulation_dtype(x.dtype), device=x.device)
        outputs = (_pointer(dc) if need_channel and partial is None else 0, _pointer(partial))
        _run(x, job, (*pointers, *outputs))
        if partial is not None:
            total = plan_sum_partials(DTYPE_INDEX[x.dtype], n, channels * taps, tiles)
            _run(x, Ready(total, kernels.load(total.specialisation, x.device)), (_pointer(partial), _pointer(dc)))
        return dc, ds
    if raw is not None and spatial_filter is not None:
        spatial_filter = normalize(raw, taps)
    if need_spatial:
        tensors = (grad, x, channel_filter, ds)
        _run(x, *_prepare("generic_grad_spatial", geometry, nhwc, x, tensors, spatial_filter, ds))
    if need_channel:
        tensors = (grad, x, spatial_filter, dc)
        _run(x, *_prepare("generic_grad_channel", geometry, nhwc, x, tensors, spatial_filter, ds))
    if raw is not None and need_spatial:
        ds = normalize_backward(ds, raw, taps).clone(memory_format=ds_layout)  # not a view: library.py says why
    return dc, ds


def _contiguous(filter: Tensor | None) -> Tensor | None:
    return None if filter is None else filter.contiguous()


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


# ---- from tensors to a launch: at each call, so this is kept to a few microseconds ---------------------------------


class Ready(NamedTuple):
    """A launch and the kernel that it launches."""

    launch: Launch
    kernel: Callable[..., None]


_ready: dict[tuple, Ready | None] = {}
if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's kernels
    os.register_at_fork(after_in_child=lambda: _ready.clear())


def _prepare(kind, geometry, nhwc, x, tensors, spatial_filter, ds=None, wants=(False, False), flags=(False, False)):
    """(what to launch, addresses). The first is None for filter_grad, or under norm, where only the generic kernels
    serve. `flags`: norm, relu."""
    pointers = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    bits = 16
    for pointer in pointers:
        bits |= pointer
    s = None if spatial_filter is None else spatial_filter.stride()
    key = (kind, x.dtype, x.device, geometry, nhwc, s, None if ds is None else ds.stride(), bits & -bits, wants, flags)
    try:
        return _ready[key], pointers
    except KeyError:
        if len(_ready) > 4096:  # shapes that never come again
            _ready.clear()
        ready = _ready[key] = _make_ready(*key)
        return ready, pointers


def _make_ready(kind, dtype, device, geometry, nhwc, s, ds, alignment, wants, flags) -> Ready | None:
    nothing = (0, 0, 0, 0)
    strides = s or nothing, ds if ds and len(ds) == 4 else nothing
    memory = kernels.shared_memory(device)
    job = Job(kind, DTYPE_INDEX[dtype], *geometry, nhwc, *strides, alignment, *wants, memory, *flags)  # type: ignore[call-arg]
    fast = is_fast(job.kernel_size, job.stride, job.dilation)
    launch = plan(job) if fast or kind.startswith("generic_") else None
    if launch is None and kind in ("forward", "grad_x") and not job.norm:
        launch = plan(job._replace(kind=f"generic_{kind}"))
    return None if launch is None else Ready(launch, kernels.load(launch.specialisation, device))


class _Stream:
    """What CuPy asks of a stream."""

    __slots__ = ("ptr",)

    def __init__(self, ptr: int):
        self.ptr = ptr


def _run(x: Tensor, ready: Ready, pointers) -> None:
    launch, kernel = ready
    index = x.device.index
    if torch.cuda.current_device() != index:
        with torch.cuda.device(index):
            return _run(x, ready, pointers)
    stream = _Stream(torch._C._cuda_getCurrentRawStream(index))  # torch.cuda.current_stream builds an object: 1 us
    arguments = (*launch.parameters, *pointers)
    kernel((launch.grid,), (launch.block,), arguments, shared_mem=launch.shared, stream=stream)
