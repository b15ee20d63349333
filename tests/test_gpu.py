"""The CUDA kernels on a GPU. Needs torch, timm, cupy and pytest alone:

python -m pytest --noconftest tests/test_gpu.py        (scripts/gpu_check.sh tests runs it and more)
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch
from operator_case import DTYPES, FAST, LAYOUTS, TOLERANCES, Case, cases_of

import ddfnet  # noqa: F401 - registers the networks
from ddfnet.ops import cpu, ddf, warmup
from ddfnet.ops.gpu import ddf as gpu
from ddfnet.ops.gpu import launch
from ddfnet.ops.gpu.specialisations import all_specialisations
from ddfnet.ops.options import DDFOptions

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICE = torch.device("cuda", 0)
DTYPE_IDS = [str(dtype).removeprefix("torch.") for dtype in DTYPES]


@pytest.fixture(scope="session", autouse=True)
def compiled(request):
    """All kernels, side by side, where all tests are run: one by one they would take minutes."""
    if torch.cuda.is_available() and not request.config.option.keyword:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            loaded = [pool.submit(launch.launcher.load, wanted, DEVICE) for wanted in all_specialisations()]
        [one.exception() for one in loaded]  # the tests that need it name what does not compile


def run(case: Case) -> dict[str, torch.Tensor]:
    """All passes through the public operator and autograd."""
    inputs = [None if t is None else t.clone().requires_grad_() for t in (case.x, case.channel, case.spatial)]
    y = ddf(*inputs, **case.keywords, backend="cuda")
    y.backward(case.grad)
    results = dict(y=y.detach(), dx=inputs[0].grad)
    if case.channel is not None:
        results["dc"] = inputs[1].grad
    if case.spatial is not None:
        results["ds"] = inputs[2].grad
    return results


def draw(shape=(8, 64, 28, 28), dtype=torch.float32, layout=torch.channels_last):
    """Random x, channel filter and spatial filter that want gradients."""
    n, channels, height, width = shape
    tensors = [
        torch.randn(shape, device="cuda", dtype=dtype).contiguous(memory_format=layout),
        torch.randn(n, channels, 3, 3, device="cuda", dtype=dtype),
        torch.randn(n, 9, height, width, device="cuda", dtype=dtype).contiguous(memory_format=layout),
    ]
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize("kernel_size,stride", FAST)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
def test_numerics_of_every_specialisation(dtype, layout, kernel_size, stride, combine):
    shared = dict(kernel_size=kernel_size, stride=stride, combine=combine, dtype=dtype, layout=LAYOUTS[layout])
    large = Case((3, 64, 57, 56), **shared, device="cuda")
    launch.launcher.forget()
    for case in (*cases_of(dtype, LAYOUTS[layout], kernel_size, stride, combine, device="cuda"), large):
        case.check(run(case))
    files = {ready.launch.specialisation.file for launches in launch.launcher.plans.values() for ready in launches}
    assert "ddf_apply.cu" in files and "ddf_generic.cu" not in files


@pytest.mark.parametrize("filters", ["both", "channel", "spatial"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize(
    "kernel_size,stride,dilation,heads,combine",
    [(1, 3, 1, 2, "mul"), (3, 1, 2, 1, "mul"), (5, 2, 3, 2, "add"), (15, 1, 8, 1, "mul"), (3, 1, 1, 2, "add")],
)
def test_numerics_of_the_rest(dtype, layout, kernel_size, stride, dilation, heads, combine, filters):
    options = (kernel_size, stride, dilation, heads, combine, filters)
    case = Case((2, 6, 17, 20), *options, dtype=dtype, layout=LAYOUTS[layout], device="cuda")
    case.check(run(case))


def test_no_kernel_keeps_registers_in_memory():
    """Every specialisation compiles for this device and spills nothing."""
    device = torch.device("cuda", torch.cuda.current_device())
    for wanted in all_specialisations():
        kernel = launch.launcher.load(wanted, device)
        assert kernel.local_size_bytes == 0, wanted


@pytest.mark.parametrize("kernel_size,stride", FAST)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
def test_spatial_norm_happens_inside_the_kernels(dtype, layout, kernel_size, stride):
    shared = dict(kernel_size=kernel_size, stride=stride, dtype=dtype, layout=LAYOUTS[layout], spatial_norm=True)
    large = Case((3, 64, 57, 56), **shared, device="cuda")
    for case in (*cases_of(**shared, combine="mul", device="cuda"), large):
        case.check(run(case))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
def test_results_are_bit_for_bit_the_same_from_run_to_run(dtype, layout):
    case = Case((16, 96, 56, 56), dtype=dtype, layout=LAYOUTS[layout], device="cuda")
    first = run(case)
    for _ in range(5):
        again = run(case)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck(layout, stride):
    case = Case((2, 6, 5, 8), stride=stride, heads=2, dtype=torch.float64, layout=LAYOUTS[layout], device="cuda")
    inputs = [tensor.requires_grad_() for tensor in (case.x, case.channel, case.spatial)]
    torch.autograd.gradcheck(lambda *tensors: ddf(*tensors, **case.keywords), inputs)
    torch.autograd.gradgradcheck(lambda *tensors: ddf(*tensors, **case.keywords), inputs)


def test_more_images_than_a_grid_is_high():
    case = Case((70_000, 4, 3, 3), device="cuda")
    case.check(run(case))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_passes_beyond_32_bits(layout):
    """More than 2^31 elements; what the last corner gives is compared with the corner computed alone, in float64."""
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GB for more than 2^31 elements")
    n, channels, size, dtype, options = 2, 256, 2100, torch.float16, DDFOptions()
    x, s = (
        torch.empty(n, c, size, size, device="cuda", dtype=dtype, memory_format=LAYOUTS[layout]).normal_()
        for c in (channels, 9)
    )
    c = torch.randn(n, channels, 3, 3, device="cuda", dtype=dtype)
    assert x.numel() > 2**31
    corner, taps = (slice(1, 2), slice(192, 256), slice(-12, None), slice(-12, None)), (slice(1, 2), slice(192, 256))

    def compare(found, want):
        assert (found.double() - want).abs().max() <= TOLERANCES[dtype] * want.abs().max()

    alone = x[corner].double(), c[taps].double(), s[1:, :, -12:, -12:].double()
    y = gpu.forward(x, c, s, options)
    compare(y[corner][:, :, 1:, 1:], cpu.forward(*alone, options)[:, :, 1:, 1:])
    del y
    dx = gpu.grad_x(x, c, s, (size, size), options)  # x in the place of the gradient of y
    compare(dx[corner][:, :, 1:, 1:], cpu.grad_x(*alone, (12, 12), options)[:, :, 1:, 1:])
    del dx
    # the filters' gradients sum over all channels or all pixels: a gradient of zero but in the corner leaves few
    grad = torch.zeros_like(x)
    grad[corner][:, :, 1:, 1:] = x[corner][:, :, 1:, 1:]
    dc, ds = gpu.grad_filters(grad, x, c, s, options, (True, True))
    want_c, want_s = cpu.grad_filters(grad[corner].double(), *alone, options, (True, True))
    compare(dc[taps], want_c)
    compare(ds[1:, :, -11:, -11:], want_s[:, :, 1:, 1:])
    assert dc[0].count_nonzero() == dc[1, :192].count_nonzero() == ds[0].count_nonzero() == 0


def test_runs_on_the_current_stream():
    """A kernel on another stream would not wait for the slow copy, and would read what was there before."""
    case = Case((8, 64, 56, 56), device="cuda")
    expected = run(case)["y"]
    x, stream = torch.zeros_like(case.x), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream), torch.no_grad():
        torch.cuda._sleep(50_000_000)
        x.copy_(case.x)
        y = ddf(x, case.channel, case.spatial)
    stream.synchronize()
    assert torch.equal(y, expected)


def test_nothing_waits_for_the_device():
    """Forward and backward of a shape that is planned for the first time."""
    ddf(*draw((2, 24, 20, 23))).sum().backward()  # compiled, and autograd's thread set up
    x, c, s = draw((2, 24, 19, 23))
    g = torch.randn_like(x)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.autograd.grad(ddf(x, c, s), (x, c, s), g)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_two_streams_at_once():
    cases = [Case((8, 64, 56, 56 + i), device="cuda") for i in range(2)]
    expected = [run(case) for case in cases]
    torch.cuda.synchronize()
    streams, found = [torch.cuda.Stream(), torch.cuda.Stream()], [[], []]
    for _ in range(5):
        for case, stream, results in zip(cases, streams, found, strict=True):
            with torch.cuda.stream(stream):
                results.append(run(case))
    torch.cuda.synchronize()
    for results, wanted in zip(found, expected, strict=True):
        assert all(torch.equal(result[name], wanted[name]) for result in results for name in wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cuda_graph_capture_and_replay_after_warmup(layout):
    """Forward and backward captured with nothing but `warmup` before; replays with new data give what eager gives.

    In a new process, since the tests before have set up the threads of this one.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as new:
        new.submit(capture_and_replay, layout).result()


def capture_and_replay(layout):
    shape = (4, 48, 30, 34) if layout == "nchw" else (4, 48, 30, 36)
    warmup(dtypes=[torch.float32], memory_formats=[LAYOUTS[layout]], strides=[1])
    x, c, s = draw(shape, layout=LAYOUTS[layout])
    g, graph = torch.randn_like(x), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = ddf(x, c, s)
        gradients = torch.autograd.grad(y, (x, c, s), g)
    for _ in range(2):
        with torch.no_grad():
            for tensor in (x, c, s, g):
                tensor.copy_(torch.randn_like(tensor))
        graph.replay()
        want = ddf(x, c, s)
        wanted = torch.autograd.grad(want, (x, c, s), g)
        assert torch.equal(y, want) and all(torch.equal(a, b) for a, b in zip(gradients, wanted, strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_compiles_by_inductor_in_one_graph_with_dynamic_shapes(layout):
    torch._dynamo.reset()

    def function(x, c, s):
        return torch.relu(ddf(x * 2, c, s)).sum(dim=(2, 3))

    compiled = torch.compile(function, fullgraph=True, dynamic=True)

    def check(shape):
        inputs = draw(shape, layout=LAYOUTS[layout])
        y, want = compiled(*inputs), function(*inputs)
        assert torch.allclose(y, want, rtol=1e-4, atol=1e-4)
        seed = torch.randn_like(y)
        found, wanted = (torch.autograd.grad(result, inputs, seed) for result in (y, want))
        for a, b in zip(found, wanted, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)

    check((2, 16, 12, 14))
    with torch.compiler.set_stance("fail_on_recompile"):
        check((3, 16, 20, 9))
        check((5, 16, 7, 33))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    """Both dtypes in one process: the operator follows the region that it is in."""
    x, c, s = draw()
    with torch.autocast("cuda", dtype):
        y = ddf(x, c, s)
    assert y.dtype == dtype
    want = ddf(*(tensor.detach().to(dtype) for tensor in (x, c, s)))
    assert torch.equal(y, want)
    y.float().square().mean().backward()
    assert x.grad.dtype == c.grad.dtype == s.grad.dtype == torch.float32


class Forked(torch.utils.data.Dataset):
    """Uses the operator on the CPU in the worker."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        x = torch.full((1, 4, 5, 5), float(index))
        return ddf(x, torch.ones(1, 4, 3, 3), torch.ones(1, 9, 5, 5))[0]


def test_forked_workers_after_use():
    x, c, s = draw((1, 4, 5, 5))
    before = ddf(x, c, s)
    loader = torch.utils.data.DataLoader(Forked(), batch_size=2, num_workers=2, multiprocessing_context="fork")
    batches = torch.cat(list(loader))
    assert batches[3, 0, 2, 2] == 9 * 3
    assert torch.equal(ddf(x, c, s), before)
