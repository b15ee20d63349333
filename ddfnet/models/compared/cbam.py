"""CBAM (Woo et al., ECCV 2018, arXiv 1807.06521): a channel gate, then a spatial gate, at the end of every block.

Specified (the authors' code): after the last norm of a block, before the sum; reduction 16; the channel gate's two
layers, shared by average and maximum pool, have biases; spatial gate: 7x7 convolution of the maximum and the mean over
channels, without bias, and a batch norm of momentum 0.01 whose weight starts at zero. It gives the 28.1 M and 49.3 M
parameters of the DDF paper's Table 5.
Ours is timm's module, which has neither the biases nor that norm's momentum and start by itself. It stacks mean and
maximum in the other order: a permutation of the 7x7 convolution's two input channels.
"""

from timm.layers.cbam import CbamModule
from timm.models import register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from ..timm_resnet import create_resnet, untrained


class CBAM(CbamModule):
    """(N, C, H, W) -> the same shape. A timm attention layer: resnet50 takes it as block_args=dict(attn_layer=CBAM)."""

    def __init__(self, channels: int, mlp_bias: bool = True, **kwargs):
        super().__init__(channels, mlp_bias=mlp_bias, **kwargs)
        norm = self.spatial.conv.bn
        norm.momentum = 0.01
        nn.init.zeros_(norm.weight)


default_cfgs = untrained("cbam_resnet18", "cbam_resnet50", "cbam_resnet101")


def _create(name: str, pretrained: bool, kwargs: dict, block) -> ResNet:
    kwargs["block_args"] = dict(attn_layer=CBAM) | (kwargs.get("block_args") or {})
    return create_resnet(name, pretrained, kwargs, block=block)


@register_model
def cbam_resnet18(pretrained: bool = False, **kwargs) -> ResNet:
    """CBAM-ResNet18: 11.8 M parameters; not in the paper."""
    return _create("cbam_resnet18", pretrained, kwargs, BasicBlock)


@register_model
def cbam_resnet50(pretrained: bool = False, **kwargs) -> ResNet:
    """CBAM-ResNet50: 28.1 M parameters, top-1 77.3 in the paper (Table 5)."""
    return _create("cbam_resnet50", pretrained, kwargs, Bottleneck)


@register_model
def cbam_resnet101(pretrained: bool = False, **kwargs) -> ResNet:
    """CBAM-ResNet101: 49.3 M parameters, top-1 78.5 in the paper (Table 5)."""
    return _create("cbam_resnet101", pretrained, kwargs, Bottleneck)
