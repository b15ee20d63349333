"""WeightNet, depth-wise (Ma et al., ECCV 2020, arXiv 2007.11823): a small network generates each picture's kernels.

Specified (the authors' WeightNet_DW, M = G = 2): global average pool, 1x1 convolution to max(16, C/16), 1x1 convolution
to C, sigmoid, grouped 1x1 convolution to the k*k weights of each channel; biases in the first two; no norm between.
Inferred: the pool sees the input of the convolution it replaces, the 3x3 of every bottleneck. That gives the 14.4 M
parameters of the DDF paper's Table 4.
Ours differs: in the authors' ShuffleNet a block's layers share the first convolution; here each block has one layer.
"""

from typing import Any

from timm.models import register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from ..timm_resnet import create_resnet, untrained
from .conv_like import place, require_one_group
from .per_sample import PerSampleConv2d


class DwWeightNet(PerSampleConv2d):
    """Stands for `conv` of C to C channels: (N, C, H, W) -> (N, C, Ho, Wo)."""

    def __init__(self, conv: nn.Conv2d):
        require_one_group(conv, "dwweightnet_resnet")
        channels, (rows, columns) = conv.in_channels, conv.kernel_size
        super().__init__(conv, groups=channels)
        squeezed = max(16, channels // 16)
        self.reduce = nn.Conv2d(channels, squeezed, 1, **place(conv))
        self.fc1 = nn.Conv2d(squeezed, channels, 1, **place(conv))
        self.fc2 = nn.Conv2d(channels, channels * rows * columns, 1, groups=channels, bias=False, **place(conv))

    def kernels(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, 1, k, k)."""
        gates = self.fc1(self.reduce(x.mean((2, 3), keepdim=True))).sigmoid()
        return self.fc2(gates).view(-1, *self.kernel_shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.kernels(x))


class DwWeightNetBottleneck(Bottleneck):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv2: Any = DwWeightNet(self.conv2)


default_cfgs = untrained("dwweightnet_resnet50")


@register_model
def dwweightnet_resnet50(pretrained: bool = False, **kwargs) -> ResNet:
    """Depth-wise WeightNet-ResNet50: 14.4 M parameters, top-1 78.0 in the paper (Table 4)."""
    return create_resnet("dwweightnet_resnet50", pretrained, kwargs, block=DwWeightNetBottleneck)
