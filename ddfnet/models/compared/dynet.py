"""DyNet (Zhang et al., 2020, arXiv 2004.10694): kernels mixed per picture and output channel. From the text: no code.

Specified: six fixed kernels per output channel; their coefficients are sigmoid(FC(global average pool of the block's
input)), one module per block for all its convolutions; in ResNets the FC is two linear layers, a quarter of the input
channels between them, and dynamic layers have half the channels.
Inferred: "half" means all widths (32, 64, 128, 256), the stem's 64 and the plain 1x1 shortcuts left; no activation
between the linear layers. This gives the DDF paper's multiply-accumulates (Table 4: 0.6 and 1.1 G; ours count the
mixing of kernels too, without which the second is 1.14), and 17.3 M parameters where it prints 16.6 M: the dynamic
kernels alone are 16.5 M.
Ours differs: the authors train by mixing the outputs of six convolutions; we mix the kernels: the same function.
"""

from math import prod
from typing import Any

import torch
from timm.models import register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from ..timm_resnet import create_resnet, untrained
from .conv_like import normal_like, place
from .per_sample import PerSampleConv2d

KERNELS = 6  # per output channel
HALVED = (32, 64, 128, 256)


class DynamicConv(PerSampleConv2d):
    """Stands for `conv`; takes the coefficients (N, O, kernels) beside x (N, C, H, W)."""

    def __init__(self, conv: nn.Conv2d, kernels: int):
        if kernels < 1:
            raise ValueError(f"dy_resnet: kernels is {kernels}, expected at least 1")
        super().__init__(conv)
        self.weight = normal_like(conv, (self.kernel_shape[0], kernels, prod(self.kernel_shape[1:])))

    def forward(self, x: Tensor, coefficients: Tensor) -> Tensor:
        kernels = torch.einsum("nok,oki->noi", [coefficients, self.weight])  # a list: TorchScript takes no other
        return self.convolve(x, kernels.view(-1, *self.kernel_shape))


class Coefficients(nn.Module):
    """(N, C, H, W) -> the coefficients of each convolution of a block, (N, O, kernels) in 0..1."""

    def __init__(self, channels: int, out_channels: list[int], kernels: int, device=None, dtype=None):
        super().__init__()
        self.out_channels, self.per_channel = out_channels, kernels
        self.fc1 = nn.Linear(channels, max(1, channels // 4), device=device, dtype=dtype)
        self.fc2 = nn.Linear(max(1, channels // 4), sum(out_channels) * kernels, device=device, dtype=dtype)

    def forward(self, x: Tensor):  # a tuple of tensors, which TorchScript calls a list
        coefficients = self.fc2(self.fc1(x.mean((2, 3)))).sigmoid()
        return coefficients.view(x.shape[0], -1, self.per_channel).split(self.out_channels, dim=1)


def _make_dynamic(block: nn.Module, names: tuple[str, ...], kernels: int) -> Coefficients:
    """Replace the convolutions of these names in place; returns what mixes their kernels."""
    convs: list[Any] = [block.get_submodule(name) for name in names]
    out_channels = [conv.out_channels for conv in convs]
    coefficients = Coefficients(convs[0].in_channels, out_channels, kernels, **place(convs[0]))
    for name, conv in zip(names, convs, strict=True):
        block.set_submodule(name, DynamicConv(conv, kernels))
    return coefficients


# What follows the last norm stands in both blocks, as it does in timm's: TorchScript hands no module to a function.


class DyBasicBlock(BasicBlock):
    """timm's basic block with two dynamic convolutions; its forward, with the coefficients handed on."""

    def __init__(self, *args, kernels: int = KERNELS, **kwargs):
        super().__init__(*args, **kwargs)
        self.coefficients = _make_dynamic(self, ("conv1", "conv2"), kernels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        first, second = self.coefficients(x)
        x = self.aa(self.act1(self.drop_block(self.bn1(self.conv1(x, first)))))  # type: ignore[misc]
        x = self.bn2(self.conv2(x, second))
        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        return self.act2(x + shortcut)


class DyBottleneck(Bottleneck):
    """timm's bottleneck with three dynamic convolutions; its forward, with the coefficients handed on."""

    def __init__(self, *args, kernels: int = KERNELS, **kwargs):
        super().__init__(*args, **kwargs)
        self.coefficients = _make_dynamic(self, ("conv1", "conv2", "conv3"), kernels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        first, second, third = self.coefficients(x)
        x = self.act1(self.bn1(self.conv1(x, first)))
        x = self.aa(self.act2(self.drop_block(self.bn2(self.conv2(x, second)))))  # type: ignore[misc]
        x = self.bn3(self.conv3(x, third))
        if self.se is not None:
            x = self.se(x)
        if self.drop_path is not None:
            x = self.drop_path(x)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        return self.act3(x + shortcut)


default_cfgs = untrained("dy_resnet18", "dy_resnet50")


@register_model
def dy_resnet18(pretrained: bool = False, **kwargs) -> ResNet:
    """DyNet-ResNet18: 17.3 M parameters (the paper's Table 4: 16.6), top-1 69.0 there. block_args: kernels."""
    return create_resnet("dy_resnet18", pretrained, kwargs, block=DyBasicBlock, channels=HALVED)


@register_model
def dy_resnet50(pretrained: bool = False, **kwargs) -> ResNet:
    """DyNet-ResNet50: 43.6 M parameters, top-1 76.3 in the paper (Table 4). block_args: kernels."""
    return create_resnet("dy_resnet50", pretrained, kwargs, block=DyBottleneck, channels=HALVED)
