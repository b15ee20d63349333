"""The kernels' PTX on the CPU (helpers/ptx_machine.py): a slice of every kind of kernel, and faults that must be found.

With --slow test_simulated_kernels.py and test_branches.py go through all of it, for four generations of GPUs.
"""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from branches_case import BranchesCase
from helpers.nvrtc import need_nvrtc
from helpers.ptx_machine import Fault, PtxMachine
from operator_case import DTYPES, LAYOUTS, Case
from test_branches import check as check_branches
from test_simulated_kernels import check

from ddfnet.ops.gpu import ddf as gpu
from ddfnet.ops.options import Epilogue

ARCHITECTURES = (75, 90)
SLICE = list(itertools.product(DTYPES, LAYOUTS))


@pytest.mark.parametrize("simulator", ARCHITECTURES, indirect=True, ids=lambda arch: f"sm_{arch}")
@pytest.mark.parametrize("dtype,layout", SLICE)
def test_every_kind_of_kernel_computes_its_part(simulator, dtype, layout):
    """Forward and gradients, raw filters, the epilogue, the generic kernels, both branches."""
    # one stride of each dtype and layout for one GPU, the other for the other: each meets both in either layout
    stride = 1 + (ARCHITECTURES.index(simulator.arch) + list(LAYOUTS).index(layout) + DTYPES.index(dtype) // 2) % 2
    common = dict(stride=stride, dtype=dtype, layout=LAYOUTS[layout])
    check(simulator, Case((2, 24, 9, 17), heads=2, **common))
    raw = Case((1, 21, 11, 7), heads=3, spatial_norm=True, **common)
    check(simulator, raw)
    check(simulator, Case((2, 6, 7, 10), 5, 2, 3, 2, "add", dtype=dtype, layout=LAYOUTS[layout]))
    check_branches(simulator, BranchesCase((2, 24, 9, 17), stride=stride, dtype=dtype, layout=LAYOUTS[layout]))
    wide = torch.promote_types(dtype, torch.float32)
    scale, bias = torch.randn(21, dtype=wide), torch.randn(21, dtype=wide)
    arguments = raw.x, raw.channel, raw.spatial, raw.options, Epilogue(scale, bias, relu=True)
    y = gpu.forward(*arguments)
    for simulator.order in (0, 1, 2):
        assert torch.equal(gpu.forward(*arguments), y)
    raw.want["y"] = (raw.want["y"] * scale.double().view(-1, 1, 1) + bias.double().view(-1, 1, 1)).relu()
    raw.check({"y": y})
    assert {launch.specialisation.kernel for launch in simulator.launches} >= {
        *("ddf_apply", "ddf_filter_grad", "ddf_sum_partials", "ddf_branches", "ddf_branches_mean"),
        *("ddf_forward", "ddf_grad_x", "ddf_grad_spatial", "ddf_grad_channel"),
    }


def nth(pattern: str, replacement: str, which: int = 0):
    """An edit of one place of a module's PTX, where it has as many."""

    def edit(text: str) -> str:
        places = list(re.finditer(pattern, text))
        if not -len(places) <= which < len(places):
            return text
        place = places[which]
        return text[: place.start()] + place.expand(replacement) + text[place.end() :]

    return edit


def every(pattern: str, replacement: str):
    return lambda text: re.sub(pattern, replacement, text)


BARRIER = r"bar\.sync \t0;"
COPY = r"(cp\.async\.c[ag]\.shared\.global) \[(%r\d+)\], \[(%rd\d+)\]"
STORE = r"st\.global\.([fb]32) \t\[(%rd\d+)\], (%[fr]\d+);"  # NVRTC before 13.2 has types and registers of floats
HALF_A_WARP = "mov.u32 %r0, %tid.x;\nsetp.lt.u32 %p0, %r0, 16;\n@%p0 bra $L_fault;\nbar.sync \t0;\n$L_fault:"
FAULTS = {  # what is planted -> the edit, and what must be found
    "no barrier at the first place": (nth(BARRIER, ""), "shared-race|copy-pending"),
    "no barrier at the second place": (nth(BARRIER, "", 1), "shared-race"),
    "no barrier at the last place": (nth(BARRIER, "", -1), "shared-race"),
    "a barrier of half a warp": (nth(BARRIER, HALF_A_WARP), "barrier-divergence"),
    "no wait for the copies": (every(r"cp\.async\.wait_group \d+;", ""), "copy-pending"),
    "a wait for one group too few": (every("wait_group 0;", "wait_group 1;"), "copy-pending"),
    "no group of the copies": (every(r"cp\.async\.commit_group;", ""), "copy-pending"),
    "no zeros for what does not exist": (
        every(r"selp\.b32 \t(%r\d+), (\d+), 0, (%p\d+);", r"mov.b32 \t\1, \2;"),
        "wrong",
    ),
    "an address of nothing": (
        every(r"selp\.b64 \t(%rd\d+), (%rd\d+), %rd\d+, (%p\d+);", r"mov.b64 \t\1, \2;"),
        "global-out-of-bounds|misaligned",
    ),
    "copies from four bytes further": (every(COPY, r"add.s64 \3, \3, 4;\n\1 [\2], [\3]"), "misaligned|wrong"),
    "stores one element further": (every(STORE, r"st.global.\1 [\2+4], \3;"), "global-out-of-bounds|wrong|unwritten"),
    "packs stored one element further": (
        every(r"st\.global\.v4\.([fb]32)\s*\[(%rd\d+)\]", r"st.global.v4.\1 [\2+4]"),
        "misaligned",
    ),
    "packs loaded two elements further": (
        every(r"ld\.shared\.v4\.([fb]32) (\t\{[^}]*\}), \[(%rd?\d+)\]", r"ld.shared.v4.\1 \2, [\3+8]"),
        "misaligned",
    ),
    "stores beyond shared memory": (
        every(r"st\.shared\.([fb]32) \t\[(%rd?\d+)\]", r"st.shared.\1 [\2+200000]"),
        "shared-out-of-bounds",
    ),
    "no spatial taps in shared memory": (every(r"st\.shared\.v4\.[fb]32[^;]*;", ""), "uninitialised"),
    "no stores of results": (every(r"st\.global\.(v[24]\.)?[fb]32[^;]*;", ""), "wrong"),
    "some results not stored": (nth(r"st\.global\.v4\.[fb]32[^;]*;", ""), "unwritten"),
    "half of a pointer": (
        nth(r"ld\.param\.([ub])64 \t(%rd\d+), \[(\w+_param_1)\];", r"ld.param.\g<1>32 \2, [\3];"),
        "global-out-of-bounds",
    ),
    "results read as constants": (every(STORE, r"ld.global.nc.b32 %r0, [\2];\nst.global.\1 [\2], \3;"), "global-race"),
    "threads that store at one place": (
        every(STORE, r"and.b64 \2, \2, -64;\nst.global.\1 [\2], \3;"),
        "global-race",
    ),
    "a tensor that is read after another thread": (
        every(STORE, r"and.b64 %rd0, \2, -64;\nld.global.b32 %r0, [%rd0];\nst.global.\1 [\2], \3;"),
        "global-race",
    ),
    "a product without its sum": (
        nth(r"fma\.rn\.ftz\.f32 \t(%[fr]\d+), (%[fr]\d+), (%[fr]\d+), %[fr]\d+;", r"mul.ftz.f32 \1, \2, \3;", 50),
        "wrong",
    ),
}


@pytest.mark.parametrize("fault", ["none", *FAULTS])
def test_each_planted_fault_is_found(kernels_folder, monkeypatch, fault):
    need_nvrtc()
    edit, expected = FAULTS.get(fault, (lambda text: text, None))
    machine = PtxMachine(kernels_folder, 80, edit)
    machine.install(monkeypatch)
    found = None
    with machine.watching():
        for case in (
            Case((2, 24, 9, 17), heads=2),
            Case((2, 72, 6, 8), layout=torch.contiguous_format, spatial_norm=True),
            Case((1, 70, 9, 17), kernel_size=5),
        ):
            try:
                case.check(case.run(gpu))
            except Fault as error:
                found = found or str(error)
            except AssertionError as error:
                found = found or f"wrong: {error}"
    assert found is None if expected is None else found and re.match(expected, found), found


def test_cupy_hands_over_every_parameter_as_the_kernels_declare_them(kernels_folder):
    need_nvrtc(), pytest.importorskip("cupy_backends")
    command = [sys.executable, str(Path(__file__).parent / "helpers/real_cupy.py"), str(kernels_folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    if "lacks" in found:
        pytest.skip(f"this CuPy has no {found['lacks']}, a private name")
    assert found["differ"] == []
    assert set(found["launched"]) == {
        *("ddf_apply", "ddf_filter_grad", "ddf_sum_partials", "ddf_branches", "ddf_branches_mean"),
        *("ddf_forward", "ddf_grad_x", "ddf_grad_spatial", "ddf_grad_channel"),
    }
