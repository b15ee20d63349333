"""ddf_branches: convolution and mean in one pass, by its kernels run on the CPU, and as an operator of torch."""

import itertools
import re

import pytest
import torch
from branches_case import BranchesCase, branches_cases
from helpers.ptx_machine import on_every_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operator_case import DTYPES, LAYOUTS
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ddfnet.ops import ddf_branches, decompositions, kernel_sources
from ddfnet.ops.gpu import branches, launch
from ddfnet.ops.gpu.job import BranchesJob
from ddfnet.ops.gpu.records import BRANCHES

OUTPUTS = [9, 18, 25, 49]  # heads * k * k


pytest_generate_tests = on_every_machine


def check(simulator, case: BranchesCase) -> None:
    """Right, and bit for bit the same whichever order threads and blocks run in."""
    runs = []
    for simulator.order in (0, 1, 2):
        runs.append(case.run())
    case.check(runs[0])
    for other in runs[1:]:
        for name, result in runs[0].items():
            assert torch.equal(result, other[name]), f"{name} depends on the order of the threads in {case}"


# ---- the kernels, simulated -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_kernels_compute_the_convolution_and_the_mean(simulator, dtype, layout, stride, outputs):
    for case in branches_cases(dtype, LAYOUTS[layout], stride, outputs):
        check(simulator, case)
    assert {one.specialisation.kernel for one in simulator.launches} == {"ddf_branches", "ddf_branches_mean"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 3),
    channels=st.integers(1, 200),
    height=st.integers(1, 20),
    width=st.integers(1, 70),
    outputs=st.integers(1, 90),
    stride=st.integers(1, 4),
    bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(list(LAYOUTS.values())),
)
def test_any_shape(simulator, n, channels, height, width, outputs, stride, bias, dtype, layout):
    check(simulator, BranchesCase((n, channels, height, width), outputs, stride, bias, dtype, layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(300, 8, 16, 17), (9, 40, 3, 3), (1, 2048, 7, 7), (1, 2, 1, 9000), (1, 2, 400, 300)])
def test_extreme_shapes(simulator, shape, layout):
    """Batches that fill a GPU have the largest tiles; then many channels, a long row, thousands of tiles."""
    simulator.order = 2
    for dtype in (torch.float32, torch.bfloat16):
        case = BranchesCase(shape, dtype=dtype, layout=LAYOUTS[layout])
        case.check(case.run())


@pytest.mark.parametrize("moved", ["scattered", "one element on"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_may_lie_in_memory_as_they_like(simulator, layout, moved):
    """Slices of something larger, and addresses that are no multiple of 16 bytes."""
    case = BranchesCase((2, 24, 8, 10), layout=LAYOUTS[layout])

    def move(tensor):
        if moved == "scattered":
            padded = torch.full([size + 3 for size in tensor.shape], 7.0)
            return padded[tuple(slice(2, -1) for _ in tensor.shape)].copy_(tensor)
        return torch.empty(tensor.numel() + 1)[1:].as_strided(tensor.shape, tensor.stride(), 1).copy_(tensor)

    expected = case.run()
    case.arguments = (*map(move, case.arguments[:3]), 1)
    for name, result in case.run().items():
        assert torch.allclose(result, expected[name], atol=1e-5), name


def test_empty_batch_launches_nothing(simulator):
    spatial, pooled = branches.branches(torch.zeros(0, 4, 5, 5), torch.zeros(9, 4), None, 2)
    assert spatial.shape == (0, 9, 3, 3) and pooled.shape == (0, 4) and not simulator.launches


def test_a_second_call_makes_no_plan(simulator, monkeypatch):
    case = BranchesCase((2, 8, 6, 9))
    first = case.run()
    monkeypatch.setattr(branches, "record", None)  # a plan would need it
    assert all(torch.equal(result, first[name]) for name, result in case.run().items())


# ---- their launch ---------------------------------------------------------------------------------------------------


def plan(job: BranchesJob):
    return branches.plan(job, 228 * 1024)


def test_plans_stay_within_the_limits_of_every_architecture():
    shapes = [
        *((256, 64, 56, 56), (256, 512, 7, 7), (2, 256, 200, 300), (1, 3, 1, 5000), (4, 2048, 7, 7)),
        *((70000, 8, 2, 2), (1, 30, 999, 1), (1, 1, 1, 1)),
    ]
    for shape, outputs, stride, dtype, nhwc, alignment in itertools.product(
        shapes, (1, 9, 18, 49, 392), (1, 2), range(4), (True, False), (8, 16)
    ):
        first, *second = plan(BranchesJob(DTYPES[dtype], shape, outputs, stride, nhwc, alignment))
        block = first.parameters[0].view(BRANCHES)[0]
        case = (shape, outputs, dtype, nhwc, block)
        assert first.shared <= 48 * 1024 and first.grid < 2**31, case  # no attribute of the kernel has to be raised
        assert first.grid == shape[0] * int(block["tiles"] * block["bands"]), case
        assert block["groups"] * block["bands"] * 9 >= outputs, case
        assert -(-block["pixels"] // 4) * block["groups"] <= 128, case  # every pixel and output has a thread
        assert len(second) == (block["tiles"] > 1), case
        assert block["tiles"] * block["pixels"] >= shape[2] * shape[3], case
        assert (block["tiles"] - 1) * block["pixels"] < shape[2] * shape[3], case


def test_shapes_beyond_32_bits_take_plain_operations(monkeypatch):
    job = BranchesJob(torch.float32, (1, 1, 2**16, 2**15), 9, 1, False, 16)
    assert plan(job) == plan(job._replace(shape=(2**31, 1, 1, 1))) == ()
    monkeypatch.setattr(launch, "launcher", launch.Launcher())
    monkeypatch.setattr(launch.launcher, "shared_memory", lambda device: 0)
    monkeypatch.setattr(branches, "plan", lambda job, shared_memory: ())
    case = BranchesCase((2, 8, 6, 9))
    case.check(case.run())


def test_parameter_block_and_constants_are_those_of_the_source():
    text = kernel_sources()["ddf_branches.cu"].read_text()
    body = re.search(r"struct Branches {(.*?)};", text, re.DOTALL)[1]
    fields = [name.strip() for line in re.findall(r"int ([^;]*);", body) for name in line.split(",")]
    assert fields == list(BRANCHES.names) and BRANCHES.itemsize == 4 * len(fields)
    for name in ("THREADS", "PIXELS", "GROUP"):
        assert re.search(rf"#define {name} {getattr(branches, name)}\b", text), name
    assert f"#define CHANNELS ({branches.CHUNK_BYTES} / " in text and "#define ROW (CHANNELS + 4)" in text
    assert f"#define PACKS {branches.THREADS // branches.SLOTS} " in text and "#define SLOTS (THREADS / PACKS)" in text


# ---- the operator ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_operator_is_the_convolution_and_the_mean(dtype, layout, stride):
    case = BranchesCase((2, 12, 7, 10), outputs=18, stride=stride, dtype=dtype, layout=LAYOUTS[layout])
    x, weight, bias = (tensor.double() for tensor in case.arguments[:3])
    spatial = torch.einsum("oc,nchw->nohw", weight, x[:, :, ::stride, ::stride]) + bias[:, None, None]
    case.want = {"spatial": spatial, "pooled": x.sum((2, 3)) / 70}
    case.check(dict(zip(("spatial", "pooled"), ddf_branches(*case.arguments), strict=True)))


def test_operator_passes_opcheck():
    for layout, stride, bias in itertools.product(LAYOUTS.values(), (1, 2), (True, False)):
        case = BranchesCase((2, 8, 5, 6), stride=stride, bias=bias, layout=layout)
        torch.library.opcheck(torch.ops.ddfnet.ddf_branches.default, case.arguments)
    single = BranchesCase((2, 8, 1, 1))
    torch.library.opcheck(torch.ops.ddfnet.ddf_branches.default, single.arguments, test_utils="test_faketensor")


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(8, 9, 1)

    def forward(self, x):
        spatial, pooled = ddf_branches(x * 2, self.convolution.weight.flatten(1), self.convolution.bias, 2)
        return spatial.relu(), pooled + 1


@torch.no_grad()
def test_compiles_without_graph_breaks_with_dynamic_shapes():
    torch._dynamo.reset()
    module = Branches()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 8, 5, 6), (3, 8, 9, 7)):
        x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(compiled(x), module(x))


@torch.no_grad()
def test_exports_and_decomposes_into_plain_operations():
    module, x = Branches(), torch.randn(2, 8, 5, 6)
    program = torch.export.export(module, (x,))
    assert any("ddfnet" in str(node.target) for node in program.graph.nodes)
    plain = program.run_decompositions(decompositions())
    assert not any("ddfnet" in str(node.target) for node in plain.graph.nodes)
    torch.testing.assert_close(plain.module()(x), module(x))


def test_autocast():
    case = BranchesCase((2, 8, 5, 6))
    with torch.autocast("cpu", torch.bfloat16):
        found = ddf_branches(*case.arguments)
    x, weight, bias, stride = case.arguments
    want = ddf_branches(x.bfloat16(), weight.bfloat16(), bias.bfloat16(), stride)
    assert all(torch.equal(a, b) and a.dtype == torch.bfloat16 for a, b in zip(found, want, strict=True))


def test_flops_are_those_of_the_convolution():
    x, convolution = torch.randn(2, 8, 5, 6), nn.Conv2d(8, 9, 1, stride=2)
    counted = []
    for function in (convolution, lambda x: ddf_branches(x, convolution.weight.flatten(1), convolution.bias, 2)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            function(x)
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] > 0


@pytest.mark.parametrize(
    "changed,expected",
    [
        (dict(x=[1]), "x is a list, expected a Tensor"),
        (dict(x=torch.zeros(4, 5, 5)), r"x has shape \(4, 5, 5\), expected 4 dimensions"),
        (dict(x=torch.zeros(1, 4, 5, 5, dtype=torch.int64)), "x is torch.int64, expected float64, float32"),
        (dict(x=torch.zeros(1, 4, 0, 5)), r"x has shape \(1, 4, 0, 5\), expected a channel and a pixel"),
        (dict(weight=None), "weight is a NoneType, expected a Tensor"),
        (dict(weight=torch.zeros(9, 4, 1, 1)), r"weight has shape \(9, 4, 1, 1\), expected \(O, 4\) = \(O, C\)"),
        (dict(weight=torch.zeros(9, 5)), r"weight has shape \(9, 5\), expected \(O, 4\)"),
        (dict(weight=torch.zeros(9, 4).half()), "weight is torch.float16, expected torch.float32, the dtype of x"),
        (dict(weight=torch.zeros(9, 4, device="meta")), "weight is on meta, expected cpu, the device of x"),
        (dict(bias=0.5), "bias is a float, expected a Tensor or None"),
        (dict(bias=torch.zeros(4)), r"bias has shape \(4,\), expected \(9,\) = \(O\)"),
        (dict(stride=0), "stride is 0, expected an integer of at least 1"),
        (dict(stride=1.5), "stride is 1.5, expected an integer"),
        (dict(weight=torch.zeros(9, 4, requires_grad=True)), "weight requires grad, but .* in torch.no_grad()"),
        (dict(x=torch.zeros(1, 4, 5, 5, requires_grad=True)), "x requires grad, but this operator is for inference"),
    ],
)
def test_a_mistake_gives_one_sentence(changed, expected):
    arguments = dict(x=torch.zeros(1, 4, 5, 5), weight=torch.zeros(9, 4), bias=torch.zeros(9), stride=1) | changed
    with pytest.raises((TypeError, ValueError), match=f"ddf_branches: {expected}") as caught:
        ddf_branches(**arguments)
    assert "\n" not in str(caught.value)


def test_parameters_of_a_network_may_require_grad_where_nothing_records():
    weight = nn.Parameter(torch.zeros(9, 4))
    with torch.no_grad():
        assert ddf_branches(torch.ones(1, 4, 5, 5), weight)[1].eq(1).all()
