"""DDF-ResNets (paper Sec. 5): timm's ResNet with a DDF in place of the k x k convolution of every residual block.

Stem, 1x1 convolutions, shortcuts and head are untouched; every option of timm's ResNet works as it does there. Options
of the DDF go through the block: create_model("ddf_resnet50", block_args=dict(ddf=dict(squeeze_ratio=0.3))).
timm initialises all convolutions anew after building the network, those of the branches too; the authors trained so.
"""

from typing import Any

from timm.models import register_model, resolve_pretrained_cfg
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from ..nn import DDF, DDFPointwise
from .timm_resnet import create_resnet, untrained

AUTHORS_WEIGHTS = "https://github.com/theFoxofSky/ddfnet#model-zoo"


class DDFBottleneck(Bottleneck):
    """timm's bottleneck whose 3x3 convolution is a DDF (paper Fig. 4). `ddf` holds options of the DDF module."""

    def __init__(self, *args, ddf: dict | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv2 = _ddf_like(self.conv2, {}, ddf, kwargs)


class DDFBasicBlock(BasicBlock):
    """timm's basic block, each 3x3 convolution a DDF and a 1x1 convolution, squeeze ratio 0.5.

    The paper gives no layout for its DDF-ResNet18; this one, inferred, is the only one found that has its 7.7 M
    parameters and 0.4 G multiply-accumulates.
    """

    def __init__(self, *args, ddf: dict | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv1 = _ddf_like(self.conv1, dict(squeeze_ratio=0.5), ddf, kwargs, pointwise=True)
        self.conv2 = _ddf_like(self.conv2, dict(squeeze_ratio=0.5), ddf, kwargs, pointwise=True)


def _ddf_like(conv: nn.Conv2d, defaults: dict, options: dict | None, block_kwargs: dict, pointwise=False) -> Any:
    """Stride and dilation are read back from the convolution, where timm has put output_stride and anti-aliasing."""
    if conv.groups > 1:
        raise ValueError(
            f"ddf_resnet: the block's convolution has {conv.groups} groups, expected 1 (a DDF is depth-wise)"
        )
    for name in {"stride", "dilation"} & (options or {}).keys():
        raise ValueError(f"ddf_resnet: block_args.ddf.{name} comes from the block, leave it out")
    fixed: dict[str, Any] = dict(stride=conv.stride[0], dilation=conv.dilation[0])
    fixed |= {key: block_kwargs.get(key) for key in ("device", "dtype")}  # newer timm hands them to its blocks
    options = defaults | (options or {}) | fixed
    return (
        DDFPointwise(conv.in_channels, conv.out_channels, **options) if pointwise else DDF(conv.in_channels, **options)
    )


def _create(name: str, pretrained: bool, block, kwargs: dict, ddf: dict | None = None) -> ResNet:
    if pretrained:
        _require_weights(name, kwargs)
    block_args = dict(kwargs.get("block_args") or {})
    block_args["ddf"] = (ddf or {}) | (block_args.get("ddf") or {})
    return create_resnet(name, pretrained, kwargs | {"block_args": block_args}, block=block)


def _require_weights(name: str, kwargs: dict) -> None:
    """Raise RuntimeError, as timm does, where no weights are known; it says which there are and how they are loaded."""
    config = resolve_pretrained_cfg(name, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
    if not config.has_weights and not config.state_dict:
        raise RuntimeError(
            f"No pretrained weights exist for {name} that timm could download. Its authors' files, of ResNet50 and 101,"
            f" are at {AUTHORS_WEIGHTS}: give one as pretrained_cfg_overlay=dict(file=FILE)"
            " (train.py: model.kwargs.pretrained_cfg_overlay.file=FILE; eval.py: --weights FILE), or load it by"
            " ddfnet.models.load_checkpoint(model, FILE)"
        )


default_cfgs = untrained(
    *("ddf_resnet18", "ddf_resnet34", "ddf_resnet50", "ddf_resnet101", "ddf_resnet152"),
    *("ddf_add_resnet50", "ddf_add_resnet101", "ddf_add_resnet152"),
    interpolation="bicubic",  # by which the authors evaluated
)


@register_model
def ddf_resnet18(pretrained: bool = False, **kwargs) -> ResNet:
    """DDF-ResNet18: 7.7 M parameters, top-1 70.6 in the paper (Table 4)."""
    return _create("ddf_resnet18", pretrained, DDFBasicBlock, kwargs)


@register_model
def ddf_resnet34(pretrained: bool = False, **kwargs) -> ResNet:
    """DDF-ResNet34, built as DDF-ResNet18; not in the paper."""
    return _create("ddf_resnet34", pretrained, DDFBasicBlock, kwargs)


@register_model
def ddf_resnet50(pretrained: bool = False, **kwargs) -> ResNet:
    """DDF-ResNet50: 16.8 M parameters, top-1 79.1 in the paper (Tables 3 to 5)."""
    return _create("ddf_resnet50", pretrained, DDFBottleneck, kwargs)


@register_model
def ddf_resnet101(pretrained: bool = False, **kwargs) -> ResNet:
    """DDF-ResNet101: 28.1 M parameters, top-1 80.2 in the paper (Table 5)."""
    return _create("ddf_resnet101", pretrained, DDFBottleneck, kwargs)


@register_model
def ddf_resnet152(pretrained: bool = False, **kwargs) -> ResNet:
    """DDF-ResNet152: 37.5 M parameters; not in the paper."""
    return _create("ddf_resnet152", pretrained, DDFBottleneck, kwargs)


@register_model
def ddf_add_resnet50(pretrained: bool = False, **kwargs) -> ResNet:
    """DDF-ResNet50 whose filters are added, not multiplied; the authors report top-1 78.8."""
    return _create("ddf_add_resnet50", pretrained, DDFBottleneck, kwargs, ddf=dict(combine="add"))


@register_model
def ddf_add_resnet101(pretrained: bool = False, **kwargs) -> ResNet:
    """DDF-ResNet101 whose filters are added; the authors report top-1 79.9."""
    return _create("ddf_add_resnet101", pretrained, DDFBottleneck, kwargs, ddf=dict(combine="add"))


@register_model
def ddf_add_resnet152(pretrained: bool = False, **kwargs) -> ResNet:
    """DDF-ResNet152 whose filters are added."""
    return _create("ddf_add_resnet152", pretrained, DDFBottleneck, kwargs, ddf=dict(combine="add"))
