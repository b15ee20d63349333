"""timm's transforms, made a pure function of (seed, epoch, index) by seeding the generators they draw from."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

Transform = Callable[[Image.Image], Any]


def train_transform(data) -> Transform:
    """Random resized crop, flip and what else the config's `data` section asks for; gives uint8 CHW."""
    return create_transform(
        data.image_size,
        is_training=True,
        use_prefetcher=True,  # uint8 out; normalising and erasing happen on the device
        scale=tuple(data.scale),
        ratio=tuple(data.ratio),
        hflip=data.hflip,
        color_jitter=data.color_jitter or None,  # type: ignore[arg-type]
        auto_augment=data.auto_augment,
        interpolation=data.interpolation,
        mean=tuple(data.mean),  # RandAugment fills uncovered corners with it
        std=tuple(data.std),
    )


def eval_transform(data) -> Transform:
    """Resize the shorter side to image_size / crop_pct, crop the centre; gives uint8 CHW."""
    return create_transform(
        data.image_size,
        is_training=False,
        use_prefetcher=True,
        crop_pct=data.crop_pct,
        interpolation="bilinear" if data.interpolation == "random" else data.interpolation,
    )


def seed_for(*numbers: int) -> int:
    """A well-mixed 64-bit seed from a few integers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def augment(transform: Transform, picture: Image.Image, seed: int, epoch: int, index: int) -> Tensor:
    """The transform with Python's, numpy's and torch's generators seeded for this sample; they stay so afterwards."""
    mixed = seed_for(seed, epoch, index)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    torch.default_generator.manual_seed(mixed)  # torch.manual_seed would reach for CUDA in every worker
    return torch.as_tensor(transform(picture))
