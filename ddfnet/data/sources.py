"""Where pictures come from. A source knows its classes and labels and reads one picture at a time."""

import os
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Source(Protocol):
    classes: list[str]
    labels: np.ndarray  # int64, one per picture

    def name(self, index: int) -> str:
        """The picture's path below the root, or what stands for it."""
        ...

    def picture(self, index: int) -> Image.Image:
        """The picture in RGB. Raises UserError naming it where it cannot be read."""
        ...


class ImageFolder:
    """ImageNet's own layout: root/CLASS/*.JPEG, classes in alphabetical order; subfolders count to their class.

    Raises:
        UserError: no such folder, no classes in it, or a class without pictures, naming the path.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such folder, expected one with a folder of pictures for each class")
        self.classes = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        if not self.classes:
            raise UserError(f"{self.root}: holds no class folders, expected one folder of pictures for each class")
        names: list[str] = []
        counts = []
        for name in self.classes:
            found = sorted(self._pictures(name))
            if not found:
                kinds = ", ".join(EXTENSIONS)
                raise UserError(
                    f"{self.root / name}: holds no pictures ({kinds}): fill this class or remove its folder"
                )
            names += found
            counts.append(len(found))
        # one array, not a list of strings: forked workers would copy a list page by page as they count references
        self._paths = np.array([os.fsencode(name) for name in names])
        self.labels = np.repeat(np.arange(len(counts)), counts)

    def _pictures(self, class_name: str):
        for folder, _, files in os.walk(self.root / class_name):
            for file in files:
                if file.lower().endswith(EXTENSIONS):
                    yield os.path.relpath(os.path.join(folder, file), self.root)

    def name(self, index: int) -> str:
        """The picture's path below the root."""
        return os.fsdecode(self._paths[index])

    def picture(self, index: int) -> Image.Image:
        path = self.root / self.name(index)
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except UnidentifiedImageError:
            raise UserError(f"{path}: is not a picture, although it is named like one") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"{path}: the picture cannot be decoded: {error}") from None


class Digits:
    """scikit-learn's 1,797 handwritten digits (8x8, inside the library): 1,437 to train and 360 held out.

    The split is a permutation drawn from `seed`, the same for both halves.
    """

    HELD_OUT = 360

    def __init__(self, train: bool, seed: int):
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(seed).permutation(len(digits.target))
        chosen = order[self.HELD_OUT :] if train else order[: self.HELD_OUT]
        self.classes = [str(name) for name in digits.target_names]
        self.labels = digits.target[chosen]
        self._chosen = chosen
        self._images = (digits.images[chosen] * (255 / 16)).round().astype(np.uint8)

    def name(self, index: int) -> str:
        return f"digit {self._chosen[index]}"

    def picture(self, index: int) -> Image.Image:
        return Image.fromarray(self._images[index]).convert("RGB")


def open_source(source: str, root: str, split: str, train: bool, seed: int) -> Source:
    """The pictures of one split.

    Raises:
        UserError: the folder is not there, or is not as expected.
    """
    return Digits(train, seed) if source == "digits" else ImageFolder(Path(root).expanduser() / split)


def require_same_classes(expected: list[str], found: list[str], where: str) -> None:
    """Raises UserError where the two differ: a label would mean two things."""
    if expected != found:
        differing = sorted(set(expected) ^ set(found))
        raise UserError(
            f"{where} has {len(found)} classes, expected the {len(expected)} of training; only in one of them:"
            f" {', '.join(differing[:5])}{' ...' if len(differing) > 5 else ''}"
        )
