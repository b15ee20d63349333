"""What sm_90's instructions do to registers and predicates: each function here and in integers.py makes one kind's.

They take the instruction's name, the words behind it and its operands, and return what is called with the threads and
which of them are to do it. NVIDIA does not describe them. That these meanings are right shows in what a kernel stores
by them, every element of its results once, and in that it reads and writes as often as its PTX does
(tests/test_kernel_counts.py).
"""

from collections.abc import Callable

import numpy as np

from .integers import (
    COMPARISONS,
    absolute,
    add,
    compare,
    logic,
    minimum,
    multiply,
    permute,
    predicate_logic,
    scale_and_add,
    select,
    shift,
)
from .operands import float_reader, predicate_reader, reader, signed
from .threads import PREDICATES, REGISTERS, WARP

ONE, ONE_DOUBLE = 0x3F800000, 0x3FF00000  # 1.0, and the upper half of 1.0


def _compare_floats(kind, modifiers, operands):  # FSETP, DSETP
    comparison, double = modifiers[0], kind == "DSETP"
    results, sources = [PREDICATES[operand] for operand in operands[:2]], operands[2:]
    a, b, with_ = float_reader(sources[0], double), float_reader(sources[1], double), predicate_reader(sources[2])
    join = np.logical_or if "OR" in modifiers else np.logical_and

    def run(t, mask):
        x, y = a(t), b(t)
        unordered = np.isnan(x) | np.isnan(y)
        if comparison == "NAN":
            found = unordered
        else:
            found = COMPARISONS[comparison[:2]](x, y) & ~unordered | (unordered & (len(comparison) == 3))
        t.set_predicate(results[0], join(found, with_(t)), mask)
        t.set_predicate(results[1], join(~found, with_(t)), mask)

    return run


def _move(kind, modifiers, operands):  # MOV, R2UR
    result, source = REGISTERS[operands[0]], reader(operands[1])
    return lambda t, mask: t.set(result, source(t), mask)


def _load_constant(kind, modifiers, operands):  # LDC
    result, place = REGISTERS[operands[0]], operands[1].split("][")[1].rstrip("]")
    offset, pair = 0 if place in ("RZ", "URZ") else int(place, 16), "64" in modifiers

    def run(t, mask):
        for number in range(2 if pair else 1):
            t.set(result + number, np.int64(t.constant(offset + 4 * number, 4)), mask)

    return run


def _special(kind, modifiers, operands):  # S2R, S2UR
    result = REGISTERS[operands[0]]
    read = {"SR_TID.X": lambda t: t.thread, "SR_CTAID.X": lambda t: t.block, "SR_CgaCtaId": lambda t: np.int64(0)}[
        operands[1]
    ]
    return lambda t, mask: t.set(result, read(t), mask)


def _from_integer(kind, modifiers, operands):  # I2F, rounded up
    result, source = REGISTERS[operands[0]], reader(operands[1])
    number = (lambda value: value) if "U32" in modifiers else signed

    def run(t, mask):
        exact = number(source(t)).astype(np.float64)
        single = exact.astype(np.float32)
        single = np.where(single < exact, np.nextafter(single, np.float32(np.inf)), single)
        t.set(result, single.view(np.uint32).astype(np.int64), mask)

    return run


def _to_integer(kind, modifiers, operands):  # F2I of what is not negative
    result, source = REGISTERS[operands[0]], float_reader(operands[1], double=False)

    def run(t, mask):
        with np.errstate(invalid="ignore"):  # of threads that do not take part
            t.set(result, np.minimum(source(t).astype(np.float64), 2**32 - 1).astype(np.int64), mask)

    return run


def _root_or_inverse(kind, modifiers, operands):  # MUFU
    result, inverse = REGISTERS[operands[0]], modifiers[0] == "RCP"
    read = float_reader(operands[1], double=False)

    def run(t, mask):
        if inverse:
            with np.errstate(divide="ignore", over="ignore"):
                t.set(result, (np.float32(1) / read(t)).view(np.uint32).astype(np.int64), mask)
        else:
            t.set(result, np.int64(ONE_DOUBLE if modifiers[0].endswith("64H") else ONE), mask)

    return run


def _one(kind, modifiers, operands):  # sums and products
    result, double = REGISTERS[operands[0]], kind.startswith("D")

    def run(t, mask):
        if double:
            t.set(result, np.int64(0), mask)
            t.set(result + 1, np.int64(ONE_DOUBLE), mask)
        else:
            t.set(result, np.int64(ONE), mask)

    return run


def _two_halves(kind, modifiers, operands):  # HFMA2.MMA, by which a constant is loaded
    assert operands[1:3] == ["-RZ", "RZ"], operands
    result = REGISTERS[operands[0]]
    upper, lower = (int(np.float16(float(operand)).view(np.uint16)) for operand in operands[3:])
    return lambda t, mask: t.set(result, np.int64(upper << 16 | lower), mask)


def _zero_pair(kind, modifiers, operands):  # CS2R R2, SRZ
    result = REGISTERS[operands[0]]
    return lambda t, mask: t.set_pair(result, np.int64(0), mask)


def _keep_predicates(kind, modifiers, operands):  # P2R
    result, chosen = REGISTERS[operands[0]], int(operands[-1], 16)

    def run(t, mask):
        bits = sum(t.predicates[number].astype(np.int64) << number for number in range(7))
        t.set(result, bits & chosen, mask)

    return run


def _restore_predicates(kind, modifiers, operands):  # R2P
    source, chosen = reader(operands[1]), int(operands[-1], 16)

    def run(t, mask):
        for number in range(7):
            if chosen >> number & 1:
                t.set_predicate(number, source(t) >> number & 1 > 0, mask)

    return run


def _never(kind, modifiers, operands):  # FCHK: whether a division needs the slow way
    result = PREDICATES[operands[0]]
    return lambda t, mask: t.set_predicate(result, False, mask)


def _any_of_warp(kind, modifiers, operands):  # VOTE.ANY
    result, source = PREDICATES[operands[0]], predicate_reader(operands[-1])

    def run(t, mask):
        found = (source(t) & mask).reshape(-1, WARP).any(1).repeat(WARP)
        t.set_predicate(result, found, mask)

    return run


UNIFORM = {"UIADD3", "UIMAD", "ULEA", "ULOP3", "UPLOP3", "UISETP", "USEL", "USHF", "UMOV", "ULDC"}
MAKERS: list[tuple[set[str], Callable]] = [
    ({"IADD3", "UIADD3", "VIADD"}, add),
    ({"IMAD", "UIMAD"}, multiply),
    ({"LEA", "ULEA"}, scale_and_add),
    ({"LOP3", "ULOP3"}, logic),
    ({"PLOP3", "UPLOP3"}, predicate_logic),
    ({"ISETP", "UISETP"}, compare),
    ({"FSETP", "DSETP"}, _compare_floats),
    ({"SEL", "USEL"}, select),
    ({"VIMNMX", "VIADDMNMX"}, minimum),
    ({"SHF", "USHF"}, shift),
    ({"MOV", "UMOV", "R2UR"}, _move),
    ({"IABS"}, absolute),
    ({"LDC", "ULDC"}, _load_constant),
    ({"S2R", "S2UR"}, _special),
    ({"PRMT"}, permute),
    ({"I2F"}, _from_integer),
    ({"F2I"}, _to_integer),
    ({"MUFU"}, _root_or_inverse),
    ({"FADD", "FMUL", "FFMA", "FSEL", "F2F", "F2FP", "HADD2", "DADD", "DMUL", "DFMA"}, _one),
    ({"HFMA2"}, _two_halves),
    ({"CS2R"}, _zero_pair),
    ({"P2R"}, _keep_predicates),
    ({"R2P"}, _restore_predicates),
    ({"FCHK"}, _never),
    ({"VOTEU", "VOTE"}, _any_of_warp),
]
