"""From files to batches: source -> decode -> augment -> loader. Knows nothing of models."""

from .augment import Transform, eval_transform, seed_for, train_transform
from .erase import random_erase
from .loader import Batch, Loader, Pictures
from .order import EvalOrder, TrainOrder
from .sources import Source, open_source, require_same_classes

__all__ = [
    "Batch",
    "EvalOrder",
    "Loader",
    "Pictures",
    "Source",
    "TrainOrder",
    "Transform",
    "eval_transform",
    "open_source",
    "random_erase",
    "require_same_classes",
    "seed_for",
    "train_transform",
]
