"""replace_convolutions: which convolutions of a network a DDF stands for, and which are left, with the reason."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from ddfnet.nn import DDF, DDFPointwise, replace_convolutions


@pytest.mark.parametrize(
    "create",
    [
        lambda: timm.create_model("resnet18"),
        lambda: torchvision.models.resnet18(),
        lambda: torchvision.models.vgg11(),
        lambda: timm.create_model("regnety_002"),
        lambda: timm.create_model("efficientnet_b0"),
    ],
    ids=["timm resnet18", "torchvision resnet18", "torchvision vgg11", "timm regnety", "timm efficientnet"],
)
def test_replace_convolutions_keeps_the_shapes_of_any_network(create):
    model, x = create().eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(x).shape
        convolutions = {name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
        result = replace_convolutions(model, squeeze_ratio=0.3)
        assert model(x).shape == before
    assert result.replaced and result.replaced.keys() | result.left.keys() == convolutions
    assert all(result.left.values())
    for name, kind in result.replaced.items():
        module = model.get_submodule(name)
        assert type(module).__name__ == kind and isinstance(module, DDF | DDFPointwise) and not module.training
    assert "stem" in result.left[next(iter(result.left))]


def test_replace_convolutions_of_resnet50_is_the_drop_in_claim():
    """Table 4: every 3x3 convolution replaced gives the parameters of DDF-ResNet50."""
    with torch.device("meta"):
        model = timm.create_model("resnet50")
        result = replace_convolutions(model)
    assert len(result.replaced) == 16 and set(result.replaced.values()) == {"DDF"}
    assert sum(p.numel() for p in model.parameters()) == 16_843_748


def test_replace_convolutions_says_why_it_leaves_one():
    class Scaled(nn.Conv2d):
        pass

    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=4, dilation=4, stride=2),
        nn.Conv2d(8, 16, 5, padding="same", bias=True, dtype=torch.float64),
        nn.Conv2d(16, 16, 1),
        nn.Conv2d(16, 16, 3),
        nn.Conv2d(16, 16, (3, 5), padding=(1, 2)),
        nn.Conv2d(16, 16, 4, padding=2),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(16, 32, 3, padding=1, groups=16),
        Scaled(16, 16, 3, padding=1),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
    )
    shared = model[1]
    model.append(shared)
    result = replace_convolutions(model)
    assert result.replaced == {"1": "DDF", "2": "DDFPointwise", "10": "DDF", "11": "DDF"}
    assert model[11] is model[1] and model[1].dilation == 4 and model[1].stride == 2
    assert model[2].pointwise.bias is not None and model[2].pointwise.weight.dtype == torch.float64
    reasons = ["stem", "1x1", "padding (0, 0)", "differ", "even kernel", "reflect", "16 groups", "Scaled"]
    assert all(reason in text for reason, text in zip(reasons, result.left.values(), strict=True))


def test_replace_convolutions_asks_where():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    result = replace_convolutions(model, where=lambda name, conv: name == "0", heads=2)
    assert result.replaced == {"0": "DDF"} and result.left == {"1": "not asked for by `where`"}
    assert model[0].heads == 2
    with pytest.raises(ValueError, match="model is a convolution"):
        replace_convolutions(model[1])


def test_replace_convolutions_replaces_all_or_nothing():
    model = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 8), (8, 8), (8, 6), (6, 6))))
    for options in (dict(heads=4), dict(kernel_size=5), dict(stride=2)):
        with pytest.raises(ValueError, match=next(iter(options))):
            replace_convolutions(model, **options)
        assert all(type(module) is nn.Conv2d for module in model)


class StemLast(nn.Module):
    """The stem sees the image first and is registered last; `stopped` keeps torch.fx from following."""

    def __init__(self, stopped: bool):
        super().__init__()
        self.body, self.stopped = nn.Conv2d(8, 8, 3, padding=1), stopped
        self.stem = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        if self.stopped and x.sum() > 0:
            x = -x
        return self.body(self.stem(x))


@pytest.mark.parametrize("stopped", [False, True])
def test_the_stem_is_the_convolution_that_sees_the_image(stopped):
    model = StemLast(stopped)
    result = replace_convolutions(model)
    assert result.replaced == {"body": "DDF"} and result.left == {"stem": "the stem; name it in `where` to replace it"}


def conv(**options):
    return nn.Conv2d(8, 8, 3, padding=1, **options)


def hooked(register):
    module = conv()
    register(module)
    return module


KEPT = {
    "frozen": lambda: conv().requires_grad_(False),
    "hooked (_forward_hooks)": lambda: hooked(lambda c: c.register_forward_hook(lambda *a: None)),
    "hooked (_forward_pre_hooks)": lambda: hooked(lambda c: c.register_forward_pre_hook(lambda *a: None)),
    "hooked (_backward_hooks)": lambda: hooked(lambda c: c.register_full_backward_hook(lambda *a: None)),
    "hooked (_state_dict_hooks)": lambda: hooked(lambda c: c.register_state_dict_post_hook(lambda *a: None)),
    "hooked (its weight)": lambda: hooked(lambda c: c.weight.register_hook(lambda grad: grad)),
    "hooked (its weight) ": lambda: hooked(lambda c: c.weight.register_post_accumulate_grad_hook(lambda p: None)),
    "with a forward of its own": lambda: hooked(lambda c: setattr(c, "forward", lambda x: x)),
}


@pytest.mark.parametrize("reason", KEPT)
def test_what_is_frozen_or_hooked_is_left_unless_where_names_it(reason):
    kept = KEPT[reason]()
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), kept, conv())
    result = replace_convolutions(model)
    assert model[1] is kept and result.replaced == {"2": "DDF"}
    assert result.left["1"] == f"{reason.strip()}; name it in `where` to replace it"
    result = replace_convolutions(model, where=lambda name, conv: name == "1")
    assert result.replaced == {"1": "DDF"} and all(p.requires_grad for p in model[1].parameters())


def test_a_block_that_is_used_twice_is_replaced_once():
    block = nn.Sequential(conv(), nn.ReLU())
    model = nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3, padding=1), "one": block, "two": block})
    assert replace_convolutions(model).replaced == {"one.0": "DDF", "two.0": "DDF"}
    assert model["one"] is model["two"] and isinstance(model["two"][0], DDF)


def test_a_frozen_backbone_stays_frozen():
    model = timm.create_model("resnet18", num_classes=5)
    model.layer1.requires_grad_(False)
    before = {name: value.clone() for name, value in model.layer1.state_dict().items()}
    result = replace_convolutions(model)
    assert len(result.replaced) == 12 and sum("frozen" in reason for reason in result.left.values()) == 4
    assert not any(p.requires_grad for p in model.layer1.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.layer1.state_dict().items())
