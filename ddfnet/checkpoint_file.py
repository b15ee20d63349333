"""Checkpoint files: written whole or not at all, read without executing anything that is in them."""

import argparse
import contextlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch

from .errors import UserError, first_line
from .files import whole_file

FORMAT = 1  # of what train.py writes
# What a training's arguments may be beside plain values; each is data only. A path of another system is read as a path.
ARGUMENTS: list[Any] = [
    argparse.Namespace,
    torch.torch_version.TorchVersion,
    np.dtype,
    np.ndarray,
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefdgFDSU"},
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((np.empty(0).__reduce__()[0], f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *(
        (kind, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")  # of Python 3.13
        for kind in (PurePosixPath, PureWindowsPath)
        for name in (kind.__name__, kind.__name__.removeprefix("Pure"))
    ),
]


def write_checkpoint(path: Path, content: dict) -> None:
    """Write tensors and plain values; a crash at any moment leaves the old file or the new one, never a part.

    Raises:
        UserError: the disk is full or the folder cannot be written; the old file is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, durable=True) as temporary, open(temporary, "wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        kept = ", the previous one is kept" if path.exists() else ""
        raise UserError(f"{path}: the checkpoint could not be written{kept}: {_said_by_the_disk(error)}") from None


def read_checkpoint(path: str | Path) -> dict:
    """The content of a .pth, .pt, .pth.tar or .safetensors file, on the CPU.

    Raises:
        UserError: no such file, no checkpoint, a damaged one, a pickle with more than tensors and plain values in it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            with name_for_readers(path) as name:
                return load_file(name)
        _compare_checksums(path)
        # timm's files, and so the authors', carry the training's arguments, torchvision's too
        with torch.serialization.safe_globals(ARGUMENTS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on old pickle protocols
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))  # torch says a page of text around it
        what = f"an object of {culprit[1]}" if culprit else "something that is no checkpoint"
        trusted = f"; if you trust it: torch.load({path.name!r}, weights_only=False), and save the weights alone"
        raise UserError(
            f"{path}: holds {what}, expected tensors and plain values only; nothing was executed"
            f"{trusted if culprit else ''}"
        ) from None
    except UserError:
        raise
    except Exception as error:  # whatever a foreign or damaged file provokes in the readers
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{path}: cannot be read as a checkpoint, it is none or damaged ({reason})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a dict of weights")
    return content


def read_run_checkpoint(path: str | Path) -> dict:
    """A checkpoint that `train.py` wrote."""
    content = read_checkpoint(path)
    if content.get("format") != FORMAT or "config" not in content:
        raise UserError(f"{path}: is no checkpoint of train.py (format {FORMAT}): expected last.pt or best.pt of a run")
    return content


def read_last_checkpoint(path: Path) -> dict:
    """A run's last.pt; an error that it cannot be read says whether best.pt beside it can."""
    try:
        return read_run_checkpoint(path)
    except UserError as error:
        best = path.with_name("best.pt")
        try:
            step = read_run_checkpoint(best)["step"]
        except UserError:
            way_out = "no other checkpoint of the run can be read: start over with --fresh"
        else:
            way_out = f"{best} is whole, of step {step:,}: copy it to {path} to continue from there"
        raise UserError(f"{error}; {way_out}") from None


@contextlib.contextmanager
def name_for_readers(path: Path) -> Iterator[str]:
    """A name of the file for readers that open it themselves and take no name that is not UTF-8."""
    with open(path, "rb") as file:
        yield f"/dev/fd/{file.fileno()}"


def _compare_checksums(path: Path) -> None:
    """torch.load does not: a bit that fell over on the disk would become a weight."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged:
            raise UserError(f"{path}: is damaged: the checksum of its part {damaged} is wrong, nothing was loaded")


def _said_by_the_disk(error: Exception) -> str:
    """What the disk refused with: torch's writer answers it by a RuntimeError on positions in the file."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return (cause and cause.strerror) or first_line(cause or error)
