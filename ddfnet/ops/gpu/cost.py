"""What a tile costs, estimated, for tiling.py to choose by: instructions, bytes, conflicts in shared memory.

Nothing here is measured. The device is a nominal one: how many multiprocessors there are must not change a result.
"""

from .specialisations import STRIP

MULTIPROCESSORS = 128
INSTRUCTIONS_PER_BYTE = 8  # that a multiprocessor issues (128 a cycle) while the memory gives it a byte (16 a cycle)
REGISTERS = 65536  # of a multiprocessor
WARPS = 16  # so many hide what one waits for


def time_of(
    instructions: float, moved: int, grid: int, threads: int, registers: int, shared: int, memory: int
) -> float:
    """Of a grid whose blocks each take so many instructions, bytes from and to memory, threads of so many registers,
    and bytes of shared memory, on multiprocessors that have `memory` of it. In instructions.

    Bytes come on top: a block that waits for its first chunk has nothing to do meanwhile.
    """
    resident = min(memory // (shared + 1024), REGISTERS // (threads * registers), 32, -(-grid // MULTIPROCESSORS))
    blocks = -(-grid // (MULTIPROCESSORS * resident)) * resident  # of one multiprocessor
    waiting = max(1, WARPS / (resident * threads / 32))
    return blocks * (instructions * waiting + moved * INSTRUCTIONS_PER_BYTE)


def bank_conflicts(pitch: int, step: int, across: int, column_bytes: int, access: int) -> float:
    """How often shared memory must be asked for what a warp reads or writes at once; 1 without conflicts.

    Its threads have strips side by side, `across` of them in a row of the tile, `step` rows and columns apart for each
    unit; each accesses `access` bytes. Counted: the words of one bank that are wanted together.
    """
    together = 128 // max(4, access)  # threads that are served at a time
    total = 0
    for first in range(0, 32, together):
        words: dict[int, set[int]] = {}
        for strip in range(first, first + together):
            at = (strip // across * step * pitch + strip % across * STRIP * step) * column_bytes
            for word in range(at // 4, (at + access - 1) // 4 + 1):
                words.setdefault(word % 32, set()).add(word)
        total += max(map(len, words.values()))
    return total / (32 // together)


def spread_pitch(pitch: int, unit: int, *where: int) -> int:
    """The pitch, or up to three units more, with the fewest conflicts."""
    return min((pitch + extra * unit for extra in range(4)), key=lambda pitch: bank_conflicts(pitch, *where))
