"""The compared systems, small enough for a test each: a block a stage, few channels."""

import timm
import torch

import ddfnet  # noqa: F401 - registers the models with timm

# name -> options; attention begins at 80 channels, where a tenth of them is one for each of the eight heads
SYSTEMS: dict[str, dict] = {
    "dw_resnet18": {},
    "dw_resnet50": {},
    "condconv_resnet18": {},
    "condconv_resnet50": {},
    "dwcondconv_resnet50": {},
    "dwweightnet_resnet50": {},
    "dy_resnet18": {},
    "dy_resnet50": {},
    "bam_resnet50": {},
    "cbam_resnet18": {},
    "cbam_resnet50": {},
    "aa_resnet50": dict(channels=(16, 80, 80, 160), img_size=32),
    "adaptive_dw_resnet18": {},
}
# the compared systems that are timm's own
TIMMS: dict[str, dict] = {
    "seresnet50": {},
    "resnext50_32x4d": dict(cardinality=4),
    "res2net50_26w_4s": {},
}


def small_system(name: str, **options) -> torch.nn.Module:
    """Weights as they are drawn, the norms' too, so that no branch is multiplied by zero; in evaluation mode."""
    torch.manual_seed(0)
    small = dict(layers=(1, 1, 1, 1), channels=(16, 16, 32, 32), num_classes=7, zero_init_last=False)
    model = timm.create_model(name, **(small | (SYSTEMS | TIMMS).get(name, {}) | options))
    for norm in model.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
    return model.eval()
