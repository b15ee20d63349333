"""A confusion matrix as a picture that can be read for ten classes and for a thousand."""

import io
from pathlib import Path

import numpy as np

from ...counted import counted
from ...errors import UserError
from ...printable import printable

NUMBERS_UP_TO, NAMES_UP_TO = 30, 120  # classes with which there is room for them
LISTED = 40  # of the commonest confusions, where numbers do not fit


def require_drawable(path: Path) -> None:
    """Raises UserError where matplotlib is missing or knows no such kind of file."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise UserError(f"{path}: drawing needs matplotlib: pip install matplotlib") from None
    kinds = FigureCanvasAgg.filetypes
    if path.suffix[1:].lower() not in kinds:
        raise UserError(f"{path}: matplotlib draws no {path.suffix or 'file without a suffix'}, expected .png or .pdf")


def draw_confusion(counts: np.ndarray, classes: list[str], kind: str) -> bytes:
    """The file's content.

    Args:
        counts: (classes, classes), row the truth, column the first guess.
        kind: "png", "pdf" or what else matplotlib writes.

    The colour goes by the square root of the share of the row; a cell with one picture differs from an empty one, and
    none is smaller than a pixel. Up to 30 classes the counts stand in the cells, above that the commonest confusions
    are listed.
    """
    from matplotlib.figure import Figure

    number = len(classes)
    classes = [printable(name).replace("$", r"\$") for name in classes]  # else matplotlib takes $ for a formula's
    shares = np.sqrt(counts / counts.sum(1, keepdims=True).clip(min=1))
    colours = np.where(counts > 0, 0.25 + 0.75 * shares, 0)  # 0 is white, a single picture is not
    cell = max(1, 1000 // number)  # pixels
    dpi, side = 100, number * cell / 100  # inches of the matrix
    names = max(map(len, classes)) * 0.07 + 0.6 if number <= NAMES_UP_TO else 1.0  # left of it and below
    beside = 0.6 if number <= NUMBERS_UP_TO else 6.5
    width, height = names + side + beside, names + side + 0.6
    figure = Figure((width, height), dpi)
    axes = figure.add_axes((names / width, names / height, side / width, side / height))
    axes.imshow(colours, vmin=0, vmax=1, cmap="gist_heat_r", interpolation="nearest", aspect="auto")
    right = np.trace(counts) / max(1, counts.sum())
    axes.set(title=f"{counted(counts.sum(), 'picture')} of {counted(number, 'class')}, {100 * right:.2f} % right")
    axes.set(xlabel="first guess", ylabel="truth")
    if number <= NAMES_UP_TO:
        size = min(10.0, 72 * cell / dpi * 0.9)  # points
        axes.set_xticks(range(number), classes, rotation=90, fontsize=size)
        axes.set_yticks(range(number), classes, fontsize=size)
    if number <= NUMBERS_UP_TO:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if colours[row, column] > 0.4 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
    else:
        figure.text((names + side + 0.3) / width, 1 - 0.6 / height, _commonest(counts, classes), va="top", fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return file.getvalue()


def _commonest(counts: np.ndarray, classes: list[str]) -> str:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:LISTED]
    lines = ["commonest confusions", "times / pictures, truth -> guess", ""]
    for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[row, column]:
            truth, guess = f"{classes[row]:.40}", f"{classes[column]:.40}"
            lines.append(f"{wrong[row, column]:,} / {counts[row].sum():,}  {truth} -> {guess}")
    return "\n".join(lines)
