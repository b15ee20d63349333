"""What NVRTC makes of the kernels, without a GPU: every architecture, no spilled register, the committed table."""

import inspect
import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ddfnet.ops import kernel_sources
from ddfnet.ops.gpu.cost import bank_conflicts
from ddfnet.ops.gpu.job import Job, Problem
from ddfnet.ops.gpu.plan import plan
from ddfnet.ops.gpu.records import PROBLEM, TILING
from ddfnet.ops.gpu.specialisations import DTYPES, PIXEL_BYTES, STRIP, source_of, specialisation, vector_of
from ddfnet.ops.gpu.tiling import THREADS
from ddfnet.ops.options import DDFOptions

ROOT = Path(__file__).resolve().parent.parent
try:
    from counting import compiled
    from counting.compiled import compile_module, instructions, modules, nvdisasm, version
except ImportError:  # no cuda-bindings
    modules = None
needs_nvrtc = pytest.mark.skipif(modules is None, reason="needs NVRTC (cuda-bindings)")

ARCHITECTURES = [75, 80, 90, 100, 120]
SM_90 = 228 * 1024  # bytes of shared memory
TABLES = {
    table["nvrtc"]: table
    for table in (json.loads(path.read_text()) for path in (ROOT / "benchmarks").glob("kernels-sm_90-nvrtc-*.json"))
}


def key_of(kernel: str, macros: dict) -> tuple:
    return (kernel, *((name, macros[name]) for name in sorted(macros) if name.isupper()))


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_specialisations_compile_and_spill_no_register(arch):
    """With exactly the options that CuPy gets. Every 26th module of the package, others for each GPU."""
    require_clean(modules()[5 * ARCHITECTURES.index(arch) :: 26], arch)


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_specialisation_compiles_and_spills_no_register(arch):
    require_clean(modules(), arch)


def require_clean(chosen: list, arch: int) -> None:
    with ThreadPoolExecutor(2) as pool:  # NVRTC runs outside of Python's lock
        made = list(pool.map(lambda module: compile_module(module[0], arch), chosen))
    registers = {}
    for module, result in zip(chosen, made, strict=True):
        assert result.cubin, result.log
        for wanted in module:
            key = key_of(wanted.kernel, dict(wanted.macros))
            registers[key], spilled = result.resources(wanted.kernel)
            assert spilled == 0, wanted
    assert len(registers) == sum(map(len, chosen)) > 0
    if arch == 90:
        table = {key_of(row["kernel"], row): row["registers"] for row in table_of_this_nvrtc()}
        assert registers == {key: table[key] for key in registers}
        assert len(chosen) < len(modules()) or registers == table


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_pixels_are_stored_by_one_instruction_each(arch):
    """In channels_last, all of a strip: element by element they would take three times the way to the cache."""
    if not nvdisasm():
        pytest.skip("needs nvdisasm, triton has one")
    kinds = [("forward", 1, STRIP), ("forward", 2, STRIP), ("grad_x", 1, STRIP), ("grad_x", 2, 2 * STRIP)]
    for number, (kind, stride, pixels) in enumerate(kinds, ARCHITECTURES.index(arch)):
        wanted = specialisation(kind, number % 4, True, 3, stride, False)
        bits = 8 * vector_of(number % 4) * DTYPES[number % 4].itemsize
        code = instructions(wanted, compile_module(wanted, arch).cubin)
        assert sum(f"STG.E.{bits}" in line for line in code) == pixels, wanted


def table_of_this_nvrtc() -> list[dict]:
    if version() not in TABLES:
        pytest.skip(f"no table of NVRTC {version()} is committed, only of {', '.join(TABLES)}")
    return TABLES[version()]["kernels"]


@needs_nvrtc
@pytest.mark.parametrize("nvrtc", sorted(TABLES))
def test_every_row_of_the_table_has_no_spill(nvrtc):
    kernels = TABLES[nvrtc]["kernels"]
    assert len(kernels) == sum(map(len, modules()))
    assert all(row["spilled_bytes"] == 0 for row in kernels)


@needs_nvrtc
def test_options_are_those_that_cupy_gives_nvrtc():
    """What CuPy's source adds is what the tests add; debugging and LTO have to be asked for."""
    pytest.importorskip("cupy")
    from cupy.cuda import compiler

    functions = (compiler._compile_with_cache_cuda, compiler._compile_using_nvrtc_no_warning)
    source = "".join(map(inspect.getsource, functions))
    groups = re.findall(r"options \+= \((.*?)\)\n", source)
    added = {option for group in groups for option in re.findall(r"'(-.*?)'", group)}
    unasked = {"-dlto", "--device-debug", "--generate-line-info", "-DCUPY_USE_JITIFY", "--pch", "-arch=compute_{arch}"}
    assert added - unasked == {"-ftz=true", "--device-as-default-execution-space"}
    ours = inspect.getsource(compiled)
    assert all(f'"{option}"' in ours for option in added - unasked)


@pytest.mark.parametrize("name,dtype", [("Tiling", TILING), ("Problem", PROBLEM)])
def test_parameter_blocks_are_those_of_the_sources(name, dtype):
    """Field by field, since the launcher passes bytes."""
    file = {"Tiling": "ddf_tile.cuh", "Problem": "ddf_generic.cu"}[name]
    body = re.search(rf"struct {name} {{(.*?)}};", kernel_sources()[file].read_text(), re.DOTALL)[1]
    fields = []
    for line in body.split("\n"):
        if declared := re.match(r"\s*(i64|int|double) ([^;]*);", line):
            size = {"i64": "i8", "int": "i4", "double": "f8"}[declared[1]]
            for field in declared[2].split(","):
                label, _, count = field.strip().partition("[")
                fields.append((label, size, int(count.rstrip("]") or 1)))
    expected = [(n, dtype[n].base.str[1:], max(1, *dtype[n].shape, 1)) for n in dtype.names]
    assert fields == expected


@needs_nvrtc
@pytest.mark.parametrize("name,dtype", [("Tiling", TILING), ("Problem", PROBLEM)])
def test_parameter_blocks_have_the_compilers_size(name, dtype, monkeypatch):
    wanted = specialisation("forward" if name == "Tiling" else "generic_forward", 0)
    size = f'static_assert(sizeof({name}) == {dtype.itemsize}, "");\n'
    monkeypatch.setattr("counting.compiled.source_of", lambda wanted: source_of(wanted) + size)
    assert compile_module(wanted, 90).cubin
    monkeypatch.setattr("counting.compiled.source_of", lambda wanted: source_of(wanted) + size.replace("==", "!="))
    assert not compile_module(wanted, 90).cubin


def test_constants_of_the_geometry_are_those_of_the_sources():
    text = kernel_sources()["ddf_tile.cuh"].read_text()
    for name, value in (("STRIP", STRIP), ("THREADS", THREADS)):
        assert re.search(rf"#define {name} {value}\n", text), name
    assert f"#define PIXEL_CHANNELS ({PIXEL_BYTES} / " in text
    assert "#define VECTOR (DTYPE == 3 ? 2 : 4)" in text and [vector_of(dtype) for dtype in range(4)] == [4, 4, 4, 2]


@pytest.mark.parametrize("dtype", [0, 1])
@pytest.mark.parametrize("kind,nhwc", [("forward", False), ("filter_grad", False), ("filter_grad", True)])
def test_rows_of_a_tile_are_spread_over_the_banks(kind, nhwc, dtype):
    """In the stride 1 layers of DDF-ResNet50. The forward pass in NHWC reads neighbouring channels: no conflicts."""
    for channels, size in ((64, 56), (128, 28), (256, 14), (512, 7)):
        problem, item = Problem((256, channels, size, size), DDFOptions(), nhwc), DTYPES[dtype].itemsize
        job = Job(kind, DTYPES[dtype], problem, 16, want_channel=True, want_spatial=True)
        tile = plan(job, SM_90)[0].parameters[0].view(TILING)[0]
        column, access = (128 + 16, 4 * item) if nhwc else (item, item)
        across = int(tile["columns"]) // STRIP
        assert bank_conflicts(int(tile["source_pitch"]), 1, across, column, access) <= 2.5, job


@pytest.mark.parametrize("kernel_size,most", [(3, 0.25), (5, 0.75), (7, 1.5)])
def test_partial_sums_of_the_channel_gradient_stay_small_beside_x(kernel_size, most):
    """They are written and read once more, k*k sums per tile. In batches that fill a GPU: few images are cut finer."""
    shapes = [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7), (64, 200, 300), (21, 33, 57)]
    for (c, h, w), stride, dtype, nhwc in itertools.product(shapes, (1, 2), range(4), (True, False)):
        problem, item = Problem((256, c, h, w), DDFOptions(kernel_size, stride), nhwc), DTYPES[dtype].itemsize
        job = Job("filter_grad", DTYPES[dtype], problem, 16, want_channel=True, want_spatial=True)
        launch, *total = plan(job, SM_90)
        tiles = int(launch.parameters[0].view(TILING)[0]["tiles"])
        assert len(total) == (tiles > 1)
        if total:  # by whose parameters room is made for them
            assert total[0].parameters == (256 * c * kernel_size**2, c * kernel_size**2, tiles)
            assert tiles * c * kernel_size**2 * max(4, item) <= most * c * h * w * item, job


def test_plans_stay_within_the_limits_of_every_architecture():
    shapes = [
        (256, 64, 56, 56),
        (2, 256, 200, 300),
        (1, 3, 1, 5000),
        (4, 2048, 7, 7),
        (70000, 8, 2, 2),
        (1, 30, 999, 1),
    ]
    for (n, c, h, w), (k, s), dtype, nhwc, kind, kilobytes in itertools.product(
        shapes, [(3, 1), (5, 2), (7, 2)], range(4), (True, False), ("forward", "grad_x", "filter_grad"), (64, 100, 228)
    ):
        problem = Problem((n, c, h, w), DDFOptions(k, s), nhwc)
        job = Job(kind, DTYPES[dtype], problem, 16, want_channel=True, want_spatial=True)
        launch = plan(job, kilobytes * 1024)[0]
        assert launch.shared <= (kilobytes - 1) * 1024 and 32 <= launch.block <= 256 and launch.grid < 2**31, job


def test_too_many_blocks_for_a_grid_leave_it_to_the_generic_kernels():
    options = DDFOptions()
    job = Job("forward", torch.float32, Problem((2**31, 1, 1, 1), options, nhwc=False), 16)
    (launch,) = plan(job, SM_90)
    assert launch.specialisation.file == "ddf_generic.cu" and launch.grid <= 2**20
    assert plan(job._replace(kind="filter_grad"), SM_90) == ()
    normalizing = job.problem._replace(options=options._replace(spatial_norm=True))
    assert plan(job._replace(problem=normalizing), SM_90) == ()  # which the generic kernels do not
