"""The depth-wise base line: timm's ResNet with a static 3x3 depth-wise convolution wherever DDF-ResNet has a DDF.

Not a row of the paper's tables; it tells how much of a depth-wise dynamic filter's gain is the filter's.
Bottlenecks: the 3x3 convolution becomes depth-wise. Basic blocks: each 3x3 convolution becomes a depth-wise one and a
1x1 convolution, without a norm between, which is the layout of our DDF-ResNet18.
"""

from typing import Any

from timm.models import register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from ..timm_resnet import create_resnet, untrained
from .conv_like import (
    geometry,
    place,
    pointwise,
    require_one_group,
)


def depthwise(conv: nn.Conv2d) -> Any:
    """Of `conv`, the depth-wise convolution of its input channels: same kernel size, stride, padding and dilation."""
    require_one_group(conv, "dw_resnet")
    channels, kernel_size = conv.in_channels, conv.kernel_size[0]
    return nn.Conv2d(channels, channels, kernel_size, groups=channels, bias=False, **geometry(conv), **place(conv))


def depthwise_pointwise(conv: nn.Conv2d) -> Any:
    return nn.Sequential(depthwise(conv), pointwise(conv))


class DwBottleneck(Bottleneck):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv2 = depthwise(self.conv2)


class DwBasicBlock(BasicBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv1 = depthwise_pointwise(self.conv1)
        self.conv2 = depthwise_pointwise(self.conv2)


default_cfgs = untrained("dw_resnet18", "dw_resnet50")


@register_model
def dw_resnet18(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet18 of depth-wise and 1x1 convolutions: 2.0 M parameters; not in the paper."""
    return create_resnet("dw_resnet18", pretrained, kwargs, block=DwBasicBlock)


@register_model
def dw_resnet50(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet50 of depth-wise convolutions: 14.3 M parameters; not in the paper."""
    return create_resnet("dw_resnet50", pretrained, kwargs, block=DwBottleneck)
