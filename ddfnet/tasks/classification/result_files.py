"""The results of evaluations: a table on the console, and files that are written whole or not at all."""

import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Column, Table

from ...errors import UserError
from ...printable import printable
from ...train.logging.console import LastingConsole
from .confusion_picture import draw_confusion, require_drawable


class Results:
    """`with Results(...) as results: results.add(...)`; at the end it shows the table and writes the files asked for.

    Made before anything is evaluated, lest a wrong path cost an hour's work. Where an error ends it, the results there
    are by then are shown and written. Each of them is shown and written whatever becomes of the others.

    Args:
        count: of the results to come. JSON is an object for one, a list for several; the files that describe one
            result are numbered for several: FILE-1.csv, FILE-2.csv ...
        enabled: False on all processes but one, where nothing is shown or written.

    Raises:
        UserError: a file that cannot be written, or drawn.
    """

    def __init__(
        self,
        count: int,
        as_json: Path | None,
        as_csv: Path | None,
        per_class: Path | None,
        confusion: Path | None,
        enabled: bool,
    ):
        self.count, self.json, self.csv, self.enabled = count, as_json, as_csv, enabled
        self.per_class, self.confusion = self._numbered(per_class), self._numbered(confusion)
        self._results: list[dict[str, Any]] = []
        self._classes: list[list[str]] = []  # of the data of each result
        if not enabled:
            return
        if confusion and confusion.suffix != ".npy":
            require_drawable(confusion)
        for path in (as_json, as_csv, *self.per_class, *self.confusion):
            if path:
                _require_writable(path)

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, _, error: BaseException | None, __) -> None:
        if not self.enabled or not self._results:
            return
        failures = []
        for name, put_out in self._outputs():
            try:
                put_out()
            except UserError as failure:
                failures.append(str(failure))
            except Exception as failure:  # of what draws and encodes: the other outputs are not lost for it
                reason = " ".join(str(failure).split()) or type(failure).__name__
                failures.append(f"{name}: the result cannot be written: {reason}")
        if failures and error is None:
            raise UserError("; ".join(failures))
        for sentence in failures:
            print(f"error: {sentence}", file=sys.stderr)

    def _outputs(self) -> Iterator[tuple[str | Path, Callable[[], None]]]:
        yield "the table", lambda: LastingConsole().print(_table(self._results))
        for path, make in self._files():
            yield path, partial(_write, path, make)

    def _files(self) -> Iterator[tuple[Path, Callable[[], bytes]]]:
        """Each with the function that makes its content."""
        plain = [{k: v for k, v in result.items() if not isinstance(v, np.ndarray)} for result in self._results]
        if self.json:
            yield self.json, partial(_json, plain if self.count > 1 else plain[0])
        if self.csv:
            yield self.csv, partial(_csv, list(plain[0]), [list(result.values()) for result in plain])
        for result, classes, path in zip(self._results, self._classes, self.per_class, strict=False):
            yield path, partial(_per_class, result["per_class"], classes)
        for result, classes, path in zip(self._results, self._classes, self.confusion, strict=False):
            yield path.with_suffix(".npy"), partial(_npy, result["confusion"])
            if path.suffix != ".npy":
                yield path, partial(draw_confusion, result["confusion"], classes, path.suffix[1:])

    def add(self, task, metrics: dict[str, Any]) -> None:
        self._results.append(task.about | metrics)
        self._classes.append(task.classes)

    def _numbered(self, path: Path | None) -> list[Path]:
        if path is None or self.count == 1:
            return [path] if path else []
        return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, self.count + 1)]


def _table(results: list[dict[str, Any]]) -> Table:
    real = "real_top1" in results[0]
    numbers = ["step", "top-1", "top-5", "loss", "images", "img/s"]
    numbers += ["ReaL top-1", "ReaL top-5", "ReaL images"] if real else []
    table = Table(Column("checkpoint", overflow="fold"), Column("model", overflow="fold"))
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        step = "" if result["step"] is None else f"{result['step']:,}"
        cells = [result["checkpoint"] + (" (EMA)" if result["ema"] else ""), result["model"], step]
        cells += [f"{result['top1']:.3f}", f"{result['top5']:.3f}", f"{result['loss']:.4f}"]
        cells += [f"{result['images']:,}", f"{result['images_per_second']:,.0f}"]
        if real:
            cells += [f"{result['real_top1']:.3f}", f"{result['real_top5']:.3f}", f"{result['real_images']:,}"]
        table.add_row(*(escape(printable(cell)) for cell in cells))
    return table


def _json(results: dict[str, Any] | list[dict[str, Any]]) -> bytes:
    if isinstance(results, list):
        finite: Any = [_finite(result) for result in results]
    else:
        finite = _finite(results)
    return (json.dumps(finite, indent=2) + "\n").encode()


def _finite(result: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity and no nan: null instead."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in result.items()}


def _npy(counts: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, counts)
    return file.getvalue()


def _csv(header: list[str], rows: list[list]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode("utf-8", "surrogateescape")  # names as the file system has them


def _per_class(counts: np.ndarray, classes: list[str]) -> bytes:
    rows = [
        [name, images, *(f"{100 * right / images:.4f}" if images else "" for right in (top1, top5))]
        for name, (images, top1, top5) in zip(classes, counts.tolist(), strict=True)
    ]
    return _csv(["class", "images", "top1", "top5"], rows)


def _require_writable(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a file to write the result to")
    _write(path, None)


def _write(path: Path, make: Callable[[], bytes] | None) -> None:
    """What `make` returns, whole or not at all; None tries it and leaves everything as it was."""
    content = make() if make else None
    temporary = path.with_name(path.name + ".tmp")
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):  # such as /dev/stdout, not to be replaced
            with open(path, "ab" if content is None else "wb") as file:
                file.write(content or b"")
            return
        try:
            temporary.write_bytes(content or b"")
            if content is not None:
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: the result cannot be written: {error.strerror or error}") from None
