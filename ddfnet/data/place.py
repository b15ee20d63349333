"""A process's part of a global batch, and random numbers that do not depend on who draws them."""

import zlib
from dataclasses import dataclass

import numpy as np

from ..seeding import seed_for


@dataclass(frozen=True)
class Place:
    """The pictures first..first+count-1 of the global batch of a step.

    What is drawn for the whole global batch and then cut to one's own part is the same for any number of processes.
    """

    seed: int
    step: int
    batch_size: int  # global
    first: int = 0
    count: int | None = None  # None: all of it

    def seed_of(self, purpose: str) -> int:
        """A 64-bit seed from seed, step and what it is for."""
        return seed_for(self.seed, self.step, zlib.crc32(purpose.encode()))

    def generator(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng(self.seed_of(purpose))

    def mine(self, values: np.ndarray) -> np.ndarray:
        """Of values drawn for the global batch, those of this process."""
        return values[self.first :][: self.count]
