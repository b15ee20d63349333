"""Files that are written whole or not at all; whatever goes wrong, the error names the file."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path, *, durable: bool = False, shared: bool = False) -> Iterator[Path]:
    """Give the name of a temporary beside `path`, which takes its place at the end and is removed after an error.

    What stands under the name is replaced, a link too.

    Args:
        durable: safe from a loss of power when this returns; costs a wait for the disk.
        shared: several processes may write it at once, so each has a temporary of its own, which one that is killed
            leaves behind. Otherwise the next writing takes the same name and so clears it away.

    Raises:
        OSError: the disk is full, the folder is gone ...; what there was before is untouched.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp" if shared else f"{path.name}.tmp")
    try:
        with _naming(path):
            yield temporary
            if durable:
                _sync(temporary)
            move(temporary, path)
            if durable:
                _sync(path.parent)  # the move itself
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file; text in UTF-8, names of files in it as the file system has them. Raises OSError as above.

    What a user may have put there on purpose is written through, not replaced: a link, /dev/stdout, a pipe.
    """
    data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    if _is_to_stay(path):
        with _naming(path), open(path, "wb") as file:
            file.write(data)
    else:
        with whole_file(path) as temporary:
            temporary.write_bytes(data)


def require_writable(path: Path) -> None:
    """Raise OSError where `write_whole` could not write, and leave all as it was: before an hour's work, not after."""
    with _naming(path):
        if _is_to_stay(path):
            open(path, "ab").close()
        else:
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # a name that nobody has
            open(temporary, "xb").close()
            temporary.unlink()


def append(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write at the end of the file, which is opened for it: nothing is left in a buffer to fail later.

    Raises:
        OSError: the disk is full, the folder is gone.
    """
    with _naming(path), open(path, "ab") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def move(part: Path, path: Path) -> None:
    """Give a file that is complete its name, in place of what has it; nobody ever sees a part."""
    with _naming(path):
        os.replace(part, path)


def _is_to_stay(path: Path) -> bool:
    return path.is_symlink() or (path.exists() and not path.is_file())


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An OSError inside gets the name of the file: writing and flushing give only a number and a reason."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
