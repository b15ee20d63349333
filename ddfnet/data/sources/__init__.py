"""Where pictures come from. A source knows its classes and labels and reads one picture at a time."""

from pathlib import Path

from ...counted import counted
from ...errors import UserError
from .archives import CLASS_NAMES, TarFolder, WebDataset
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
    "number_alike",
    "open_source",
    "remedy_for_numbers",
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


def number_alike(expected: list[str], source: Source) -> None:
    """Give a source that only numbers its classes all the expected ones, where these are numbers too.

    It may have no image of the last class, as of any other, and would then know of one class less.
    """
    numbers = [str(number) for number in range(len(expected))]
    if (
        isinstance(source, WebDataset)
        and source.numbered
        and expected == numbers
        and len(source.classes) < len(numbers)
    ):
        source.classes = numbers


def require_same_classes(expected: list[str], source: Source, where: str) -> None:
    """Raises UserError where the source has other classes: a label would mean two things. Numbers are made alike."""
    number_alike(expected, source)
    found = source.classes
    if expected == found:
        return
    differing = sorted(set(expected) ^ set(found))
    some = f"only in one of them: {', '.join(differing[:5])}{' ...' if len(differing) > 5 else ''}"
    raise UserError(
        f"{where} has {counted(len(found), 'class')}, expected the {len(expected)} of training;"
        f" {some if differing else 'they are in another order'}{remedy_for_numbers(source)}"
    )


def remedy_for_numbers(source: Source) -> str:
    """The end of a sentence about a source's classes; empty for one that has names for them."""
    if isinstance(source, WebDataset) and source.numbered:
        return f"; name all classes in {source.root / CLASS_NAMES}, one a line in the order of their numbers"
    return ""
