"""From the loader to the device: decoded there if need be, on a stream of its own, one batch ahead."""

import warnings
from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor
from torchvision.io import ImageReadMode

from ..errors import UserError
from .crops import resize
from .loader import Batch, HostBatch, Loader, Sample


class Feeder:
    """Iterates the loader's batches as tensors of the device, (B, 3, H, W) uint8 and (B,) int64.

    Without a GPU it passes them on. With one, a batch is copied from pinned memory while the batch before it is
    computed on; nothing waits for the device. `replaced` counts, by name, the pictures that others stood in for.
    """

    def __init__(self, loader: Loader, device: torch.device):
        self._loader, self._device = loader, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.replaced: dict[str, int] = {}

    def __iter__(self) -> Iterator[Batch]:
        return self._pass_on() if self._stream is None else self._one_ahead(self._stream)

    def _pass_on(self) -> Iterator[Batch]:
        for batch in self._loader:
            yield self._counted(*self._on_device(batch))

    def _one_ahead(self, stream: torch.cuda.Stream) -> Iterator[Batch]:
        consumer = torch.cuda.current_stream(self._device)
        stream.wait_stream(consumer)
        ready: tuple[Batch, list[str]] | None = None
        failure: UserError | None = None
        batches = iter(self._loader)
        while failure is None:
            try:
                batch = next(batches)
                with torch.cuda.stream(stream):
                    following = self._on_device(batch)
            except StopIteration:
                break
            except UserError as error:  # comes after the batch that is ready
                failure = error
                break
            if ready is not None:
                yield self._counted(self._hand_over(ready[0], stream), ready[1])
            ready = following
        if ready is not None:
            yield self._counted(self._hand_over(ready[0], stream), ready[1])
        if failure is not None:
            raise failure

    def _hand_over(self, batch: Batch, stream: torch.cuda.Stream) -> Batch:
        consumer = torch.cuda.current_stream(self._device)
        consumer.wait_stream(stream)
        for tensor in batch:
            tensor.record_stream(consumer)  # else its memory could be used anew while it is computed on
        return batch

    def _counted(self, batch: Batch, replaced: list[str]) -> Batch:
        """Only now: what is read ahead and then left by a run that stops would be counted twice."""
        for name in replaced:
            self.replaced[name] = self.replaced.get(name, 0) + 1
        return batch

    def _on_device(self, batch: HostBatch) -> tuple[Batch, list[str]]:
        images, labels = batch.images, batch.labels
        replaced = list(batch.replaced)
        if batch.undecoded:
            images, labels, more = self._decoded(batch)
            replaced += more
        images, labels = (tensor.to(self._device, non_blocking=True) for tensor in (images, labels))
        return (images.permute(0, 3, 1, 2), labels), replaced

    def _decoded(self, batch: HostBatch) -> tuple[Tensor, Tensor, list[str]]:
        """All pictures (B, H, W, 3); those that the device cannot decode go PIL's way, by PIL's rules."""
        size = next(iter(batch.undecoded.values()))[2].size
        images = torch.empty(len(batch.keys), size, size, 3, dtype=torch.uint8, device=self._device)
        labels, replaced = batch.labels.clone(), []
        done = [place for place in range(len(batch.keys)) if place not in batch.undecoded]
        if done:
            images[done] = batch.images.to(self._device, non_blocking=True)
        for place, image in decode_and_crop(batch, self._device).items():
            if image is None:
                sample = self._loader.pictures.sample(batch.keys[place], decoder=None)
                if isinstance(sample, UserError):
                    raise sample
                assert isinstance(sample, Sample) and isinstance(sample.image, Tensor)
                image, labels[place] = sample.image, sample.label
                replaced += sample.replaced
            images[place] = image.permute(1, 2, 0)
        return images, labels, replaced


def decode_and_crop(batch: HostBatch, device: torch.device) -> dict[int, Tensor | None]:
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
