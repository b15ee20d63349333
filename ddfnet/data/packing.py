"""Packs a source's pictures, made smaller, into one file: by several processes, to be continued when it is stopped."""

import contextlib
import errno
import fcntl
import hashlib
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from ..files import move
from .picture import UndecodablePicture, without_far_ends
from .processes import in_order
from .sources import Source
from .sources.names import Names
from .sources.packed import DATA_START, Index, Packed, header_bytes, index_bytes

FLUSH_SECONDS = 5  # what a kill loses at most
_ROW = np.dtype([("end", "<i8"), ("height", "<i4"), ("width", "<i4"), ("checksum", "<u4")])  # height 0: left out


def pack(
    source: Source,
    path: Path,
    shorter_side: int,
    bicubic: bool = False,
    workers: int = 1,
    leave_out_corrupt: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Write `path`; it appears when it is complete. Pictures larger than that get a shorter side of `shorter_side`.

    Until then `path`.part grows, and beside it a journal of the pictures that are safely in it; a later call with the
    same arguments goes on from there.

    Returns:
        Why pictures were left out, by this call or those that it continues, a sentence each.

    Raises:
        UserError: a picture that cannot be decoded (unless they are left out), another packing begun or finished
            under this name, or one under way, a full disk, a worker process that was killed.
    """
    digest = hashlib.sha256(f"{source.fingerprint} {shorter_side} {bicubic} {leave_out_corrupt}".encode())
    fingerprint = digest.hexdigest()[:16]
    if path.exists():
        if Packed(path.parent, path.name).fingerprint != fingerprint:
            raise UserError(f"{path}: holds other pictures, or of another size: choose another folder, or delete it")
        progress(len(source.labels))
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    part, journal_path = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.journal")
    with _room_for(part), open(part, "ab") as data, open(journal_path, "a+b") as journal:
        try:
            fcntl.flock(data, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{part}: is being written by another process") from None
        rows = _resume(data, journal, fingerprint)
        bad = [
            _shrink(index, source, shorter_side, bicubic)[3] or f"{source.name(index)}: could not be decoded before"
            for index, (_, height, _, _) in enumerate(rows)
            if not height
        ]
        with contextlib.closing(_shrunk(source, len(rows), shorter_side, bicubic, workers)) as results:
            _append(data, journal, rows, results, leave_out_corrupt, bad, progress)
        _finish(data, source, rows, shorter_side, fingerprint)
        move(part, path)
    journal_path.unlink()
    return bad


@contextlib.contextmanager
def _room_for(part: Path):
    """Around the files' closing too, which writes again what did not fit."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(f"{part}: {error.strerror}: make room, the same command then goes on from here") from None


def _resume(data, journal, fingerprint: str) -> list[tuple]:
    """What is safely there; what came after the last entry of the journal is cut off."""
    journal.seek(0)
    content = journal.read()
    if not content:
        data.truncate(DATA_START)
        journal.write(fingerprint.encode())
        return []
    if content[:16] != fingerprint.encode():
        raise UserError(f"{data.name}: is the beginning of another packing: delete it and its journal to start over")
    whole = (len(content) - 16) // _ROW.itemsize
    journal.truncate(16 + whole * _ROW.itemsize)
    rows = np.frombuffer(content, _ROW, whole, 16).tolist()
    end = rows[-1][0] if rows else DATA_START
    if os.fstat(data.fileno()).st_size < end:
        raise UserError(f"{data.name}: is shorter than its journal says: delete both to start over")
    data.truncate(end)
    return rows


def _append(data, journal, rows, results, leave_out_corrupt: bool, bad: list[str], progress) -> None:
    end, kept, flushed = (rows[-1][0] if rows else DATA_START), len(rows), time.monotonic()

    def flush() -> None:
        nonlocal kept, flushed
        data.flush()
        os.fsync(data.fileno())  # before the journal says so
        journal.write(np.array(rows[kept:], _ROW).tobytes())
        journal.flush()
        os.fsync(journal.fileno())
        kept, flushed = len(rows), time.monotonic()

    progress(len(rows))
    try:
        for pixels, height, width, sentence in results:
            if sentence is not None:
                if not leave_out_corrupt:
                    raise UserError(sentence)
                bad.append(sentence)
            data.write(pixels)
            end += len(pixels)
            rows.append((end, height, width, zlib.crc32(pixels)))
            progress(len(rows))
            if time.monotonic() - flushed > FLUSH_SECONDS:
                flush()
    finally:
        flush()


def _finish(data, source: Source, rows: list[tuple], shorter_side: int, fingerprint: str) -> None:
    table = np.array(rows, _ROW)
    kept = np.flatnonzero(table["height"])
    names = Names(source.name(index) for index in kept.tolist())
    classes = Names(source.classes)
    shapes = np.stack([table["height"], table["width"]], axis=1)[kept]
    index = index_bytes(
        Index(
            *(table["end"][kept], shapes, table["checksum"][kept], np.asarray(source.labels)[kept]),
            *(names.blob, names.ends, classes.blob, classes.ends, np.frombuffer(fingerprint.encode(), np.uint8)),
        )
    )
    data.write(index)
    data.flush()
    end = rows[-1][0] if rows else DATA_START
    with open(data.name, "r+b") as file:  # the other handle can but append
        file.write(header_bytes(shorter_side, len(kept), end, index))
        file.flush()
        os.fsync(file.fileno())


def _shrunk(source: Source, first: int, shorter_side: int, bicubic: bool, workers: int):
    """(pixels, height, width, what is wrong with it) of each picture from `first` on, in order."""
    todo = range(first, len(source.labels))
    if not workers:
        return (_shrink(index, source, shorter_side, bicubic) for index in todo)
    advice = "the same command, with fewer --workers, goes on from here"
    return in_order(_shrink, todo, workers, advice, source, shorter_side, bicubic)


def _shrink(index: int, source: Source, shorter_side: int, bicubic: bool) -> tuple[bytes, int, int, str | None]:
    try:
        picture = source.picture(index)
    except UndecodablePicture as error:
        return b"", 0, 0, str(error)
    small = resize_shorter_side(picture, shorter_side, bicubic)
    return small.tobytes(), small.height, small.width, None


def resize_shorter_side(picture: Image.Image, to: int, bicubic: bool) -> Image.Image:
    """As the first steps of the evaluation's transform, which then has nothing left to do; a small picture stays."""
    picture = without_far_ends(picture)
    width, height = picture.size
    shorter = min(width, height)
    if shorter <= to:
        return picture
    size = (to, to * height // width) if width <= height else (to * width // height, to)
    return picture.resize(size, Image.Resampling.BICUBIC if bicubic else Image.Resampling.BILINEAR)
