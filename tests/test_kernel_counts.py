"""What the kernels cost, counted by running their machine code (scripts/counting), beside the committed table."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers.ptx_machine import PtxMachine
from operator_case import Case

from ddfnet.nn import DDF
from ddfnet.ops.gpu import ddf as gpu
from ddfnet.ops.gpu.instructions import instructions_of
from ddfnet.ops.gpu.plan import plan
from ddfnet.ops.gpu.specialisations import DTYPES, vector_of
from ddfnet.ops.gpu.tiling import choose

try:
    from counting.compiled import nvdisasm, version
    from counting.counts import count, sectors_of, wavefronts_of
    from counting.layers import BATCH, LAYERS, PASSES, SHARED, Layer, job_of, launches_of, results_of
    from counting.threads import Threads, constant_bank
    from kernel_table import program_of, row_of
except (ImportError, SystemExit):
    pytest.skip("needs NVRTC (cuda-bindings)", allow_module_level=True)
if not nvdisasm():
    pytest.skip("needs nvdisasm, triton has one", allow_module_level=True)

ROOT = Path(__file__).resolve().parent.parent
CASES = list(itertools.product(PASSES, DTYPES, (True, False)))
SMALL = Layer(24, 17, 1, 1)


def table() -> list[dict]:
    file = ROOT / f"benchmarks/kernels-sm_90-nvrtc-{version()}.json"
    if not file.exists():
        pytest.skip(f"no table of NVRTC {version()} is committed")
    return json.loads(file.read_text())["layers"]


@pytest.mark.parametrize("layer", [SMALL, SMALL._replace(stride=2)], ids=["stride 1", "stride 2"])
@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("nhwc", [True, False])
def test_every_element_of_the_results_is_stored_once(kind, nhwc, layer):
    """By addresses that the machine code computes, which would not be these if an instruction were misunderstood."""
    dtype = DTYPES[(PASSES.index(kind) + nhwc + layer.stride) % 4]
    job = job_of(kind, dtype, nhwc, layer)
    job = job._replace(problem=job.problem._replace(shape=(2, 24, 17, 17)))
    (launch, pointers), *_ = launches_of(job)
    stored: dict[int, list[np.ndarray]] = {}

    def see(access):
        if access.kind == "STG":
            for address in access.addresses[access.active]:
                place = np.arange(address % 2**40, address % 2**40 + access.size, 2)
                stored.setdefault(int(address >> 40), []).append(place)

    numbers = launch.parameters[0].tobytes()
    numbers += b"".join((given * (index + 1) << 40).to_bytes(8, "little") for index, given in enumerate(pointers))
    bank = constant_bank(numbers, launch.grid, launch.block)
    Threads(np.arange(launch.grid), launch.block, bank).run(program_of(launch.specialisation), see)
    out = job.problem.out_size[0] ** 2
    sizes = {"forward": {4: 2 * 24 * out}, "grad_x": {4: 2 * 24 * 17 * 17}, "filter_grad": {6: 2 * 9 * out}}[kind]
    expected = {number: size * dtype.itemsize for number, size in sizes.items()}
    if kind == "filter_grad":  # and sums for dc, of each tile
        partial = launches_of(job)
        tiles = list(partial)[1][0].parameters[2]
        expected[8] = 2 * tiles * 24 * 9 * max(4, dtype.itemsize)
    assert stored.keys() == expected.keys()
    for number, size in expected.items():
        places = np.sort(np.concatenate(stored[number]))
        assert np.array_equal(places, np.arange(0, size, 2)), number


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_accessed_as_often_as_in_the_ptx(kernels_folder, monkeypatch, dtype, layout):
    """Copies and stores of tensors, which ptxas may move but neither join nor leave out."""
    machine = PtxMachine(kernels_folder, 90)
    machine.install(monkeypatch)
    with machine.watching():
        Case((2, 24, 9, 17), dtype=dtype, layout=layout, spatial_norm=True).run(gpu)
    for launch, by_ptx in zip(machine.launches, machine.executed, strict=True):
        kernel = launch.specialisation.kernel
        if kernel == "ddf_sum_partials":
            continue
        pointers = [True] * 4 + [False] * 2 if kernel == "ddf_apply" else [True] * 6 + [False, True]
        bank = constant_bank(parameters_of(launch, pointers), launch.grid, launch.block)
        found = Counter()

        def see(access, found=found):
            found[access.kind, access.size] += int(np.count_nonzero(access.active))

        Threads(np.arange(launch.grid), launch.block, bank).run(program_of(launch.specialisation), see)
        for kind, names in {"LDGSTS": ("copy",), "STG": ("store.global",)}.items():
            ours = {size: number for (name, size), number in found.items() if name == kind and number}
            theirs = {size: number for (name, size), number in by_ptx.items() if name in names and number}
            assert ours == theirs, (kernel, kind)


def parameters_of(launch, pointers) -> bytes:
    addresses = b"".join((given * (index + 1) << 40).to_bytes(8, "little") for index, given in enumerate(pointers))
    return launch.parameters[0].tobytes() + addresses


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(part).removeprefix("torch.") for part in case))
def test_every_kernel_holds_its_line_of_the_table(case):
    """One layer of each pass, dtype and layout; all of them with --slow."""
    require_lines(case, [LAYERS[2 + CASES.index(case) % 5]])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(part).removeprefix("torch.") for part in case))
def test_every_line_of_the_table_is_that_of_the_kernels(case):
    require_lines(case, LAYERS)


def require_lines(case, layers) -> None:
    kind, dtype, nhwc = case
    rows = {(row["pass"], row["dtype"], row["nhwc"], row["channels"], row["size"]): row for row in table()}
    for layer in layers:
        row = row_of(kind, dtype, nhwc, layer)
        assert row == rows[kind, row["dtype"], nhwc, layer.channels, layer.size]


@pytest.mark.parametrize("kind", ["forward", "grad_x"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_pixels_travel_by_whole_packs_in_channels_last(kind, dtype):
    """Copies of 16 bytes, stores of a thread's channels by one instruction, in every layer of the table."""
    rows = [row for row in table() if (row["pass"], row["nhwc"]) == (kind, True) and row["dtype"] == str(dtype)[6:]]
    assert len(rows) == len(LAYERS)
    pack = vector_of(DTYPES.index(dtype)) * dtype.itemsize
    for row in rows:
        kinds = {name for name in row["accesses"] if name.startswith(("LDGSTS", "STG"))}
        assert kinds == {"LDGSTS.16", f"STG.{pack}"}, row


def test_wavefronts_are_those_of_32_banks():
    lanes, everyone = np.arange(32), np.ones(32, bool)
    assert wavefronts_of(4 * lanes, 4, everyone) == 1
    assert wavefronts_of(0 * lanes, 4, everyone) == 1  # one word for all
    assert wavefronts_of(8 * lanes, 4, everyone) == 2
    assert wavefronts_of(128 * lanes, 4, everyone) == 32
    assert wavefronts_of(2 * lanes, 2, everyone) == 1
    assert wavefronts_of(8 * lanes, 8, everyone) == 2 and wavefronts_of(16 * lanes, 16, everyone) == 4
    assert wavefronts_of(144 * lanes, 16, everyone) == 4 and wavefronts_of(128 * lanes, 16, everyone) == 32
    assert wavefronts_of(128 * lanes, 4, lanes < 3) == 3 and wavefronts_of(4 * lanes, 4, lanes < 0) == 0
    assert sectors_of(4 * lanes, everyone) == 4 and sectors_of(64 * lanes, lanes < 5) == 5


def test_counts_grow_with_the_batch_alone():
    job = job_of("forward", torch.bfloat16, True, LAYERS[4])
    (launch, pointers), *_ = launches_of(job)
    counted = count(launch, pointers, program_of(launch.specialisation), BATCH)
    assert counted.accesses["STG.8"] * 32 * 4 == BATCH * 256 * 14 * 14  # four channels a thread, no lane without work
    assert plan(job, SHARED)[0].grid % BATCH == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(str(part).removeprefix("torch.") for part in case))
def test_the_planner_estimates_what_is_counted_within_a_quarter(case):
    kind, dtype, nhwc = case
    rows = {
        (row["channels"], row["size"]): row
        for row in table()
        if (row["pass"], row["nhwc"]) == (kind, nhwc) and row["dtype"] == str(dtype).removeprefix("torch.")
    }
    for layer in LAYERS:
        job = job_of(kind, dtype, nhwc, layer)
        work, tile, areas, block = choose(job, SHARED)
        estimated = instructions_of(work, tile, areas, block) * block.grid / results_of(job)
        counted = rows[layer.channels, layer.size]["instructions_per_output"]
        assert 0.75 <= estimated / counted <= 1.25, (layer, estimated, counted)


def test_layers_are_those_of_the_network():
    found: Counter[tuple[int, int, int]] = Counter()
    with torch.device("meta"):
        network = timm.create_model("ddf_resnet50")
        for module in network.modules():
            if isinstance(module, DDF):
                module.register_forward_pre_hook(lambda ddf, x: found.update([(*x[0].shape[1:3], ddf.stride)]))
        network(torch.empty(1, 3, 224, 224))
    assert found == {(layer.channels, layer.size, layer.stride): layer.times for layer in LAYERS}
