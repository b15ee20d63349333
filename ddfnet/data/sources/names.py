"""Many names in two arrays, and the fingerprint of a dataset."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence

import numpy as np


class Names(Sequence):
    """A read-only list of strings in one run of bytes with offsets.

    Not a list: forked workers would copy that page by page, as Python counts references to its strings. Not a numpy
    array of strings either: that is as wide as its longest one, everywhere.
    """

    def __init__(self, names: Iterable[str]):
        encoded = [os.fsencode(name) for name in names]
        self.blob = np.frombuffer(b"".join(encoded), np.uint8)
        self.ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    @classmethod
    def of_arrays(cls, blob: np.ndarray, ends: np.ndarray) -> "Names":
        names = cls(())
        names.blob, names.ends = blob, ends
        return names

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index) -> str:  # type: ignore[override]
        if not 0 <= index < len(self.ends):
            raise IndexError(index)
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.blob[start : self.ends[index]].tobytes())


def natural_key(name: str) -> list:
    """To sort by as timm sorts classes: 2 before 10, capitals as small letters."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.lower())]


def fingerprint(classes: Sequence[str], names: Names, labels: np.ndarray) -> str:
    """16 hex digits: which pictures, in which order, of which class; not where they lie, nor what is in them."""
    digest = hashlib.sha256("\0".join(classes).encode("utf-8", "surrogateescape"))
    for array in (names.blob, names.ends, labels.astype(np.int64)):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
