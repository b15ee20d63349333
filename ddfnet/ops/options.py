"""What travels together through the operator: the options of a call, and what is done to its results."""

from typing import NamedTuple

from torch import Tensor


class DDFOptions(NamedTuple):
    """The options of `ddfnet.ops.ddf`, in the order of the operators' schemas: `op(x, c, s, *options)`."""

    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    heads: int = 1
    combine: str = "mul"
    spatial_norm: bool = False

    @property
    def taps(self) -> int:
        return self.kernel_size**2

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        return output_size(height, width, self.stride)


class Epilogue(NamedTuple):
    """What becomes of the sums before they are rounded: times `scale` plus `bias`, (C) each, then a ReLU."""

    scale: Tensor | None = None
    bias: Tensor | None = None
    relu: bool = False


def output_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """Return the size of the output map: that of a convolution with padding dilation * (kernel_size // 2)."""
    return (height - 1) // stride + 1, (width - 1) // stride + 1
