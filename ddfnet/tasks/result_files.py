"""The results of evaluations: a table on the console, and files that are written whole or not at all."""

import contextlib
import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from rich.markup import escape
from rich.table import Column, Table

from ..errors import UserError, one_line
from ..files import require_writable, write_whole
from ..printable import printable
from ..task import Metric
from ..train.logging.console import LastingConsole


class ArrayFile(NamedTuple):
    """A file of one array of a result."""

    path: Path
    array: str  # its key in the result
    make: Callable[[np.ndarray, list[str]], bytes]  # of the array and the names of the classes


class Judged(Protocol):
    """What a result is of."""

    about: dict[str, Any]  # its first columns; checkpoint, model, step and ema among them

    @property
    def classes(self) -> list[str]: ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of the table, in its order."""
        ...


class _Result(NamedTuple):
    """All that is kept of an evaluation: its network and the processes that read its images end before the next."""

    values: dict[str, Any]
    classes: list[str]
    metrics: tuple[Metric, ...]


class Results:
    """`with Results(...) as results: results.add(...)`; at the end it shows the table and writes the files asked for.

    Made before anything is evaluated, lest a wrong path cost an hour's work. Where an error ends it, the results there
    are by then are shown and written. Each of them is shown and written whatever becomes of the others.

    Args:
        count: of the results to come. JSON is an object for one, a list for several.
        files: more, which describe one result each, and are numbered for several: FILE-1.csv, FILE-2.csv ...
        enabled: False on all processes but one, where nothing is shown or written.

    Raises:
        UserError: a file that cannot be written, or drawn.
    """

    def __init__(
        self, count: int, as_json: Path | None, as_csv: Path | None, files: Sequence[ArrayFile], enabled: bool
    ):
        self.count, self.json, self.csv, self.files, self.enabled = count, as_json, as_csv, files, enabled
        self._results: list[_Result] = []
        if not enabled:
            return
        for path in (as_json, as_csv, *(path for file in files for path in self._numbered(file.path))):
            if path:
                _require_writable(path)

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, _, error: BaseException | None, __) -> None:
        if not self._results:
            return
        failures = []
        for name, put_out in self._outputs():
            try:
                put_out()
            except UserError as failure:
                failures.append(str(failure))
            except Exception as failure:  # of what draws and encodes: the other outputs are not lost for it
                reason = one_line(failure)
                failures.append(f"{name}: the result cannot be written: {reason}")
        if failures and error is None:
            raise UserError("; ".join(failures))
        for sentence in failures:
            print(f"error: {sentence}", file=sys.stderr)

    def add(self, judged: Judged, values: dict[str, Any]) -> None:
        if self.enabled:
            self._results.append(_Result(judged.about | values, judged.classes, judged.metrics))

    def _outputs(self) -> Iterator[tuple[str | Path, Callable[[], None]]]:
        yield "the table", lambda: LastingConsole().print(_table(self._results))
        for path, make in self._files():
            yield path, partial(_write, path, make)

    def _files(self) -> Iterator[tuple[Path, Callable[[], bytes]]]:
        """Each with the function that makes its content."""
        plain = [{k: v for k, v in one.values.items() if not isinstance(v, np.ndarray)} for one in self._results]
        if self.json:
            yield self.json, partial(_json, plain if self.count > 1 else plain[0])
        if self.csv:
            yield self.csv, partial(csv_file, list(plain[0]), [list(values.values()) for values in plain])
        for file in self.files:
            for one, path in zip(self._results, self._numbered(file.path), strict=False):
                yield path, partial(file.make, one.values[file.array], one.classes)

    def _numbered(self, path: Path) -> list[Path]:
        if self.count == 1:
            return [path]
        return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, self.count + 1)]


def _table(results: list[_Result]) -> Table:
    table = Table(Column("checkpoint", overflow="fold"), Column("model", overflow="fold"))
    metrics = results[0].metrics
    for name in ("step", *(metric.label for metric in metrics)):
        table.add_column(name, justify="right", no_wrap=True)
    for values, _, _ in results:
        step = "" if values["step"] is None else f"{values['step']:,}"
        cells = [values["checkpoint"] + (" (EMA)" if values["ema"] else ""), values["model"], step]
        cells += [metric.shown(values[metric.name]) for metric in metrics]
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


def csv_file(header: list[str], rows: list[list]) -> bytes:
    """The content of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode("utf-8", "surrogateescape")  # names as the file system has them


def _require_writable(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a file to write the result to")
    with _as_user_error(path):
        require_writable(path)


def _write(path: Path, make: Callable[[], bytes]) -> None:
    content = make()
    with _as_user_error(path):
        write_whole(path, content)


@contextlib.contextmanager
def _as_user_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: the result cannot be written: {error.strerror}") from None
