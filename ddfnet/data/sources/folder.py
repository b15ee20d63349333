"""A folder of pictures for each class."""

import os
from pathlib import Path

import numpy as np

from ...errors import UserError
from .base import EXTENSIONS, EncodedSource, vanished_or_unreadable
from .names import Names, fingerprint


class ImageFolder(EncodedSource):
    """ImageNet's own layout: root/CLASS/*.JPEG, classes in alphabetical order; subfolders count to their class.

    Raises:
        UserError: no such folder, no classes in it, or a class without pictures, naming the path.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such folder, expected one with a folder of pictures for each class")
        self.classes = sorted(entry.name for entry in os.scandir(self.root) if entry.is_dir())
        if not self.classes:
            raise UserError(f"{self.root}: holds no class folders, expected one folder of pictures for each class")
        names: list[str] = []
        counts = []
        for name in self.classes:
            found = sorted(self._pictures(name))
            if not found:
                kinds = ", ".join(EXTENSIONS)
                raise UserError(
                    f"{self.root / name}: holds no pictures ({kinds}): fill this class or remove its folder"
                )
            names += found
            counts.append(len(found))
        self._names = Names(names)
        self.labels = np.repeat(np.arange(len(counts)), counts)
        self.fingerprint = fingerprint(self.classes, self._names, self.labels)

    def _pictures(self, class_name: str):
        for folder, _, files in os.walk(self.root / class_name):
            for file in files:
                if file.lower().endswith(EXTENSIONS):
                    yield os.path.relpath(os.path.join(folder, file), self.root)

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
