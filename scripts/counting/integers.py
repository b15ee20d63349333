"""What sm_90's instructions on integers and predicates do; see operations.py."""

import numpy as np

from .operands import is_predicate, predicate_reader, reader, signed
from .threads import PREDICATES, REGISTERS


def _split(operands: list[str]) -> tuple[int, list[int], list[str]]:
    """Return the result's register, the predicates beside it and the sources."""
    result, *rest = operands
    beside = []
    while rest and is_predicate(rest[0]):
        beside.append(PREDICATES[rest.pop(0)])
    return REGISTERS[result], beside, rest


def add(kind, modifiers, operands):  # IADD3, VIADD
    result, carries, sources = _split(operands)
    read = [reader(source) for source in sources if not is_predicate(source)]
    into = [predicate_reader(source) for source in sources if is_predicate(source)]

    def run(t, mask):
        total = sum(source(t) for source in read) + sum(carry(t).astype(np.int64) for carry in into)
        t.set(result, total, mask)
        for number, carry in enumerate(carries, 1):
            t.set_predicate(carry, total >> 32 >= number, mask)

    return run


def multiply(kind, modifiers, operands):  # IMAD
    result, carries, sources = _split(operands)
    carry = predicate_reader(sources.pop()) if "X" in modifiers else None
    a, b, c = (reader(source) for source in sources)
    sign = (lambda value: value & 0xFFFFFFFF) if "U32" in modifiers else (lambda value: signed(value & 0xFFFFFFFF))

    def run(t, mask):
        t.set(result, sign(a(t)) * sign(b(t)) + c(t) + (0 if carry is None else carry(t)), mask)

    def run_wide(t, mask):  # with 64 bits of c and of the result, or with their upper half alone
        product = sign(a(t)) * sign(b(t))
        total = product + t.pair(REGISTERS[sources[2].replace(".reuse", "")]) + (0 if carry is None else carry(t))
        if "WIDE" in modifiers:
            t.set_pair(result, total, mask)
        else:
            t.set(result, total >> 32, mask)
        for number in carries:
            t.set_predicate(number, total.astype(np.uint64) < np.asarray(product).astype(np.uint64), mask)

    return run_wide if "WIDE" in modifiers or "HI" in modifiers else run


def scale_and_add(kind, modifiers, operands):  # LEA
    result, carries, sources = _split(operands)
    carry = predicate_reader(sources.pop()) if is_predicate(sources[-1]) else None
    shift = int(sources.pop(), 16)
    read = [reader(source) for source in sources]
    high, extended = "HI" in modifiers, "SX32" in modifiers

    def run(t, mask):
        a, b = read[0](t), read[1](t)
        if high:
            upper = signed(a) >> 31 if extended else read[2](t) if len(read) > 2 else 0
            scaled = ((upper << 32 | a) << shift) >> 32 & 0xFFFFFFFF
        else:
            scaled = a << shift & 0xFFFFFFFF
        total = scaled + b + (0 if carry is None else carry(t))
        t.set(result, total, mask)
        for number in carries:
            t.set_predicate(number, total >> 32 > 0, mask)

    return run


def _look_up(table: int, *bits):
    """Return the bitwise function of three that the table has at (a, b, c), a being its highest index."""
    result = 0
    for index in range(8):
        if table >> index & 1:
            a, b, c = (bit if index >> place & 1 else ~bit for place, bit in zip((2, 1, 0), bits, strict=True))
            result = result | (a & b & c)
    return result


def logic(kind, modifiers, operands):  # LOP3
    beside = PREDICATES[operands.pop(0)] if is_predicate(operands[0]) else 7
    result, sources = REGISTERS[operands[0]], operands[1:]
    table, into = int(sources[3], 16), predicate_reader(sources[4])
    read = [reader(source) for source in sources[:3]]

    def run(t, mask):
        value = _look_up(table, *(source(t) for source in read)) & 0xFFFFFFFF
        t.set(result, np.int64(value) if isinstance(value, int) else value, mask)
        t.set_predicate(beside, (value != 0) | into(t), mask)

    return run


def predicate_logic(kind, modifiers, operands):  # PLOP3
    results = [PREDICATES[operand] for operand in operands[:2]]
    read = [predicate_reader(operand) for operand in operands[2:5]]
    tables = [int(operand, 16) for operand in operands[5:7]]

    def run(t, mask):
        bits = [source(t).copy() for source in read]
        for result, table in zip(results, tables, strict=True):
            t.set_predicate(result, np.not_equal(_look_up(table, *bits), 0), mask)

    return run


COMPARISONS = {
    "EQ": np.equal,
    "NE": np.not_equal,
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
}


def compare(kind, modifiers, operands):  # ISETP
    comparison, *others = modifiers
    results, sources = [PREDICATES[operand] for operand in operands[:2]], operands[2:]
    a, b = reader(sources[0]), reader(sources[1])
    with_ = predicate_reader(sources[2])
    low = predicate_reader(sources[3]) if "EX" in others else None
    sign = (lambda value: value & 0xFFFFFFFF) if "U32" in others else (lambda value: signed(value & 0xFFFFFFFF))
    function = COMPARISONS[comparison]
    join = np.logical_or if "OR" in others else np.logical_and

    def run(t, mask):
        x, y = sign(a(t)), sign(b(t))
        found = function(x, y)
        if low is not None:  # the upper halves; those below, compared before, decide where these are equal
            found = np.where(x == y, low(t), np.not_equal(x, y) if comparison == "NE" else function(x, y))
        other = with_(t).copy()
        t.set_predicate(results[0], join(found, other), mask)
        t.set_predicate(results[1], join(~found, other), mask)

    return run


def select(kind, modifiers, operands):  # SEL
    result, (a, b) = REGISTERS[operands[0]], (reader(operand) for operand in operands[1:3])
    chosen = predicate_reader(operands[3])
    return lambda t, mask: t.set(result, np.where(chosen(t), a(t), b(t)), mask)


def minimum(kind, modifiers, operands):  # VIMNMX, VIADDMNMX
    result, *sources = operands
    chosen = predicate_reader(sources.pop())
    read = [reader(source) for source in sources]
    sign = (lambda value: value & 0xFFFFFFFF) if "U32" in modifiers else (lambda value: signed(value & 0xFFFFFFFF))

    def run(t, mask):
        first = sign(read[0](t) + read[1](t) if len(read) == 3 else read[0](t))
        second = sign(read[-1](t))
        t.set(REGISTERS[result], np.where(chosen(t), np.minimum(first, second), np.maximum(first, second)), mask)

    return run


def shift(kind, modifiers, operands):  # SHF
    result, (low, by, high) = REGISTERS[operands[0]], (reader(operand) for operand in operands[1:])
    left, upper = modifiers[0] == "L", "HI" in modifiers
    wide, arithmetic = modifiers[1] in ("U64", "S64"), modifiers[1] == "S32"

    def run(t, mask):
        count = by(t)
        if left:
            value = (high(t) << 32 | low(t)) << count >> 32 if upper and wide else low(t) << count
        else:
            assert upper and not wide, modifiers
            value = (signed(high(t)) if arithmetic else high(t)) >> np.minimum(count, 63)
        t.set(result, value, mask)

    return run


def absolute(kind, modifiers, operands):  # IABS
    result, source = REGISTERS[operands[0]], reader(operands[1])
    return lambda t, mask: t.set(result, np.abs(signed(source(t))), mask)


def permute(kind, modifiers, operands):  # PRMT
    result, (a, by, b) = REGISTERS[operands[0]], (reader(operand) for operand in operands[1:])

    def run(t, mask):
        whole, choice = b(t) << 32 | a(t), by(t)
        t.set(result, sum((whole >> 8 * (choice >> 4 * i & 7) & 0xFF) << 8 * i for i in range(4)), mask)

    return run
