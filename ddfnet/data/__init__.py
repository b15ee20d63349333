"""From files to batches: source -> decode -> augment -> loader. Knows nothing of models."""

from .augment import TrainTransform, Transform, eval_transform, image_size, train_transform
from .erase import random_erase
from .loader import Batch, Loader, Pictures
from .mix import Mixing, mix
from .order import EvalOrder, TrainOrder
from .place import Place
from .sources import Source, open_source, require_same_classes

__all__ = [
    "Batch",
    "EvalOrder",
    "Loader",
    "Mixing",
    "Pictures",
    "Place",
    "Source",
    "TrainOrder",
    "TrainTransform",
    "Transform",
    "eval_transform",
    "image_size",
    "mix",
    "open_source",
    "random_erase",
    "require_same_classes",
    "train_transform",
]
