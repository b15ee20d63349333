"""Attention-augmented ResNets (Bello et al., ICCV 2019, arXiv 1904.09925): part of a convolution's output is attention.

Specified: the 3x3 convolution of c channels in the last three stages becomes one of c - dv channels beside eight heads
of self-attention over the whole map with dv values, dv = 0.1 c and dk = 0.2 c rounded down to a multiple of the heads,
dk at least 20 a head; logits get relative position embeddings, along rows and columns, shared by the heads.
Inferred: 1x1 convolutions without bias; the attention of stage 2 sees a map averaged by 3x3 with stride 2 and is
enlarged bilinearly, so that it works on 14x14 as stage 3 does. Only this layout found has the 25.8 M and 45.4 M
parameters and the 4.2 G of the DDF paper's Table 5 (for ResNet101 we count 8.17 G where it prints 8.1).
Ours differs: where the block strides, the attention's input is averaged in the same way; the embeddings are read by
index instead of computing all 2W - 1 offsets and shifting them, which is the same function.

The embeddings belong to a picture size: create_model("aa_resnet50", img_size=288). On pictures of another size they are
interpolated.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import to_2tuple
from timm.models import register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from ..timm_resnet import create_resnet, untrained
from .conv_like import geometry, place, require_one_group

HEADS, KEY_RATIO, VALUE_RATIO, LEAST_KEY_PER_HEAD = 8, 0.2, 0.1, 20


class RelativeAttention(nn.Module):
    """Self-attention over all pixels with relative positions: (N, C, H, W) -> (N, values, H, W).

    Args:
        size: H, W that the embeddings are learned for; for others they are interpolated.
    """

    def __init__(self, channels: int, keys: int, values: int, size: tuple[int, int], device=None, dtype=None):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        self.heads, self.keys, self.values = HEADS, keys, values
        self.qkv = nn.Conv2d(channels, 2 * keys + values, 1, bias=False, **dd)
        self.out = nn.Conv2d(values, values, 1, bias=False, **dd)
        per_head = keys // HEADS
        self.rows, self.columns = (
            nn.Parameter(nn.init.normal_(torch.empty(2 * length - 1, per_head, **dd), std=per_head**-0.5))
            for length in size
        )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2], x.shape[3]
        q, k, v = self.qkv(x).split([self.keys, self.keys, self.values], dim=1)
        q, k, v = self._by_head(q), self._by_head(k), self._by_head(v)
        q = q * (self.keys // self.heads) ** -0.5
        by_pixel = q.unflatten(2, (height, width))
        rows = torch.einsum("nhyxd,ykd->nhyxk", [by_pixel, by_offset(self.rows, height)])
        columns = torch.einsum("nhyxd,xkd->nhyxk", [by_pixel, by_offset(self.columns, width)])
        relative = rows[..., :, None] + columns[..., None, :]  # N, heads, H, W, H, W
        logits = q @ k.transpose(2, 3) + relative.flatten(4).flatten(2, 3)
        y = logits.softmax(-1).to(v.dtype) @ v
        return self.out(y.transpose(2, 3).flatten(1, 2).unflatten(2, (height, width)))

    def _by_head(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, heads, H*W, C/heads)."""
        return x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)


@torch.fx.wrap  # what it does depends on the size of the map, which torch.fx does not know
def by_offset(embeddings: Tensor, length: int) -> Tensor:
    """(offsets, D), one from -(n-1) to n-1 each, -> (length, length, D): at [i, j] that of the offset j - i."""
    if len(embeddings) != 2 * length - 1:
        embeddings = F.interpolate(embeddings.T[None], size=2 * length - 1, mode="linear", align_corners=True)[0].T
    places = torch.arange(length, device=embeddings.device)
    return embeddings[places - places[:, None] + length - 1]


class AttentionConv(nn.Module):
    """Stands for `conv` of C to C channels: a narrower convolution and attention side by side.

    Args:
        conv: gives the geometry.
        values: channels of the attention's output.
        size: of the map that the attention's embeddings are learned for.
        halvings: how often the input is averaged by 3x3 with stride 2 before; the result is enlarged to the
            convolution's output.
    """

    def __init__(self, conv: nn.Conv2d, values: int, size: tuple[int, int], halvings: int):
        super().__init__()
        require_one_group(conv, "aa_resnet")
        channels = conv.out_channels
        keys = max(_per_heads(KEY_RATIO * channels), LEAST_KEY_PER_HEAD * HEADS)
        self.halvings = halvings
        kernel_size = conv.kernel_size[0]
        self.conv = nn.Conv2d(
            conv.in_channels, channels - values, kernel_size, bias=False, **geometry(conv), **place(conv)
        )
        self.attention = RelativeAttention(conv.in_channels, keys, values, size, **place(conv))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        for _ in range(self.halvings):
            x = F.avg_pool2d(x, 3, stride=2, padding=1)
        return torch.cat([y, at_size_of(y, self.attention(x))], dim=1)


@torch.fx.wrap  # likewise
def at_size_of(y: Tensor, attended: Tensor) -> Tensor:
    """Enlarge `attended` bilinearly where it is smaller than the map y."""
    if attended.shape[2:] == y.shape[2:]:
        return attended
    return F.interpolate(attended, size=y.shape[2:], mode="bilinear", align_corners=False)


def _per_heads(channels: float) -> int:
    return HEADS * int(channels / HEADS)


class AttentionAugmentedResNet(ResNet):
    """Args: img_size, an int or (height, width) in pixels; the others are timm's."""

    def __init__(self, *args, img_size: int | tuple[int, int] = 224, **kwargs):
        super().__init__(*args, **kwargs)
        stages: list[dict[str, Any]] = self.feature_info
        for index, stage in enumerate(stages[2:]):
            pooled = int(index == 0)
            size = to_2tuple(img_size)
            for _ in range(stage["reduction"].bit_length() - 1 + pooled):
                size = tuple((length - 1) // 2 + 1 for length in size)
            blocks: Any = self.get_submodule(stage["module"])
            for block in blocks:
                values = _per_heads(VALUE_RATIO * block.conv2.out_channels)
                if values:
                    block.conv2 = AttentionConv(block.conv2, values, size, pooled + (block.stride > 1))
        self.init_weights(kwargs.get("zero_init_last", True))  # once more, for the convolutions that have come


default_cfgs = untrained("aa_resnet50", "aa_resnet101")


@register_model
def aa_resnet50(pretrained: bool = False, **kwargs) -> ResNet:
    """Attention-augmented ResNet50: 25.8 M parameters, top-1 77.7 in the paper (Table 5). img_size: pixels, 224."""
    return create_resnet("aa_resnet50", pretrained, kwargs, AttentionAugmentedResNet, block=Bottleneck)


@register_model
def aa_resnet101(pretrained: bool = False, **kwargs) -> ResNet:
    """Attention-augmented ResNet101: 45.4 M parameters, top-1 78.7 in the paper (Table 5). img_size: pixels, 224."""
    return create_resnet("aa_resnet101", pretrained, kwargs, AttentionAugmentedResNet, block=Bottleneck)
