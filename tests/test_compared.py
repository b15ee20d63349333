"""The compared systems are what they say: equal to plain convolutions, loops and closed forms where those exist."""

import pytest
import timm
import torch
import torch.nn.functional as F
from compared_systems import SYSTEMS, small_system
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ddfnet.models.compared.adaptive import AdaptiveDwConv
from ddfnet.models.compared.attention_augmented import AttentionConv, RelativeAttention, by_offset
from ddfnet.models.compared.bam import BAM
from ddfnet.models.compared.cbam import CBAM
from ddfnet.models.compared.condconv import CondConv
from ddfnet.models.compared.depthwise import depthwise
from ddfnet.models.compared.dynet import Coefficients, DynamicConv
from ddfnet.models.compared.per_sample import PerSampleConv2d
from ddfnet.models.compared.weightnet import DwWeightNet

GEOMETRIES = [(1, 1), (2, 1), (1, 2)]  # stride, dilation
ALWAYS_ONE = 100.0  # a sigmoid's argument whose value is 1 in float64


def conv3x3(channels, out_channels=None, stride=1, dilation=1, groups=1):
    padded = dict(stride=stride, padding=dilation, dilation=dilation, groups=groups, bias=False)
    return nn.Conv2d(channels, out_channels or channels, 3, **padded).double()


def pictures(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ---- a kernel for each picture


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(1, 4),
    groups=st.sampled_from([1, 2]),
    channels=st.sampled_from([2, 4]),
    outputs=st.sampled_from([2, 6]),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    channels_last=st.booleans(),
)
def test_per_sample_kernels_equal_a_loop_over_samples(
    n, groups, channels, outputs, kernel, stride, dilation, height, width, channels_last
):
    padding = dilation * (kernel // 2)
    geometry = dict(stride=stride, padding=padding, dilation=dilation, groups=groups)
    layer = PerSampleConv2d(nn.Conv2d(channels, outputs, kernel, **geometry))
    x, kernels = pictures(n, channels, height, width), pictures(n, *layer.kernel_shape)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    want = torch.cat([F.conv2d(x[i : i + 1], kernels[i], **geometry) for i in range(n)])
    y = layer.convolve(x, kernels)
    torch.testing.assert_close(y, want)
    if channels_last:
        assert y.is_contiguous(memory_format=torch.channels_last) or x.is_contiguous()


@pytest.mark.parametrize("stride,dilation", GEOMETRIES)
@pytest.mark.parametrize("layer", [CondConv, lambda conv: CondConv(conv, depthwise=True), DwWeightNet])
def test_layers_equal_a_loop_over_samples(layer, stride, dilation):
    layer = layer(conv3x3(4, stride=stride, dilation=dilation))
    x = pictures(3, 4, 7, 6)
    kernels = layer.kernels(x)
    assert not torch.allclose(kernels[0], kernels[1])
    for i in range(3):
        alone = F.conv2d(
            x[i : i + 1], kernels[i], stride=stride, padding=dilation, dilation=dilation, groups=layer.groups
        )
        torch.testing.assert_close(layer(x)[i : i + 1], alone)
        torch.testing.assert_close(layer(x[i : i + 1]), alone)


# ---- one expert


@pytest.mark.parametrize("stride,dilation", GEOMETRIES)
@pytest.mark.parametrize("groups", [1, 2])
def test_condconv_of_one_expert_is_a_plain_convolution(stride, dilation, groups):
    conv = conv3x3(4, 6, stride, dilation, groups)
    layer = CondConv(conv, experts=1)
    layer.weight.data = conv.weight.data.view_as(layer.weight)
    layer.routing.bias.data.fill_(ALWAYS_ONE)
    x = pictures(2, 4, 5, 6)
    torch.testing.assert_close(layer(x), conv(x))


def test_depthwise_condconv_of_one_expert_is_a_depthwise_convolution():
    conv = conv3x3(4, stride=2)
    static = depthwise(conv)
    layer = CondConv(conv, experts=1, depthwise=True)
    layer.weight.data = static.weight.data.view_as(layer.weight)
    layer.routing.bias.data.fill_(ALWAYS_ONE)
    x = pictures(2, 4, 5, 6)
    torch.testing.assert_close(layer(x), static(x))


def test_dynamic_convolution_of_one_kernel_is_a_plain_convolution():
    conv = conv3x3(4, 6, stride=2)
    layer = DynamicConv(conv, kernels=1)
    layer.weight.data = conv.weight.data.view_as(layer.weight)
    x = pictures(2, 4, 5, 6)
    torch.testing.assert_close(layer(x, torch.ones(2, 6, 1, dtype=torch.float64)), conv(x))


def test_dynet_mixing_kernels_is_mixing_outputs():
    """The authors train by the right-hand side, six convolutions."""
    layer = DynamicConv(conv3x3(4, 5), kernels=6)
    x, coefficients = pictures(3, 4, 6, 6), torch.rand(3, 5, 6, dtype=torch.float64)
    all_kernels = layer.weight.view(5, 6, 4, 3, 3).flatten(0, 1)
    outputs = F.conv2d(x, all_kernels, padding=1).unflatten(1, (5, 6))
    torch.testing.assert_close(layer(x, coefficients), (outputs * coefficients[..., None, None]).sum(2))


def test_dynet_coefficients_are_split_by_convolution():
    module = Coefficients(8, [3, 5], 6).double()
    x = pictures(2, 8, 4, 4)
    first, second = module(x)
    assert first.shape == (2, 3, 6) and second.shape == (2, 5, 6)
    everything = module.fc2(module.fc1(x.mean((2, 3)))).sigmoid()
    torch.testing.assert_close(torch.cat([first.flatten(1), second.flatten(1)], 1), everything)


# ---- gates at zero


def zero(*modules):
    for module in modules:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)


def test_condconv_with_its_routing_at_zero_is_half_the_sum_of_its_experts():
    layer = CondConv(conv3x3(4, 6), experts=3)
    zero(layer.routing)
    x = pictures(2, 4, 5, 6)
    experts = layer.weight.view(3, 6, 4, 3, 3)
    torch.testing.assert_close(layer(x), 0.5 * sum(F.conv2d(x, expert, padding=1) for expert in experts))


def test_weightnet_with_its_gates_at_zero_is_a_static_depthwise_convolution():
    layer = DwWeightNet(conv3x3(4))
    zero(layer.fc1)
    x = pictures(2, 4, 5, 6)
    torch.testing.assert_close(layer(x), F.conv2d(x, 0.5 * layer.fc2.weight.view(4, 1, 3, 3), padding=1, groups=4))


def test_dynet_with_its_coefficients_at_zero_is_half_the_sum_of_its_kernels():
    module = Coefficients(4, [6], 6).double()
    layer = DynamicConv(conv3x3(4, 6), kernels=6)
    zero(module.fc2)
    x = pictures(2, 4, 5, 6)
    kernels = layer.weight.view(6, 6, 4, 3, 3).sum(1) / 2
    torch.testing.assert_close(layer(x, *module(x)), F.conv2d(x, kernels, padding=1))


def test_bam_with_a_gate_at_zero_is_one_and_a_half_times_its_input():
    x = pictures(2, 32, 9, 9)
    for gate in ("channel_gate", "spatial_gate"):  # their product is zero if either is
        module = BAM(32).double()
        zero(module.get_submodule(gate)[-1])
        torch.testing.assert_close(module(x), 1.5 * x)


def test_cbam_with_its_gates_at_zero_is_a_quarter_of_its_input():
    module = CBAM(32).double()
    assert module.spatial.conv.bn.momentum == 0.01 and not module.spatial.conv.bn.weight.any()  # as it starts
    zero(module.channel.fc2)
    x = pictures(2, 32, 9, 9)
    torch.testing.assert_close(module(x), 0.25 * x)


def test_adaptive_kernels_of_a_constant_are_a_depthwise_convolution():
    layer = AdaptiveDwConv(conv3x3(4, stride=2))
    nn.init.zeros_(layer.taps.weight)
    x = pictures(2, 4, 5, 6)
    static = torch.tanh(layer.taps.bias).view(4, 1, 3, 3)
    torch.testing.assert_close(layer(x), F.conv2d(x, static, stride=2, padding=1, groups=4))


def test_adaptive_kernels_are_their_definition():
    """Against loops: in each window, k*k linear functions of it are, after tanh, the taps on it."""
    layer = AdaptiveDwConv(conv3x3(2))
    x = pictures(2, 2, 4, 3)
    padded = F.pad(x, (1, 1, 1, 1))
    weight, bias = layer.taps.weight.view(2, 9, 9), layer.taps.bias.view(2, 9)
    y = layer(x)
    for row in range(4):
        for column in range(3):
            window = padded[:, :, row : row + 3, column : column + 3].flatten(2)  # N, C, 9
            taps = torch.tanh(torch.einsum("cij,ncj->nci", weight, window) + bias)
            torch.testing.assert_close(y[:, :, row, column], (taps * window).sum(2))


# ---- attention


def test_attention_is_its_definition():
    """Against loops over pairs of pixels, with the embeddings of their offsets."""
    layer = RelativeAttention(6, keys=160, values=8, size=(3, 2)).double()
    x = pictures(2, 6, 3, 2)
    q, k, v = layer.qkv(x).split([160, 160, 8], 1)
    want = torch.zeros(2, 8, 3, 2, dtype=torch.float64)
    places = [(row, column) for row in range(3) for column in range(2)]
    for head in range(8):
        part = slice(20 * head, 20 * (head + 1))
        for a, b in places:
            query = q[:, part, a, b] / 20**0.5
            keys = [
                k[:, part, row, column] + layer.rows[row - a + 2] + layer.columns[column - b + 1]
                for row, column in places
            ]
            weights = torch.stack([(query * key).sum(1) for key in keys], 1).softmax(1)
            want[:, head, a, b] = sum(weights[:, i] * v[:, head, r, c] for i, (r, c) in enumerate(places))
    torch.testing.assert_close(layer(x), layer.out(want))


@pytest.mark.parametrize("stride,halvings", [(1, 0), (2, 1), (1, 1), (2, 2)])
def test_attention_that_gives_zero_leaves_the_convolution(stride, halvings):
    layer = AttentionConv(conv3x3(80, stride=stride), values=8, size=(4, 4), halvings=halvings)
    zero(layer.attention.out)
    x = pictures(2, 80, 8, 8)
    y = layer(x)
    assert y.shape == (2, 80, 8 // stride, 8 // stride)
    torch.testing.assert_close(y[:, :72], layer.conv(x))
    assert not y[:, 72:].any()


def test_attention_stands_in_the_last_three_stages_at_the_papers_sizes():
    with torch.device("meta"):
        model = timm.create_model("aa_resnet50")
    found = {name: m for name, m in model.named_modules() if isinstance(m, RelativeAttention)}
    assert len(found) == 4 + 6 + 3 and not any(name.startswith("layer1") for name in found)
    for name, module in found.items():
        values, length = {"layer2": (8, 14), "layer3": (24, 14), "layer4": (48, 7)}[name[:6]]
        assert (module.keys, module.values) == (160, values)
        assert len(module.rows) == len(module.columns) == 2 * length - 1


def test_relative_embeddings_are_interpolated_for_other_sizes():
    offsets = torch.arange(-3, 4, dtype=torch.float64)[:, None]  # each embedding is its offset
    torch.testing.assert_close(by_offset(offsets, 4)[1, 3], torch.tensor([2.0], dtype=torch.float64))
    larger = by_offset(offsets, 7)[..., 0]
    assert larger.diagonal().abs().max() < 1e-12  # no offset stays none
    torch.testing.assert_close(larger[0, 6], torch.tensor(3.0, dtype=torch.float64))  # and the farthest the farthest
    model = small_system("aa_resnet50")  # made for 32x32
    assert model(torch.randn(1, 3, 64, 48)).shape == (1, 7)


# ---- every network


@pytest.mark.parametrize("name", SYSTEMS)
def test_permuting_the_batch_permutes_the_outputs(name):
    model = small_system(name).double()
    x, order = pictures(4, 3, 32, 32), torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        y = model(x)
        assert (y[0] - y[1]).abs().max() > 1e-3
        torch.testing.assert_close(model(x[order]), y[order])
        torch.testing.assert_close(model(x[:1]), y[:1])


def test_no_name_is_one_of_timms():
    ours = {name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("ddfnet.")}
    assert set(SYSTEMS) <= ours and {"bam_resnet101", "cbam_resnet101", "aa_resnet101"} <= ours
    assert not [name for name in ours if hasattr(timm.models, name)]
