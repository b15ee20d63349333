"""Labelled images of a source as a dataset of batches, and noise for measuring speed."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ...counted import counted
from ...data import Key, Loader, Source, Synthetic, UndecodablePicture
from ...errors import UserError
from ...seeding import seed_sample
from ...task import HostBatch
from .augment import TrainTransform, Transform, augment
from .batch import ImageBatch
from .decoders import Decoder, Undecoded
from .device_decode import EncodedBatch

REPLACEMENTS = 10  # tried for one picture, before so many bad ones are an error all the same


class Sample(NamedTuple):
    image: Tensor | Undecoded  # (3, H, W) uint8
    label: int
    replaced: list[str]  # names of the pictures that could not be decoded and stand aside for this one


class Pictures(Dataset):
    """Keys (epoch, index) to samples; with a seed the transform is seeded per key.

    A picture that cannot be read is returned as its error: an exception would arrive wrapped in the worker's traceback.

    Args:
        seed: None for a transform that draws nothing.
        decoder: a faster way than PIL and the transform for the pictures it knows.
        replace_corrupt: another picture, drawn by the key, in place of one that cannot be decoded.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform | TrainTransform,
        seed: int | None,
        decoder: Decoder | None = None,
        replace_corrupt: bool = False,
    ):
        self.source, self.transform, self.seed = source, transform, seed
        self.decoder, self.replace_corrupt = decoder, replace_corrupt

    def __getitem__(self, key: Key) -> Sample | UserError:
        return self._sample(key, self.decoder)

    def _sample(self, key: Key, decoder: Decoder | None) -> Sample | UserError:
        epoch, index = key
        bad: list[str] = []
        for chosen in self._candidates(epoch, index):
            try:
                return Sample(self._image(epoch, chosen, decoder), int(self.source.labels[chosen]), bad)
            except UndecodablePicture as error:
                bad.append(self.source.name(chosen))
                last = error
            except UserError as error:  # not there any more: nothing to pass over
                return error
        if len(bad) > 1:
            return UserError(
                f"{last} (and {counted(len(bad) - 1, 'other')} drawn in its place cannot be decoded either)"
            )
        return last

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        yield index
        if self.replace_corrupt:
            rng = np.random.default_rng((self.seed or 0, epoch, index, 1))
            yield from (int(other) for other in rng.integers(len(self.source.labels), size=REPLACEMENTS))

    def _image(self, epoch: int, index: int, decoder: Decoder | None) -> Tensor | Undecoded:
        transform = self.transform.in_epoch(epoch) if isinstance(self.transform, TrainTransform) else self.transform
        if self.seed is None:
            return torch.as_tensor(transform(self.source.picture(index)))
        if decoder is not None:
            seed_sample(self.seed, epoch, index)
            image = decoder(self.source, index, epoch)
            if image is not None:
                return image
        return augment(transform, self.source.picture(index), self.seed, epoch, index)

    def by_pil(self, key: Key) -> Sample | UserError:
        """Read a sample without the decoder, which could not decode it."""
        return self._sample(key, None)

    def __getitems__(self, keys: list[Key]) -> ImageBatch | EncodedBatch | UserError:
        """A whole batch, which DataLoader asks for where it can: the samples, put together."""
        samples = []
        for key in keys:
            sample = self[key]
            if isinstance(sample, UserError):
                return sample
            samples.append(sample)
        images = [s.image.permute(1, 2, 0) for s in samples if isinstance(s.image, Tensor)]
        stacked = default_collate(images) if images else torch.empty(0, 1, 1, 3, dtype=torch.uint8)  # in shared memory
        batch = ImageBatch(
            stacked.permute(0, 3, 1, 2),
            torch.tensor([s.label for s in samples]),
            keys,
            [name for s in samples for name in s.replaced],
        )
        undecoded = {n: s.image for n, s in enumerate(samples) if isinstance(s.image, Undecoded)}
        return EncodedBatch.of(batch, undecoded) if undecoded else batch


class Batches:
    """The batches of `pictures` in an order, read by `workers` processes; see `Loader`."""

    def __init__(self, pictures: Pictures, order: Iterable[list[Key]], workers: int, pin_memory: bool):
        self._pictures, self._loader = pictures, Loader(pictures, order, workers, pin_memory)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[HostBatch[ImageBatch]]:
        for batch in self._loader:
            if isinstance(batch, EncodedBatch):
                batch.by_pil = self._pictures.by_pil  # here, not in the worker: it would send the whole dataset along
            yield batch


def synthetic_batches(
    source: Synthetic, order: Iterable[list[Key]], size_in_epoch: Callable[[int], int], device: torch.device
) -> Iterator[ImageBatch]:
    """One batch of noise for each shape, drawn once on the device and given out again and again."""
    made: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    for keys in order:
        shape = len(keys), size_in_epoch(keys[0][0])
        if shape not in made:
            count, size = shape
            generator = torch.Generator(device).manual_seed(0)
            images = torch.randint(256, (count, 3, size, size), generator=generator, device=device).byte()
            labels = torch.randint(len(source.classes), (count,), generator=generator, device=device)
            made[shape] = images, labels
        yield ImageBatch(*made[shape], keys)
