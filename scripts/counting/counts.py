"""What a launch costs, counted: instructions that warps issue, what they ask of shared memory and of the cache."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from ddfnet.ops.gpu.records import Launch

from .program import Program
from .threads import WARP, Access, Threads, constant_bank

SECTOR = 32  # bytes that the second-level cache gives or takes at least
BANKS, WORD = 32, 4  # of shared memory: how many, and the bytes of one that all give at once


class Counts(NamedTuple):
    instructions: float  # of warps
    wavefronts: float  # of shared memory, one in a cycle
    sectors: float  # of global memory, by copies and stores; not by loads, most of which the first cache serves
    accesses: dict[str, float]  # instructions of warps by kind and bytes of a thread: STG.8


def count(launch: Launch, pointers: list[bool], program: Program, images: int) -> Counts:
    """Run the blocks of the first image and return what the launch costs; `pointers`: which of them are not null."""
    numbers = b"".join(
        value.to_bytes(8, "little") if isinstance(value, int) else value.tobytes() for value in launch.parameters
    )
    numbers += bytes(-len(numbers) % 8)
    numbers += b"".join((given * (index + 1) << 40).to_bytes(8, "little") for index, given in enumerate(pointers))
    blocks = np.arange(-(-launch.grid // images))
    threads = Threads(blocks, launch.block, constant_bank(numbers, launch.grid, launch.block))
    wavefronts, sectors, accesses = 0, 0, Counter()

    def see(access: Access) -> None:
        nonlocal wavefronts, sectors
        accesses[f"{access.kind}.{access.size}"] += warps_of(access.active)
        if access.kind in ("LDS", "STS"):
            wavefronts += wavefronts_of(access.addresses, access.size, access.active)
            return
        if access.kind != "LDG":
            sectors += sectors_of(access.addresses, access.reads)
        if access.shared is not None:
            wavefronts += wavefronts_of(access.shared, access.size, access.active)

    executed = threads.run(program, see)
    scale = launch.grid / len(blocks)
    return Counts(
        float(executed.sum()) * scale,
        wavefronts * scale,
        sectors * scale,
        {kind: number * scale for kind, number in sorted(accesses.items())},
    )


def warps_of(active: np.ndarray) -> int:
    return int(np.count_nonzero(active.reshape(-1, WARP).any(1)))


def sectors_of(addresses: np.ndarray, active: np.ndarray) -> int:
    """Return how many sectors each warp touches, summed."""
    return _distinct(np.where(active, addresses // SECTOR, -1).reshape(-1, WARP))


def wavefronts_of(addresses: np.ndarray, size: int, active: np.ndarray) -> int:
    """Return in how many turns shared memory serves the warps.

    32 words at a time: half a warp that asks for 8 bytes a thread, a quarter for 16. In a turn each bank gives one
    word, to all that ask for it.
    """
    words = max(1, size // WORD)
    first = np.where(active, addresses // WORD, -1)
    asked = np.where(first[:, None] < 0, -1, first[:, None] + np.arange(words)).reshape(-1, BANKS)
    asked = np.sort(asked, axis=1)
    new = np.diff(asked, axis=1, prepend=-1) != 0
    rows, _ = np.nonzero(new & (asked >= 0))
    banks = asked[new & (asked >= 0)] % BANKS
    turns = np.bincount(rows * BANKS + banks, minlength=len(asked) * BANKS).reshape(-1, BANKS)
    return int(turns.max(1).sum())


def _distinct(rows: np.ndarray) -> int:
    """Return how many different numbers there are in each row, summed; -1 is none."""
    rows = np.sort(rows, axis=1)
    return int(np.count_nonzero((np.diff(rows, axis=1, prepend=-1) != 0) & (rows >= 0)))
