"""Images with their labels or targets: the batch of classification, from the workers to the network."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...data import Key


@dataclass
class ImageBatch:
    images: Tensor  # (B, 3, H, W): uint8 as read, float32 and normalised as the network sees them
    targets: Tensor  # (B,) int64 labels; (B, classes) float32 where images are mixed
    keys: list[Key]
    replaced: list[str] = field(default_factory=list)  # names of the images that others stand in for

    def __len__(self) -> int:
        return len(self.images)

    def pin_memory(self) -> "ImageBatch":
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())

    def to(self, device: torch.device) -> "ImageBatch":
        images, targets = (tensor.to(device, non_blocking=True) for tensor in (self.images, self.targets))
        return replace(self, images=images, targets=targets)

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        for tensor in (self.images, self.targets):
            tensor.record_stream(stream)

    def split(self, sizes: list[int]) -> list["ImageBatch"]:
        ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
        keys = [self.keys[end - size : end] for size, end in zip(sizes, ends, strict=True)]
        parts = zip(self.images.split(sizes), self.targets.split(sizes), keys, strict=True)
        return [ImageBatch(images, targets, own) for images, targets, own in parts]
