"""Layers: filter normalisation, the branches, the module and its switches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfnet.nn import DDF, ChannelBranch, FilterNorm, SpatialBranch
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
