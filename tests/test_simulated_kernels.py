"""The kernels, launched by the launcher's own plans, against float64 on the CPU: their own source (tests/cudasim) and
the PTX that NVRTC makes of it (tests/helpers/ptx)."""

import functools
import itertools

import pytest
import torch
from helpers.ptx_machine import on_every_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operator_case import DTYPES, FAST, LAYOUTS, TOLERANCES, Case, cases_of
from simulator import Simulator

from ddfnet.nn import DDF
from ddfnet.ops import cpu, ddf
from ddfnet.ops.gpu import ddf as gpu
from ddfnet.ops.options import DDFOptions, Epilogue

pytest_generate_tests = on_every_machine


def check(simulator, case: Case, orders=(0, 1, 2)) -> None:
    """Right, and bit for bit the same whichever order threads and blocks run in."""
    runs = []
    for simulator.order in orders:
        runs.append(case.run(gpu))
    case.check(runs[0])
    for other in runs[1:]:
        for name, result in runs[0].items():
            assert torch.equal(result, other[name]), f"{name} depends on the order of the threads in {case}"


# A specialisation is one of these with one of DTYPES: layout, kernel size and stride, how the filters are combined.
CASES = list(itertools.product(LAYOUTS, FAST, ("mul", "add")))


def dtype_of(layout, fast, combine):
    """The dtype that a case is tested with; with the others it is among the slow tests. Each dtype meets all else."""
    number = CASES.index((layout, fast, combine))
    return DTYPES[(number + number // 4) % 4]


def each_dtype(*cases):
    return [
        pytest.param(
            *(dtype, *case),
            marks=() if dtype == dtype_of(*case) else pytest.mark.slow,
            id="-".join(str(part).removeprefix("torch.") for part in (dtype, *case)),
        )
        for case, dtype in itertools.product(cases, DTYPES)
    ]


@pytest.mark.parametrize("dtype,layout,fast,combine", each_dtype(*CASES))
def test_every_specialisation_computes_the_operator_and_its_gradients(simulator, dtype, layout, fast, combine):
    for number, case in enumerate(cases_of(dtype, LAYOUTS[layout], *fast, combine)):
        check(simulator, case, orders=(0, 1, 2) if number < 3 else (2,))
    kernels = [launch.specialisation.kernel for launch in simulator.launches]
    assert "ddf_apply" in kernels and "ddf_filter_grad" in kernels and "ddf_sum_partials" in kernels
    assert not any("generic" in launch.specialisation.file for launch in simulator.launches)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(
    "kernel_size,stride,dilation,heads,combine",
    [(1, 3, 1, 2, "mul"), (3, 1, 2, 1, "mul"), (5, 2, 3, 2, "add"), (9, 1, 1, 1, "mul"), (3, 3, 9, 1, "mul")],
)
def test_generic_kernels_compute_the_rest(simulator, dtype, layout, kernel_size, stride, dilation, heads, combine):
    options = (kernel_size, stride, dilation, heads, combine)
    simulator.launches.clear()
    check(simulator, Case((2, 6, 7, 10), *options, dtype=dtype, layout=LAYOUTS[layout]))
    assert all("generic" in launch.specialisation.file for launch in simulator.launches)


@pytest.mark.parametrize("filters", ["channel", "spatial"])
@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_filter_may_be_missing(simulator, filters, combine, layout, dilation):
    case = Case((2, 8, 6, 9), dilation=dilation, combine=combine, filters=filters, layout=LAYOUTS[layout])
    check(simulator, case)


@pytest.mark.parametrize(
    "dtype,layout,fast,combine",
    each_dtype(
        *((a, *b) for a in LAYOUTS for b in [((3, 1), "mul"), ((3, 2), "add"), ((5, 2), "mul"), ((7, 1), "mul")])
    ),
)
def test_spatial_norm_happens_inside_the_kernels(simulator, monkeypatch, dtype, layout, fast, combine):
    """Output and gradients, that of the raw filter too, against float64; the separate operation is not called."""
    monkeypatch.delattr(gpu, "normalize"), monkeypatch.delattr(gpu, "normalize_backward")
    for case in cases_of(dtype, LAYOUTS[layout], *fast, combine, spatial_norm=True):
        check(simulator, case, orders=(0, 2))


@pytest.mark.parametrize("filters", ["both", "spatial"])
@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_spatial_norm_serves_every_case(simulator, filters, combine, dilation):
    """Also where the generic kernels do, and without a channel filter."""
    check(simulator, Case((2, 8, 6, 9), 3, 1, dilation, 2, combine, filters, spatial_norm=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_constant_filter_is_normalised_to_zero(simulator, layout):
    x, grad = (torch.randn(1, 4, 5, 6).contiguous(memory_format=LAYOUTS[layout]) for _ in range(2))
    channel, spatial = torch.randn(1, 4, 3, 3), torch.full((1, 9, 5, 6), 0.1)
    options = DDFOptions(spatial_norm=True)
    assert not gpu.forward(x, channel, spatial, options).any()
    assert not any(g.any() for g in gpu.grad_filters(grad, x, channel, spatial, options, (True, True)))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(
    "dtype,layout,fast,combine", each_dtype(*((a, (3, stride), "mul") for a in LAYOUTS for stride in (1, 2)))
)
def test_scale_bias_and_relu_are_part_of_the_launch(simulator, dtype, layout, fast, combine, dilation, relu):
    """At inference: one launch, also by the generic kernels; what is not a number stays so."""
    for shape, heads in (((2, 24, 9, 17), 2), ((1, 21, 11, 7), 3)):
        case = Case(shape, *fast, dilation, heads, combine, dtype=dtype, layout=LAYOUTS[layout])
        scale, bias = (torch.randn(shape[1], dtype=torch.promote_types(dtype, torch.float32)) for _ in range(2))
        want = case.want["y"] * scale.double().view(-1, 1, 1) + bias.double().view(-1, 1, 1)
        want = want.relu() if relu else want
        simulator.launches.clear()
        arguments = (case.channel, case.spatial, case.options, Epilogue(scale, bias, relu))
        found = gpu.forward(case.x, *arguments)
        assert len(simulator.launches) == 1 and found.is_contiguous(memory_format=LAYOUTS[layout])
        assert (found.double() - want).abs().max() <= TOLERANCES[dtype] * want.abs().max()
        x = case.x.detach().clone()
        x[0, 0, 0, 0] = float("nan")
        assert gpu.forward(x, *arguments)[0, 0, 0, 0].isnan()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 3),
    per_head=st.integers(1, 70),
    heads=st.integers(1, 3),
    height=st.integers(1, 20),
    width=st.integers(1, 70),
    case=st.sampled_from(CASES),
    norm=st.booleans(),
)
def test_any_shape(simulator, n, per_head, heads, height, width, case, norm):
    shape, (layout, (kernel_size, stride), combine), dtype = (n, per_head * heads, height, width), case, dtype_of(*case)
    options = dict(heads=heads, combine=combine, spatial_norm=norm)
    check(simulator, Case(shape, kernel_size, stride, dtype=dtype, layout=LAYOUTS[layout], **options))


@pytest.mark.parametrize("layout,fast,combine", [case for case in CASES if case[2] == "mul"])
def test_fits_the_shared_memory_of_small_gpus(simulator, monkeypatch, layout, fast, combine):
    monkeypatch.setattr(simulator, "memory", 64 * 1024)  # sm_75
    for case in cases_of(dtype_of(layout, fast, combine), LAYOUTS[layout], *fast, combine)[:3]:
        check(simulator, case)
    assert max(launch.shared for launch in simulator.launches) <= 63 * 1024


@pytest.mark.parametrize("dtype,layout,fast,combine", each_dtype(*((layout, (3, 1), "mul") for layout in LAYOUTS)))
def test_copies_without_cp_async(kernels_folder, monkeypatch, dtype, layout, fast, combine):
    """As sm_75 copies: at once."""
    asynchronous = "  if (BYTES >= 4) return cudasim::copy_async(to, from, BYTES, exists);\n"

    def edit(source):
        assert asynchronous in source
        return source.replace(asynchronous, "")

    older = Simulator(kernels_folder, edit=edit)
    older.install(monkeypatch)
    check(older, Case((2, 24, 9, 17), *fast, 1, 2, combine, dtype=dtype, layout=LAYOUTS[layout]))


@pytest.mark.parametrize(
    "shape,kernel_size,dilation",
    [((1, 1, 1450, 1450), 3, 1), ((8200, 2, 2, 2), 3, 1), ((1, 2, 9, 9), 15, 1), ((1, 2, 9, 9), 3, 8)],
)
def test_no_limit_of_the_authors_code_remains(simulator, shape, kernel_size, dilation):
    """Theirs ends at 2 M pixels, 8191 images, kernels of 13, dilations of 7."""
    case = Case(shape, kernel_size, dilation=dilation)
    simulator.order = 0
    case.check(case.run(gpu))


@pytest.mark.parametrize("other", ["x", "grad", "spatial", "all"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dilation", [1, 2])
def test_tensors_may_lie_in_memory_as_they_like(simulator, other, layout, dilation):
    """A slice of something larger, the other layout, and addresses that are no multiple of 16 bytes."""
    case = Case((2, 8, 6, 9), dilation=dilation, layout=LAYOUTS[layout])

    def scattered(tensor):
        padded = torch.full((tensor.shape[0] + 1, tensor.shape[1] + 1, *(size + 3 for size in tensor.shape[2:])), 7.0)
        view = padded[1:, 1:, 1:-2, 2:-1]
        return view.copy_(tensor)

    if other == "all":  # dense, but one element into their memory
        for name in ("x", "grad", "channel", "spatial"):
            tensor = getattr(case, name)
            moved = torch.empty(tensor.numel() + 1)[1:].as_strided(tensor.shape, tensor.stride(), 1)
            setattr(case, name, moved.copy_(tensor))
    else:
        setattr(case, other, scattered(getattr(case, other)))
    results = case.run(gpu)
    expected = case.run(cpu)
    for name, result in results.items():
        assert result.stride() == expected[name].stride(), name
        assert torch.allclose(result, expected[name], atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_filters_that_lie_at_odd_addresses_do_not_narrow_the_copies_of_x(simulator, layout):
    """Filters are read element by element; a spatial filter is often a part of a convolution's outputs."""

    def launches(*moved):
        case = Case((2, 64, 8, 8), dtype=torch.bfloat16, layout=LAYOUTS[layout])
        for name in moved:
            tensor = getattr(case, name)
            at = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:].as_strided(tensor.shape, tensor.stride(), 1)
            setattr(case, name, at.copy_(tensor))
        simulator.launches.clear()
        case.check(case.run(gpu))
        return [(one.grid, one.shared, *map(bytes, one.parameters[:1])) for one in simulator.launches]

    aligned = launches()
    assert launches("channel", "spatial") == aligned
    assert launches("x") != aligned != launches("grad")


def test_gradient_by_expansion_is_not_read_beyond_its_memory(simulator):
    """y.sum() has a gradient of one element, expanded."""
    case = Case((2, 8, 6, 9))
    case.grad = torch.ones(()).expand(case.grad.shape)
    results, expected = case.run(gpu), case.run(cpu)
    assert all(torch.allclose(result, expected[name], atol=1e-5) for name, result in results.items())


def test_only_the_gradients_asked_for_are_computed(simulator):
    """Perhaps in other tiles, so close to what both together give."""
    case = Case((2, 8, 20, 70))
    arguments = (case.grad, case.x, case.channel, case.spatial, case.options)
    both = gpu.grad_filters(*arguments, (True, True))
    simulator.launches.clear()
    dc, ds = gpu.grad_filters(*arguments, (True, False))
    assert torch.allclose(dc, both[0], atol=1e-4) and ds.numel() == 0
    dc, ds = gpu.grad_filters(*arguments, (False, True))
    assert torch.allclose(ds, both[1], atol=1e-4) and dc.numel() == 0
    # one kernel for dc and the sum of its partials; one for ds, which needs less shared memory
    names = [launch.specialisation.kernel for launch in simulator.launches]
    assert names == ["ddf_filter_grad", "ddf_sum_partials", "ddf_filter_grad"]


def test_empty_batch_launches_nothing(simulator):
    simulator.launches.clear()
    x, c, s = torch.zeros(0, 4, 5, 5), torch.zeros(0, 4, 3, 3), torch.zeros(0, 9, 5, 5)
    assert gpu.forward(x, c, s, DDFOptions()).shape == x.shape
    assert gpu.grad_x(x, c, s, (5, 5), DDFOptions()).shape == x.shape
    dc, ds = gpu.grad_filters(x, x, c, s, DDFOptions(), (True, True))
    assert dc.shape == c.shape and ds.shape == s.shape and not simulator.launches


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_of_ddf_resnet50_agrees_with_the_reference(simulator, monkeypatch, stride):
    """A bottleneck as timm builds it, forward and backward in float32, with the simulated kernels in the operator."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model("ddf_resnet50", num_classes=10)
    block = network.layer2[0] if stride == 2 else network.layer1[1]
    assert any(isinstance(module, DDF) and module.stride == stride for module in block.modules())
    x = torch.randn(2, 256, 14, 14).contiguous(memory_format=torch.channels_last)

    def gradients():
        block.zero_grad()
        leaf = x.clone().requires_grad_()
        y = block(leaf)
        (y * torch.arange(y.numel()).view(y.shape).sin()).sum().backward()
        return [y.detach(), leaf.grad, *(parameter.grad.clone() for parameter in block.parameters())]

    with monkeypatch.context() as patch:
        patch.setattr("ddfnet.nn.ddf.ddf", functools.partial(ddf, backend="reference"))
        expected = gradients()
    simulator.launches.clear()
    simulator.order = 2
    for name in ("forward", "grad_x", "grad_filters"):
        monkeypatch.setattr(cpu, name, getattr(gpu, name))
    found = gradients()
    assert len(simulator.launches) >= 3
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(1, b.abs().max())
