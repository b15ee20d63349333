"""metrics.jsonl, the log of a run that programs read."""

import json
import math
from pathlib import Path
from typing import Any

from ...files import append, write_whole


class MetricsLog:
    """metrics.jsonl: one line per log step and per evaluation, as JSON.

    Lines after `step`, which a killed run logged beyond the checkpoint that it now continues from, are dropped.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        write_whole(path, b"".join(line for line in lines if _step_of(line) <= step))

    def add(self, kind: str, step: int, epoch: float, values: dict[str, Any]) -> None:
        line = {"kind": kind, "step": step, "epoch": round(epoch, 4)} | {k: plain(v) for k, v in values.items()}
        append(self.path, json.dumps(line, allow_nan=False).encode() + b"\n")


def plain(value: Any) -> Any:
    """JSON has no infinity and no nan; readers other than Python's stumble over them."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step_of(line: bytes) -> float:
    """The step of a log line; infinite for what a crash left of one."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf
