"""CondConv (Yang et al., NeurIPS 2019, arXiv 1904.04971): a kernel per picture, the weighted sum of expert kernels.

Specified: weights r = sigmoid(Linear(global average pool of the layer's input)), one per expert; kernel = sum r_e W_e.
Inferred: eight experts in every 3x3 convolution of all sixteen blocks, the linear layer with bias, which gives the
104.8 M parameters (dense) and 14.5 M (depth-wise) of the DDF paper's Table 4; four experts would give 59.5 M.
Ours differs: 1x1 convolutions and the head stay static, no dropout on the weights. The published networks also make the
classifier conditional and train with AutoAugment and mixup; the DDF paper says nothing of either.
Expert kernels are drawn like timm's own.
"""

from math import prod
from typing import Any

import torch
from timm.models import register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from ..timm_resnet import create_resnet, untrained
from .conv_like import normal_like, place, require_one_group
from .per_sample import PerSampleConv2d


class CondConv(PerSampleConv2d):
    """Stands for `conv`: (N, C, H, W) -> (N, O, Ho, Wo).

    Args:
        conv: gives the geometry.
        experts: kernels to mix.
        depthwise: one channel per group; else the groups of `conv`.
    """

    def __init__(self, conv: nn.Conv2d, experts: int = 8, depthwise: bool = False):
        if experts < 1:
            raise ValueError(f"condconv_resnet: experts is {experts}, expected at least 1")
        if depthwise:
            require_one_group(conv, "dwcondconv_resnet")
        super().__init__(conv, groups=conv.in_channels if depthwise else None)
        self.routing = nn.Linear(conv.in_channels, experts, **place(conv))
        self.weight = normal_like(conv, (experts, prod(self.kernel_shape)))

    def kernels(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, C/groups, k, k)."""
        weights = self.routing(x.mean((2, 3))).sigmoid()  # N, experts
        return torch.matmul(weights, self.weight).view(-1, *self.kernel_shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.kernels(x))


class CondConvBottleneck(Bottleneck):
    def __init__(self, *args, experts: int = 8, depthwise: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv2: Any = CondConv(self.conv2, experts, depthwise)


class CondConvBasicBlock(BasicBlock):
    def __init__(self, *args, experts: int = 8, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv1: Any = CondConv(self.conv1, experts)
        self.conv2: Any = CondConv(self.conv2, experts)


default_cfgs = untrained("condconv_resnet18", "condconv_resnet50", "dwcondconv_resnet50")


@register_model
def condconv_resnet18(pretrained: bool = False, **kwargs) -> ResNet:
    """CondConv-ResNet18, both 3x3 convolutions of every block; not in the paper."""
    return create_resnet("condconv_resnet18", pretrained, kwargs, block=CondConvBasicBlock)


@register_model
def condconv_resnet50(pretrained: bool = False, **kwargs) -> ResNet:
    """CondConv-ResNet50: 104.8 M parameters, top-1 78.6 in the paper (Table 4). block_args: experts."""
    return create_resnet("condconv_resnet50", pretrained, kwargs, block=CondConvBottleneck)


@register_model
def dwcondconv_resnet50(pretrained: bool = False, **kwargs) -> ResNet:
    """Depth-wise CondConv-ResNet50: 14.5 M parameters, top-1 78.3 in the paper (Table 4). block_args: experts."""
    kwargs["block_args"] = dict(depthwise=True) | (kwargs.get("block_args") or {})
    return create_resnet("dwcondconv_resnet50", pretrained, kwargs, block=CondConvBottleneck)
