"""Batches of uint8 pictures, read and augmented by worker processes."""

import atexit
import contextlib
import gc
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from ..counted import counted
from ..errors import UserError
from .augment import TrainTransform, Transform, augment, seed_generators
from .crops import Crop
from .decoders import Decoder, Undecoded
from .order import Key
from .picture import UndecodablePicture
from .sources import Source

Batch = tuple[Tensor, Tensor]  # pictures (B, 3, H, W) uint8, labels (B,) int64

REPLACEMENTS = 10  # tried for one picture, before so many bad ones are an error all the same


class Sample(NamedTuple):
    image: Tensor | Undecoded  # (3, H, W) uint8
    label: int
    replaced: list[str]  # names of the pictures that could not be decoded and stand aside for this one


@dataclass
class HostBatch:
    """What the workers send."""

    images: Tensor  # (those decoded, H, W, 3) uint8
    labels: Tensor  # (B,) int64
    replaced: list[str]
    keys: list[Key]
    blobs: Tensor  # the undecoded pictures' files, one behind the other; empty but for the device's decoder
    undecoded: dict[int, tuple[int, int, Crop]]  # place in the batch -> first and last of its bytes, its crop

    def pin_memory(self) -> "HostBatch":
        return replace(self, images=self.images.pin_memory(), labels=self.labels.pin_memory())


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
        return self.sample(key, self.decoder)

    def sample(self, key: Key, decoder: Decoder | None) -> Sample | UserError:
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
            seed_generators(self.seed, epoch, index)
            image = decoder(self.source, index, epoch)
            if image is not None:
                return image
        return augment(transform, self.source.picture(index), self.seed, epoch, index)

    def __getitems__(self, keys: list[Key]) -> HostBatch | UserError:
        """A whole batch, which DataLoader asks for where it can: the samples, put together."""
        samples = []
        for key in keys:
            sample = self[key]
            if isinstance(sample, UserError):
                return sample
            samples.append(sample)
        files = {i: s.image for i, s in enumerate(samples) if isinstance(s.image, Undecoded)}
        ends = np.cumsum([len(file.blob) for file in files.values()]).tolist()
        images = [s.image.permute(1, 2, 0) for s in samples if isinstance(s.image, Tensor)]
        return HostBatch(
            default_collate(images) if images else torch.empty(0, dtype=torch.uint8),  # into shared memory
            torch.tensor([s.label for s in samples]),
            [name for s in samples for name in s.replaced],
            keys,
            torch.frombuffer(bytearray().join(f.blob for f in files.values()) or bytearray(1), dtype=torch.uint8),
            {i: (end - len(f.blob), end, f.crop) for (i, f), end in zip(files.items(), ends, strict=True)},
        )


class Loader:
    """Iterates an order over a dataset. Worker processes stay alive from one iteration to the next."""

    def __init__(self, pictures: Pictures, order: Iterable[list[Key]], workers: int, pin_memory: bool):
        self.pictures, self._workers = pictures, workers
        self._loader = DataLoader(
            pictures,
            batch_sampler=order,  # type: ignore[arg-type]  # any iterable of lists of keys serves
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # else every iteration draws from the global one
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[HostBatch]:
        with _death_of_a_child_is_found_here():
            batches = iter(self._loader)
        atexit.unregister(_kill_workers)
        atexit.register(_kill_workers)  # after DataLoader's own hooks, so it runs before them
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if not str(error).startswith("DataLoader worker"):
                    raise
                del batches
                self._end_workers()
                raise UserError(
                    "a process that reads the data was killed, most likely by the system for want of memory (or of"
                    f" /dev/shm): run again with fewer than data.workers = {self._workers} or a smaller batch"
                ) from None
            if isinstance(batch, UserError):
                del batches
                self._end_workers()
                raise batch
            yield batch

    def _end_workers(self) -> None:
        """By the last reference to them: left to the end of Python, which waits for them, they would never end."""
        self._loader._iterator = None


@contextlib.contextmanager
def _death_of_a_child_is_found_here():
    """DataLoader's handler of SIGCHLD would raise anywhere in the main process; its queue finds out as well."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    yield
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)


def _as_it_is(batch):
    return batch


def _start_worker(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # for the main process, which needs its workers until it has saved
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()  # a collection would touch, and so copy, all that the main process has: over 100 MB for each worker
    warnings.filterwarnings("ignore", module="PIL")  # of odd EXIF and the like, from each worker anew


def _kill_workers() -> None:
    """At exit, what an error left running: multiprocessing would send SIGTERM, which they ignore, and wait for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # DataLoader's would raise
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
