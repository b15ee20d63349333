"""The depth-wise base line: timm's ResNet with a static 3x3 depth-wise convolution wherever DDF-ResNet has a DDF.

Not a row of the paper's tables; it tells how much of a depth-wise dynamic filter's gain is the filter's.
Bottlenecks: the 3x3 convolution becomes depth-wise. Basic blocks: each 3x3 convolution becomes a depth-wise one and a
1x1 convolution, without a norm between, which is the layout of our DDF-ResNet18.
"""

from timm.models import register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from .variants import create_resnet, untrained


def require_one_group(conv: nn.Conv2d, system: str) -> None:
    """Depth-wise layers leave no room for timm's `cardinality`."""
    if conv.groups > 1:
        raise ValueError(f"{system}: the block's convolution has {conv.groups} groups, expected 1: it is depth-wise")


def depthwise(conv: nn.Conv2d) -> nn.Conv2d:
    """Of `conv`, the depth-wise convolution of its input channels: same kernel size, stride, padding and dilation."""
    require_one_group(conv, "dw_resnet")
    geometry = dict(stride=conv.stride, padding=conv.padding, dilation=conv.dilation)
    place = dict(device=conv.weight.device, dtype=conv.weight.dtype)
    channels = conv.in_channels
    return nn.Conv2d(channels, channels, conv.kernel_size, groups=channels, bias=False, **geometry, **place)


def pointwise(conv: nn.Conv2d) -> nn.Conv2d:
    """Of `conv`, the 1x1 convolution between its channels."""
    place = dict(device=conv.weight.device, dtype=conv.weight.dtype)
    return nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=False, **place)


class DwBottleneck(Bottleneck):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv2 = depthwise(self.conv2)


class DwBasicBlock(BasicBlock):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv1 = nn.Sequential(depthwise(self.conv1), pointwise(self.conv1))
        self.conv2 = nn.Sequential(depthwise(self.conv2), pointwise(self.conv2))


default_cfgs = untrained("dw_resnet18", "dw_resnet50")


@register_model
def dw_resnet18(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet18 of depth-wise and 1x1 convolutions: 2.0 M parameters; not in the paper."""
    return create_resnet("dw_resnet18", pretrained, kwargs, block=DwBasicBlock)


@register_model
def dw_resnet50(pretrained: bool = False, **kwargs) -> ResNet:
    """ResNet50 of depth-wise convolutions: 14.3 M parameters; not in the paper."""
    return create_resnet("dw_resnet50", pretrained, kwargs, block=DwBottleneck)
