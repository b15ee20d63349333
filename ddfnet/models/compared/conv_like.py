"""What a layer that stands for a convolution of timm's blocks takes over from it."""

from typing import Any

import torch
from torch import nn


def place(conv: nn.Conv2d) -> dict[str, Any]:
    return dict(device=conv.weight.device, dtype=conv.weight.dtype)


def geometry(conv: nn.Conv2d) -> dict[str, Any]:
    """Stride, padding and dilation, where timm has put output_stride and anti-aliasing."""
    return dict(stride=conv.stride, padding=conv.padding, dilation=conv.dilation)


def pointwise(conv: nn.Conv2d) -> nn.Conv2d:
    """The 1x1 convolution between its channels."""
    return nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False, **place(conv))


def normal_like(conv: nn.Conv2d, shape: tuple[int, ...]) -> nn.Parameter:
    """Kernels drawn as timm's ResNet draws those of its convolutions (He et al., fan out).

    Give at most three dimensions: `.to(memory_format=torch.channels_last)` refuses a parameter of five.
    """
    fan_out = conv.out_channels * conv.kernel_size[0] * conv.kernel_size[1]
    return nn.Parameter(nn.init.normal_(torch.empty(shape, **place(conv)), std=(2 / fan_out) ** 0.5))


def require_one_group(conv: nn.Conv2d, system: str) -> None:
    """For layers that leave no room for timm's `cardinality`."""
    if conv.groups > 1:
        raise ValueError(f"{system}: the block's convolution has {conv.groups} groups, expected 1")
