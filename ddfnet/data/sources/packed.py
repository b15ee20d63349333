"""Packed pictures: one file of raw, pre-resized pixels for each split, mapped into memory. packing.py writes it."""

import hashlib
import io
import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...errors import UserError
from .names import Names

MAGIC = b"DDFPACK\0"
VERSION = 1
HEADER = struct.Struct("<8sIIQQQ32s")  # magic, version, shorter side, pictures, index's place and size, its SHA-256
DATA_START = 4096  # header, its CRC-32, zeros; the pictures follow without gaps, then the index


class Index(NamedTuple):
    """What an .npz at the file's end holds. Names and classes as bytes and their ends."""

    ends: np.ndarray  # (n,) int64, of the pictures' bytes, from the file's beginning
    shapes: np.ndarray  # (n, 2) int32, height and width
    checksums: np.ndarray  # (n,) uint32, CRC-32 of the pictures' bytes
    labels: np.ndarray  # (n,) int64
    names: np.ndarray
    name_ends: np.ndarray
    classes: np.ndarray
    class_ends: np.ndarray
    fingerprint: np.ndarray  # bytes


def index_bytes(index: Index) -> bytes:
    file = io.BytesIO()
    np.savez(file, **index._asdict())
    return file.getvalue()


def header_bytes(shorter_side: int, pictures: int, index_at: int, index: bytes) -> bytes:
    fields = (MAGIC, VERSION, shorter_side, pictures, index_at, len(index), hashlib.sha256(index).digest())
    header = HEADER.pack(*fields)
    return (header + struct.pack("<I", zlib.crc32(header))).ljust(DATA_START, b"\0")


class Packed:
    """root/SPLIT.pack. Opening checks the header's and the index's checksum; `intact` that of a picture.

    Raises:
        UserError: no such file, not a packed one, of another version, incomplete or damaged.
    """

    def __init__(self, root: str | Path, split: str):
        self.path = Path(root) / (split if split.endswith(".pack") else f"{split}.pack")
        try:
            index = self._read_index()
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such packed file; scripts/pack.py makes it from the pictures") from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        self._names = Names.of_arrays(index.names, index.name_ends)
        self.classes = list(Names.of_arrays(index.classes, index.class_ends))
        self.labels, self.fingerprint = index.labels, index.fingerprint.tobytes().decode()
        self._ends, self._shapes, self._checksums = index.ends, index.shapes, index.checksums
        self._map: mmap.mmap | None = None

    def _read_index(self) -> Index:
        with open(self.path, "rb") as file:
            start = file.read(HEADER.size + 4)
            if not start.startswith(MAGIC):
                raise UserError(f"{self.path}: is no packed file of scripts/pack.py")
            version = struct.unpack_from("<I", start, len(MAGIC))[0]
            if version != VERSION:
                raise UserError(f"{self.path}: has version {version}, expected {VERSION}: pack the pictures anew")
            damaged = UserError(f"{self.path}: is damaged or incomplete: copy it again, or pack the pictures anew")
            if len(start) < HEADER.size + 4 or struct.unpack("<I", start[-4:])[0] != zlib.crc32(start[:-4]):
                raise damaged
            _, _, self.shorter_side, _, index_at, index_size, digest = HEADER.unpack(start[:-4])
            if os.fstat(file.fileno()).st_size != index_at + index_size:
                raise damaged
            file.seek(index_at)
            content = file.read(index_size)
        if hashlib.sha256(content).digest() != digest:
            raise damaged
        with np.load(io.BytesIO(content)) as arrays:  # pickles are refused
            return Index(**arrays)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_map": None}

    def name(self, index: int) -> str:
        return self._names[index]

    def pixels(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8, where it lies in the mapped file: a view that cannot be written."""
        if self._map is None:
            with open(self.path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        height, width = self._shapes[index].tolist()
        size = height * width * 3
        start = int(self._ends[index]) - size
        return np.frombuffer(self._map, np.uint8, size, start).reshape(height, width, 3)

    def picture(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels(index))

    def intact(self, index: int) -> bool:
        return zlib.crc32(self.pixels(index).data) == self._checksums[index]
