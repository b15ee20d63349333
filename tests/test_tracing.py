"""torch.fx and TorchScript take the networks, as they take timm's ResNets."""

import io

import pytest
import timm
import torch
from compared_systems import SYSTEMS, small_system
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from ddfnet.nn import DDF, fuse_for_inference
from ddfnet.ops import ddf

NETWORKS = ["ddf_resnet18", "ddf_resnet50", "ddf_add_resnet50", *SYSTEMS]
SWITCHES = [
    dict(),
    dict(kernel_size=5, dilation=2, stride=2, heads=4, combine="add"),
    dict(norm="batch"),
    dict(norm="sigmoid"),
    dict(norm="none"),
    dict(channel=False),
    dict(spatial=False),
]

# TorchScript itself says that it is deprecated
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize("options", SWITCHES, ids=str)
def test_every_switch_of_the_layer_is_traced_and_scripted(options):
    torch.manual_seed(0)
    layer = DDF(8, **options)
    for build in (torch.fx.symbolic_trace, torch.jit.script, lambda m: torch.jit.script(torch.fx.symbolic_trace(m))):
        other = build(layer)
        for size in ((6, 5), (9, 4)):
            x = torch.randn(2, 8, *size, requires_grad=True)
            wanted = [x, *layer.parameters()]
            y, want = other(x), layer(x)
            assert torch.equal(y, want)
            weights = torch.linspace(-1, 1, y.numel()).view_as(y)
            found = torch.autograd.grad((y * weights).sum(), wanted)
            for actual, expected in zip(found, torch.autograd.grad((want * weights).sum(), wanted), strict=True):
                torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_traced_at_any_size(name):
    model = small_system(name)
    traced = torch.fx.symbolic_trace(model)
    for shape in ((2, 3, 32, 32), (3, 3, 64, 48)):  # one graph for both
        x = torch.randn(shape)
        assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_scripted_and_read_back(name):
    model = small_system(name)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    file.seek(0)
    scripted = torch.jit.load(file)
    for shape in ((2, 3, 32, 32), (3, 3, 64, 48)):
        x = torch.randn(shape)
        torch.testing.assert_close(scripted(x), model(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_its_features_by_name(name):
    """Torchvision's way."""
    model, x = small_system(name), torch.randn(2, 3, 32, 32)
    names = get_graph_node_names(model)[1]
    assert {"layer1", "layer4"} <= {each.split(".")[0] for each in names}
    features = create_feature_extractor(model, {"layer2": "second", "fc": "logits"})(x)
    assert torch.equal(features["logits"], model(x))
    assert torch.equal(
        features["second"], model.layer2(model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(x))))))
    )


def test_features_only_takes_the_fx_class():
    """Timm's way."""
    options = dict(layers=(1, 1, 1, 1), features_only=True)
    model = timm.create_model("ddf_resnet50", **options)
    traced = timm.create_model("ddf_resnet50", **options, feature_cfg=dict(feature_cls="fx"))
    traced.load_state_dict({f"graph_module.{name}": value for name, value in model.state_dict().items()})
    x = torch.randn(1, 3, 64, 64)
    for one, other in zip(traced.eval()(x), model.eval()(x), strict=True):
        assert torch.equal(one, other)


def test_a_scripted_layer_follows_autocast():
    layer, x = DDF(8), torch.randn(2, 8, 6, 5)
    scripted = torch.jit.script(layer)
    with torch.autocast("cpu", torch.bfloat16):
        y = scripted(x)
        assert y.dtype == torch.bfloat16 and torch.equal(y, layer(x))


class Users(nn.Module):
    def forward(self, x, c, s):
        return ddf(x, c, s, heads=2, combine="add", spatial_norm=True) + 1


def test_the_operator_is_one_node_of_a_graph_that_users_trace():
    x, c, s = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 3, 3), torch.randn(2, 18, 5, 6)
    traced = torch.fx.symbolic_trace(Users())
    assert next(node.target for node in traced.graph.nodes if node.op == "call_function") is ddf
    assert torch.equal(traced(x, c, s), Users()(x, c, s))


def test_the_operator_asks_subclasses_of_tensor():
    """As torch's own functions do, by __torch_function__."""
    asked = []

    class Watching(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            asked.append(function)
            return super().__torch_function__(function, types, args, kwargs)

    x, c = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 3, 3)
    y = ddf(x.as_subclass(Watching), c, None)
    assert asked[0] is ddf and isinstance(y, Watching) and torch.equal(y.as_subclass(torch.Tensor), ddf(x, c, None))


def test_a_fused_network_is_traced():
    model, x = small_system("ddf_resnet50"), torch.randn(2, 3, 32, 32)
    assert fuse_for_inference(model)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))
