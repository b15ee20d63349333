"""The threads of some blocks, side by side as arrays, and how they go through a kernel's machine code."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

WARP = 32
PREDICATES = {f"P{n}": n for n in range(7)} | {"PT": 7} | {f"UP{n}": 8 + n for n in range(7)} | {"UPT": 15}
REGISTERS = {f"R{n}": n for n in range(255)} | {"RZ": 255} | {f"UR{n}": 256 + n for n in range(63)} | {"URZ": 319}
PARAMETERS = 0x210  # where they lie in the constant bank of sm_90


class Access(NamedTuple):
    """What the threads of some blocks do to memory by one instruction."""

    instruction: int
    kind: str  # LDG, STG, LDS, STS or LDGSTS
    size: int  # bytes of a thread
    addresses: np.ndarray  # of each thread; of LDGSTS in global memory
    shared: np.ndarray | None  # of LDGSTS, in shared memory
    active: np.ndarray  # threads that do
    reads: np.ndarray  # likewise; of LDGSTS those that do not fill with zeros


class Step(NamedTuple):
    guard: tuple[int, bool] | None  # a predicate, and its value
    run: Callable | None
    leads: int | None = None  # of a branch: where to; -1 to the end


class Threads:
    """Registers and predicates of the threads of some blocks."""

    def __init__(self, blocks: np.ndarray, block: int, constants: bytes):
        """`blocks`: their numbers; `block`: the threads of each; `constants`: what the constant bank 0 holds."""
        self.count = len(blocks) * block
        self.thread, self.block = np.tile(np.arange(block), len(blocks)), np.repeat(blocks, block)
        self.registers = np.zeros((320, self.count), np.int64)  # 32 bits of each are used
        self.predicates = np.zeros((16, self.count), bool)
        self.predicates[[7, 15]] = True
        self.constants = constants

    def run(self, program, see: Callable[[Access], object] = lambda access: None) -> np.ndarray:
        """Return how many warps execute each instruction of a Program; `see` is told of every access of memory.

        Of threads that have gone different ways the ones furthest behind in the code come first: the others wait for
        them further on.
        """
        executed = np.zeros(len(program.steps), np.int64)
        at = np.zeros(self.count, np.int64)
        end = len(program.steps)
        while (begin := int(at.min())) < end:
            active = at == begin
            until = program.blocks[begin]
            executed[begin:until] += np.count_nonzero(active.reshape(-1, WARP).any(1))
            at[active] = until
            for number in range(begin, until):
                guard, run, leads = program.steps[number]
                mask = active if guard is None else active & (self.predicates[guard[0]] == guard[1])
                if not mask.any():
                    continue
                if leads is not None:
                    taken = mask if run is None else mask & run(self)
                    at[taken] = end if leads < 0 else leads
                elif access := run(self, mask):
                    see(access._replace(instruction=number))
        return executed

    def set(self, number: int, value, mask: np.ndarray) -> None:
        if number not in (255, 319):
            np.copyto(self.registers[number], value & 0xFFFFFFFF, where=mask)

    def set_pair(self, number: int, value, mask: np.ndarray) -> None:
        self.set(number, value, mask)
        self.set(number + 1 if number not in (255, 319) else number, value >> 32, mask)

    def set_predicate(self, number: int, value, mask: np.ndarray) -> None:
        if number not in (7, 15):
            np.copyto(self.predicates[number], value, where=mask)

    def pair(self, number: int) -> np.ndarray:
        if number in (255, 319):
            return self.registers[number]
        return self.registers[number] | self.registers[number + 1] << 32

    def constant(self, offset: int, size: int) -> int:
        return int.from_bytes(self.constants[offset : offset + size], "little")


def constant_bank(parameters: bytes, grid: int, block: int) -> bytes:
    """Return what a kernel finds in its constants: the sizes of the launch, and its parameters."""
    bank = bytearray(PARAMETERS + len(parameters))
    bank[0:12] = b"".join(size.to_bytes(4, "little") for size in (block, 1, 1))
    bank[12:24] = b"".join(size.to_bytes(4, "little") for size in (grid, 1, 1))
    bank[PARAMETERS:] = parameters
    return bytes(bank)
