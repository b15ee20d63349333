"""TensorBoard's event file, written in the call that logs.

torch's SummaryWriter writes in a thread of its own, where a full disk shows as a traceback, or not at all when the run
ends. A log step has a few hundred bytes: there is no time to be won.
"""

import io
import os
import socket
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from ...files import append


class Events:
    """A new event file in `folder`. TensorBoard hides what older ones there hold from `first_step` on."""

    def __init__(self, folder: Path, first_step: int):
        # half a second to import
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer import record_writer
        from torch.utils.tensorboard import summary

        self._event_pb2, self._record_writer, self._summary = event_pb2, record_writer, summary
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads them in the order of their names
        self.path = folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._append(event_pb2.Event(file_version="brain.Event:2"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._append(event_pb2.Event(step=first_step, session_log=start))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._write(step, [self._summary.scalar(name, value) for name, value in values.items()])

    def pictures(self, step: int, pictures: dict[str, Tensor]) -> None:
        """(3, H, W) in 0..1 each."""
        image = self._summary.image
        self._write(step, [image(name, picture, dataformats="CHW") for name, picture in pictures.items()])

    def histograms(self, step: int, values: dict[str, Tensor]) -> None:
        """Of the finite values of tensors of any shape, on the CPU."""
        finite = {name: value[value.isfinite()].numpy() for name, value in values.items()}
        histogram = self._summary.histogram
        self._write(step, [histogram(name, value, bins=100) for name, value in finite.items() if value.size])

    def _write(self, step: int, summaries: list[Any]) -> None:
        event = self._event_pb2.Event(step=step)
        for summary in summaries:
            event.summary.MergeFrom(summary)
        self._append(event)

    def _append(self, event: Any) -> None:
        event.wall_time = time.time()
        record = io.BytesIO()
        self._record_writer.RecordWriter(record).write(event.SerializeToString())
        append(self.path, record.getvalue())
