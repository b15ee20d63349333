"""BAM (Park et al., BMVC 2018, arXiv 1807.06514): a channel and a spatial gate between the stages of a ResNet.

Specified (the authors' code): after stages 1, 2 and 3; reduction 16, dilation 4; channel gate: pool, linear, norm,
ReLU, linear; spatial gate: 1x1 to C/16, two dilated 3x3, 1x1 to one channel; biases everywhere. It gives the 25.9 M
and 44.9 M parameters of the DDF paper's Table 5.
x * (1 + sigmoid(channel gate * spatial gate)): a product in the code, a sum in the paper's text; here as in the code.
Ours differs: the module is the last of its stage's Sequential, so that timm's features come after it, and the names of
its parameters are not the authors'. Its batch norm over a vector needs two pictures at least in training.
"""

from typing import Any

import torch
from timm.models import register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from ..timm_resnet import create_resnet, untrained


class BAM(nn.Module):
    """(N, C, H, W) -> the same shape."""

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4, device=None, dtype=None):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        squeezed = max(1, channels // reduction)
        self.channel_gate = nn.Sequential(
            nn.Linear(channels, squeezed, **dd),
            nn.BatchNorm1d(squeezed, **dd),
            nn.ReLU(inplace=True),
            nn.Linear(squeezed, channels, **dd),
        )
        layers: list[nn.Module] = [nn.Conv2d(channels, squeezed, 1, **dd)]
        for _ in range(2):
            layers += [nn.BatchNorm2d(squeezed, **dd), nn.ReLU(inplace=True)]
            layers += [nn.Conv2d(squeezed, squeezed, 3, padding=dilation, dilation=dilation, **dd)]
        layers += [nn.BatchNorm2d(squeezed, **dd), nn.ReLU(inplace=True), nn.Conv2d(squeezed, 1, 1, **dd)]
        self.spatial_gate = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        channel = self.channel_gate(x.mean((2, 3)))[:, :, None, None]
        return x * (1 + torch.sigmoid(channel * self.spatial_gate(x)))


class BAMResNet(ResNet):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        parameter = next(self.parameters())
        stages: list[dict[str, Any]] = self.feature_info
        for stage in stages[1:-1]:
            bam = BAM(stage["num_chs"], device=parameter.device, dtype=parameter.dtype)
            self.add_module(stage["module"], nn.Sequential(*self.get_submodule(stage["module"]).children(), bam))
        self.init_weights(kwargs.get("zero_init_last", True))  # once more, for the convolutions that have come


default_cfgs = untrained("bam_resnet50", "bam_resnet101")


@register_model
def bam_resnet50(pretrained: bool = False, **kwargs) -> ResNet:
    """BAM-ResNet50: 25.9 M parameters, top-1 76.0 in the paper (Table 5)."""
    return create_resnet("bam_resnet50", pretrained, kwargs, BAMResNet, block=Bottleneck)


@register_model
def bam_resnet101(pretrained: bool = False, **kwargs) -> ResNet:
    """BAM-ResNet101: 44.9 M parameters, top-1 77.6 in the paper (Table 5)."""
    return create_resnet("bam_resnet101", pretrained, kwargs, BAMResNet, block=Bottleneck)
