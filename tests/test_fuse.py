"""fuse_for_inference: a DDF, its batch norm and its ReLU in one launch."""

import pytest
import timm
import torch
import torchvision
from torch import nn

import ddfnet
from ddfnet.models import count_macs
from ddfnet.nn import DDF, FusedDDF, fuse_for_inference, replace_convolutions


def with_statistics(model: nn.Module) -> nn.Module:
    """In eval mode, its batch norms far from the identity."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            nn.init.normal_(module.running_mean, 0, 0.1), nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias, 0, 0.1)
    return model.eval()


def timm_network(name: str, **options) -> nn.Module:
    return timm.create_model(name, num_classes=10, **options)


def replaced(model: nn.Module) -> nn.Module:
    replace_convolutions(model)
    return model


@pytest.mark.parametrize(
    "create,count,relus",
    [
        (lambda: timm_network("ddf_resnet50"), 16, 16),
        (lambda: timm_network("ddf_add_resnet50", layers=(1, 1, 1, 1)), 4, 4),
        (lambda: timm_network("ddf_resnet50", layers=(1, 1, 1, 1), act_layer="silu"), 4, 0),
        (lambda: timm_network("ddf_resnet50", layers=(1, 1, 1, 1), output_stride=8), 4, 4),
        (lambda: timm_network("ddf_resnet18"), 0, 0),  # a 1x1 convolution stands between
        (lambda: replaced(timm_network("seresnet50", layers=(1, 1, 1, 1))), 4, 4),
        (lambda: replaced(torchvision.models.resnet18(num_classes=10)), 13, 0),  # its blocks have one ReLU for both
        (lambda: replaced(torchvision.models.vgg11_bn(num_classes=10)), 4, 4),
    ],
    ids=["ddf50", "add", "silu", "dilated", "ddf18", "timm seresnet", "torchvision resnet", "torchvision vgg"],
)
def test_fused_network_equals_the_network(create, count, relus):
    model = with_statistics(create())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        want = model(x)
    names = fuse_for_inference(model)
    fused = [module for module in model.modules() if isinstance(module, FusedDDF)]
    assert len(names) == len(fused) == count and sum(module.relu for module in fused) == relus
    found = model(x)
    assert not found.requires_grad
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())
    assert fuse_for_inference(model) == []  # there is nothing left to fuse


def test_fused_network_compiles_exports_and_runs_under_autocast():
    model = with_statistics(timm_network("ddf_resnet50", layers=(1, 1, 1, 1)))
    x = torch.randn(2, 3, 64, 64)
    fuse_for_inference(model)
    want = model(x)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), want)
    program = torch.export.export(model, (x,))
    assert sum("ddf_inference" in str(node.target) for node in program.graph.nodes) == 4
    torch.testing.assert_close(program.module()(x), want)
    plain = program.run_decompositions(ddfnet.ops.decompositions())
    assert not any("ddfnet" in str(node.target) for node in plain.graph.nodes)
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(x) - want).abs().max() <= 0.1 * want.abs().max()
    half = model.to(torch.bfloat16)
    assert (half(x.bfloat16()) - want).abs().max() <= 0.1 * want.abs().max()


@pytest.mark.parametrize("convention", ["layers", "macs"])
def test_fusing_leaves_the_count_of_multiply_accumulates(convention):
    model = timm_network("ddf_resnet50", layers=(1, 1, 1, 1)).eval()
    before = count_macs(model, convention=convention)
    fuse_for_inference(model)
    assert count_macs(model, convention=convention) == before


def test_scale_and_bias_stay_float32_in_a_network_of_half_precision():
    """The kernels take them so: rounded, they would shift every channel, and each call would convert them back."""
    block = nn.Sequential(DDF(4), nn.BatchNorm2d(4)).eval()
    nn.init.uniform_(block[1].running_var, 0.5, 2.0)
    fuse_for_inference(block)
    (fused,) = (module for module in block.modules() if isinstance(module, FusedDDF))
    scale, bias = fused.scale.clone(), fused.bias.clone()
    for dtype in (torch.float16, torch.bfloat16):
        block.to(dtype)
        assert torch.equal(fused.scale, scale) and torch.equal(fused.bias, bias) and scale.dtype == torch.float32
        assert {p.dtype for p in block.parameters()} == {dtype}
    assert block(torch.randn(1, 4, 5, 5, dtype=torch.bfloat16)).isfinite().all()
    block.double()
    assert fused.scale.dtype == torch.float64
    block.to("meta")
    assert fused.scale.is_meta


class Odd(nn.Module):
    """A forward that torch.fx cannot follow around parts that it can, a DDF that two see, a norm by the batch alone."""

    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(DDF(4), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU())
        self.seen, self.norm = DDF(4), nn.BatchNorm2d(4)
        self.own = nn.Sequential(DDF(4), nn.BatchNorm2d(4, track_running_stats=False))

    def forward(self, x):
        if x.sum() > 0:
            x = -x
        y = self.seen(self.part(x))
        return self.own(self.norm(y) + y)


def test_only_what_is_followed_by_nothing_but_a_norm_is_fused():
    model = with_statistics(Odd())
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        want = model(x)
    assert fuse_for_inference(model) == ["part.0"]
    assert isinstance(model.part[3], nn.ReLU) and not model.part[0].relu  # the dropout stands between
    torch.testing.assert_close(model(x), want)


class Shared(nn.Module):
    """A norm and a DDF that are each called twice, beside a DDF that can be fused."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = DDF(4), DDF(4), nn.BatchNorm2d(4)
        self.twice, self.between, self.after = DDF(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.last = nn.Sequential(DDF(4), nn.BatchNorm2d(4))

    def forward(self, x):
        x = self.norm(self.second(self.norm(self.first(x))))
        return self.last(self.after(self.twice(self.between(self.twice(x)))))


def test_a_part_that_is_called_twice_is_not_fused():
    model = with_statistics(Shared())
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        want = model(x)
    assert fuse_for_inference(model) == ["last.0"]
    torch.testing.assert_close(model(x), want)


def test_training_mode_is_refused():
    model = timm_network("ddf_resnet50", layers=(1, 1, 1, 1))
    with pytest.raises(ValueError, match="the model is in training mode, expected model"):
        fuse_for_inference(model.train())
    fuse_for_inference(model.eval())
    with pytest.raises(RuntimeError, match="FusedDDF: the network is in training mode"):
        model.train()(torch.randn(1, 3, 64, 64))
