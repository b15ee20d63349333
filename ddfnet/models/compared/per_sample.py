"""A convolution whose kernel differs from picture to picture, which CondConv, WeightNet and DyNet have in common."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.fx.wrap  # it asks for the layout of x, which torch.fx does not know
def convolve_each(
    x: Tensor,
    kernels: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """Convolve each image of x (N, C, H, W) with its own of the kernels (N, O, C/groups, k, k) -> (N, O, Ho, Wo).

    One grouped convolution of the batch laid out as the channels of one image. That layout is NCHW, so that
    channels_last costs a copy of x and one of the output. The number of images is fixed in an exported program.
    """
    images, channels, height, width = x.shape
    y = F.conv2d(
        x.reshape(1, images * channels, height, width),
        kernels.flatten(0, 1),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=images * groups,
    )
    y = y.view(images, kernels.shape[1], y.shape[2], y.shape[3])
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return y.contiguous(memory_format=torch.channels_last) if channels_last else y


class PerSampleConv2d(nn.Module):
    """The geometry of `conv`, to convolve each picture of a batch with a kernel of its own.

    Args:
        conv: gives channels, kernel size, stride, padding, dilation, and groups unless these are given.
    """

    def __init__(self, conv: nn.Conv2d, groups: int | None = None):
        super().__init__()
        pairs: Any = conv.stride, conv.padding, conv.dilation  # as timm's blocks give them
        self.stride, self.padding, self.dilation = pairs
        self.groups = conv.groups if groups is None else groups
        self.kernel_shape = (conv.out_channels, conv.in_channels // self.groups, *conv.kernel_size)

    def convolve(self, x: Tensor, kernels: Tensor) -> Tensor:
        """x (N, C, H, W), kernels (N, O, C/groups, k, k) -> (N, O, Ho, Wo), in the memory format of x."""
        return convolve_each(x, kernels, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return f"{self.kernel_shape}, stride={self.stride[0]}, dilation={self.dilation[0]}, groups={self.groups}"
