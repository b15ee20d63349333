"""The launcher without a GPU: what it asks of CuPy and PyTorch, and what it says where they are not as they should."""

import contextlib
import os
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fake_cupy import DEVICE, FakeCupy
from operator_case import Case
from simulator import Simulator

from ddfnet.errors import UserError
from ddfnet.ops import ddf
from ddfnet.ops.gpu import ddf as gpu
from ddfnet.ops.gpu import launch
from ddfnet.ops.gpu.compile import compile_kernel, import_cupy, shared_memory_of
from ddfnet.ops.gpu.job import Job, Problem
from ddfnet.ops.gpu.launch import Launcher, Ready
from ddfnet.ops.gpu.plan import plan
from ddfnet.ops.gpu.records import PROBLEM, TILING, Launch
from ddfnet.ops.gpu.specialisations import all_specialisations, specialisation
from ddfnet.ops.options import DDFOptions


def test_missing_cupy_gives_one_sentence_with_the_line_to_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # import fails
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    with pytest.raises(UserError) as caught:
        compile_kernel(specialisation("forward", 0), DEVICE)
    message = str(caught.value)
    assert "\n" not in message and "pip install cupy-cuda12x" in message and "backend='reference'" in message
    x, c = torch.randn(1, 4, 5, 5), torch.randn(1, 4, 3, 3)
    assert ddf(x, c, None, backend="reference").shape == x.shape


def test_cupy_for_another_cuda_gives_one_sentence(cupy):
    def no_library(*args, **kwargs):
        raise RuntimeError("CuPy failed to load libnvrtc.so.12: cannot open shared object file\nmore lines")

    cupy.RawModule = no_library
    with pytest.raises(UserError, match=r"libnvrtc.so.12.*pip install cupy-cuda13x") as caught:
        compile_kernel(specialisation("forward", 0), DEVICE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error,expected",
    [
        (PermissionError(13, "Permission denied", "/home/me/.cupy"), r"/home/me/.cupy.*set CUPY_CACHE_DIR to a folder"),
        (OSError(30, "Read-only file system"), "Read-only.*set CUPY_CACHE_DIR"),
        (RuntimeError("Failed to find CUDA headers.\nMore"), r"Failed to find CUDA headers.\): that has to be mended"),
    ],
)
def test_other_failures_are_named_and_do_not_blame_the_package(cupy, error, expected):
    def fail(*args, **kwargs):
        raise error

    cupy.RawModule = fail
    with pytest.raises(UserError, match=expected) as caught:
        compile_kernel(specialisation("forward", 0), DEVICE)
    message = str(caught.value)
    assert "pip install" not in message and "backend='reference'" in message and "\n" not in message


def test_installed_cupy_without_a_driver_gives_one_sentence():
    pytest.importorskip("cupy")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=r"CuPy does not work here .*pip install cupy-cuda"):
        import_cupy()


def test_a_build_for_amd_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UserError, match="backend='reference'"):
        import_cupy()


def test_a_kernel_is_compiled_once_however_many_threads_ask(cupy):
    wanted = all_specialisations()[:4]
    started = threading.Barrier(16)
    found = []

    def ask(number):
        started.wait()
        found.append(launch.launcher.load(wanted[number % 4], DEVICE))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16 and len(cupy.compiled) == 4
    launch.launcher.load(wanted[0], torch.device("cuda", 1))  # another device has modules of its own
    assert len(cupy.compiled) == 5


def test_several_kernels_are_compiled_at_once(cupy, monkeypatch):
    """A server that warms several GPUs waits for the slowest, not for all in turn."""
    together, compiled = threading.Barrier(3), cupy.RawModule

    def module(**options):
        together.wait(60)  # breaks where one compiles at a time
        return compiled(**options)

    monkeypatch.setattr(cupy, "RawModule", module)
    pairs = [(specialisation("forward", 0), DEVICE), (specialisation("grad_x", 0), DEVICE)]
    pairs.append((specialisation("forward", 0), torch.device("cuda", 1)))
    with ThreadPoolExecutor(3) as pool:
        assert len(list(pool.map(lambda pair: launch.launcher.load(*pair), pairs))) == 3


@pytest.mark.parametrize(
    "of_a_multiprocessor,of_a_block,found",
    [(228, 227, 228), (164, 163, 164), (100, 99, 100), (64, 64, 64), (64, 48, 49), (96, 48, 49)],  # KB; the last: sm_6x
)
def test_shared_memory_is_what_the_device_says(monkeypatch, of_a_multiprocessor, of_a_block, found):
    said = types.SimpleNamespace(
        shared_memory_per_multiprocessor=1024 * of_a_multiprocessor, shared_memory_per_block_optin=1024 * of_a_block
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: said)
    assert shared_memory_of(DEVICE) == 1024 * found


def test_launch_goes_to_the_current_stream_with_the_plan(cupy, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 0xABC, raising=False)
    case = Case((2, 8, 6, 9))
    case.run(gpu)
    assert [name for name, *_ in cupy.calls] == ["ddf_filter_grad", "ddf_sum_partials", "ddf_apply", "ddf_apply"]
    for name, grid, block, arguments, shared, stream in cupy.calls:
        assert stream == 0xABC and len(grid) == len(block) == 1 and shared <= 227 * 1024
        if name != "ddf_sum_partials":
            assert arguments[0].size == 1  # CuPy passes an array of one record by value
        assert all(isinstance(argument, int) for argument in arguments[1:])
    assert case.x.data_ptr() in cupy.calls[2][3][1:]
    compiled = len(cupy.compiled)
    case.run(gpu)  # planned, compiled: nothing is made again
    assert len(cupy.compiled) == compiled and len(cupy.calls) == 8


def test_parameters_are_plain_bytes():
    """CuPy passes an array of one item by value; one with many fields takes it 13 us to look at."""
    problem = Problem((2, 8, 6, 9), DDFOptions(), nhwc=True)
    for kind, block in (("forward", TILING), ("filter_grad", TILING), ("generic_forward", PROBLEM)):
        job = Job(kind, torch.float32, problem, 16, want_channel=True, want_spatial=True)
        (parameters,) = plan(job, 228 * 1024)[0].parameters
        assert parameters.shape == (1,) and parameters.dtype == f"V{block.itemsize}"


def test_another_device_is_made_current_for_the_launch(cupy, monkeypatch):
    current, entered = [0], []

    @contextlib.contextmanager
    def device(index):
        entered.append(index)
        before, current[0] = current[0], index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 7 + index, raising=False)
    calls = []
    ready = Ready(
        Launch(specialisation("forward", 0), grid=1, block=32, shared=0, parameters=()),
        lambda *args, **kwargs: calls.append((current[0], kwargs["stream"].ptr)),
    )
    Launcher().run(ready, torch.device("cuda", 3), [])
    assert entered == [3] and calls == [(3, 10)] and current == [0]


def test_a_simulator_is_gone_with_its_monkeypatch(tmp_path):
    """Or later tests would run with its plans, and with a torch that forbids much on a GPU and fills memory."""
    before = launch.launcher, torch.are_deterministic_algorithms_enabled()
    with pytest.MonkeyPatch.context() as patch:
        Simulator(tmp_path).install(patch)
        assert torch.empty(3).isnan().all() and launch.launcher is not before[0]
    assert before == (launch.launcher, torch.are_deterministic_algorithms_enabled())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_forgets_its_parents_kernels(cupy, monkeypatch):
    launcher, wanted = launch.launcher, specialisation("forward", 0)
    problem = Problem((2, 8, 6, 9), DDFOptions(), nhwc=True)
    launcher.ready(plan, Job("forward", torch.float32, problem, 16), DEVICE)
    assert launcher.kernels and launcher.plans
    children = []

    def fork_while_a_kernel_is_compiled(*arguments, **options):  # so some thread of the parent holds the lock
        children.append(os.fork())
        if children[-1] == 0:
            clean = not launcher.kernels and not launcher.plans
            try:
                monkeypatch.setattr(cupy, "RawModule", FakeCupy().RawModule)
                os._exit(0 if clean and launcher.load(wanted, DEVICE) else 1)
            finally:  # or this process would go on with pytest's work
                os._exit(2)
        return FakeCupy().RawModule(*arguments, **options)

    cupy.RawModule = fork_while_a_kernel_is_compiled
    launcher.load(specialisation("grad_x", 0), DEVICE)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    assert len(launcher.kernels) == 2 and launcher.plans
