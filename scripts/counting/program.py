"""The machine code of a kernel, as nvdisasm prints it, executed as far as it decides which instructions come next.

Integers, predicates and addresses are computed as sm_90 does. What is loaded from tensors and shared memory, and every
sum and product of floating-point numbers, is 1: no kernel here decides anything by them but whether a quick way through
a division or a root serves, and for 1 it does.
"""

import re

import numpy as np

from .operands import address_reader, is_predicate, predicate_reader
from .operations import MAKERS, ONE, UNIFORM
from .threads import PREDICATES, REGISTERS, Access, Step, Threads

LINE = re.compile(r"(?:@(!?U?P\w+) )?([A-Z0-9_.a-z]+) ?(.*)")
OPERAND = re.compile(r"c\[[^]]*\]\[[^]]*\]|desc\[[^]]*\]\[[^]]*\]|\[[^]]*\]|`\([^)]*\)|[^,\s]+")
IGNORED = {"BAR", "BSSY", "BSYNC", "BREAK", "WARPSYNC", "NOP", "DEPBAR", "LDGDEPBAR", "BMOV"}
ACCESSES = {"LDG", "STG", "LDS", "STS", "LDGSTS"}


class Program:
    """The instructions of a kernel, ready to run."""

    def __init__(self, code: list[str]):
        """`code`: instructions, and labels as 'label:'."""
        self.lines = [line for line in code if not line.endswith(":")]
        labels, count = {}, 0
        for line in code:
            if line.endswith(":"):
                labels[line[:-1]] = count
            else:
                count += 1
        self.steps = [_step(line, labels) for line in self.lines]
        leaders = {0, *labels.values(), *(at + 1 for at, step in enumerate(self.steps) if step.leads is not None)}
        starts = sorted(leader for leader in leaders if leader < count)
        # begin -> end, of what runs without a choice
        self.blocks = dict(zip(starts, [*starts[1:], count], strict=True))


def _step(line: str, labels: dict[str, int]) -> Step:
    found = LINE.fullmatch(line)
    assert found, line
    guard = None
    if found[1]:
        guard = PREDICATES[found[1].lstrip("!")], not found[1].startswith("!")
    name, operands = found[2], OPERAND.findall(found[3])
    kind, *modifiers = name.split(".")
    if kind == "BRA":
        where = labels[operands[-1][2:-1]]
        return Step(guard, predicate_reader(operands[0]) if is_predicate(operands[0]) else None, where)
    if kind == "EXIT":
        return Step(guard, None, -1)
    if kind in ("CALL", "RET"):
        return Step(guard, _unexpected(line))
    if kind in IGNORED:
        return Step(guard, lambda t, mask: None)
    if kind in ACCESSES:
        return Step(guard, _access(kind, modifiers, operands))
    for names, make in MAKERS:
        if kind in names:
            return Step(guard, make(kind.removeprefix("U") if kind in UNIFORM else kind, modifiers, operands))
    raise NotImplementedError(f"the meaning of {line!r} is not known here")


def _unexpected(line: str):
    def run(t, mask):
        raise NotImplementedError(f"{line!r} was not expected to run")

    return run


def _access(kind: str, modifiers: list[str], operands: list[str]):
    sizes = {"64": 8, "128": 16, "U16": 2, "S16": 2, "U8": 1}
    size = next((sizes[modifier] for modifier in modifiers if modifier in sizes), 4)
    places = [address_reader(operand) for operand in operands if "[" in operand]
    exists = predicate_reader(operands[-1]) if is_predicate(operands[-1]) else None  # of a copy
    result = REGISTERS[operands[0]] if kind in ("LDG", "LDS") else 319

    def run(t: Threads, mask: np.ndarray) -> Access:
        for number in range(max(1, size // 4) if result not in (255, 319) else 0):
            t.set(result + number, np.int64(ONE if size > 2 else ONE >> 16), mask)
        shared = places[0](t) if kind == "LDGSTS" else None
        reads = mask if exists is None else mask & exists(t)
        return Access(0, kind, size, places[-1](t), shared, mask, reads)

    return run
