"""Layers: filter normalisation, the branches, the module and its switches, replace_convolutions."""

import math

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ddfnet.nn import DDF, ChannelBranch, DDFPointwise, FilterNorm, SpatialBranch, replace_convolutions
from ddfnet.ops import ddf


def normalised(filters):
    """Eq. 3 as the authors compute it, for (..., k*k)."""
    centred = filters - filters.mean(-1, keepdim=True)
    return centred / (filters.std(-1, keepdim=True) + 1e-10)


def test_spatial_filter_norm_is_equation_3_per_head():
    filters = torch.randn(2, 3 * 25, 4, 5, dtype=torch.float64)
    expected = normalised(filters.unflatten(1, (3, 25)).movedim(2, -1)).movedim(-1, 2).flatten(1, 2)
    torch.testing.assert_close(FilterNorm(5)(filters), expected * math.sqrt(2) / 5)


def test_channel_filter_norm_scales_by_its_parameter():
    norm = FilterNorm(3, channels=4).double()
    assert norm.std.shape == (36,)
    filters = torch.randn(2, 36, 1, 1, dtype=torch.float64)
    expected = normalised(filters.view(2, 4, 9)) * norm.std.view(4, 9)
    torch.testing.assert_close(norm(filters), expected.view(2, 36, 1, 1))


@settings(max_examples=60, deadline=None)
@given(
    value=st.floats(-60000, 60000),
    kernel_size=st.sampled_from([3, 5, 7]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
)
def test_constant_filter_gives_zeros_in_every_dtype(value, kernel_size, dtype):
    filters = torch.full((1, kernel_size**2, 2, 2), value, dtype=dtype, requires_grad=True)
    y = FilterNorm(kernel_size)(filters)
    assert y.dtype == dtype and torch.equal(y, torch.zeros_like(y))
    y.backward(torch.randn(y.shape).to(dtype))
    assert torch.equal(filters.grad, torch.zeros_like(filters))


def test_half_statistics_are_float32():
    filters = torch.randn(2, 9, 8, 8).half() * 1e-3 + 8  # in float16 the mean alone would swallow the differences
    exact = FilterNorm(3)(filters.double())
    assert (FilterNorm(3)(filters).double() - exact).abs().max() <= 2e-3 * exact.abs().max()


def test_branches_give_the_filters_of_the_operator():
    x = torch.randn(2, 12, 7, 9)
    assert SpatialBranch(12, 5, stride=2, heads=3)(x).shape == (2, 3 * 25, 4, 5)
    branch = ChannelBranch(12, 5, squeeze_ratio=0.3)
    assert branch(x).shape == (2, 12 * 25, 1, 1)
    assert branch[1].out_channels == 3  # int(0.3 * 12), truncated
    assert ChannelBranch(2, squeeze_ratio=0.2)[1].out_channels == 1


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(stride=2),
        dict(kernel_size=5, dilation=2),
        dict(heads=4),
        dict(norm="batch"),
        dict(norm="sigmoid"),
        dict(norm="none"),
        dict(channel=False),
        dict(spatial=False, stride=2),
        dict(combine="add", squeeze_ratio=0.5),
    ],
    ids=str,
)
def test_module_applies_its_filters_with_every_switch(options):
    torch.manual_seed(0)
    module, x = DDF(8, **options), torch.randn(2, 8, 9, 11)
    channel_filter, spatial_filter = module.filters(x)
    assert (channel_filter is None) == (options.get("spatial") is True or options.get("channel") is False)
    assert (spatial_filter is None) == (options.get("spatial") is False)
    applied = {k: v for k, v in options.items() if k in ("kernel_size", "stride", "dilation", "heads", "combine")}
    expected = ddf(x, channel_filter, spatial_filter, **applied, backend="reference")
    torch.testing.assert_close(module(x), expected)
    module(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize(
    "options,sentence",
    [
        (dict(kernel_size=4), "kernel_size is 4, expected an odd number"),
        (dict(heads=3), "heads is 3, expected a divisor of channels = 8"),
        (dict(squeeze_ratio=0), "squeeze_ratio is 0, expected a number above 0"),
        (dict(norm="layer"), "norm is 'layer', expected"),
        (dict(kernel_size=1), "kernel_size is 1, expected more than one tap"),
        (dict(kernel_size=3.0), "kernel_size is 3.0, expected an integer"),
        (dict(stride=0), "stride is 0, expected an integer of at least 1"),
        (dict(heads=0), "heads is 0, expected an integer of at least 1"),
        (dict(combine="max"), "combine is 'max'"),
        (dict(spatial=False, channel=False), "both False"),
    ],
)
def test_wrong_options_are_named(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        DDF(8, **options)


def test_module_runs_in_half_precision_and_under_autocast():
    x = torch.randn(2, 8, 6, 6)
    assert DDF(8).to(torch.bfloat16)(x.to(torch.bfloat16)).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        y = DDF(8)(x)
    assert y.dtype == torch.bfloat16 and y.isfinite().all()


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
