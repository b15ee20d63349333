"""Which way a call takes, and what it leaves alone: the dispatcher, the device, CUDA at import."""

import subprocess
import sys

import pytest
import torch

from ddfnet.ops import ddf, functional


def test_inference_skips_the_dispatcher_only_where_nothing_watches():
    x, c = torch.randn(1, 4, 5, 5), torch.nn.Parameter(torch.randn(1, 4, 3, 3))
    plain = functional._is_plain_inference
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


def test_nothing_of_cuda_is_touched_at_import():
    """So that data loaders may fork after it."""
    script = (
        "import sys, torch, ddfnet.ops\n"
        "assert 'cupy' not in sys.modules and not torch.cuda.is_initialized()\n"
        "from ddfnet.ops.specialisations import all_specialisations\n"
        "assert len(all_specialisations()) == 260 and 'cupy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
