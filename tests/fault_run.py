"""Runs the simulated kernels with planted faults and prints what came of it, for test_kernel_faults.py.

    python tests/fault_run.py FOLDER "" FAULT...            plain
    python tests/fault_run.py FOLDER address FAULT...       with the sanitizers' libraries preloaded; also: thread

Each fault runs in a process of its own, since finding it may end that. Prints JSON: fault ->
[outcome, what was said]; the outcome is right, wrong, ended (the process did), or broken (the test is).
"""

import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
from branches_case import BranchesCase
from operator_case import DTYPES, FAST, LAYOUTS, Case, cases_of
from simulator import Simulator, build_all

from ddfnet.ops.gpu import ddf as gpu
from ddfnet.ops.gpu.specialisations import all_specialisations

BARRIER = "\n    __syncthreads();\n"


def without(what: str, which: int):
    """An edit that takes the nth occurrence out of the tiled kernels."""

    def edit(source: str) -> str:
        if "struct Tiling" not in source:
            return source
        parts = source.split(what)
        assert len(parts) > which + 1, f"no fault planted: {what!r} is not there"
        return what.join(parts[: which + 1]) + "/* planted fault */\n" + what.join(parts[which + 1 :])

    return edit


def instead(what: str, other: str, kernel: str = "struct Tiling"):
    def edit(source: str) -> str:
        assert kernel not in source or what in source, f"no fault planted: {what!r} is not there"
        return source.replace(what, other) if kernel in source else source

    return edit


def nothing(source: str) -> str:
    return source


EDITS = {
    "none": nothing,
    "no barrier after the copies": without(BARRIER, 0),
    "no barrier before a buffer is used again": without(BARRIER, 1),
    "no barrier after the statistics": without("\n        __syncthreads();\n", 0),
    "no wait for the copies": instead("copies_wait<0>();", ";"),
    "a wait for one group too few": instead("copies_wait<1>();", "copies_wait<2>();"),
    "shared memory one word short": nothing,
    "an input one element short": nothing,
    "an output one element short": nothing,
    "an address that its copies cannot have": nothing,
    "an output that is not written": instead("x0 + x >= width)", "x0 + x >= width || x == 3)", "ddf_apply("),
    "none, odd sizes": nothing,
    "none, every specialisation": nothing,
    "branches: none": nothing,
    "branches: no barrier after the copies": instead(
        "__syncthreads();\n    const Element* staged", "const Element* staged", "struct Branches"
    ),
    "branches: an input one element short": nothing,
}


class Patch:
    """monkeypatch without the undoing: the process ends."""

    @staticmethod
    def setattr(target, name, value):
        setattr(target, name, value)


KEPT: list[torch.Tensor] = []  # memory whose address only the kernels have


def one_short(tensor: torch.Tensor) -> int:
    """The address of a memory block for the tensor that ends one element early."""
    KEPT.append(torch.empty(tensor.numel() - 1, dtype=tensor.dtype))
    return KEPT[-1].data_ptr()


def right(fault: str, simulator: Simulator, case: Case | BranchesCase, orders) -> bool:
    x = case.x.data_ptr()
    instead_of_x = one_short(case.x) if fault.endswith("an input one element short") else x
    if fault == "an address that its copies cannot have":
        instead_of_x += 2

    def run(ready, device, pointers):
        pointers = [instead_of_x if pointer == x else pointer for pointer in pointers]
        if fault == "an output one element short" and ready.launch.specialisation.file == "ddf_apply.cu":
            pointers[3] = one_short(case.x)
        Simulator.run(simulator, ready, device, pointers)

    simulator.run = run
    results = []
    for simulator.order in orders:
        results.append(case.run(gpu))
    try:
        case.check(results[0])
    except AssertionError:
        return False
    return all(torch.equal(results[0][name], other[name]) for other in results[1:] for name in other)


def cases_for(fault: str, simulator: Simulator):
    """Several chunks, in two buffers and in one; the sanitizers' fault-free runs see more."""
    if fault.startswith("branches"):
        for layout in LAYOUTS.values():
            yield BranchesCase((1, 72, 9, 16), layout=layout)
        if fault == "branches: none":  # several blocks of outputs, a stride, element-wise copies; whole planes
            yield BranchesCase((1, 21, 7, 9), 49, 2, dtype=torch.float16)
            yield BranchesCase((2, 200, 5, 5), 18, dtype=torch.bfloat16, layout=torch.contiguous_format)
        return
    if fault == "none, odd sizes":  # the other dtypes and sizes, both phases of a stride, element-wise copies; generic
        odd = dict(stride=2, heads=3, combine="add")
        yield Case((1, 21, 7, 9), **odd, dtype=torch.bfloat16)
        yield Case((1, 21, 7, 9), kernel_size=7, **odd, dtype=torch.float64, layout=torch.contiguous_format)
        yield Case((1, 72, 5, 9), kernel_size=5, dtype=torch.float16)
        for layout in LAYOUTS.values():
            yield Case((1, 6, 5, 7), dilation=2, heads=2, layout=layout)
        yield Case((1, 21, 7, 9), **odd, dtype=torch.float16, spatial_norm=True)
        return
    for layout in LAYOUTS.values():
        yield Case((1, 72, 4, 8), layout=layout, spatial_norm=fault == "no barrier after the statistics")
        if fault == "none" and not simulator.sanitizer:
            yield Case((1, 72, 12, 36), kernel_size=5, layout=layout)
    if fault == "none, every specialisation":
        build_all(simulator, all_specialisations())
        for dtype, layout, (size, stride), combine in itertools.product(DTYPES, LAYOUTS.values(), FAST, ("mul", "add")):
            for norm in (False, True):
                yield from cases_of(dtype, layout, size, stride, combine, spatial_norm=norm)
        for dtype, layout in itertools.product(DTYPES, LAYOUTS.values()):
            yield Case((2, 6, 17, 20), 5, 2, 3, heads=2, combine="add", dtype=dtype, layout=layout)


def run(fault: str, folder: Path, sanitizer: str) -> str:
    simulator = Simulator(folder, sanitizer, EDITS[fault])
    simulator.install(Patch)
    simulator.shorter = 4 if fault == "shared memory one word short" else 0
    slow = sanitizer == "thread"  # it takes a second for a small launch
    orders = (0,) if slow or fault.startswith("none, ") else (0, 1, 2)
    all_right = [right(fault, simulator, case, orders) for case in cases_for(fault, simulator)]
    return "right" if all(all_right) else "wrong"


def main() -> None:
    folder, sanitizer, *faults = sys.argv[1:]
    torch.set_num_threads(1)
    Simulator(Path(folder), sanitizer).prepare()
    started = {}
    for fault in faults:  # all at once: most of their time is the compiler's
        messages, answer = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        child = os.fork()
        if child == 0:
            os.dup2(messages.fileno(), 2)
            try:
                said = run(fault, Path(folder), sanitizer)
            except BaseException as error:  # of the test itself: no finding
                said = f"broken: {error!r}"
            answer.write(said.encode())
            answer.flush()
            os._exit(0)
        started[child] = (fault, messages, answer)
    outcomes = {}
    for child, (fault, messages, answer) in started.items():
        _, status = os.waitpid(child, 0)
        messages.seek(0)
        answer.seek(0)
        text = messages.read().decode(errors="replace")
        outcomes[fault] = [answer.read().decode() if status == 0 else "ended", text[:4000]]
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
