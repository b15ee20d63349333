"""What goes wrong while a run trains, each in a sentence that ends with what is left of the run."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from ..errors import UserError, first_line


@contextlib.contextmanager
def in_one_sentence() -> Iterator[None]:
    """Turns errors of memory and of other processes into UserErrors."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[0]
        raise UserError(
            f"the GPU's memory is too small ({reason}): lower train.batch_size, raise train.accumulation or set"
            " train.activation_checkpointing=true"
        ) from None
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        reason = first_line(error)
        raise UserError(f"another process of this run was lost ({reason})") from None


@contextlib.contextmanager
def naming_what_is_kept(checkpoint: Path) -> Iterator[None]:
    """Turns errors of disks, data, memory and other processes into UserErrors that name the last good checkpoint.

    For the time when it is known to be good: this run has continued from it, or wrote it.
    """
    try:
        with in_one_sentence():
            yield
    except (UserError, OSError) as error:
        raise UserError(f"{error}{_kept(checkpoint)}") from None


def is_lost_process(error: RuntimeError) -> bool:
    """Whether it says that another process is gone: Gloo by a plain RuntimeError, NCCL by a DistError."""
    if not dist.is_initialized():
        return False
    said = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in said or "connection" in said or "nccl" in said


def _kept(checkpoint: Path) -> str:
    if not checkpoint.exists():
        return ""
    folder = checkpoint.parents[1]
    return f"; the last good checkpoint is {checkpoint}, from which train.py with run.dir={folder} continues"
