"""Pictures that are nowhere on the disk: scikit-learn's digits, and noise for measuring speed."""

import numpy as np
from PIL import Image

from .names import Names, fingerprint


class Digits:
    """scikit-learn's 1,797 handwritten digits (8x8, inside the library): 1,437 to train and 360 held out.

    The split is a permutation drawn from `seed`, the same for both halves.
    """

    HELD_OUT = 360

    def __init__(self, train: bool, seed: int):
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(seed).permutation(len(digits.target))
        self._chosen = order[self.HELD_OUT :] if train else order[: self.HELD_OUT]
        self.classes = [str(name) for name in digits.target_names]
        self.labels = digits.target[self._chosen]
        self._images = (digits.images[self._chosen] * (255 / 16)).round().astype(np.uint8)
        self.fingerprint = fingerprint(self.classes, Names(map(self.name, range(len(self.labels)))), self.labels)

    def name(self, index: int) -> str:
        return f"digit {self._chosen[index]}"

    def picture(self, index: int) -> Image.Image:
        return Image.fromarray(self._images[index]).convert("RGB")


class Synthetic:
    """ImageNet's 1,000 classes without a single picture: noise made on the device, to measure all but the data path."""

    SIZE = 256

    def __init__(self, pictures: int):
        self.classes = [f"{number:03}" for number in range(1000)]
        self.labels = np.arange(pictures, dtype=np.int64) % len(self.classes)
        self.fingerprint = f"synthetic {pictures}"

    def name(self, index: int) -> str:
        return f"noise {index}"

    def picture(self, index: int) -> Image.Image:
        noise = np.random.default_rng(index).integers(0, 256, (self.SIZE, self.SIZE, 3), dtype=np.uint8)
        return Image.fromarray(noise)
