"""Seeds the random generators, so that what is drawn is a function of the seed and of what it is drawn for."""

import random

import numpy as np
import torch


def seed_for(*numbers: int) -> int:
    """Mix a few integers into a 64-bit seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def seed_sample(seed: int, epoch: int, index: int) -> None:
    """Seed Python's, numpy's and torch's CPU generators for one sample; they stay so afterwards."""
    mixed = _seed_python_and_numpy(seed, epoch, index)
    torch.default_generator.manual_seed(mixed)  # torch.manual_seed would reach for CUDA in every worker


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed Python's, numpy's and torch's generators, those of the GPUs too, for one step of one process.

    So a checkpoint needs no generator's state, and the same step draws the same numbers (dropout, stochastic depth)
    whatever happened before it.
    """
    torch.manual_seed(_seed_python_and_numpy(seed, step, rank))


def _seed_python_and_numpy(*numbers: int) -> int:
    mixed = seed_for(*numbers)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    return mixed
