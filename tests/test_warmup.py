"""Kernels compiled and loaded before they are needed, without a GPU."""

import threading

import pytest
import torch
from fake_cupy import DEVICE
from operator_case import Case
from simulator import Simulator

from ddfnet.ops import warmup
from ddfnet.ops.gpu import ddf as gpu
from ddfnet.ops.gpu import launch
from ddfnet.ops.gpu.warmup import run_backward, run_forward
from ddfnet.ops.tensors import memory_format_of


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size,stride,dilation", [(3, 1, 1), (5, 2, 1), (3, 3, 2)])
def test_warmup_runs_every_gradient_once_in_the_layout_asked_for(layout, size, stride, dilation):
    seen = {}

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "ddfnet":
                seen[function.name()] = memory_format_of(args[0])
            return function(*args, **kwargs or {})

    with Watch(), torch.no_grad():
        run_backward(torch.device("cpu"), torch.float32, layout, size, stride, dilation, "add")
    assert seen == dict.fromkeys(("ddfnet::ddf", "ddfnet::ddf_grad_x", "ddfnet::ddf_grad_filters"), layout)
    seen.clear()
    with Watch():
        run_forward(torch.device("cpu"), torch.float32, layout, size, stride, dilation, "add")
    assert seen == {"ddfnet::ddf": layout}


@pytest.mark.parametrize("backward", [True, False])
def test_warmup_loads_all_that_a_run_needs(cupy, monkeypatch, tmp_path, backward):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    sizes, strides, dtypes = (3, 5), (1, 2), (torch.float32, torch.float16)
    layouts = (torch.channels_last, torch.contiguous_format)
    options = dict(dtypes=dtypes, memory_formats=layouts, kernel_sizes=sizes, strides=strides, dilations=(1, 2))
    ran: list = []
    for name in ("run_backward", "run_forward"):
        monkeypatch.setattr(f"ddfnet.ops.gpu.warmup.{name}", lambda *job, name=name: ran.append((name, *job)))
    count = warmup("cuda", **options, combine=("mul", "add"), backward=backward)
    loaded = {wanted for wanted, _ in launch.launcher.kernels}
    assert count == len(loaded) == len(cupy.compiled)
    name = "run_backward" if backward else "run_forward"
    assert ran == [(name, DEVICE, torch.float32, torch.channels_last, 3, 1, 1, "mul")]
    asked = set()
    simulator = Simulator(tmp_path)
    simulator.install(monkeypatch)
    monkeypatch.setattr(simulator, "run", lambda ready, device, pointers: asked.add(ready.launch.specialisation))
    for layout in layouts:
        for dtype in dtypes:
            for size, stride, dilation, combine in ((3, 1, 1, "mul"), (5, 2, 1, "add"), (3, 1, 2, "mul")):
                case = Case((2, 8, 6, 90), size, stride, dilation, 1, combine, dtype=dtype, layout=layout)
                case.run(gpu) if backward else gpu.forward(case.x, case.channel, case.spatial, case.options)
    assert asked and asked <= loaded


def test_warmup_compiles_kernels_side_by_side(cupy, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("ddfnet.ops.gpu.warmup.run_backward", lambda *job: None)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    together, compiled = threading.Barrier(4), cupy.RawModule

    def module(**options):
        together.wait(60)  # breaks where one compiles at a time
        return compiled(**options)

    monkeypatch.setattr(cupy, "RawModule", module)
    assert warmup(strides=1) == 4


@pytest.mark.parametrize(
    "wrong,named",
    [
        (dict(dtypes=torch.int8), "dtypes has torch.int8"),
        (dict(combine="plus"), "combine has 'plus', expected mul, add"),
        (dict(kernel_sizes=4), "kernel_sizes has 4, expected odd"),
        (dict(strides=(1, 0)), "strides has 0"),
        (dict(memory_formats=[torch.channels_last_3d]), "memory_formats has"),
        (dict(device="cpu"), "device is cpu, expected a GPU"),
    ],
)
def test_warmup_names_what_is_wrong(cupy, monkeypatch, wrong, named):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match=named):
        warmup(**wrong)
    assert not cupy.compiled
    monkeypatch.setattr("ddfnet.ops.gpu.warmup.run_backward", lambda *job: None)
    assert warmup(dtypes=torch.float16, combine="add", strides=1) == 4
