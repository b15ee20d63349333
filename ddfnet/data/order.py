"""Which pictures make a batch: pure functions of seed, epoch and step, the same for any number of processes."""

from collections.abc import Iterator

import numpy as np

Key = tuple[int, int]  # epoch, index: all that a sample's augmentation depends on, beside the seed


def epoch_order(pictures: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(pictures)


class TrainOrder:
    """The batches of steps first..last-1 as lists of keys, this rank's part of each global batch.

    An epoch has pictures // batch_size steps; the few pictures left over differ from epoch to epoch.
    """

    def __init__(self, pictures: int, batch_size: int, seed: int, first: int, last: int, rank: int = 0, world: int = 1):
        self.pictures, self.batch_size, self.seed = pictures, batch_size, seed
        self.first, self.last, self.rank, self.world = first, last, rank, world

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        steps = self.pictures // self.batch_size
        share = self.batch_size // self.world
        order, order_of = np.empty(0), -1
        for step in range(self.first, self.last):
            epoch, position = divmod(step, steps)
            if epoch != order_of:
                order, order_of = epoch_order(self.pictures, self.seed, epoch), epoch
            start = position * self.batch_size + self.rank * share
            yield [(epoch, int(index)) for index in order[start : start + share]]


class EvalOrder:
    """Every picture once over all ranks, none twice: whole batches, dealt to the ranks like cards.

    The pictures of a batch, and so the last bit of what a network makes of them, are the same for any number of ranks.
    """

    def __init__(self, pictures: int, batch_size: int, rank: int = 0, world: int = 1):
        self.pictures, self.batch_size, self.rank, self.world = pictures, batch_size, rank, world

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[list[Key]]:
        for start in self._starts():
            yield [(0, index) for index in range(start, min(start + self.batch_size, self.pictures))]

    def _starts(self) -> range:
        return range(self.rank * self.batch_size, self.pictures, self.world * self.batch_size)
