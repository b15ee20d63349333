"""Every family of timm's and torchvision's networks trains a step with DDFs in place of its convolutions."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from ddfnet.nn import replace_convolutions

HINTS = ("test_", "atto", "femto", "pico", "nano", "xx", "_xs", "tiny", "_t", "small", "_s", "18", "11", "_b0", "m0")
SIZES = {
    "raft_small": 128,
    "maxvit_t": 224,
    "vit_b_16": 224,
    "vit_b_32": 224,
    "inception_v3": 299,
}  # pixels, of torchvision's
NOT_OF_IMAGES = ("quantization", "video")  # int8 without gradients; convolutions of three dimensions


def small_member(names: list[str]) -> str:
    """The name that looks like the smallest network's."""
    return min(names, key=lambda name: ([*(hint in name for hint in HINTS), True].index(True), len(name), name))


def timm_families() -> list[str]:
    families = [timm.list_models(module=module) for module in timm.list_modules()]
    # ddfnet registers its own with timm too
    return [small_member(names) for names in families if "ddfnet" not in timm.model_entrypoint(names[0]).__module__]


def torchvision_families() -> list[str]:
    families: dict[str, list[str]] = {}
    for name in torchvision.models.list_models():
        families.setdefault(torchvision.models.get_model_builder(name).__module__, []).append(name)
    return [
        small_member(names) for module, names in families.items() if not set(module.split(".")) & set(NOT_OF_IMAGES)
    ]


def timm_step(name: str) -> tuple[nn.Module, tuple]:
    model = timm.create_model(name, num_classes=4)
    size = model.pretrained_cfg["input_size"][1:]
    if not model.pretrained_cfg.get("fixed_input_size"):
        size = model.pretrained_cfg.get("min_input_size", (0, 96, 96))[1:]
    return model, (torch.randn(2, 3, *size),)


def torchvision_step(name: str) -> tuple[nn.Module, tuple]:
    kind = torchvision.models.get_model_builder(name).__module__.split(".")[2]
    options = {} if kind == "optical_flow" else dict(num_classes=4)
    if kind in ("detection", "segmentation"):
        options["weights_backbone"] = None
    model = torchvision.models.get_model(name, weights=None, **options)
    if kind == "detection":
        target = dict(boxes=torch.tensor([[5.0, 5, 60, 70]]), labels=torch.tensor([1]))
        target |= dict(masks=torch.ones(1, 96, 96, dtype=torch.uint8), keypoints=torch.full((1, 17, 3), 20.0))
        if not name.startswith("ssd"):  # which takes one size only
            resize = torchvision.models.detection.transform.GeneralizedRCNNTransform
            model.transform = resize(96, 96, [0.5] * 3, [0.2] * 3)
        return model, ([torch.rand(3, 96, 96)] * 2, [target] * 2)
    images = torch.randn(2, 3, *[SIZES.get(name, 96)] * 2)
    return model, (images, images) if kind == "optical_flow" else (images,)


def loss_of(outputs) -> torch.Tensor:
    """The sum of squares of all that a network gives, of whatever form."""
    if isinstance(outputs, torch.Tensor):
        return outputs.float().square().mean()
    parts = outputs.values() if isinstance(outputs, dict) else outputs
    return sum(loss_of(part) for part in parts)


def train_a_step(library: str, name: str) -> None:
    torch.manual_seed(0)
    model, inputs = (timm_step if library == "timm" else torchvision_step)(name)
    result = replace_convolutions(model)
    if not result.replaced:
        pytest.skip("it has no convolution that a DDF stands for")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss_of(model.train()(*inputs)).backward()
    optimizer.step()
    for replaced in result.replaced:
        for parameter_name, parameter in model.get_submodule(replaced).named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), f"{replaced}.{parameter_name}"
            assert parameter.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", timm_families())
def test_every_family_of_timm_trains_a_step_after_replacement(name):
    train_a_step("timm", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", torchvision_families())
def test_every_family_of_torchvision_trains_a_step_after_replacement(name):
    train_a_step("torchvision", name)


@pytest.mark.parametrize("library_and_name", ["timm convnext_atto", "timm densenet121", "torchvision squeezenet1_1"])
def test_representatives_of_the_families_train_a_step_after_replacement(library_and_name):
    train_a_step(*library_and_name.split())
