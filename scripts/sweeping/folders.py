"""What a run's folder tells: how far it is, what it cost, who works in it."""

import contextlib
import fcntl
import json
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddfnet.errors import UserError

TAIL = 1 << 14  # bytes of metrics.jsonl that surely hold the last log line and the last evaluation nearby


class Busy(Exception):
    """Another process works in the folder. The text says which."""


class Lock:
    """`folder/.lock`, held as long as a process has the file open: by this one, and by children it is handed on to.

    The kernel lets go of it when the last of them dies, however that happens, so that a lock is never stale. Its text
    says who holds it. On a network file system it keeps out other nodes only where that system knows flock.
    """

    def __init__(self, folder: Path):
        self.file = folder / ".lock"
        self.fd = -1

    def take(self, who: str) -> "Lock":
        """
        Raises:
            Busy: held by another; its text is what that one said.
            UserError: the folder cannot be written, or its file system has no locks.
        """
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.fd = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.say(who)
        except BlockingIOError:
            held_by = os.read(self.fd, 500).decode(errors="replace").strip()
            self.release()
            raise Busy(held_by or "another process") from None
        except OSError as error:
            self.release()
            raise UserError(f"{self.file}: the folder cannot be locked: {error.strerror}") from None
        return self

    def say(self, who: str) -> None:
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, who.encode(), 0)

    def release(self) -> None:
        """Children that have it keep it: closing, unlike unlocking, is this process' alone."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def this_process(what: str, pid: int | None = None) -> str:
    return f"{what}, process {pid or os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"


@dataclass
class Progress:
    """How far a run is, by its own files."""

    state: str = "new"  # new, begun, finished
    step: int = 0
    epoch: float = 0.0
    loss: float | None = None  # of training, at the last log step
    evaluation: dict[str, Any] = field(default_factory=dict)  # the metrics of the last one
    images_per_second: float | None = None
    summary: dict[str, Any] = field(default_factory=dict)


def read_progress(folder: Path) -> Progress:
    progress = Progress()
    if (folder / "config.yaml").exists():
        progress.state = "begun"
    for line in _last_lines(folder / "metrics.jsonl"):
        progress.step, progress.epoch = line["step"], line["epoch"]
        if line["kind"] == "train":
            progress.loss, progress.images_per_second = line["loss"], line.get("images_per_second")
        else:
            progress.evaluation = line
    summary = read_summary(folder)
    if summary is not None:
        progress.state, progress.summary = "finished", summary
        progress.step, progress.evaluation = summary.get("step", progress.step), summary
    return progress


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The result of a finished run; None for one that is not."""
    file = folder / "summary.json"
    try:
        summary = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}; delete it to train the run to its end again") from None
    headline = summary.get("headline", "top1") if isinstance(summary, dict) else "headline"  # top1: those of 0.1
    if not isinstance(summary, dict) or not isinstance(summary.get(headline, ""), int | float | None):  # null: nan
        raise UserError(f"{file}: is no summary of train.py: it has no {headline}")
    return summary


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Every line of metrics.jsonl, but what a crash left of one."""
    file = folder / "metrics.jsonl"
    return _parsed(file.read_text().splitlines()) if file.exists() else []


def _last_lines(file: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), open(file, "rb") as opened:
        opened.seek(max(0, opened.seek(0, os.SEEK_END) - TAIL))
        return _parsed(opened.read().decode(errors="replace").splitlines())
    return []


def _parsed(lines: list[str]) -> list[dict[str, Any]]:
    parsed = []
    for line in lines:
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and {"kind", "step", "epoch"} <= value.keys():
                parsed.append(value)
    return parsed
