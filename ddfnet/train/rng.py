"""Random numbers of a step (dropout, stochastic depth) as a function of the step: nothing of them is state."""

import random

import numpy as np
import torch


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed Python's, numpy's and torch's generators, those of the GPUs too, for one step of one process.

    So a checkpoint needs no generator's state, and the same step draws the same numbers whatever happened before it.
    """
    mixed = int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    torch.manual_seed(mixed)
