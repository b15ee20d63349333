"""A folder of pictures for each class."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...errors import UserError
from .base import EXTENSIONS, EncodedSource, may_be_an_image, vanished_or_unreadable
from .names import Names, fingerprint


class ImageFolder(EncodedSource):
    """ImageNet's own layout: root/CLASS/*.JPEG, classes in alphabetical order; subfolders count to their class.

    Links to files and folders are followed. One to a folder that it lies in is passed over: what is in there counts
    already.

    Raises:
        UserError: no such folder, no classes in it, a class without images, a link that leads nowhere, or a folder that
            cannot be read, naming the path.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such folder, expected one with a folder of pictures for each class")
        self._broken: list[str] = []
        classes = {entry.name: entry.is_symlink() for entry in self._entries(self.root) if entry.is_dir()}
        self.classes = sorted(classes)
        if not self.classes and not self._broken:
            raise UserError(f"{self.root}: holds no class folders, expected one folder of pictures for each class")
        around = frozenset(map(_identity, (self.root, *self.root.resolve().parents)))
        found = [sorted(self._images(name, around, classes[name])) for name in self.classes]
        if self._broken:
            more = f" (and {len(self._broken) - 1} more)" if len(self._broken) > 1 else ""
            raise UserError(f"{self._broken[0]}: is a link that leads nowhere{more}: mend it or remove it")
        if not all(found):
            empty, kinds = self.root / self.classes[found.index([])], ", ".join(EXTENSIONS)
            raise UserError(f"{empty}: holds no pictures ({kinds}): fill this class or remove its folder")
        names = itertools.chain.from_iterable(found)
        self._names = Names(names)
        self.labels = np.repeat(np.arange(len(found)), list(map(len, found)))
        self.fingerprint = fingerprint(self.classes, self._names, self.labels)

    def _images(self, folder: str, around: frozenset, linked: bool) -> Iterator[str]:
        """The paths below the root of all images in a folder; `around`: the folders that it lies in.

        Only a link makes a circle; other folders are not asked, since some file systems number them all alike.
        """
        identity = _identity(self.root / folder)
        if linked and identity in around:
            return
        for entry in self._entries(self.root / folder):
            if entry.is_dir():
                yield from self._images(f"{folder}/{entry.name}", around | {identity}, entry.is_symlink())
            elif entry.name.lower().endswith(EXTENSIONS):
                yield f"{folder}/{entry.name}"

    def _entries(self, folder: Path) -> list[os.DirEntry]:
        """All that is in a folder but for links that lead nowhere, which are noted where an image may be missed."""
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise UserError(f"{folder}: the folder cannot be read: {error.strerror or error}") from None
        broken = [entry for entry in entries if entry.is_symlink() and not _leads_somewhere(entry)]
        # what lies in the root may be a class, whatever dots are in its name
        missed = [e for e in broken if may_be_an_image(e.name) or (folder == self.root and e.name[0] != ".")]
        self._broken += [entry.path for entry in missed]
        return [entry for entry in entries if entry not in broken]

    def name(self, index: int) -> str:
        return self._names[index]

    def place(self, index: int) -> str:
        return str(self.root / self._names[index])

    def encoded(self, index: int) -> bytes:
        path = self.place(index)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise vanished_or_unreadable(error, path, self.root) from None


def _identity(folder: Path) -> tuple[int, int]:
    """The same for all ways to a folder."""
    about = folder.stat()
    return about.st_dev, about.st_ino


def _leads_somewhere(link: os.DirEntry) -> bool:
    try:
        link.stat()  # which the entry remembers
        return True
    except OSError:
        return False
