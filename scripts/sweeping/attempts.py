"""attempts.jsonl in a run's folder: every start of train.py there, on what machine, for how long, how it ended."""

import contextlib
import functools
import json
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure.timing import environment

from ddfnet.files import append

FILE = "attempts.jsonl"


@dataclass(frozen=True)
class Cost:
    """What all attempts of a run took together."""

    seconds: float  # on the clock, of processes that may have been killed and whose work may have been lost
    gpu_hours: float
    core_hours: float  # of CPU, where no GPU was assigned
    attempts: int


def record_start(folder: Path, command: list[str], gpus: list[str], threads: int) -> None:
    settle(folder)
    _append(
        folder,
        {
            "event": "start",
            "time": time.time(),
            "command": command,
            "gpus": gpus,
            "threads": threads,
            "host": platform.node(),
            "environment": machine(tuple(gpus)),
        },
    )


def record_end(folder: Path, exit_code: int | None, ended: float | None = None) -> None:
    """`exit_code` None: nobody was there to see it."""
    _append(folder, {"event": "end", "time": ended or time.time(), "exit": exit_code})


def settle(folder: Path) -> None:
    """An attempt whose runner was killed ended, as far as anyone can tell, with the last thing it wrote."""
    events = read_events(folder)
    if events and events[-1]["event"] == "start":
        written = [file.stat().st_mtime for name in ("metrics.jsonl", "log.txt") if (file := folder / name).exists()]
        record_end(folder, None, max(written, default=events[-1]["time"]))


def read_events(folder: Path) -> list[dict[str, Any]]:
    file = folder / FILE
    events = []
    for line in file.read_text().splitlines() if file.exists() else []:
        with contextlib.suppress(ValueError):  # what a crash left of a line
            events.append(json.loads(line))
    return events


def cost(folder: Path) -> Cost | None:
    """None for a run that no sweep has started."""
    seconds = gpu_hours = core_hours = 0.0
    attempts = 0
    start: dict[str, Any] | None = None
    for event in read_events(folder):
        if event["event"] == "start":
            start, attempts = event, attempts + 1
        elif start is not None:
            taken = max(0.0, event["time"] - start["time"])
            seconds += taken
            if start["gpus"]:
                gpu_hours += taken / 3600 * len(start["gpus"])
            else:
                core_hours += taken / 3600 * start["threads"]
            start = None
    return Cost(seconds, gpu_hours, core_hours, attempts) if attempts else None


@functools.cache
def machine(gpus: tuple[str, ...]) -> dict[str, Any]:
    """Processor, versions, commit and date, and the GPUs by name; torch's CUDA stays untouched in this process."""
    found = environment(torch.device("cpu"))
    if gpus:
        query = ["nvidia-smi", f"--id={','.join(gpus)}", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        with contextlib.suppress(OSError):
            said = subprocess.run(query, capture_output=True, text=True)
            if said.returncode == 0:
                found["gpus"] = said.stdout.strip().splitlines()
    return found


def _append(folder: Path, event: dict[str, Any]) -> None:
    append(folder / FILE, f"{json.dumps(event)}\n".encode(), durable=True)
