"""timm's transforms, made a pure function of (seed, epoch, index) by seeding the generators they draw from."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import Compose

from ...data.picture import without_far_ends
from ...seeding import seed_sample

Transform = Callable[[Image.Image], Any]


def image_size(data, epoch: int) -> int:
    """Pixels of an epoch's training crops: a linear ramp from start_image_size to image_size, 32 at a time."""
    if data.start_image_size is None or epoch >= data.grow_until_epoch:
        return data.image_size
    risen = max(0.0, (epoch - data.grow_from_epoch) / (data.grow_until_epoch - data.grow_from_epoch))
    step = 32 * round(risen * (data.image_size - data.start_image_size) / 32)
    return min(data.image_size, data.start_image_size + step)


class TrainTransform:
    """The training transform of each epoch, whose pictures may grow from one to the next; made when first asked for.

    The size is a function of the epoch alone, so it is the same for all processes and never changes within a batch.
    """

    def __init__(self, data: Any):
        self.data = data
        self._of_size: dict[int, Transform] = {}
        self.in_epoch(0)  # timm's complaints come here, not from a worker

    def in_epoch(self, epoch: int) -> Transform:
        size = image_size(self.data, epoch)
        if size not in self._of_size:
            self._of_size[size] = train_transform(self.data, size)
        return self._of_size[size]


def train_transform(data, size: int | None = None, separate: bool = False) -> Any:
    """Random resized crop to size x size, by default data.image_size, flip and what else the config's `data` section
    asks for; gives uint8 CHW.

    `separate`: as timm's three parts, of which the first crops and flips and the second does what else is asked for.
    """
    rarely = {"grayscale_prob": data.grayscale, "gaussian_blur_prob": data.gaussian_blur}  # unknown to older timm
    return create_transform(
        size or data.image_size,
        is_training=True,
        separate=separate,
        use_prefetcher=True,  # uint8 out; normalising and erasing happen on the device
        scale=tuple(data.scale),
        ratio=tuple(data.ratio),
        hflip=data.hflip,
        color_jitter=data.color_jitter or None,  # type: ignore[arg-type]
        auto_augment=data.auto_augment,
        interpolation=data.interpolation,
        mean=tuple(data.mean),  # RandAugment fills uncovered corners with it
        std=tuple(data.std),
        **{name: probability for name, probability in rarely.items() if probability},
    )


def eval_transform(data) -> Transform:
    """Resize the shorter side to the evaluation's size / crop_pct, crop the centre; gives uint8 CHW."""
    resize_and_crop = create_transform(
        data.eval_image_size or data.image_size,
        is_training=False,
        use_prefetcher=True,
        crop_pct=data.crop_pct,
        interpolation=eval_interpolation(data),
    )
    return Compose([without_far_ends, resize_and_crop])


def eval_interpolation(data) -> str:
    """ "bilinear" or "bicubic": how evaluation resizes."""
    if data.eval_interpolation:
        return data.eval_interpolation
    return "bilinear" if data.interpolation == "random" else data.interpolation


def augment(transform: Transform, picture: Image.Image, seed: int, epoch: int, index: int) -> Tensor:
    """The transform as a function of the sample alone."""
    seed_sample(seed, epoch, index)
    return torch.as_tensor(transform(picture))
