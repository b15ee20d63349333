"""Log files: every write is complete when it returns, and one that fails names its file."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError inside gets the name of the file: writing and flushing give only a number and a reason."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def append(path: Path, data: bytes) -> None:
    """At the end of the file, which is opened for it: nothing is left in a buffer to fail later.

    Raises:
        OSError: the disk is full, the folder is gone.
    """
    with naming(path), open(path, "ab") as file:
        file.write(data)


def replace(path: Path, data: bytes) -> None:
    """The file is the old one or the new one, never a part; raises OSError as `append` does."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with naming(path):
            temporary.write_bytes(data)
            os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


class MetricsLog:
    """metrics.jsonl: one line per log step and per evaluation, as JSON.

    Lines after `step`, which a killed run logged beyond the checkpoint that it now continues from, are dropped.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        replace(path, b"".join(line for line in lines if _step_of(line) <= step))

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
