"""Datasets in the format of Hugging Face's `datasets`."""

import os
from pathlib import Path

import numpy as np

from ...errors import UserError, one_line
from .base import EncodedSource
from .names import Names, fingerprint


class HuggingFace(EncodedSource):
    """A dataset that `save_to_disk` wrote, a folder of parquet files, or a name on the hub.

    The pictures are its first column of images, the labels its first one of classes.

    Raises:
        UserError: the library is not installed, the dataset or split is not there, or it has no such column.
    """

    def __init__(self, root: str, split: str):
        try:
            import datasets
        except ImportError:
            raise UserError("data.source = 'hf' needs the datasets library: pip install 'ddfnet[hf]'") from None
        self.root = root
        folder = Path(root)
        try:
            if (folder / "dataset_dict.json").exists():
                table = datasets.load_from_disk(str(folder))[split]
            elif (folder / "dataset_info.json").exists() or (folder / split / "dataset_info.json").exists():
                inner = folder / split if (folder / split / "dataset_info.json").exists() else folder
                table = datasets.load_from_disk(str(inner))
            else:
                table = datasets.load_dataset(str(folder) if folder.exists() else root, split=split)
        except KeyError:
            raise UserError(f"{root}: has no split {split!r}") from None
        except Exception as error:  # the library's own, the hub's, the file system's
            raise UserError(f"{root}: {split!r} cannot be opened as a dataset: {one_line(error)}") from None
        kinds = {name: type(feature).__name__ for name, feature in table.features.items()}
        columns = {kind: name for name, kind in reversed(kinds.items())}
        for kind, what in (("Image", "pictures"), ("ClassLabel", "classes")):
            if kind not in columns:
                raise UserError(f"{root}: has no column of {what} ({kind}), only {kinds}")
        self._column, label_column = columns["Image"], columns["ClassLabel"]
        self.classes = list(table.features[label_column].names)
        self.labels = np.asarray(table[label_column][:], np.int64)
        unlabelled = np.flatnonzero(self.labels < 0)
        if len(unlabelled):
            raise UserError(f"{root}: row {unlabelled[0]} of {split!r} has no label")
        self._split = split
        self._table = table.cast_column(self._column, datasets.Image(decode=False)).select_columns([self._column])
        identity = Names([root if not folder.exists() else "", split, str(len(self.labels))])
        self.fingerprint = fingerprint(self.classes, identity, self.labels)

    def name(self, index: int) -> str:
        return f"{self._split}/{index}"

    def place(self, index: int) -> str:
        return f"{self.root}: row {index} of {self._split!r}"

    def encoded(self, index: int) -> bytes:
        try:
            cell = self._table[int(index)][self._column]
            if cell["bytes"] is not None:
                return cell["bytes"]
            with open(os.path.expanduser(cell["path"]), "rb") as file:
                return file.read()
        except (OSError, TypeError) as error:
            raise UserError(f"{self.place(index)}: cannot be read: {error}") from None
