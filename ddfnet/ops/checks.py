"""The arguments of the public operators, checked: a mistake gives one sentence that begins with the operator called.

Each call of an operator goes through here, so what is right is found right with few calls of functions.
"""

import torch
from torch import Tensor

from .options import DDFOptions, output_size

SIZES = DDFOptions._fields[:4]  # integers
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_ddf(operator: str, x, channel_filter, spatial_filter, options: DDFOptions) -> None:
    """Check what `ddf` and the operators like it take.

    Raises:
        TypeError, ValueError: naming the operator, the argument, what came and what was expected.
    """
    kernel_size, stride, _, heads, combine, spatial_norm = options
    _check_map(operator, x)
    for name, value in zip(SIZES, options, strict=False):
        if not isinstance(value, int) or value < 1:
            _check_positive(operator, name, value)
    if kernel_size % 2 == 0:
        raise ValueError(f"{operator}: kernel_size is {kernel_size}, expected an odd number")
    n, channels, height, width = x.shape
    if channels % heads:
        raise ValueError(f"{operator}: heads is {heads}, expected a divisor of x's {channels} channels")
    if height < 1 or width < 1:
        raise ValueError(f"{operator}: x has shape {tuple(x.shape)}, expected a map of at least 1x1 pixels")
    if combine not in ("mul", "add"):
        raise ValueError(f"{operator}: combine is {combine!r}, expected 'mul' or 'add'")
    if channel_filter is None and spatial_filter is None:
        raise ValueError(f"{operator}: channel_filter and spatial_filter are both None, expected at least one of them")
    if spatial_norm and spatial_filter is None:
        raise ValueError(f"{operator}: spatial_norm is True but spatial_filter is None, expected a filter to normalise")
    if spatial_norm and kernel_size == 1:
        raise ValueError(
            f"{operator}: spatial_norm is True but kernel_size is 1, expected more than one tap to normalise"
        )
    channel_shape = (n, channels, kernel_size, kernel_size)
    _check_filter(operator, "channel_filter", channel_filter, x, channel_shape, "(N, C, k, k)")
    spatial_shape = (n, heads * kernel_size**2, *output_size(height, width, stride))
    _check_filter(operator, "spatial_filter", spatial_filter, x, spatial_shape, "(N, heads*k*k, Ho, Wo)")


def check_epilogue(operator: str, x: Tensor, scale, bias) -> None:
    """Check the scale and the bias per channel of x; raises as `check_ddf`."""
    for name, value in (("scale", scale), ("bias", bias)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{operator}: {name} is a {type(value).__name__}, expected a Tensor")
        if value.shape != x.shape[1:2]:
            raise ValueError(f"{operator}: {name} has shape {tuple(value.shape)}, expected ({x.shape[1]},) = (C,)")
        if value.device != x.device:
            raise ValueError(f"{operator}: {name} is on {value.device}, expected {x.device}, the device of x")


def check_branches(operator: str, x, weight, bias, stride) -> None:
    """Check what `ddf_branches` takes; raises as `check_ddf`."""
    for name, value in (("x", x), ("weight", weight), ("bias", bias)):
        if not isinstance(value, Tensor) and not (name == "bias" and value is None):
            expected = "a Tensor or None" if name == "bias" else "a Tensor"
            raise TypeError(f"{operator}: {name} is a {type(value).__name__}, expected {expected}")
    _check_map(operator, x)
    if min(x.shape[1:]) < 1:
        raise ValueError(f"{operator}: x has shape {tuple(x.shape)}, expected a channel and a pixel at least")
    _check_positive(operator, "stride", stride)
    if weight.dim() != 2 or weight.shape[0] < 1 or weight.shape[1] != x.shape[1]:
        shape = tuple(weight.shape)
        raise ValueError(f"{operator}: weight has shape {shape}, expected (O, {x.shape[1]}) = (O, C), O at least 1")
    if bias is not None and bias.shape != weight.shape[:1]:
        shape = tuple(bias.shape)
        raise ValueError(f"{operator}: bias has shape {shape}, expected {tuple(weight.shape[:1])} = (O)")
    for name, value in (("x", x), ("weight", weight), ("bias", bias)):
        if value is None:
            continue
        _check_like(operator, name, value, x)
        if value.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{operator}: {name} requires grad, but this operator is for inference and has no derivative: call it"
                " in torch.no_grad(), or train by the convolution and the mean"
            )


def _check_map(operator: str, x) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{operator}: x is a {type(x).__name__}, expected a Tensor")
    if x.dim() != 4:
        raise ValueError(f"{operator}: x has shape {tuple(x.shape)}, expected 4 dimensions (N, C, H, W)")
    if x.dtype not in DTYPES:
        raise TypeError(f"{operator}: x is {x.dtype}, expected float64, float32, float16 or bfloat16")


def _check_positive(operator: str, name: str, value) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{operator}: {name} is {value!r}, expected an integer of at least 1")


def _check_filter(operator: str, name: str, value, x: Tensor, shape: tuple[int, ...], meaning: str) -> None:
    if value is None:
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{operator}: {name} is a {type(value).__name__}, expected a Tensor or None")
    if value.device != x.device or value.dtype != x.dtype:
        _check_like(operator, name, value, x)
    if value.shape != shape:
        raise ValueError(f"{operator}: {name} has shape {tuple(value.shape)}, expected {tuple(shape)} = {meaning}")


def _check_like(operator: str, name: str, value: Tensor, x: Tensor) -> None:
    if value.device != x.device:
        raise ValueError(f"{operator}: {name} is on {value.device}, expected {x.device}, the device of x")
    if value.dtype != x.dtype:
        raise TypeError(f"{operator}: {name} is {value.dtype}, expected {x.dtype}, the dtype of x")
