"""Random erasing (arXiv 1708.04896) of normalised pictures, as in timm's "pixel" mode: a rectangle becomes noise."""

import math

import numpy as np
import torch
from torch import Tensor

from .boxes import inside
from .place import Place

AREA = (0.02, 1 / 3)  # of the picture
ASPECT = (0.3, 1 / 0.3)
ATTEMPTS = 10  # a rectangle that does not fit is drawn again


def random_erase(images: Tensor, probability: float, place: Place) -> Tensor:
    """Erase, in place, in normalised images (B, C, H, W), each with `probability`.

    Which rectangles is a function of seed, step and the picture's place in the global batch. The noise is of the step,
    drawn on the device: pictures whose rectangles overlap share it there, which saves a copy to the device for each.
    """
    boxes = erased_boxes(probability, images.shape[2], images.shape[3], place)
    generator = torch.Generator(images.device).manual_seed(place.seed_of("noise"))
    noise = torch.randn(images.shape[1:], generator=generator, device=images.device, dtype=images.dtype)
    return torch.where(inside(boxes, images), noise, images, out=images)


def erased_boxes(probability: float, height: int, width: int, place: Place) -> np.ndarray:
    """(B, 4) top, bottom, left, right; an empty box where nothing is erased. Drawn for the whole global batch."""
    rng = place.generator("erase")
    draws = (place.batch_size, ATTEMPTS)
    erased = rng.random(place.batch_size) < probability
    area = rng.uniform(*AREA, draws) * height * width
    aspect = np.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), draws))
    h, w = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (h < height) & (w < width)
    chosen = np.arange(place.batch_size), fits.argmax(1)  # the first that fits
    h, w = h[chosen], w[chosen]
    top = np.floor(rng.random(place.batch_size) * (height - h + 1))
    left = np.floor(rng.random(place.batch_size) * (width - w + 1))
    boxes = np.stack([top, top + h, left, left + w], axis=1)
    boxes[~(erased & fits[chosen])] = 0
    return place.mine(boxes)
