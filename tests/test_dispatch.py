"""Which way a call takes, and what it leaves alone: the dispatcher, the device, CUDA at import."""

import subprocess
import sys

import pytest
import torch

from ddfnet.ops import ddf, dispatch


def test_inference_skips_the_dispatcher_only_where_nothing_watches():
    x, c = torch.randn(1, 4, 5, 5), torch.nn.Parameter(torch.randn(1, 4, 3, 3))
    plain = dispatch.goes_straight
    assert not plain(x, c, None)  # autograd records
    with torch.no_grad():
        assert plain(x, c, None)
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False):
            assert not plain(x, c, None)
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode() as mode:
            assert not plain(mode.from_tensor(x), None, None)
        seen = []
        torch.vmap(lambda t: seen.append(plain(t, None, None)) or t)(x)
        assert seen == [False]
        with torch.autograd.forward_ad.dual_level():  # tangents travel without gradients too
            assert not plain(x, None, None)
        traced = []
        torch.jit.trace(lambda t: traced.append(plain(t, None, None)) or t + 1, x, check_trace=False)
        assert traced == [False]
        with torch.profiler.profile():
            assert not plain(x, None, None)
        torch.compile(lambda t: t + 1 if plain(t, None, None) else t - 1, backend="eager", fullgraph=True)(x)


def test_cuda_backend_insists_on_the_device():
    x, c = torch.randn(1, 4, 5, 5), torch.randn(1, 4, 3, 3)
    with pytest.raises(ValueError, match="backend is 'cuda' but x is on cpu"):
        ddf(x, c, None, backend="cuda")


def test_a_build_for_amd_runs_torch_operations():
    """Its GPUs are "cuda" to PyTorch, and CuPy's NVRTC has nothing for them."""
    script = (
        "import torch\n"
        "torch.version.hip = '6.4'\n"
        "from ddfnet.ops import ddf, dispatch\n"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key\n"
        "for name in ('ddf', 'ddf_grad_x', 'ddf_grad_filters', 'ddf_branches'):\n"
        "    assert has(f'ddfnet::{name}', 'CompositeExplicitAutograd') and not has(f'ddfnet::{name}', 'CUDA')\n"
        "assert not dispatch.HAS_KERNELS\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    if torch.version.hip is None:
        for name in ("ddf", "ddf_grad_x", "ddf_grad_filters", "ddf_branches"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"ddfnet::{name}", "CUDA")


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("other", ["expanded", "the other layout"])
def test_a_gradient_comes_back_in_the_layout_of_x_by_one_copy(layout, other):
    """That of y.sum() is one element, expanded: dense in no layout."""
    grads = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "ddf_grad" in function.name():
                grads.append(args[0])
            return function(*args, **kwargs or {})

    x = torch.randn(2, 4, 5, 6).contiguous(memory_format=layout).requires_grad_()
    c, s = torch.randn(2, 4, 3, 3, requires_grad=True), torch.randn(2, 9, 5, 6, requires_grad=True)
    y = ddf(x, c, s)
    opposite = torch.contiguous_format if layout == torch.channels_last else torch.channels_last
    grad = torch.ones(()).expand_as(y) if other == "expanded" else torch.ones_like(y, memory_format=opposite)
    with Watch():
        dx, _, _ = torch.autograd.grad(y, (x, c, s), grad)
    assert len(grads) == 2 and grads[0].data_ptr() == grads[1].data_ptr() != grad.data_ptr()
    assert dx.is_contiguous(memory_format=layout) and grads[0].is_contiguous(memory_format=layout)


def test_nothing_of_cuda_is_touched_at_import():
    """So that data loaders may fork after it."""
    script = (
        "import sys, torch, ddfnet.ops\n"
        "assert 'cupy' not in sys.modules and not torch.cuda.is_initialized()\n"
        "from ddfnet.ops.gpu.specialisations import all_specialisations\n"
        "assert len(all_specialisations()) == 272 and 'cupy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
