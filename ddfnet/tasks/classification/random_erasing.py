"""Random erasing (arXiv 1708.04896) of normalised pictures, as in timm's "pixel" mode: a rectangle becomes noise."""

import math

import numpy as np
import torch
from torch import Tensor

from ...data.place import Place
from .boxes import inside

AREA = (0.02, 1 / 3)  # of the picture
ASPECT = (0.3, 1 / 0.3)
ATTEMPTS = 10  # a rectangle that does not fit is drawn again
TOGETHER = 8  # images whose noise is drawn at a time, the same ones for any number of processes


def random_erase(images: Tensor, probability: float, place: Place, count: int = 1) -> Tensor:
    """Erase, in place, in normalised images (B, C, H, W), each with `probability`.

    With `count` above 1 it is timm's erasing of min_count = 1 and max_count = count: of an image 1 to `count` boxes are
    erased, each number as likely; of n boxes each has 1/n of an area drawn for it, so they share what one would have;
    the noise is each image's own. With 1 the noise is of the step: images whose boxes overlap share it there, which
    saves drawing it for each of them.

    Which boxes and which noise is a function of seed, step and the image's place in the global batch.
    """
    boxes = erased_boxes(probability, images.shape[2], images.shape[3], place, count)
    erased = inside(boxes[:, 0], images)
    for number in range(1, count):
        erased |= inside(boxes[:, number], images)
    noise = _noise_of_step(images, place) if count == 1 else _noise_of_images(images, place)
    return torch.where(erased, noise, images, out=images)


def erased_boxes(probability: float, height: int, width: int, place: Place, count: int = 1) -> np.ndarray:
    """(B, count, 4) top, bottom, left, right; empty ones where nothing is erased. Drawn for the whole global batch."""
    rng = place.generator("erase")
    boxes = (place.batch_size, count)
    erased = rng.random(place.batch_size) < probability
    area = rng.uniform(*AREA, (*boxes, ATTEMPTS)) * height * width
    aspect = np.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), (*boxes, ATTEMPTS)))
    places = rng.random(boxes), rng.random(boxes)
    number = rng.integers(1, count + 1, place.batch_size)  # of an image's boxes
    area /= number[:, None, None]
    h, w = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (h < height) & (w < width)
    first = fits.argmax(2)[:, :, None]  # that fits
    h, w, fit = (np.take_along_axis(values, first, 2)[:, :, 0] for values in (h, w, fits))
    top = np.floor(places[0] * (height - h + 1))
    left = np.floor(places[1] * (width - w + 1))
    found = np.stack([top, top + h, left, left + w], axis=2)
    found[~(erased[:, None] & fit & (np.arange(count) < number[:, None]))] = 0
    return place.mine(found)


def _noise_of_step(images: Tensor, place: Place) -> Tensor:
    generator = torch.Generator(images.device).manual_seed(place.seed_of("noise"))
    return torch.randn(images.shape[1:], generator=generator, device=images.device, dtype=images.dtype)


def _noise_of_images(images: Tensor, place: Place) -> Tensor:
    """(B, C, H, W), drawn for a group of the global batch's images at a time; of groups with images of this process."""
    generator, shape = torch.Generator(images.device), (TOGETHER, *images.shape[1:])
    first, last = place.first, place.first + len(images)
    drawn = []
    for group in range(first // TOGETHER, -(-last // TOGETHER)):
        generator.manual_seed(place.seed_of(f"noise of group {group}"))
        drawn.append(torch.randn(shape, generator=generator, device=images.device, dtype=images.dtype))
    return torch.cat(drawn)[first % TOGETHER :][: len(images)]
