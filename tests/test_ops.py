"""The operator: every backend against the definition, and the definition against a direct transcription of Eq. 2."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

from ddfnet.ops import cpu, ddf, ddf_inference, decompositions
from ddfnet.ops.options import DDFOptions

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def inputs(
    n=2,
    channels=4,
    height=6,
    width=5,
    kernel_size=3,
    stride=1,
    heads=1,
    which="both",
    dtype=torch.float64,
    layout="nchw",
):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    out = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    x = draw(n, channels, height, width).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    c = draw(n, channels, kernel_size, kernel_size).requires_grad_()
    s = draw(n, heads * kernel_size**2, *out).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    return x, None if which == "spatial" else c, None if which == "channel" else s


def eq2(x, c, s, kernel_size=3, stride=1, dilation=1, heads=1, combine="mul"):
    """Eq. 2 value by value, in Python floats."""
    n, channels, height, width = x.shape
    out_height, out_width = (height - 1) // stride + 1, (width - 1) // stride + 1
    y = torch.zeros(n, channels, out_height, out_width, dtype=torch.float64)
    for b, ch, p, q in itertools.product(range(n), range(channels), range(out_height), range(out_width)):
        for i, j in itertools.product(range(kernel_size), repeat=2):
            row, column = (
                p * stride + (i - kernel_size // 2) * dilation,
                q * stride + (j - kernel_size // 2) * dilation,
            )
            if 0 <= row < height and 0 <= column < width:
                tap = ch // (channels // heads) * kernel_size**2 + i * kernel_size + j
                f, g = c[b, ch, i, j].item(), s[b, tap, p, q].item()
                y[b, ch, p, q] += (f * g if combine == "mul" else f + g) * x[b, ch, row, column].item()
    return y


@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize("kernel_size,stride,dilation,heads", [(3, 1, 1, 1), (3, 2, 1, 2), (5, 1, 2, 1), (1, 3, 1, 4)])
def test_reference_is_equation_2(kernel_size, stride, dilation, heads, combine):
    options = dict(kernel_size=kernel_size, stride=stride, dilation=dilation, heads=heads, combine=combine)
    x, c, s = inputs(height=5, width=4, kernel_size=kernel_size, stride=stride, heads=heads)
    torch.testing.assert_close(ddf(x, c, s, **options, backend="reference"), eq2(x, c, s, **options))


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(0, 3),
    per_head=st.integers(1, 4),
    heads=st.integers(1, 3),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel_size=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 9),
    combine=st.sampled_from(["mul", "add"]),
    which=st.sampled_from(["both", "channel", "spatial"]),
    layout=st.sampled_from(list(LAYOUTS)),
    block=st.sampled_from([1, 200, 2**18]),
)
def test_cpu_equals_reference(n, per_head, heads, size, kernel_size, stride, dilation, combine, which, layout, block):
    """Values, gradients and memory formats, for blocks of one channel, of some, and of several samples."""
    options = dict(kernel_size=kernel_size, stride=stride, dilation=dilation, heads=heads, combine=combine)
    tensors = inputs(n, heads * per_head, *size, kernel_size, stride, heads, which, layout=layout)
    old, cpu.BLOCK_ELEMENTS = cpu.BLOCK_ELEMENTS, block
    try:
        results = []
        for backend in ("cpu", "reference"):
            y = ddf(*tensors, **options, backend=backend)
            present = [t for t in tensors if t is not None]
            results.append((y, *torch.autograd.grad(y.square().sum() + y.sum(), present)))
    finally:
        cpu.BLOCK_ELEMENTS = old
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
    assert results[0][0].stride() == results[1][0].stride()
    options = (kernel_size, stride, dilation, heads, combine)
    torch.library.opcheck(torch.ops.ddfnet.ddf.default, (*tensors, *options), test_utils="test_faketensor")


def test_the_backend_that_is_asked_for_computes(monkeypatch):
    """Else the tests above compare one with itself."""
    calls, forward = [], cpu.forward
    monkeypatch.setattr(cpu, "forward", lambda *arguments: calls.append("cpu") or forward(*arguments))
    for backend, expected in ((None, ["cpu"]), ("cpu", ["cpu"]), ("reference", [])):
        calls.clear()
        ddf(*inputs(), backend=backend)
        assert calls == expected, backend


@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize("which", ["both", "channel", "spatial"])
@pytest.mark.parametrize("stride,dilation,heads", [(1, 1, 1), (1, 2, 2), (2, 1, 2), (2, 3, 1), (3, 1, 1), (3, 2, 2)])
def test_gradcheck_first_and_second_order(stride, dilation, heads, which, combine):
    tensors = inputs(2, 2 * heads, 4, 5, stride=stride, heads=heads, which=which)

    def operator(*tensors):
        return ddf(*tensors, stride=stride, dilation=dilation, heads=heads, combine=combine)

    assert gradcheck(operator, tensors)
    assert gradgradcheck(operator, tensors)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)])
def test_every_dtype_is_close_to_float64(dtype, tolerance, layout):
    for kernel_size, stride, heads, combine in [(3, 1, 1, "mul"), (3, 2, 2, "add"), (5, 1, 2, "mul")]:
        options = dict(kernel_size=kernel_size, stride=stride, heads=heads, combine=combine)
        tensors = inputs(2, 16, 9, 11, kernel_size, stride, heads, dtype=dtype, layout=layout)
        wide = [t.detach().double().requires_grad_() for t in tensors]
        y, expected = ddf(*tensors, **options), ddf(*wide, **options, backend="reference")
        assert y.dtype == dtype and y.is_contiguous(memory_format=LAYOUTS[layout])
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        pairs = [(y, expected)]
        pairs += zip(
            torch.autograd.grad(y, tensors, grad), torch.autograd.grad(expected, wide, grad.double()), strict=True
        )
        for actual, wanted in pairs:
            assert actual.dtype == dtype
            assert (actual.double() - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_half_sums_are_kept_in_float32():
    # 2048 + 1 is 2048 in float16: adding up there would lose every tap after the first
    x = torch.ones(1, 1, 3, 3, dtype=torch.float16)
    x[0, 0, 0, 0] = 2048
    y = ddf(x, torch.ones(1, 1, 3, 3, dtype=torch.float16), torch.ones(1, 9, 3, 3, dtype=torch.float16))
    assert y[0, 0, 1, 1] == 2056


def test_only_the_gradients_asked_for_are_computed(monkeypatch):
    calls = []
    for name in ("grad_x", "grad_filters"):
        original = getattr(cpu, name)
        monkeypatch.setattr(cpu, name, lambda *a, f=original, n=name: (calls.append((n, a[-1])), f(*a))[1])
    for needed, expected in [
        ("x", [("grad_x", DDFOptions())]),
        ("c", [("grad_filters", (True, False))]),
        ("s", [("grad_filters", (False, True))]),
    ]:
        calls.clear()
        tensors = [t.detach() for t in inputs()]
        tensors["xcs".index(needed)].requires_grad_()
        ddf(*tensors).sum().backward()
        assert calls == expected


def test_operator_passes_opcheck():
    for layout, stride, heads, combine in [("nchw", 1, 1, "mul"), ("channels_last", 2, 2, "add")]:
        x, c, s = inputs(stride=stride, heads=heads, layout=layout)
        options = (3, stride, 1, heads, combine)
        grad = torch.rand_like(ddf(x, c, s, stride=stride, heads=heads)).detach().requires_grad_()
        ops = torch.ops.ddfnet
        torch.library.opcheck(ops.ddf.default, (x, c, s, *options))
        torch.library.opcheck(ops.ddf.default, (x, None, s, *options))
        torch.library.opcheck(ops.ddf_grad_x.default, (grad, c, s, *x.shape[2:], *options))
        for needs in [(True, True), (True, False), (False, True)]:
            torch.library.opcheck(ops.ddf_grad_filters.default, (grad, x, c, s, *needs, *options))


def test_a_program_exported_before_the_norm_was_an_option_means_no_norm():
    """Saved programs hold the operators' arguments as they were: what came later has a default, the earlier meaning."""
    x, c, s = (tensor.detach() for tensor in inputs())
    grad, options, ops = torch.ones_like(x), (3, 1, 1, 1, "mul"), torch.ops.ddfnet
    want = ddf(x, c, s)
    assert torch.equal(ops.ddf(x, c, s, *options), want)
    assert not torch.equal(ops.ddf(x, c, s, *options, True), want)
    for op, arguments in ((ops.ddf_grad_x, (grad, c, s, 6, 5)), (ops.ddf_grad_filters, (grad, x, c, s, True, True))):
        for found, same in zip(op(*arguments, *options), op(*arguments, *options, False), strict=True):
            assert torch.equal(found, same)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks_with_dynamic_shapes(backend):
    def function(x, c, s):
        return F.relu(ddf(x * 2, c, s, heads=2)).square().sum()

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
    for size in ((6, 5), (9, 8)):
        tensors = inputs(2, 4, *size, heads=2)
        torch.testing.assert_close(compiled(*tensors), function(*tensors))
        for a, b in zip(
            torch.autograd.grad(compiled(*tensors), tensors),
            torch.autograd.grad(function(*tensors), tensors),
            strict=True,
        ):
            torch.testing.assert_close(a, b)


class _Apply(torch.nn.Module):
    def forward(self, x, c, s):
        return ddf(x, c, s, heads=2, combine="add")


def test_exports_and_decomposes_into_plain_operations():
    tensors = [t.detach() for t in inputs(heads=2)]
    program = torch.export.export(_Apply(), tuple(tensors))
    assert any("ddfnet" in str(node.target) for node in program.graph.nodes)
    plain = program.run_decompositions(decompositions())
    targets = [str(node.target) for node in plain.graph.nodes if node.op == "call_function"]
    assert targets and all(target.startswith("aten.") for target in targets)
    torch.testing.assert_close(plain.module()(*tensors), ddf(*tensors, heads=2, combine="add"))


def test_vmap_is_a_loop():
    x, c, s = (t.detach() for t in inputs())
    xs = torch.randn(3, *x.shape, dtype=x.dtype)
    ss = torch.randn(*s.shape, 3, dtype=x.dtype)
    mapped = torch.vmap(lambda x, s: ddf(x, c, s), in_dims=(0, 4))(xs, ss)
    torch.testing.assert_close(mapped, torch.stack([ddf(xs[i], c, ss[..., i]) for i in range(3)]))
    grads = torch.vmap(lambda g: torch.ops.ddfnet.ddf_grad_filters(g, x, c, s, True, False, 3, 1, 1, 1, "mul")[0])(xs)
    one = torch.ops.ddfnet.ddf_grad_filters(xs[1], x, c, s, True, False, 3, 1, 1, 1, "mul")[0]
    torch.testing.assert_close(grads[1], one)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_follows_its_dtype(dtype):
    x, c, s = inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        y = ddf(x, c.to(dtype), s)
        y.float().sum().backward()
    assert y.dtype == dtype and x.grad.dtype == s.grad.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(y, ddf(x.to(dtype), c.to(dtype), s.to(dtype)))


def test_torch_counts_its_flops():
    x, c, s = inputs(2, 8, 7, 5, stride=2, heads=2, dtype=torch.float32)
    with FlopCounterMode(display=False) as counter:
        ddf(x, c, s, stride=2, heads=2).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    forward = 2 * 9 * 2 * 8 * 4 * 3
    ops = torch.ops.ddfnet
    assert [counts[op] for op in (ops.ddf, ops.ddf_grad_x, ops.ddf_grad_filters)] == [forward, forward, 2 * forward]


def test_limits_of_the_authors_code_do_not_hold():
    for kernel_size, dilation, size in [(15, 1, (9, 9)), (3, 12, (30, 7)), (3, 1, (1, 1))]:
        tensors = inputs(1, 2, *size, kernel_size=kernel_size)
        options = dict(kernel_size=kernel_size, dilation=dilation)
        torch.testing.assert_close(ddf(*tensors, **options), ddf(*tensors, **options, backend="reference"))


GOOD = dict(zip(("x", "channel_filter", "spatial_filter"), (t.detach() for t in inputs()), strict=True))
BAD = [
    (dict(x=[1.0]), "x is a list, expected a Tensor"),
    (dict(x=torch.ones(2, 4, 6)), r"x has shape \(2, 4, 6\), expected 4 dimensions"),
    (dict(x=torch.ones(2, 4, 6, 5, dtype=torch.int64)), "x is torch.int64, expected float64"),
    (dict(x=torch.ones(2, 4, 0, 5)), "at least 1x1 pixels"),
    (dict(kernel_size=4), "kernel_size is 4, expected an odd number"),
    (dict(stride=0), "stride is 0, expected an integer of at least 1"),
    (dict(dilation=1.5), "dilation is 1.5, expected an integer"),
    (dict(heads=3), "heads is 3, expected a divisor of x's 4 channels"),
    (dict(combine="max"), "combine is 'max', expected 'mul' or 'add'"),
    (dict(backend="gpu"), "backend is 'gpu', expected"),
    (dict(channel_filter=None, spatial_filter=None), "both None, expected at least one"),
    (
        dict(channel_filter=torch.ones(2, 4, 9).double()),
        r"channel_filter has shape \(2, 4, 9\), expected \(2, 4, 3, 3\)",
    ),
    (dict(spatial_filter=torch.ones(2, 9, 3, 5).double()), r"spatial_filter has shape .* expected \(2, 9, 6, 5\)"),
    (dict(stride=2), r"spatial_filter has shape .* expected \(2, 9, 3, 3\)"),
    (dict(spatial_filter=GOOD["spatial_filter"].float()), "spatial_filter is torch.float32, expected torch.float64"),
    (dict(channel_filter=GOOD["channel_filter"].to("meta")), "channel_filter is on meta, expected cpu"),
    (dict(channel_filter=1.0), "channel_filter is a float, expected a Tensor or None"),
]


@pytest.mark.parametrize("operator", [ddf, ddf_inference], ids=["ddf", "ddf_inference"])
@pytest.mark.parametrize("change,sentence", BAD, ids=[sentence[:30] for _, sentence in BAD])
def test_wrong_arguments_are_named_in_one_sentence_by_the_operator_that_was_called(operator, change, sentence):
    if operator is ddf_inference and "backend" in change:
        pytest.skip("has no backend to choose")
    ones = torch.ones(4)
    arguments = {**GOOD, **change, **(dict(scale=ones, bias=ones) if operator is ddf_inference else {})}
    with pytest.raises((TypeError, ValueError), match=sentence) as error:
        operator(**arguments)
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{operator.__name__}: ")
