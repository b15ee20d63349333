"""Tensors that lie anywhere, other threads and other GPUs: runs with test_gpu.py, and needs what that needs."""

import threading

import pytest
import torch
from operator_case import LAYOUTS, Case
from test_gpu import draw

from ddfnet.ops import ddf, warmup
from ddfnet.ops.gpu import ddf as gpu
from ddfnet.ops.gpu import launch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("elements", [1, 2, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_tensors_may_begin_anywhere(dtype, layout, elements):
    """2, 4, 8 and 16 bytes into their memory: x alone, the filters alone, all of them."""
    case = Case((2, 24, 12, 16), dtype=dtype, layout=LAYOUTS[layout], device="cuda")
    whole = {name: getattr(case, name) for name in ("x", "grad", "channel", "spatial")}
    for names in (["x"], ["channel", "spatial"], list(whole)):
        for name, tensor in whole.items():
            moved = torch.empty(tensor.numel() + elements, dtype=dtype, device="cuda")
            moved = moved[elements:].as_strided(tensor.shape, tensor.stride(), elements)
            setattr(case, name, moved.copy_(tensor) if name in names else tensor)
        case.check(case.run(gpu))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_of_tensors(layout):
    """Channels and columns of something larger keep its layout, and give what their copies give."""
    x, c, s = (tensor.detach() for tensor in draw((2, 48, 20, 24), layout=LAYOUTS[layout]))
    for part in (x[:, 16:40], x[..., 3:19], x[:, 16:40, 2:, 3:19]):
        channels, (height, width) = part.shape[1], part.shape[2:]
        inputs = c[:, :channels].contiguous(), s[..., :height, :width].contiguous()
        y = ddf(part, *inputs)
        assert torch.allclose(y, ddf(part, *inputs, backend="reference"), rtol=1e-4, atol=1e-4)
        assert y.is_contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_batch_compiles(layout):
    torch._dynamo.reset()
    x, c, s = draw((0, 16, 12, 14), layout=LAYOUTS[layout])
    y = torch.compile(lambda x, c, s: ddf(x, c, s) * 2, fullgraph=True)(x, c, s)
    gradients = torch.autograd.grad(y, (x, c, s), torch.zeros_like(y))
    assert y.shape == x.shape and [g.shape for g in gradients] == [x.shape, c.shape, s.shape]


def test_a_second_thread_captures_after_its_own_warmup():
    """CuPy asks for the context at the first launch of every thread, which a capture does not allow."""
    warmup(strides=[1], backward=False)
    x, c, s = (tensor.detach() for tensor in draw((4, 48, 30, 36)))
    want, failures = ddf(x, c, s), []

    def capture() -> None:
        try:
            warmup(strides=[1], backward=False)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = ddf(x, c, s)
            graph.replay()
            torch.cuda.synchronize()
            assert torch.equal(y, want)
        except Exception as failure:  # to the test's own thread
            failures.append(failure)

    thread = threading.Thread(target=capture)
    thread.start()
    thread.join()
    assert not failures, failures


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
def test_a_second_gpu_is_used_where_the_tensors_lie():
    x, c, s = (tensor.detach() for tensor in draw())
    want = ddf(x, c, s)
    there = [tensor.to("cuda:1").requires_grad_() for tensor in (x, c, s)]
    y = ddf(*there)  # the first is the current device
    assert y.device.index == 1 and torch.equal(y.cpu(), want.cpu())
    gradients = torch.autograd.grad(y, there, torch.ones_like(y))
    assert all(gradient.device.index == 1 for gradient in gradients)


@pytest.mark.parametrize("kind", ["forward", "grad_x", "filter_grad"])
def test_as_many_blocks_fit_as_the_plan_counts_on(kind):
    """Of the largest map of DDF-ResNet-50: its plan leaves room for a second block on each multiprocessor."""
    from cupy.cuda import driver

    case = Case((16, 64, 56, 56), dtype=torch.bfloat16, device="cuda", spatial_norm=True)
    launch.launcher.forget()
    case.run(gpu)
    ((planned, kernel),) = [found[0] for (_, job, _), found in launch.launcher.plans.items() if job.kind == kind]
    memory = torch.cuda.get_device_properties(0).shared_memory_per_multiprocessor
    registers = -(-kernel.num_regs // 8) * 8  # given out eight at a time
    counted_on = min(memory // (planned.shared + 1024), 65536 // (planned.block * registers))
    fit = driver.occupancyMaxActiveBlocksPerMultiprocessor(kernel.kernel.ptr, planned.block, planned.shared)
    assert fit >= counted_on >= 1, (planned, fit)
    assert fit >= 2 or memory < 200 * 1024, (planned, fit)
