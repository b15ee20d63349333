"""What NVRTC makes of the kernels, without a GPU: every architecture, no spilled register, the committed table."""

import itertools
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ddfnet.ops import kernel_sources
from ddfnet.ops.geometry import PROBLEM, TILING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
pytest.importorskip("cuda.bindings.nvrtc", reason="needs NVRTC (cuda-bindings)")

from kernel_table import compile_module, modules, nvdisasm, per_output  # noqa: E402

TABLE = json.loads((ROOT / "benchmarks/kernels-sm_90.json").read_text())


def key_of(kernel: str, macros: dict) -> tuple:
    return (kernel, *((name, macros[name]) for name in sorted(macros) if name.isupper()))


@pytest.mark.parametrize("arch", [75, 80, 90, 100, 120])
def test_every_specialisation_compiles_and_spills_no_register(arch):
    """Each kernel of the package, with exactly the options that CuPy gets."""
    with ThreadPoolExecutor(2) as pool:  # NVRTC runs outside of Python's lock
        compiled = list(pool.map(lambda module: compile_module(module[0], arch), modules()))
    rows = {key_of(row["kernel"], row): row for row in TABLE["kernels"]}
    for module, result in zip(modules(), compiled, strict=True):
        assert result.cubin, result.log
        for wanted in module:
            registers, spilled = result.resources(wanted.kernel)
            assert spilled == 0, wanted
            if arch == 90 and is_nvrtc_of_table():
                assert registers == rows.pop(key_of(wanted.kernel, dict(wanted.macros)))["registers"], wanted
    assert arch != 90 or not is_nvrtc_of_table() or not rows, "the table has kernels that are no more"


def is_nvrtc_of_table() -> bool:
    from cuda.bindings import nvrtc

    _, major, minor = nvrtc.nvrtcVersion()
    return f"{major}.{minor}" == TABLE["nvrtc"]


def test_table_of_instructions_is_that_of_the_kernels():
    """Of the 3x3 kernels in channels_last; scripts/kernel_table.py makes all of them anew."""
    if not nvdisasm() or not is_nvrtc_of_table():
        pytest.skip(f"needs nvdisasm and NVRTC {TABLE['nvrtc']}")
    rows = {key_of(row["kernel"], row): row for row in TABLE["kernels"]}
    checked = 0
    for wanted, *_ in modules():
        macros = dict(wanted.macros)
        if macros.get("NHWC") and macros["KERNEL_SIZE"] == 3 and macros["DTYPE"] < 2 and macros["ADD"] == 0:
            counted = per_output(wanted, compile_module(wanted, 90).cubin)
            assert counted == rows[key_of(wanted.kernel, macros)]["instructions_per_output"], wanted
            checked += 1
    assert checked == 12


def test_every_row_of_the_table_has_no_spill():
    assert len(TABLE["kernels"]) == sum(map(len, modules()))
    assert all(row["spilled_bytes"] == 0 for row in TABLE["kernels"])


def test_options_are_those_that_cupy_gives_nvrtc():
    """CuPy adds -ftz=true and the architecture to ours, and nothing else that changes code."""
    cupy = pytest.importorskip("cupy")
    import inspect

    from cupy.cuda import compiler

    source = inspect.getsource(compiler._compile_with_cache_cuda)
    added = set(re.findall(r"options \+= \('(.*?)',", source)) | set(re.findall(r"options \+= \((.*?)\)", source))
    assert any("-ftz=true" in option for option in added), cupy.__version__
    unknown = [o for o in added if not re.search(r"ftz|dlto|debug|JITIFY", o)]
    assert not unknown, unknown


@pytest.mark.parametrize(
    "file,name,dtype", [("ddf_tile.cuh", "Tiling", TILING), ("ddf_generic.cu", "Problem", PROBLEM)]
)
def test_parameter_blocks_are_those_of_the_sources(file, name, dtype):
    """Field by field, since the launcher passes bytes."""
    body = re.search(rf"struct {name} {{(.*?)}};", kernel_sources()[file].read_text(), re.DOTALL)[1]
    fields = []
    for line in body.split("\n"):
        if declared := re.match(r"\s*(i64|int) ([^;]*);", line):
            size = {"i64": "i8", "int": "i4"}[declared[1]]
            for field in declared[2].split(","):
                label, _, count = field.strip().partition("[")
                fields.append((label, size, int(count.rstrip("]") or 1)))
    expected = [(n, dtype[n].base.str[1:], max(1, *dtype[n].shape, 1)) for n in dtype.names]
    assert fields == expected


def test_plans_stay_within_the_limits_of_every_architecture():
    from ddfnet.ops.geometry import Job, plan

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
        nothing = (0, 0, 0, 0)
        job = Job(kind, dtype, n, c, h, w, k, s, 1, 1, False, nhwc, nothing, nothing, 16, True, True, kilobytes * 1024)
        launch = plan(job)
        assert launch is not None, job
        assert launch.shared <= (kilobytes - 1) * 1024 and 32 <= launch.block <= 256 and launch.grid < 2**31, job


def test_too_many_blocks_for_a_grid_leave_it_to_the_generic_kernels():
    from ddfnet.ops.geometry import Job, plan

    nothing = (0, 0, 0, 0)
    job = Job("forward", 0, 2**31, 1, 1, 1, 3, 1, 1, 1, False, False, nothing, nothing, 16)
    assert plan(job) is None
    launch = plan(job._replace(kind="generic_forward"))
    assert launch is not None and launch.grid <= 2**20
