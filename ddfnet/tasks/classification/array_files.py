"""The files that `eval.py --per-class` and `--confusion` write."""

import io
from functools import partial
from pathlib import Path

import numpy as np

from ..result_files import ArrayFile, csv_file
from .confusion_picture import draw_confusion, require_drawable


def open_array_files(per_class: Path | None, confusion: Path | None) -> list[ArrayFile]:
    """The files of counts per class, and of the confusion matrix as an array and as a picture.

    Raises:
        UserError: a picture that cannot be drawn.
    """
    files = [ArrayFile(per_class, "per_class", _per_class)] if per_class else []
    if confusion:
        if confusion.suffix != ".npy":
            require_drawable(confusion)
            files.append(ArrayFile(confusion, "confusion", partial(draw_confusion, kind=confusion.suffix[1:])))
        files.append(ArrayFile(confusion.with_suffix(".npy"), "confusion", _npy))
    return files


def _npy(counts: np.ndarray, _: list[str]) -> bytes:
    file = io.BytesIO()
    np.save(file, counts)
    return file.getvalue()


def _per_class(counts: np.ndarray, classes: list[str]) -> bytes:
    rows = [
        [name, images, *(f"{100 * right / images:.4f}" if images else "" for right in (top1, top5))]
        for name, (images, top1, top5) in zip(classes, counts.tolist(), strict=True)
    ]
    return csv_file(["class", "images", "top1", "top5"], rows)
