"""JPEGs that the workers leave to the device: by nvJPEG on a GPU."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torchvision
from torch import Tensor
from torchvision.io import ImageReadMode

from ...data import Key
from ...errors import UserError
from .batch import ImageBatch
from .crops import Crop, resize
from .decoders import Undecoded


@dataclass
class EncodedBatch:
    """A batch with images that `to` has yet to decode."""

    batch: ImageBatch  # the images that are decoded, and all labels, keys and names
    blobs: Tensor  # the undecoded images' files, one behind the other
    undecoded: dict[int, tuple[int, int, Crop]]  # index in the batch -> first and last of its bytes, its crop
    by_pil: Callable[[Key], Any] | None = None  # key -> Sample, for what the device cannot decode

    @classmethod
    def of(cls, batch: ImageBatch, undecoded: dict[int, Undecoded]) -> "EncodedBatch":
        start, places, blob = 0, {}, bytearray()
        for index, file in undecoded.items():
            blob += file.blob
            places[index] = start, len(blob), file.crop
            start = len(blob)
        return cls(batch, torch.frombuffer(blob, dtype=torch.uint8), places)

    @property
    def replaced(self) -> list[str]:
        return self.batch.replaced

    def __len__(self) -> int:
        return len(self.batch.targets)

    def pin_memory(self) -> "EncodedBatch":
        return replace(self, batch=self.batch.pin_memory())

    def to(self, device: torch.device) -> ImageBatch:
        """All images; those that the device cannot decode go PIL's way, by PIL's rules."""
        size = next(iter(self.undecoded.values()))[2].size
        images = torch.empty(len(self), size, size, 3, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
        labels, replaced = self.batch.targets.clone(), list(self.batch.replaced)
        done = [index for index in range(len(self)) if index not in self.undecoded]
        if done:
            images[done] = self.batch.images.to(device, non_blocking=True)
        for index, image in decode_and_crop(self, device).items():
            if image is None:
                assert self.by_pil is not None
                sample = self.by_pil(self.batch.keys[index])
                if isinstance(sample, UserError):
                    raise sample
                image, labels[index] = sample.image, sample.label
                replaced += sample.replaced
            images[index] = image
        return ImageBatch(images, labels.to(device, non_blocking=True), self.batch.keys, replaced)


def decode_and_crop(batch: EncodedBatch, device: torch.device) -> dict[int, Tensor | None]:
    """(3, size, size) uint8 of each undecoded picture; None where it cannot be decoded so."""
    blobs = [batch.blobs[start:end] for start, end, _ in batch.undecoded.values()]
    found: dict[int, Tensor | None] = {}
    for (place, (_, _, crop)), pixels in zip(batch.undecoded.items(), _decode(blobs, device), strict=True):
        if pixels is None:
            found[place] = None
            continue
        image = resize(pixels[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width], crop)
        found[place] = image.flip(2) if crop.flip else image
    return found


def _decode(blobs: list[Tensor], device: torch.device) -> list[Tensor | None]:
    """By torchvision: nvJPEG on a GPU, libjpeg elsewhere."""

    def decode(files: list[Tensor]) -> list:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*TorchCodec")  # its successor
            return torchvision.io.decode_jpeg(files, mode=ImageReadMode.RGB, device=device)

    try:
        return decode(blobs)
    except RuntimeError as error:
        if "not compiled" in str(error):
            raise UserError("data.decoder = 'nvjpeg': this torchvision has no nvJPEG, use data.decoder=turbo") from None
    one_by_one: list[Tensor | None] = []
    for blob in blobs:
        try:
            one_by_one += decode([blob])
        except RuntimeError:
            one_by_one.append(None)
    return one_by_one
