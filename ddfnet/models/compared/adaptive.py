"""Adaptive convolutional kernels (Zamora Esquivel et al., ICCV Workshops 2019), an approximation.

Specified, in the abstract, which is all that we have: a first convolution over a window produces the kernel that is
then applied to the same window.
Inferred: everything else. Depth-wise: per channel, k*k linear functions with bias of the k x k window, then tanh, are
the taps applied to it; k*k*(k*k + 1) parameters a channel. Which layers of ResNet18 are adaptive is not known either:
here it stands where our DDF-ResNet18 has its DDF, followed by a 1x1 convolution.
So the row of the DDF paper's Table 4 (11.1 M parameters, top-1 70.2) is not reproduced by this network.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from ..timm_resnet import create_resnet, untrained
from .conv_like import (
    geometry,
    place,
    pointwise,
    require_one_group,
)


class AdaptiveDwConv(nn.Module):
    """Stands for the depth-wise part of `conv`: (N, C, H, W) -> (N, C, Ho, Wo)."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        require_one_group(conv, "adaptive_dw_resnet")
        pairs: Any = conv.kernel_size, conv.stride, conv.padding, conv.dilation  # as timm's blocks give them
        self.kernel_size, self.stride, self.padding, self.dilation = pairs
        channels, taps = conv.in_channels, conv.kernel_size[0] * conv.kernel_size[1]
        # output channel c*k*k + tap
        self.taps = nn.Conv2d(
            channels, channels * taps, self.kernel_size, groups=channels, **geometry(conv), **place(conv)
        )

    def forward(self, x: Tensor) -> Tensor:
        taps = torch.tanh(self.taps(x))
        windows = F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride).view_as(taps)
        return (taps * windows).unflatten(1, (x.shape[1], -1)).sum(2)


class AdaptiveDwBasicBlock(BasicBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv1: Any = nn.Sequential(AdaptiveDwConv(self.conv1), pointwise(self.conv1))
        self.conv2: Any = nn.Sequential(AdaptiveDwConv(self.conv2), pointwise(self.conv2))


default_cfgs = untrained("adaptive_dw_resnet18")


@register_model
def adaptive_dw_resnet18(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet18 of depth-wise adaptive kernels, an approximation of the paper's row (Table 4, top-1 70.2)."""
    return create_resnet("adaptive_dw_resnet18", pretrained, kwargs, block=AdaptiveDwBasicBlock)
