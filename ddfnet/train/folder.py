"""Which folder a fresh run gets."""

import os
from pathlib import Path

from .dist import World, from_main


def fresh_folder(folder: Path, world: World) -> Path:
    """The first of NAME, NAME-2, NAME-3 ... that does not exist, the same on all ranks; nothing is made or deleted.

    A restart by torchrun (--max-restarts) is not fresh: it goes on in the last that exists.
    """
    if not world.is_main:
        return from_main(None)
    number = 1
    while _numbered(folder, number).exists():
        number += 1
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)):
        number = max(1, number - 1)
    return from_main(_numbered(folder, number))


def _numbered(folder: Path, number: int) -> Path:
    return folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
