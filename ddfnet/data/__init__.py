"""From files to batches: source -> decode -> augment -> loader. Knows nothing of models."""

from .augment import eval_transform, seed_for, train_transform
from .erase import random_erase
from .loader import Batch, Loader, Pictures
from .order import EvalOrder, TrainOrder
from .sources import Source, open_sources

__all__ = [
    "Batch",
    "EvalOrder",
    "Loader",
    "Pictures",
    "Source",
    "TrainOrder",
    "eval_transform",
    "open_sources",
    "random_erase",
    "seed_for",
    "train_transform",
]
