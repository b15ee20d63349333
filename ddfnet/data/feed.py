"""From the loader to the device, on a stream of its own, one batch ahead."""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import torch

from ..errors import UserError
from ..task import Batch, HostBatch

BatchT = TypeVar("BatchT", bound=Batch)


class Feeder(Generic[BatchT]):
    """Iterates batches, on the device.

    Without a GPU it passes them on. With one, a batch is copied from pinned memory while the batch before it is
    computed on; nothing waits for the device. `replaced` counts, by name, the pictures that others stood in for.
    """

    def __init__(self, batches: Iterable[HostBatch[BatchT]], device: torch.device):
        self._batches, self._device = batches, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.replaced: dict[str, int] = {}

    def __iter__(self) -> Iterator[BatchT]:
        return self._pass_on() if self._stream is None else self._one_ahead(self._stream)

    def _pass_on(self) -> Iterator[BatchT]:
        for batch in self._batches:
            yield self._counted(batch.to(self._device))

    def _one_ahead(self, stream: torch.cuda.Stream) -> Iterator[BatchT]:
        consumer = torch.cuda.current_stream(self._device)
        stream.wait_stream(consumer)
        ready: BatchT | None = None
        failure: UserError | None = None
        batches = iter(self._batches)
        while failure is None:
            try:
                batch = next(batches)
                with torch.cuda.stream(stream):
                    following = batch.to(self._device)
            except StopIteration:
                break
            except UserError as error:  # comes after the batch that is ready
                failure = error
                break
            if ready is not None:
                yield self._counted(self._hand_over(ready, stream))
            ready = following
        if ready is not None:
            yield self._counted(self._hand_over(ready, stream))
        if failure is not None:
            raise failure

    def _hand_over(self, batch: BatchT, stream: torch.cuda.Stream) -> BatchT:
        consumer = torch.cuda.current_stream(self._device)
        consumer.wait_stream(stream)
        batch.record_stream(consumer)  # else its memory could be used anew while it is computed on
        return batch

    def _counted(self, batch: BatchT) -> BatchT:
        """Only now: what is read ahead and then left by a run that stops would be counted twice."""
        for name in batch.replaced:
            self.replaced[name] = self.replaced.get(name, 0) + 1
        return batch
