"""A convolution whose kernel differs from picture to picture, which CondConv, WeightNet and DyNet have in common."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PerSampleConv2d(nn.Module):
    """The geometry of `conv`, to convolve each picture of a batch with a kernel of its own.

    Args:
        conv: gives channels, kernel size, stride, padding, dilation, and groups unless these are given.
    """

    def __init__(self, conv: nn.Conv2d, groups: int | None = None):
        super().__init__()
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.groups = conv.groups if groups is None else groups
        self.kernel_shape = (conv.out_channels, conv.in_channels // self.groups, *conv.kernel_size)

    def convolve(self, x: Tensor, kernels: Tensor) -> Tensor:
        """x (N, C, H, W), kernels (N, O, C/groups, k, k) -> (N, O, Ho, Wo), in the memory format of x.

        One grouped convolution of the batch laid out as the channels of one picture. That layout is NCHW, so that
        channels_last costs a copy of x and one of the output. The number of pictures is fixed in an exported program.
        """
        pictures = x.shape[0]
        y = F.conv2d(
            x.reshape(1, -1, *x.shape[2:]),
            kernels.flatten(0, 1),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=pictures * self.groups,
        )
        y = y.view(pictures, -1, *y.shape[2:])
        channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        return y.contiguous(memory_format=torch.channels_last) if channels_last else y

    def extra_repr(self) -> str:
        return f"{self.kernel_shape}, stride={self.stride[0]}, dilation={self.dilation[0]}, groups={self.groups}"
