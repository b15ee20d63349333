"""The tables of the paper, benchmarks/paper.yaml: {table: rows}, or {table: {network: rows}} as in Tables 4 and 5."""

from pathlib import Path
from typing import Any

from torch import nn

from ddfnet import DDF
from ddfnet.config.by_schema import decided
from ddfnet.config.yaml_file import read_yaml
from ddfnet.errors import UserError, did_you_mean
from ddfnet.models import count_macs

FILE = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "paper.yaml"
FIGURES = ("params", "flops", "top1", "top5", "retrained")  # million, billion, percent; the other fields say which row
NOTE = "note"  # what a reader of the row should know
Row = dict[str, Any]


def read_paper(file: Path) -> dict[str, list[Row]]:
    """{"table3a": rows, "table4.r18": rows, ...}: the tables of ImageNet accuracies."""
    tables: dict[str, list[Row]] = {}
    content_of = decided(read_yaml(file, "file of the paper's tables"), dict, lambda key: str(file))
    for name, content in content_of.items():
        parts = content if isinstance(content, dict) else {"": content}
        tables |= {f"{name}.{part}".rstrip("."): rows for part, rows in parts.items()}
    return {name: rows for name, rows in tables.items() if any("top1" in row for row in rows)}


def find_tables(tables: dict[str, list[Row]], wanted: list[str], origin: str) -> list[str]:
    """The tables of these names, or whose names begin so: table3 has three parts."""
    found: list[str] = []
    for name in wanted:
        named = [table for table in tables if table == name] or [table for table in tables if table.startswith(name)]
        if not named:
            raise UserError(f"{origin}: {_unknown('table', name, tables)}")
        found += [table for table in named if table not in found]
    return found


def find_row(tables: dict[str, list[Row]], wanted: Row, origin: str) -> tuple[str, int]:
    """(table, place in it) of the one row that has these fields.

    Raises:
        UserError: no table of this name, no row, or several.
    """
    fields = {key: value for key, value in wanted.items() if key != "table"}
    table = wanted.get("table")
    if not isinstance(table, str) or table not in tables:
        raise UserError(f"{origin}: {_unknown('paper.table', table, tables)}")
    rows = tables[table]
    places = [i for i, row in enumerate(rows) if all(k in row and _same(row[k], v) for k, v in fields.items())]
    if len(places) == 1:
        return table, places[0]
    known = "; ".join(describe(row) for row in rows)
    said = describe(fields) or "nothing"
    trouble = "is no row" if not places else f"fits {len(places)} rows"
    raise UserError(f"{origin}: paper = {said} {trouble} of {table}, expected one of: {known}")


def macs_as_printed(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)) -> int:
    """Multiply-accumulates as the paper's tables hold them: with DDF in its authors' own counting, else plain."""
    has_ddf = any(isinstance(module, DDF) for module in model.modules())
    return count_macs(model, input_size, "paper" if has_ddf else "macs")


def identity(row: Row) -> Row:
    """The fields that say which row it is."""
    return {key: value for key, value in row.items() if key not in (*FIGURES, NOTE)}


def title(table: str) -> str:
    return "Table " + table.removeprefix("table").replace(".r", ", ResNet-")


def describe(row: Row) -> str:
    return ", ".join(f"{key}: {str(value).lower()}" for key, value in identity(row).items())


def _same(a: Any, b: Any) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)  # True == 1


def _unknown(key: str, name: Any, known: dict[str, Any]) -> str:
    hint = did_you_mean(str(name), known) or f", expected one of {', '.join(known)}"
    return f"{key} = {name!r} is no table of the paper's accuracies{hint}"
