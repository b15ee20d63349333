"""The report's tables: what stands in them and, for each number, where it comes from."""

import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from sweeping.board import duration
from sweeping.plan import settings

from ddfnet.task import IMAGES

from .paper import NOTE, Row, identity, title
from .results import Experiment, Result, reproduced

FREE = ("run.", "data.workers", "train.seed")
NONE = "-"
SIZES = [("params", "parameters", 1e6), ("flops", "MACs", 1e9)]
MACS = "MACs as the paper counts them: those of DDF by its authors' formula, others plain multiply-accumulates. "


@dataclass(frozen=True)
class Cell:
    """`source` says of a number what it was computed from: "mean top1 of a-seed0 a-seed1", "paper", "network" ...;
    of a name with digits, whose it is."""

    text: str
    source: str = ""
    number: bool = False


@dataclass(frozen=True)
class Table:
    title: str
    header: list[str]
    rows: list[list[Cell]]
    note: str = ""
    footnotes: tuple[str, ...] = ()
    id: str = ""
    numbers: set[int] = field(default_factory=set)  # columns of numbers


def summary_number(results: list[Result], key: str, digits: int = 2) -> Cell:
    """Mean and sample deviation over the finished seeds; one seed has no deviation."""
    done = [r for r in results if r.summary is not None and key in r.summary]
    if not done:
        return Cell(NONE, number=True)
    values = [r.summary[key] for r in done if r.summary]
    if not all(value is not None and math.isfinite(value) for value in values):
        return Cell("not finite", number=True)
    text = f"{statistics.mean(values):,.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):,.{digits}f}"
    return Cell(text, f"mean {key} of {' '.join(r.name for r in done)}", True)


def paper_tables(experiment: Experiment, paper: dict[str, list[Row]]) -> list[Table]:
    return [_paper_table(experiment, paper, name) for name in experiment.tables]


def _paper_table(experiment: Experiment, paper: dict[str, list[Row]], name: str) -> Table:
    """A line for each of our rows: those of a grid that reproduce one row of the paper are not averaged."""
    ours = reproduced(experiment, paper)
    rows = paper[name]
    nothing: dict[str, list[Result]] = {"not run": []}
    pairs = [(row, *pair) for place, row in enumerate(rows) for pair in ours.get((name, place), nothing).items()]
    has = {key for row in rows for key, value in row.items() if value is not None}
    keys = list(dict.fromkeys(key for row in rows for key in identity(row)))
    header = [*keys, "our row"]
    sizes = [size for size in SIZES if size[0] in has]
    header += ["top-1, paper", "top-1, ours", "seeds"] + (["top-5, paper", "top-5, ours"] if "top5" in has else [])
    header += [f"{quantity}, {whose}" for _, quantity, _ in sizes for whose in ("paper", "ours")]
    lines = []
    for row, our_row, results in pairs:
        size = next((r.size for r in results if r.size), None)
        line = [Cell(_word(row.get(key)), "row of the paper") for key in keys]
        line.append(Cell(our_row, "row"))
        line += [_percent(row.get("retrained", row.get("top1"))), summary_number(results, "top1"), _seeds(results)]
        if "top5" in has:
            line += [_percent(row.get("top5")), summary_number(results, "top5")]
        for key, _, unit in sizes:
            digits = max(_digits(other.get(key)) for other in rows)
            theirs = row[key] * unit if row.get(key) is not None else None
            counted = None if size is None else size.params if key == "params" else size.macs
            line += [
                Cell(_amount(theirs, unit, digits), "paper", True),
                Cell(_amount(counted, unit, digits), "network", True),
            ]
        lines.append(line)
    note = "Of the paper's figures, those retrained by its own protocol, where it gives them. " * ("retrained" in has)
    note += MACS * ("flops" in has)
    footnotes = tuple(
        f"{', '.join(_word(value) for value in identity(row).values())}: {row[NOTE]}"
        for place, row in enumerate(rows)
        if NOTE in row and (name, place) in ours
    )
    words = {header.index(key) for key in keys} | {len(keys)}
    return Table(title(name), header, lines, note.strip(), footnotes, name, set(range(len(header))) - words)


def rows_table(experiment: Experiment) -> Table:
    results = _results(experiment)
    header = ["row", *(name for name, _, _ in results), "seeds", "parameters", "MACs", "time of a run", "cost"]
    lines = []
    for row, members in experiment.rows.items():
        size = next((r.size for r in members if r.size), None)
        times = [seconds for r in members if r.summary is not None and (seconds := _seconds(r)) is not None]
        lines.append(
            [
                Cell(row, "row"),
                *(summary_number(members, key, digits) for _, key, digits in results),
                _seeds(members),
                Cell(f"{size.params:,}" if size else NONE, "network", True),
                Cell(_amount(size.macs if size else None, 1e9, 3), "network", True),
                Cell(duration(statistics.mean(times)) if times else NONE, "attempts", True),
                Cell(_hours(members), "attempts", True),
            ]
        )
    note = MACS + "The time is that of all attempts, with their starts."
    return Table("Every row", header, lines, note, id="rows", numbers=set(range(1, len(header))))


def runs_table(experiment: Experiment) -> Table:
    results = [*_results(experiment), ("images", "images", 0), ("epochs", "epochs", 0), ("steps", "step", 0)]
    header = ["run", "state", *(name for name, _, _ in results), "time", "starts", "cost"]
    lines = []
    for r in experiment.results:
        seconds = _seconds(r)
        lines.append(
            [
                Cell(r.name, "run"),
                Cell(r.state),
                *(summary_number([r], key, digits) for _, key, digits in results),
                Cell(duration(seconds) if seconds is not None else NONE, "attempts", True),
                Cell(str(r.cost.attempts) if r.cost else NONE, "attempts", True),
                Cell(_hours([r]), "attempts", True),
            ]
        )
    return Table("Every run", header, lines, id="runs", numbers=set(range(2, len(header))))


def _results(experiment: Experiment) -> list[tuple[str, str, int]]:
    """(name, key in summary.json, decimals); averaged weights where a run has them."""
    head = experiment.headline
    found = [
        (f"{kind}{head.label}", f"{key}{head.name}") for kind, key in (("", ""), ("EMA ", "ema_"), ("best ", "best_"))
    ]
    if not any(f"ema_{head.name}" in (r.summary or {}) for r in experiment.finished):
        del found[1]
    others = [(m.label, m.name) for m in experiment.metrics if m is not head and m is not IMAGES]
    digits = {m.name: 2 if m.unit == "%" else 4 for m in experiment.metrics}
    return [(label, key, digits[key.removeprefix("ema_").removeprefix("best_")]) for label, key in [*found, *others]]


def _seconds(result: Result) -> float | None:
    """Of all attempts with their starts, where a sweep counted them; else of the training, by the run itself."""
    return result.cost.seconds if result.cost else (result.summary or {}).get("seconds")


def row_settings(experiment: Experiment) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """({row: its settings}, the keys in which rows differ)."""
    begun = {row: next((r.config for r in results if r.config), None) for row, results in experiment.rows.items()}
    of = {row: settings(config, FREE) for row, config in begun.items() if config is not None}
    keys = sorted({key for values in of.values() for key in values})
    return of, [key for key in keys if len({repr(values.get(key)) for values in of.values()}) > 1]


def several_protocols(experiment: Experiment) -> str:
    """What else than the network differs between rows, and in which; empty where nothing does."""
    of, varying = row_settings(experiment)
    found = []
    for key in varying:
        if not key.startswith("model."):
            rows: dict[str, list[str]] = {}
            for row, values in of.items():
                rows.setdefault(_word(values.get(key)), []).append(row)
            found.append(f"{key} = " + " and ".join(f"{value} in {', '.join(names)}" for value, names in rows.items()))
    return "; ".join(found)


def protocol_tables(experiment: Experiment) -> list[Table]:
    """What all runs share, and what each row has of its own."""
    of, varying = row_settings(experiment)
    own = [[Cell(row), Cell("; ".join(f"{k} = {_word(v[k])}" for k in varying if k in v))] for row, v in of.items()]
    common = next(iter(of.values()))
    shared = [[Cell(key), Cell(_word(common[key]))] for key in common if key not in varying]
    return [
        Table("What the rows differ in", ["row", "settings"], own, id="differences"),
        Table("What all share", ["setting", "value"], shared, id="shared"),
    ]


def versions_table(experiment: Experiment) -> Table:
    """One line for every machine, commit and set of versions."""
    groups: dict[str, list[str]] = {}
    for result in experiment.results:
        if result.config is None:
            continue
        machine = result.versions.get("machine", {})
        device = ", ".join(result.versions.get("gpus", []))
        device = device or f"{machine.get('processor', '')}, {machine.get('cores', '')} cores" if machine else NONE
        versions = ", ".join(f"{name} {number}" for name, number in result.versions.get("versions", {}).items())
        groups.setdefault("\n".join([result.versions.get("commit", NONE), versions, device]), []).append(result.name)
    lines = [[*map(Cell, key.split("\n")), Cell(str(len(names)), "attempts", True)] for key, names in groups.items()]
    return Table("With what", ["commit", "versions", "machine", "runs"], lines, id="versions", numbers={3})


def _word(value: object) -> str:
    words = {None: NONE, True: "yes", False: "no"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _digits(value: float | None) -> int:
    return len(str(value).partition(".")[2]) if value is not None else 1


def _percent(value: float | None) -> Cell:
    return Cell(NONE if value is None else f"{value:.1f}", "paper", True)


def _amount(value: float | None, unit: float, digits: int) -> str:
    """In the paper's unit and with its decimals; small networks in the next smaller unit, to four digits."""
    if value is None:
        return NONE
    names = {1e9: "G", 1e6: "M", 1e3: "k"}
    if value >= unit / 10:
        return f"{value / unit:.{digits}f} {names[unit]}"
    return f"{value / unit * 1e3:.4g} {names[unit / 1e3]}"


def _seeds(results: list[Result]) -> Cell:
    done = sum(r.summary is not None for r in results)
    return Cell(
        NONE if not results else str(done) if done == len(results) else f"{done} of {len(results)}", "runs", True
    )


def _hours(results: list[Result]) -> str:
    costs = [r.cost for r in results if r.cost]
    gpu, core = sum(c.gpu_hours for c in costs), sum(c.core_hours for c in costs)
    parts = [
        f"{hours:.1f} {unit} h" if hours >= 1 else f"{60 * hours:.1f} {unit} min"
        for hours, unit in ((gpu, "GPU"), (core, "core"))
        if hours
    ]
    return " + ".join(parts) or NONE
