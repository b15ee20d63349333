"""The operator and its gradients on a GPU: the same functions as in ../cpu.py, from tensors to launches.

Memory is PyTorch's; nothing waits for the device. x, its gradient and the outputs keep their layout, channels_last or
NCHW; a tensor that is dense in neither, or a gradient in the other layout than x, is copied once.
"""

import torch
from torch import Tensor

from ..normalize import normalize, normalize_backward
from ..options import DDFOptions, Epilogue
from ..tensors import accumulation_dtype, contiguous, dense, empty, memory_format_of
from . import launch
from .job import NOTHING, Job, Problem, Strides
from .launch import Ready, alignment_of, pointer, pointers_of
from .plan import plan

NO_EPILOGUE = Epilogue()
new = tuple.__new__  # Job(...) takes 0.3 us longer, of six


def forward(
    x: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    options: DDFOptions,
    epilogue: Epilogue = NO_EPILOGUE,
) -> Tensor:
    (x, layout), channel_filter = dense(x), contiguous(channel_filter)
    if options.stride == 1:
        y = torch.empty_like(x, memory_format=layout)  # half the time of the other
    else:
        size = options.output_size(*x.shape[2:])
        y = empty(x, *x.shape[:2], *size)
    problem = new(Problem, (x.shape, options, layout is torch.channels_last))
    _apply("forward", problem, x, channel_filter, spatial_filter, y, epilogue)
    return y


def grad_x(
    grad: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    size: tuple[int, int],
    options: DDFOptions,
) -> Tensor:
    """Return the gradient of x, which has that size."""
    (grad, layout), channel_filter = dense(grad), contiguous(channel_filter)
    shape = (*grad.shape[:2], *size)
    dx = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout)
    problem = new(Problem, (shape, options, layout is torch.channels_last))
    _apply("grad_x", problem, grad, channel_filter, spatial_filter, dx)
    return dx


def _apply(
    kind: str,
    problem: Problem,
    source: Tensor,
    channel_filter: Tensor | None,
    spatial_filter: Tensor | None,
    result: Tensor,
    epilogue: Epilogue = NO_EPILOGUE,
) -> None:
    """Fill `result`: the filters applied to `source`."""
    if result.numel() == 0:
        return
    pointers = pointers_of(source, channel_filter, spatial_filter, result)
    strides = NOTHING if spatial_filter is None else spatial_filter.stride()
    alignment = alignment_of(pointers[0], pointers[3])
    job = new(Job, (kind, source.dtype, problem, alignment, strides, NOTHING, False, False, epilogue.relu))
    launches = launch.launcher.ready(plan, job, source.device)
    if not launches:  # only the generic kernels serve, which do not normalise
        assert spatial_filter is not None
        spatial_filter = normalize(spatial_filter, problem.options.taps)
        problem = problem._replace(options=problem.options._replace(spatial_norm=False))
        return _apply(kind, problem, source, channel_filter, spatial_filter, result, epilogue)
    if epilogue.scale is None:
        pointers += (0, 0)
    else:
        scale, bias = contiguous(epilogue.scale), contiguous(epilogue.bias)  # held until the launch
        pointers += (pointer(scale), pointer(bias))
    launch.launcher.run(launches[0], source.device, pointers)


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
    ds_layout, (x, layout) = memory_format_of(grad), dense(x)
    grad = grad.contiguous(memory_format=layout)
    raw = spatial_filter if options.spatial_norm else None
    if options.combine == "add":  # the gradient of one term of a sum does not read the other
        channel_filter = spatial_filter = None
    channel_filter = contiguous(channel_filter)
    n, channels = x.shape[:2]
    kernel_size, taps = options.kernel_size, options.taps
    dc = x.new_empty((n, channels, kernel_size, kernel_size) if need_channel else 0)
    ds = x.new_empty(0)
    if need_spatial:
        shape = (n, options.heads * taps, *grad.shape[2:])
        ds = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=ds_layout)
    if x.numel() == 0:
        return dc.zero_(), ds.zero_()
    problem = Problem(x.shape, options, layout is torch.channels_last)
    strides = _strides(spatial_filter if raw is None else raw), _strides(ds if need_spatial else None)
    pointers = pointers_of(grad, x, channel_filter, spatial_filter, raw, ds if need_spatial else None)
    job = Job("filter_grad", x.dtype, problem, alignment_of(*pointers[:2]), *strides, *wants)
    launches = launch.launcher.ready(plan, job, x.device)
    if launches:
        _run_filter_grad(launches, x, pointers, dc if need_channel else None)
        return dc, ds
    if raw is not None and spatial_filter is not None:
        spatial_filter = normalize(raw, taps)
    strides = _strides(spatial_filter), strides[1]
    if need_spatial:
        _run_generic("generic_grad_spatial", problem, strides, grad, x, channel_filter, ds)
    if need_channel:
        _run_generic("generic_grad_channel", problem, strides, grad, x, spatial_filter, dc)
    if raw is not None and need_spatial:
        ds = normalize_backward(ds, raw, taps).clone(memory_format=ds_layout)  # not a view: cpu.py says why
    return dc, ds


def _run_filter_grad(launches: tuple[Ready, ...], x: Tensor, pointers: list[int], dc: Tensor | None) -> None:
    partial = None
    if len(launches) == 2:  # each tile writes sums of its own, which the second launch adds
        count, _, tiles = launches[1].launch.parameters
        partial = torch.empty(count * tiles, dtype=accumulation_dtype(x.dtype), device=x.device)
    outputs = (pointer(dc) if partial is None else 0, pointer(partial))
    launch.launcher.run(launches[0], x.device, [*pointers, *outputs])
    if partial is not None:
        launch.launcher.run(launches[1], x.device, [pointer(partial), pointer(dc)])


def _run_generic(kind: str, problem: Problem, strides: tuple[Strides, Strides], *tensors: Tensor | None) -> None:
    x, pointers = tensors[1], pointers_of(*tensors)
    assert x is not None
    job = Job(kind, x.dtype, problem, 1, *strides)  # these kernels read element by element
    (ready,) = launch.launcher.ready(plan, job, x.device)
    launch.launcher.run(ready, x.device, pointers)


def _strides(tensor: Tensor | None) -> Strides:
    return NOTHING if tensor is None else tensor.stride()
