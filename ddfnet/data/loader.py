"""Batches read by worker processes."""

import atexit
import contextlib
import gc
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from .order import Key


class Loader:
    """Iterates an order over a dataset. Worker processes stay alive from one iteration to the next.

    Args:
        dataset: its `__getitems__` makes a batch of a list of keys, or gives the UserError that it met: raised there,
            it would arrive wrapped in the worker's traceback.
        order: the keys of each batch.
    """

    def __init__(self, dataset: Dataset, order: Iterable[list[Key]], workers: int, pin_memory: bool):
        self._workers = workers
        self._loader = DataLoader(
            dataset,
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

    def __iter__(self) -> Iterator[Any]:
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
