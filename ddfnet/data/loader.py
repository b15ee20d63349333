"""Batches of uint8 pictures, read and augmented by worker processes."""

import atexit
import multiprocessing
import signal
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from .augment import TrainTransform, Transform, augment
from .order import Key
from .sources import Source

Batch = tuple[Tensor, Tensor]  # pictures (B, 3, H, W) uint8, labels (B,) int64


class Pictures(Dataset):
    """Keys (epoch, index) to (picture, label); with a seed the transform is seeded per key.

    A picture that cannot be read is returned as its error: an exception would arrive wrapped in the worker's traceback.
    """

    def __init__(self, source: Source, transform: Transform | TrainTransform, seed: int | None):
        self.source, self.transform, self.seed = source, transform, seed

    def __getitem__(self, key: Key):
        epoch, index = key
        try:
            picture = self.source.picture(index)
        except UserError as error:
            return error
        transform = self.transform.in_epoch(epoch) if isinstance(self.transform, TrainTransform) else self.transform
        if self.seed is None:
            image = torch.as_tensor(transform(picture))
        else:
            image = augment(transform, picture, self.seed, epoch, index)
        return image, int(self.source.labels[index])


class Loader:
    """Iterates an order over a dataset. Worker processes stay alive from one iteration to the next."""

    def __init__(self, pictures: Pictures, order: Iterable[list[Key]], workers: int, pin_memory: bool):
        self._loader = DataLoader(
            pictures,
            batch_sampler=order,  # type: ignore[arg-type]  # any iterable of lists of keys serves
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # else every iteration draws from the global one
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        atexit.unregister(_end_workers)
        atexit.register(_end_workers)  # after DataLoader's own hooks, so it runs before them
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch


def _collate(samples: list) -> Batch | UserError:
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.tensor(labels)


def _start_worker(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # for the main process, which needs its workers until it has saved
        signal.signal(number, signal.SIG_IGN)


def _end_workers() -> None:
    """At exit, what an error left running: multiprocessing would send SIGTERM, which they ignore, and wait for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # DataLoader's would raise
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
