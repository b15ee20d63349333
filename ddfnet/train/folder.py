"""The folder of a run: which one a fresh run gets, whether one has begun there, that one process at a time writes."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from .dist import World, from_main


def fresh_folder(folder: Path, world: World) -> Path:
    """The first of NAME, NAME-2, NAME-3 ... that does not exist, the same on all ranks; nothing is made or deleted.

    A restart by torchrun (--max-restarts) or SLURM (requeue) is not fresh: it goes on in the last that exists.
    """
    if not folder.name:
        raise UserError(f"run.dir = {folder} has no name for --fresh to number: give it one")
    if not world.is_main:
        return from_main(None)
    number = 1
    while _numbered(folder, number).exists():
        number += 1
    if any(int(os.environ.get(f"{launcher}_RESTART_COUNT") or 0) for launcher in ("TORCHELASTIC", "SLURM")):
        number = max(1, number - 1)
    return from_main(_numbered(folder, number))


def checkpoint_to_continue(folder: Path) -> Path:
    """The run's last.pt; without one its best.pt, which is written first and of which a kill may have left no other.

    The way from there to the end is the same: order, augmentation and random numbers go by the step.
    """
    last, best = folder / "checkpoints" / "last.pt", folder / "checkpoints" / "best.pt"
    return best if best.exists() and not last.exists() else last


def has_begun(folder: Path, world: World) -> bool:
    """Whether there is a checkpoint in it to continue from, as the first process sees it."""
    return from_main(checkpoint_to_continue(folder).exists() if world.is_main else None)


def _numbered(folder: Path, number: int) -> Path:
    return folder if number == 1 else folder.with_name(f"{folder.name}-{number}")


@contextlib.contextmanager
def held(folder: Path, enabled: bool) -> Iterator[None]:
    """Nobody else trains in the folder meanwhile. The lock ends with this process, however that ends.

    Raises:
        UserError: somebody does, or the folder cannot be written.
    """
    if not enabled:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "train.lock", "a")
    except OSError as error:
        raise UserError(f"{folder}: the run's folder cannot be written: {error}") from None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which the data's processes do not inherit
        except (BlockingIOError, PermissionError):
            raise UserError(f"{folder}: another process trains there: wait for it, or set another run.dir") from None
        except OSError:
            pass  # a file system without locks
        yield
