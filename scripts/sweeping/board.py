"""How all runs stand: a table that lives on a terminal, plain lines where there is none."""

import time
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ddfnet.counted import counted
from ddfnet.printable import printable
from ddfnet.task import Metric
from ddfnet.tasks import task_class

from .folders import Progress, read_progress
from .plan import Run

STYLES = {"done": "green", "failed": "red", "running": "cyan", "stopped": "yellow", "elsewhere": "yellow"}
LINE_EVERY = 60  # seconds, without a terminal


@dataclass
class Line:
    run: Run
    state: str = "waiting"  # running, done, failed, stopped, elsewhere
    note: str = ""
    shown: Progress | None = None

    @property
    def epochs(self) -> int:
        return self.run.config.train.epochs + self.run.config.train.cooldown_epochs

    def progress(self) -> Progress:
        """Read anew while something happens there."""
        if self.shown is None or self.state in ("running", "elsewhere"):
            self.shown = read_progress(self.run.folder)
        return self.shown

    @property
    def headline(self) -> Metric:
        return task_class(self.run.config.task).headline

    def headline_value(self) -> float | None:
        return self.progress().evaluation.get(self.headline.name)

    def seconds_left(self) -> float | None:
        """At the speed of its last log line; evaluations come on top."""
        now = self.progress()
        if not now.images_per_second or not now.epoch:
            return None
        images = now.step * self.run.config.train.batch_size / now.epoch
        return (self.epochs - now.epoch) * images / now.images_per_second


class Board:
    def __init__(self, runs: list[Run], console: Console):
        self.console = console
        self.lines = {run.name: Line(run) for run in runs}
        self._live = Live(console=console, auto_refresh=False, transient=False) if console.is_terminal else None
        self._next_line = time.monotonic() + LINE_EVERY

    def __enter__(self) -> "Board":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self._live.update(self._render(), refresh=True)
            self._live.stop()

    def set(self, name: str, state: str, note: str = "") -> None:
        line = self.lines[name]
        if (line.state, line.note) == (state, note):
            return
        line.state, line.note, line.shown = state, note, None
        if self._live is None and state != "waiting":
            value = line.headline_value()
            figures = f", {line.headline.label} {value:.2f}" if state == "done" and value is not None else ""
            self.say(f"{name}: {state}{figures}{f' ({note})' if note else ''}")

    def say(self, text: str) -> None:
        self.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        if self._live:
            self._live.update(self._render(), refresh=True)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY
            self.say(self._counts() + "".join(f"; {name} {text}" for name, text in self._running()))

    def named(self, *states: str) -> list[str]:
        return [name for name, line in self.lines.items() if line.state in states]

    def _counts(self) -> str:
        counts = {
            state: len(self.named(state)) for state in ("done", "running", "elsewhere", "failed", "stopped", "waiting")
        }
        return f"of {counted(len(self.lines), 'run')} " + ", ".join(f"{n} {state}" for state, n in counts.items() if n)

    def _running(self) -> list[tuple[str, str]]:
        found = []
        for name in self.named("running", "elsewhere"):
            line = self.lines[name]
            left = line.seconds_left()
            text = f"epoch {line.progress().epoch:.2f} of {line.epochs}"
            found.append((name, text + (f", {duration(left)} left" if left is not None else "")))
        return found

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, header_style="bold")
        headlines = [" / ".join(dict.fromkeys(line.headline.label for line in self.lines.values()))]
        for header in ("run", "state", "epoch", "loss", *headlines, "img/s", "left", ""):
            justify = "left" if header in ("run", "state", "") else "right"
            table.add_column(header, justify=justify, no_wrap=header != "", overflow="ellipsis")
        lines = list(self.lines.values())
        room = max(4, self.console.height - 4)
        if len(lines) > room:  # those that move, and those that still can
            order = ["running", "elsewhere", "failed", "stopped", "waiting", "done"]
            lines = sorted(lines, key=lambda line: order.index(line.state))[:room]
        for line in lines:
            table.add_row(line.run.name, Text(line.state, STYLES.get(line.state, "dim")), *self._cells(line), line.note)
        return Group(table, Text(self._counts(), "bold"))

    def _cells(self, line: Line) -> list[str]:
        now = line.progress()
        moving = line.state in ("running", "elsewhere")
        left = line.seconds_left() if moving else None
        epoch = line.epochs if now.state == "finished" else now.epoch
        return [
            f"{epoch:.1f}/{line.epochs}" if epoch else "",
            f"{now.loss:.3f}" if now.loss is not None else "",
            f"{value:.2f}" if (value := line.headline_value()) is not None else "",
            f"{now.images_per_second:,.0f}" if moving and now.images_per_second else "",
            duration(left) if left is not None else "",
        ]


def duration(seconds: float) -> str:
    """1:02:03, or days where there are some."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days} d {hour} h" if days else f"{hours}:{minute:02d}:{second:02d}"
