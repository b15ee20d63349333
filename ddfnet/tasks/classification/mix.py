"""Mixup (arXiv 1710.09412) and cutmix (1905.04899) on the device: each picture mixes with its neighbour in the batch.

The neighbours of the global batch's random order are pairs (0, 1), (2, 3) ..., each picture with a share of its own. So
the mixtures are the same for any number of processes as long as each has an even number of pictures; of an odd number
the last one mixes with the process's first.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.place import Place
from .boxes import inside


@dataclass(frozen=True)
class Mixing:
    """What is mixed and how often.

    Args:
        mixup: alpha of the share's beta distribution, 0 for no mixup; cutmix: the same.
        probability: of a picture to be mixed at all.
        switch_probability: of cutmix rather than mixup, where both are on.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch_probability: float = 0.5

    def __bool__(self) -> bool:
        return bool(self.mixup or self.cutmix)


def mix(images: Tensor, labels: Tensor, classes: int, mixing: Mixing, place: Place) -> tuple[Tensor, Tensor]:
    """Mixed images (B, C, H, W) and their targets (B, classes), float32, of labels (B,).

    A picture and its target are share * own + (1 - share) * the neighbour's; for cutmix the neighbour's pixels within a
    rectangle, and the share is the area that was left, exactly. Targets are not smoothed.
    """
    boxes, outside = mixtures(mixing, images.shape[2], images.shape[3], place)
    area = (boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2]) / images[0, 0].numel()
    neighbours, shares, pixels = (
        torch.from_numpy(values).to(images.device, non_blocking=True)
        for values in (neighbours_of(len(images)), np.float32(outside * (1 - area)), np.float32(outside))
    )
    own = torch.where(inside(boxes, images), 0, pixels[:, None, None, None]).to(images.dtype)
    targets = F.one_hot(labels, classes).float()
    return torch.lerp(images[neighbours], images, own), torch.lerp(targets[neighbours], targets, shares[:, None])


def neighbours_of(count: int) -> np.ndarray:
    """The index that each of `count` pictures mixes with."""
    neighbours = np.arange(count) ^ 1
    if count % 2:
        neighbours[-1] = 0
    return neighbours


def mixtures(mixing: Mixing, height: int, width: int, place: Place) -> tuple[np.ndarray, np.ndarray]:
    """Of this process's pictures, drawn for the whole global batch: boxes (B, 4) to paste into, empty but for cutmix,
    and the shares (B,) of their own pixels outside of the boxes, 1 but for mixup."""
    rng, count = place.generator("mix"), place.batch_size
    cuts = rng.random(count) < (mixing.switch_probability if mixing.mixup and mixing.cutmix else bool(mixing.cutmix))
    mixes = rng.random(count) < mixing.probability
    centre = rng.random((2, count))
    share_up = rng.beta(mixing.mixup, mixing.mixup, count) if mixing.mixup else np.ones(count)
    share_cut = rng.beta(mixing.cutmix, mixing.cutmix, count) if mixing.cutmix else np.ones(count)

    boxes = np.zeros((count, 4), np.int64)
    for side, size, middle in ((0, height, centre[0]), (2, width, centre[1])):
        length = np.floor(size * np.sqrt(1 - share_cut)).astype(np.int64)
        middle = np.floor(middle * size).astype(np.int64)
        boxes[:, side] = np.clip(middle - length // 2, 0, size)
        boxes[:, side + 1] = np.clip(middle + (length + 1) // 2, 0, size)
    boxes[~(cuts & mixes)] = 0
    shares = np.where(mixes & ~cuts, share_up, 1.0)
    return place.mine(boxes), place.mine(shares)
