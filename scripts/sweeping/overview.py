"""What a sweep is about to do, and how long that will take, before it does it."""

from rich.console import Console
from rich.table import Table

from ddfnet.counted import counted
from ddfnet.printable import printable

from .board import duration
from .estimate import Estimate, by_trying, from_finished
from .folders import read_progress
from .local import Stop
from .plan import Run, Sweep

Measure = tuple[int, list[str], int]  # processes of a run, their GPUs, threads


def estimate_rows(runs: list[Run], measure: Measure | None, stop: Stop, console: Console) -> dict[str, Estimate]:
    """For each row the time of one run: from its own runs where there are any, else measured, else unknown."""
    rows: dict[str, list[Run]] = {}
    for run in runs:
        rows.setdefault(run.row, []).append(run)
    found = {row: from_finished(members) for row, members in rows.items()}
    unknown = [row for row, estimate in found.items() if estimate.seconds is None]
    if measure and unknown:
        console.print(
            f"measuring a few steps of {counted(len(unknown), 'row')} (--no-measure leaves it out) ...", markup=False
        )
        for row in unknown:
            if not stop.times:
                found[row] = by_trying(rows[row][0], *measure, stop)
    return found


def show_plan(sweep: Sweep, runs: list[Run], estimates: dict[str, Estimate], at_once: int, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("row", "seeds", "finished", "begun", "new", "time of one", "by"):
        right = header in ("finished", "begun", "new", "time of one")
        table.add_column(header, justify="right" if right else "left", overflow="fold")
    states = {run.name: read_progress(run.folder) for run in runs}
    left: list[float] = []  # seconds of each unfinished run
    unknown = 0
    for row, estimate in estimates.items():
        members = [run for run in runs if run.row == row]
        counts = [sum(states[run.name].state == state for run in members) for state in ("finished", "begun", "new")]
        seeds = ", ".join(str(run.seed) for run in members)
        time = duration(estimate.seconds) if estimate.seconds is not None else "?"
        table.add_row(row, seeds, *map(str, counts), time, estimate.source)
        for run in members:
            if states[run.name].state == "finished":
                continue
            if estimate.seconds is None:
                unknown += 1
            else:
                left.append(estimate.seconds * _share_left(run, states[run.name].epoch))
    console.print(printable(f"{sweep.file}: {counted(len(runs), 'run')} in {sweep.folder}"), markup=False)
    console.print(table)
    console.print(_total(_seconds(left, at_once), unknown, at_once), markup=False)


def _seconds(left: list[float], at_once: int) -> float:
    """Until the last has ended: shared out evenly, but no run is faster than itself."""
    return max(sum(left) / max(1, min(at_once, len(left))), *left, 0.0)


def _share_left(run: Run, epoch: float) -> float:
    return max(0.0, 1 - epoch / (run.config.train.epochs + run.config.train.cooldown_epochs))


def _total(seconds: float, unknown: int, at_once: int) -> str:
    text = f"{at_once} at once"
    if seconds:
        text += f"; about {duration(seconds)} in all"
    if unknown:
        text += f"; the time of {counted(unknown, 'run')} is unknown" + (" and comes on top" if seconds else "")
    return text
