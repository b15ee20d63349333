"""What a source of pictures is."""

import errno
import os
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from ...errors import UserError
from ..picture import decode

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")  # torchvision's


def may_be_an_image(name: str) -> bool:
    """Whether an image, its class or a folder may be missed where what has this name cannot be found."""
    name = os.path.basename(name).lower()
    return not name.startswith(".") and ("." not in name or name.endswith((*EXTENSIONS, ".cls")))


class Source(Protocol):
    """Pictures with their classes, read one at a time, by any process."""

    classes: list[str]
    labels: np.ndarray  # int64, one per picture
    fingerprint: str  # of the pictures' names and labels: the same wherever the dataset lies

    def name(self, index: int) -> str:
        """The picture's path below the root, or what stands for it."""
        ...

    def picture(self, index: int) -> Image.Image:
        """The picture in RGB. Raises UserError naming it where it cannot be read or decoded."""
        ...


class EncodedSource:
    """A source of files as JPEG and the like, which other decoders than PIL may read too."""

    def encoded(self, index: int) -> bytes:
        """The file's bytes. Raises UserError where it is no longer there."""
        raise NotImplementedError

    def place(self, index: int) -> str:
        """What a message calls the picture."""
        raise NotImplementedError

    def picture(self, index: int) -> Image.Image:
        return decode(self.encoded(index), self.place(index))


def vanished_or_unreadable(error: OSError, path: str | Path, root: str | Path) -> UserError:
    if not os.path.exists(root):
        return UserError(f"{root}: the dataset has vanished since it was opened: bring it back and run again")
    if error.errno == errno.ENOENT:
        return UserError(f"{path}: the file has vanished since the dataset was opened: bring it back and run again")
    return UserError(f"{path}: the file cannot be read: {error.strerror or error}")
