"""Signals and the clock, asked once after each step: go on, save, or save and stop, the same on all ranks.

A scheduler that wants its machine back sends SIGTERM; a user presses Ctrl-C. The step under way is finished, the run is
saved, and the process ends with EXIT_CODE, after which the same command continues as if nothing had been. A second
signal ends the process at once; within a second of the first it is taken for the same one, which reaches a process by
several ways where launchers pass it on.
"""

import os
import signal
import socket
import threading
import time
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from .dist import World

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(Exception):
    """The run was asked to stop, and is saved."""


class Requests(NamedTuple):
    """What signals and the clock ask for; `stop` comes with `save`."""

    stop: bool
    save: bool


class Interrupt:
    """Between `with` and its end signals are kept for `after_step`, which every rank calls after every step.

    With several ranks the answer is that of the step before: the ranks' wishes travel while they compute, on a group of
    their own on the CPU, so that asking costs no wait.
    """

    def __init__(self, world: World, minutes: float):
        self.world, self.seconds = world, 60 * minutes
        self.signal: int | None = None
        self._saved = time.monotonic()
        self._asked = False  # for a save that has not come yet
        self._wishes = torch.zeros(2, dtype=torch.int32)
        self._travelling: dist.Work | None = None
        self._group: Any = None

    def __enter__(self) -> "Interrupt":
        if self.world.size > 1:
            self._group = dist.new_group(backend="gloo")
        self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        heard, told = socket.socketpair()
        told.setblocking(False)
        self._told, self._wakeup = told, signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        self._watcher = threading.Thread(target=self._watch, args=(heard,), daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        signal.set_wakeup_fd(self._wakeup)
        self._told.shutdown(socket.SHUT_RDWR)  # ends the watcher, also where a worker process has a copy of it
        self._told.close()
        self._watcher.join()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._travelling is not None and kind in (None, Interrupted):
            self._travelling.wait()

    def _receive(self, number: int, frame) -> None:
        self.signal = self.signal or number

    def _watch(self, heard: socket.socket) -> None:
        """In a thread, since the main one hears of no signal while it waits for the device or another process."""
        first = None
        while number := heard.recv(1):
            if number[0] not in SIGNALS:
                continue
            first = first or time.monotonic()
            if time.monotonic() - first > 1:
                os._exit(128 + number[0])
        heard.close()

    def after_step(self) -> Requests:
        """Return what is asked for, the same on all ranks."""
        due = self.world.is_main and self.seconds and time.monotonic() - self._saved >= self.seconds
        own = torch.tensor([self.signal is not None, bool(due and not self._asked)], dtype=torch.int32)
        self._asked = self._asked or bool(due)
        if self._group is None:
            wishes = own
        else:
            if self._travelling is not None:
                self._travelling.wait()
            wishes, self._wishes = self._wishes, own
            self._travelling = dist.all_reduce(own, dist.ReduceOp.MAX, group=self._group, async_op=True)
        stop, save = bool(wishes[0]), bool(wishes[0] or wishes[1])
        if save:
            self.saved()
        return Requests(stop, save)

    def saved(self) -> None:
        """The clock starts anew."""
        self._asked, self._saved = False, time.monotonic()
