"""What the networks here have in common: timm's ResNet with another block, and no weights that timm could fetch."""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs
from timm.models.resnet import ResNet

LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def create_resnet(name: str, pretrained: bool, kwargs: dict, model_cls: type[ResNet] = ResNet, **defaults) -> ResNet:
    """timm's ResNet of these `defaults` (block, layers, ...), which `kwargs`, the caller's, overrule."""
    kwargs = {"layers": LAYERS[int(name.rpartition("resnet")[2])]} | defaults | kwargs
    return build_model_with_cfg(model_cls, name, pretrained, **kwargs)


def untrained(*names: str, **kwargs) -> dict:
    """timm's default configs, `kwargs` on top. Weights come from a file: pretrained_cfg_overlay=dict(file=...)."""
    config: dict[str, Any] = dict(
        num_classes=1000,
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        crop_pct=0.875,
        interpolation="bilinear",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        first_conv="conv1",
        classifier="fc",
    )
    return generate_default_cfgs({f"{name}.untrained": config | kwargs for name in names})
