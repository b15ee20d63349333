"""Where pictures come from. A source knows its classes and labels and reads one picture at a time."""

from pathlib import Path

from ...counted import counted
from ...errors import UserError
from .archives import TarFolder, WebDataset
from .base import EncodedSource, Source
from .folder import ImageFolder
from .hub import HuggingFace
from .made import Digits, Synthetic
from .packed import Packed

__all__ = [
    "Digits",
    "EncodedSource",
    "HuggingFace",
    "ImageFolder",
    "Packed",
    "Source",
    "Synthetic",
    "TarFolder",
    "WebDataset",
    "open_source",
    "require_same_classes",
]

SYNTHETIC_VAL = 50_000  # as many as ImageNet's, or as there are to train


def open_source(
    source: str, root: str, split: str, train: bool, seed: int, synthetic_pictures: int = 1_281_167
) -> Source:
    """The pictures of one split.

    Raises:
        UserError: the dataset is not there, or is not as expected.
    """
    if source == "digits":
        return Digits(train, seed)
    if source == "synthetic":
        return Synthetic(synthetic_pictures if train else min(synthetic_pictures, SYNTHETIC_VAL))
    if source == "hf":
        return HuggingFace(root, split)
    folder = Path(root)
    if source == "tar":
        return TarFolder(folder, split)
    if source == "webdataset":
        return WebDataset(folder, split)
    if source == "packed":
        return Packed(folder, split)
    return ImageFolder(folder / split)


def require_same_classes(expected: list[str], found: list[str], where: str) -> None:
    """Raises UserError where the two differ: a label would mean two things."""
    if expected != found:
        differing = sorted(set(expected) ^ set(found))
        has = counted(len(found), "class")
        raise UserError(
            f"{where} has {has}, expected the {len(expected)} of training; only in one of them:"
            f" {', '.join(differing[:5])}{' ...' if len(differing) > 5 else ''}"
        )
