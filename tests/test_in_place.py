"""What the operators return may be modified in place, as a convolution's output may: autograd records it."""

import pytest
import torch
import torchvision
from operator_case import DTYPES, LAYOUTS
from torch import nn

from ddfnet.nn import DDF, replace_convolutions
from ddfnet.ops import ddf, ddf_branches, ddf_inference

CHANGES = {
    "relu_": lambda y, x: torch.relu_(y),
    "+=": lambda y, x: y.add_(x),
    "indexing": lambda y, x: y.__setitem__((slice(None), slice(1, 3)), x[:, 1:3]),
    "mul_ of a row": lambda y, x: y[..., 0, :].mul_(2),
}
NOT_IN_PLACE = {
    "relu_": lambda y, x: torch.relu(y),
    "+=": lambda y, x: y + x,
    "indexing": lambda y, x: torch.cat([y[:, :1], x[:, 1:3], y[:, 3:]], 1),
    "mul_ of a row": lambda y, x: torch.cat([2 * y[..., :1, :], y[..., 1:, :]], 2),
}


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
on_every_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])


def operands(dtype=torch.float64, layout=torch.contiguous_format, heads=2, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 4, 5, 6), (2, 4, 3, 3), (2, heads * 9, 5, 6)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [t.to(device).contiguous(memory_format=layout).requires_grad_() for t in drawn]


@on_every_device
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("spatial_norm", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_output_may_be_modified_in_place(dtype, layout, spatial_norm, change, device):
    tensors = operands(dtype, LAYOUTS[layout], device=device)
    grads = []
    for change_it in (CHANGES, NOT_IN_PLACE):
        y = ddf(*tensors, heads=2, spatial_norm=spatial_norm)
        changed = change_it[change](y, tensors[0])
        y = y if change_it is CHANGES else changed
        weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=device).view_as(y).to(dtype)
        grads.append(torch.autograd.grad((y * weights).sum(), tensors))
    for in_place, plain in zip(*grads, strict=True):
        torch.testing.assert_close(in_place, plain)


@on_every_device
@pytest.mark.parametrize("spatial_norm", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_gradient_may_be_modified_in_place(dtype, layout, spatial_norm, device):
    """Of the first order, with a graph of their own or without, and what the registered operators give."""
    tensors = operands(dtype, LAYOUTS[layout], device=device)
    y = ddf(*tensors, heads=2, spatial_norm=spatial_norm)
    for create_graph in (False, True):
        for grad in torch.autograd.grad(y.square().sum(), tensors, retain_graph=True, create_graph=create_graph):
            grad += torch.ones_like(grad, requires_grad=True)
            assert grad.requires_grad
    ops, options = torch.ops.ddfnet, (3, 1, 1, 2, "mul", spatial_norm)
    plain = [t.detach() for t in tensors]
    results = [
        ops.ddf(*plain, *options),
        ops.ddf_grad_x(plain[0], *plain[1:], 5, 6, *options),
        *ops.ddf_grad_filters(plain[0], *plain, True, True, *options),
    ]
    assert [result._is_view() for result in results] == [False] * 4


@on_every_device
def test_results_for_inference_may_be_modified_in_place_by_what_is_trained(device):
    """A network that is fused and frozen below a head that is trained."""
    x, c, s = (t.detach() for t in operands(torch.float32, device=device))
    scale, weight = torch.ones(4, device=device), torch.randn(9, 4, device=device)
    with torch.no_grad():
        y = ddf_inference(x, c, s, scale, scale, relu=True, heads=2)
        raw, pooled = ddf_branches(x, weight)
    for result in (y, raw, pooled):
        result *= torch.ones(1, device=device, requires_grad=True)
        result.sum().backward()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_in_place_changes_survive_the_compiler(backend):
    module = nn.Sequential(DDF(8), nn.ReLU(inplace=True))
    x = torch.randn(2, 8, 5, 6, requires_grad=True)
    want = torch.autograd.grad(module(x).square().sum(), [x, *module.parameters()])
    y = torch.compile(module, fullgraph=True, backend=backend)(x)
    found = torch.autograd.grad(y.square().sum(), [x, *module.parameters()])
    for actual, expected in zip(found, want, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["vgg11", "alexnet", pytest.param("vgg16", marks=pytest.mark.slow)])
def test_networks_whose_relus_work_in_place_train_after_replacement(name):
    model = getattr(torchvision.models, name)(num_classes=5)
    assert replace_convolutions(model).replaced
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
