"""What reads an operand of an instruction from the threads' registers."""

import re
from collections.abc import Callable

import numpy as np

from .threads import PREDICATES, REGISTERS, Threads


def signed(value):
    return (value ^ 0x80000000) - 0x80000000


def predicate_reader(text: str) -> Callable[[Threads], np.ndarray]:
    number, wanted = PREDICATES[text.lstrip("!")], not text.startswith("!")
    return (lambda t: t.predicates[number]) if wanted else (lambda t: ~t.predicates[number])


def is_predicate(text: str) -> bool:
    return text.lstrip("!") in PREDICATES


def reader(text: str) -> Callable[[Threads], np.ndarray]:
    """Return what reads an operand's 32 bits; minus of one is 2^32 less it, as the adder's carry has it."""
    text = text.replace(".reuse", "")
    if text.startswith("c["):
        offset = text.split("][")[1].rstrip("]")
        place = 0 if offset == "RZ" else int(offset, 16)
        return lambda t: np.int64(t.constant(place, 4))
    if (bare := text.lstrip("-~|").rstrip("|")) in REGISTERS:
        number = REGISTERS[bare]
        if text.startswith("-"):
            return lambda t: 2**32 - t.registers[number]
        if text.startswith("~"):
            return lambda t: t.registers[number] ^ 0xFFFFFFFF
        return lambda t: t.registers[number]
    number = np.int64(int(text, 0) & 0xFFFFFFFF)
    return lambda t: number


def float_reader(text: str, double: bool) -> Callable[[Threads], np.ndarray]:
    text = text.replace(".reuse", "")
    absolute, bare = text.startswith("|"), text.strip("|").lstrip("-")
    sign = -1 if text.startswith("-") else 1
    if bare not in REGISTERS:
        number = float(bare.lower().replace("+inf", "inf").replace("qnan", "nan")) * sign
        return lambda t: np.float64(number)
    number = REGISTERS[bare]

    def read(t: Threads) -> np.ndarray:
        value = t.pair(number).view(np.float64) if double else t.registers[number].astype(np.uint32).view(np.float32)
        return np.abs(value) if absolute else sign * value

    return read


def address_reader(text: str) -> Callable[[Threads], np.ndarray]:
    """Of [R1], [R1+0x10], [R1+UR2+0x10] and, with 64 bits, desc[UR4][R2.64+0x10]."""
    wide = text.startswith("desc")
    inner = re.findall(r"\[([^]]*)\]", text)[-1]
    parts = [part for part in re.split(r"\+(?=[U\dR-])", inner) if part]
    offset = sum(int(part, 16) for part in parts if part.lstrip("-").startswith("0x"))
    numbers = [REGISTERS[part.split(".")[0]] for part in parts if not part.lstrip("-").startswith("0x")]
    assert len(numbers) == 1 or not wide, text
    if wide:
        return lambda t: t.pair(numbers[0]) + offset
    return lambda t: (sum(t.registers[number] for number in numbers) + offset) & 0xFFFFFFFF
