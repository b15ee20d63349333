"""Where a training crop lies, drawn as timm draws it, and crops of arrays: for decoders other than PIL."""

import math
import random
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .augment import image_size, train_transform

ATTEMPTS = 10  # a box that does not fit is drawn again


class Crop(NamedTuple):
    """A box of a picture, in pixels, and what becomes of it."""

    left: int
    top: int
    width: int
    height: int
    size: int  # of the result, in both directions
    bicubic: bool
    flip: bool


class Crops:
    """The random resized crop and flip of the config, apart from the pixels; and what of the transform comes after.

    The same draws from the same generators as those of timm's transform: with the same seed all decoders see the same
    part of a picture.
    """

    def __init__(self, data):
        self.data = data
        self._after = {}  # by size
        self.only_crops = not self.after(data.image_size)

    def draw(self, width: int, height: int, epoch: int) -> Crop:
        """A box in a picture of this size (Inception's, arXiv 1409.4842) by the generators `random` and torch's."""
        box = self._box(width, height)
        choice = self.data.interpolation
        if choice == "random":
            choice = random.choice(("bilinear", "bicubic"))
        flip = self.data.hflip > 0 and torch.rand(1).item() < self.data.hflip
        return Crop(*box, image_size(self.data, epoch), choice == "bicubic", flip)

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        low, high = self.data.ratio
        for _ in range(ATTEMPTS):
            area = random.uniform(*self.data.scale) * width * height
            ratio = math.exp(random.uniform(math.log(low), math.log(high)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if w <= width and h <= height:
                top = random.randint(0, height - h)
                return random.randint(0, width - w), top, w, h
        w, h = width, height  # the whole picture, as much of it as the ratio allows
        if width / height < low:
            h = round(width / low)
        elif width / height > high:
            w = round(height * high)
        return (width - w) // 2, (height - h) // 2, w, h

    def after(self, size: int) -> list:
        """timm's transforms that follow the crop, on PIL pictures: RandAugment, colour jitter and the like."""
        if size not in self._after:
            self._after[size] = train_transform(self.data, size, separate=True)[1].transforms
        return self._after[size]

    def finish(self, pixels: np.ndarray | Tensor, crop: Crop) -> Tensor:
        """Flip and what follows: (size, size, 3) uint8 to (3, size, size), a pixel's colours still adjacent."""
        result = torch.as_tensor(pixels)
        if crop.flip:
            result = result.flip(1)
        if after := self.after(crop.size):
            picture = Image.fromarray(result.numpy())
            for transform in after:
                picture = transform(picture)
            result = torch.from_numpy(np.array(picture))
        return result.permute(2, 0, 1)


def resize(box: Tensor, crop: Crop) -> Tensor:
    """A box (3, H, W) uint8 at the size of the result, with Pillow's antialiasing filters to within rounding."""
    mode, size = "bicubic" if crop.bicubic else "bilinear", (crop.size, crop.size)
    if box.device.type == "cpu":
        return F.interpolate(box[None], size, mode=mode, antialias=True)[0]
    result = F.interpolate(box[None].float(), size, mode=mode, antialias=True)  # CUDA has no kernel for uint8
    return result.round_().clamp_(0, 255).byte()[0]
