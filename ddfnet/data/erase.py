"""Random erasing (arXiv 1708.04896) of normalised pictures, as in timm's "pixel" mode: a rectangle becomes noise."""

import math

import numpy as np
import torch
from torch import Tensor

AREA = (0.02, 1 / 3)  # of the picture
ASPECT = (0.3, 1 / 0.3)
ATTEMPTS = 10  # a rectangle that does not fit is drawn again


def random_erase(images: Tensor, probability: float, seeds: list[int]) -> Tensor:
    """Erase, in place, in normalised images (B, C, H, W); image i depends on seeds[i] alone."""
    height, width = images.shape[2:]
    for image, seed in zip(images, seeds, strict=True):
        rng = np.random.default_rng(seed)
        if rng.random() >= probability:
            continue
        for _ in range(ATTEMPTS):
            area = rng.uniform(*AREA) * height * width
            aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
                noise = torch.from_numpy(rng.standard_normal((image.shape[0], h, w), dtype=np.float32))
                image[:, top : top + h, left : left + w] = noise.to(image, non_blocking=True)
                break
    return images
