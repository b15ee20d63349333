"""From files to batches: source -> decode -> augment -> loader. Knows nothing of models."""

from .augment import (
    TrainTransform,
    Transform,
    eval_interpolation,
    eval_transform,
    image_size,
    train_transform,
    without_far_ends,
)
from .decoders import Decoder, open_decoder
from .erase import random_erase
from .feed import Feeder
from .loader import Batch, Loader, Pictures
from .mix import Mixing, mix
from .order import EvalOrder, TrainOrder
from .packing import pack
from .picture import UndecodablePicture
from .place import Place
from .sources import (
    Packed,
    Source,
    Synthetic,
    number_alike,
    open_source,
    remedy_for_numbers,
    require_same_classes,
)

__all__ = [
    "Batch",
    "Decoder",
    "EvalOrder",
    "Feeder",
    "Loader",
    "Mixing",
    "Packed",
    "Pictures",
    "Place",
    "Source",
    "Synthetic",
    "TrainOrder",
    "TrainTransform",
    "Transform",
    "UndecodablePicture",
    "eval_interpolation",
    "eval_transform",
    "image_size",
    "mix",
    "number_alike",
    "open_decoder",
    "open_source",
    "pack",
    "random_erase",
    "remedy_for_numbers",
    "require_same_classes",
    "train_transform",
    "without_far_ends",
]
