"""From files to batches on the device: source -> loader -> feeder. Knows no task and no model."""

from .feed import Feeder
from .loader import Loader
from .order import EvalOrder, Key, TrainOrder
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
    "EvalOrder",
    "Feeder",
    "Key",
    "Loader",
    "Packed",
    "Place",
    "Source",
    "Synthetic",
    "TrainOrder",
    "UndecodablePicture",
    "number_alike",
    "open_source",
    "pack",
    "remedy_for_numbers",
    "require_same_classes",
]
