"""The normalisation of the spatial filter inside the operator, and the operator for inference, on the CPU.

The kernels' own are in test_simulated_kernels.py.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

from ddfnet.nn import DDF, FilterNorm
from ddfnet.ops import ddf, ddf_inference, decompositions, normalize

OPS = torch.ops.ddfnet
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def draw(dtype=torch.float64, layout="nchw", stride=1, heads=2, height=6, width=5):
    """x, channel filter and raw spatial filter that want gradients."""
    generator = torch.Generator().manual_seed(0)
    out = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    shapes = (2, 4, height, width), (2, 4, 3, 3), (2, 9 * heads, *out)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    for image in (0, 2):
        tensors[image] = tensors[image].contiguous(memory_format=LAYOUTS[layout])
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_spatial_norm_equals_the_separate_layers(backend, combine, stride, layout):
    options = dict(stride=stride, heads=2, combine=combine, backend=backend)
    inside, apart = draw(layout=layout, stride=stride), draw(layout=layout, stride=stride)
    y = ddf(*inside, **options, spatial_norm=True)
    x, c, s = apart
    want = ddf(x, c, FilterNorm(3)(s), **options)
    torch.testing.assert_close(y, want, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(y)
    for found, wanted in zip(torch.autograd.grad(y, inside, grad), torch.autograd.grad(want, apart, grad), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("combine", ["mul", "add"])
def test_spatial_norm_has_derivatives_of_both_orders(combine):
    def operator(*tensors):
        return ddf(*tensors, heads=2, combine=combine, spatial_norm=True)

    tensors = draw(height=4, width=3)
    assert gradcheck(operator, tensors)
    assert gradgradcheck(operator, tensors)


def test_spatial_norm_of_a_constant_filter_has_no_gradient():
    x, c, s = draw(torch.float32)
    constant = torch.full_like(s, 0.1).requires_grad_()
    y = ddf(x, c, constant, heads=2, spatial_norm=True)
    assert torch.equal(y, torch.zeros_like(y))
    (found,) = torch.autograd.grad(y.sum(), constant, create_graph=True)
    assert torch.equal(found, torch.zeros_like(s))


def test_layer_normalises_inside_on_a_gpu_and_apart_elsewhere(monkeypatch):
    asked = []
    monkeypatch.setattr("ddfnet.nn.ddf.ddf", lambda *tensors, **options: asked.append(options["spatial_norm"]))
    with FakeTensorMode():
        for device, norm in [("cpu", "filter"), ("cuda", "filter"), ("cuda", "sigmoid")]:
            DDF(8, norm=norm, device=device)(torch.empty(2, 8, 6, 6, device=device))
        DDF(8, spatial=False, device="cuda")(torch.empty(2, 8, 6, 6, device="cuda"))
    assert asked == [False, True, False, False]


def test_operators_pass_opcheck():
    for layout, stride, combine in [("nchw", 1, "mul"), ("channels_last", 2, "add")]:
        x, c, s = draw(layout=layout, stride=stride)
        options = (3, stride, 1, 2, combine)
        torch.library.opcheck(OPS.ddf.default, (x, c, s, *options, True))
        x, c, s = (t.detach() for t in (x, c, s))
        grad = torch.rand_like(ddf(x, c, s, stride=stride, heads=2))
        torch.library.opcheck(OPS.ddf_grad_x.default, (grad, c, s, *x.shape[2:], *options, True))
        torch.library.opcheck(OPS.ddf_grad_filters.default, (grad, x, c, s, True, True, *options, True))
        scale, bias = torch.randn(2, 4, dtype=torch.float64)
        torch.library.opcheck(OPS.ddf_inference.default, (x, c, s, scale, bias, True, *options, True))


def test_compiled_backward_pass_takes_the_norm_inside():
    """One graph, whose backward calls the operators with the raw filter."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    from torch._dynamo.backends.common import aot_autograd

    def function(x, c, s):
        return ddf(x * 2, c, s, heads=2, spatial_norm=True).square().sum()

    compiled = torch.compile(function, fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
    tensors = draw()
    found = torch.autograd.grad(compiled(*tensors), tensors)
    for one, other in zip(found, torch.autograd.grad(function(*tensors), tensors), strict=True):
        torch.testing.assert_close(one, other)
    called = [node for graph in graphs for node in graph.graph.nodes if "ddfnet" in str(node.target)]
    assert len(called) == 3 and all(node.args[-1] is True for node in called)
    assert not any("sqrt" in str(node.target) for graph in graphs for node in graph.graph.nodes)


def test_vmap_takes_the_norm_along():
    x, c, s = (t.detach() for t in draw())
    xs = torch.stack([x, 2 * x, -x])
    mapped = torch.vmap(lambda x: ddf(x, c, s, heads=2, spatial_norm=True))(xs)
    torch.testing.assert_close(mapped[2], ddf(-x, c, s, heads=2, spatial_norm=True))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inference_operator_is_a_batch_norm_and_a_relu(dtype, layout, relu):
    x, c, s = (t.detach() for t in draw(dtype, layout))
    scale, bias = torch.randn(2, 4)
    y = ddf_inference(x, c, s, scale, bias, relu=relu, heads=2, spatial_norm=True)
    wide = ddf(x.double(), c.double(), s.double(), heads=2, spatial_norm=True)
    want = wide * scale.double().view(-1, 1, 1) + bias.double().view(-1, 1, 1)
    want = want.relu() if relu else want
    assert y.dtype == dtype and y.is_contiguous(memory_format=LAYOUTS[layout])
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    assert (y.double() - want).abs().max() <= tolerance * want.abs().max()


def test_inference_operator_follows_autocast_exports_and_is_counted():
    x, c, s = (t.detach() for t in draw(torch.float32))
    scale, bias = torch.randn(2, 4)

    class Apply(torch.nn.Module):
        def forward(self, x):
            return ddf_inference(x, c, s, scale, bias, relu=True, heads=2, spatial_norm=True)

    with torch.autocast("cpu", torch.bfloat16):
        assert Apply()(x).dtype == torch.bfloat16
    program = torch.export.export(Apply(), (x,)).run_decompositions(decompositions())
    assert not any("ddfnet" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), Apply()(x))
    with FlopCounterMode(display=False) as counter:
        Apply()(x)
    assert counter.get_flop_counts()["Global"][OPS.ddf_inference] == 2 * 9 * x.numel()


def test_wrong_arguments_are_named_in_one_sentence():
    x, c, s = (t.detach() for t in draw(heads=1))
    ones = torch.ones(4)
    with pytest.raises(ValueError, match="ddf: spatial_norm is True but spatial_filter is None"):
        ddf(x, c, None, spatial_norm=True)
    with pytest.raises(ValueError, match="ddf: spatial_norm is True but kernel_size is 1"):
        ddf(x, c[:, :, :1, :1], s[:, :1], kernel_size=1, spatial_norm=True)
    with pytest.raises(ValueError, match=r"ddf_inference: scale has shape \(3,\), expected \(4,\) = \(C,\)"):
        ddf_inference(x, c, s, ones[:3], ones)
    with pytest.raises(TypeError, match="ddf_inference: scale is a float, expected a Tensor"):
        ddf_inference(x, c, s, 1.0, ones)
    with pytest.raises(ValueError, match="ddf_inference: bias is on meta, expected cpu"):
        ddf_inference(x, c, s, ones, ones.to("meta"))
    with pytest.raises(RuntimeError, match="ddf_inference: a tensor requires grad"):
        ddf_inference(x.requires_grad_(), c, s, ones, ones)
    assert normalize(s, 9).shape == s.shape
