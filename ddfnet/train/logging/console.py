"""What a run says on the console: a progress bar in a terminal, elsewhere a line per log step."""

import contextlib
import os
import sys

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from ...printable import printable

MUCH_WAITING = 0.1  # share of the time


class LastingConsole(Console):
    """Goes on in silence where nobody reads any more, as under `| head`: rich would end the process and its work."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with contextlib.suppress(OSError):  # a stdout that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's own flush fails at the end


class RunConsole:
    """One run's console; a quiet one for all processes but the first."""

    def __init__(self, quiet: bool):
        self.console = LastingConsole(quiet=quiet, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._lines = 0  # of training, so far
        self._warned = False  # since the last evaluation

    def start(self, step: int, total_steps: int) -> None:
        """Show the bar, and under it the last log step, where there is a terminal."""
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}"),
            )
            self._progress = Progress(*columns, expand=True)
            self._bar = self._progress.add_task("training", total=total_steps, completed=step, left="")
            self._line = Text(no_wrap=True, overflow="ellipsis")
            self._live = Live(Group(self._progress, self._line), console=self.console, refresh_per_second=4)
            self._live.start()

    def say(self, text: str) -> None:
        self.console.print(printable(text), markup=False)

    def train(self, step: int, epoch: float, values: dict[str, float], seconds_left: float) -> None:
        line, left = describe(values), f"{_duration(seconds_left)} left"
        if self._live is not None:
            self._progress.update(self._bar, description=f"epoch {epoch:.2f}", completed=step, left=left)
            self._line.plain = line
        else:
            self.say(f"epoch {epoch:7.2f}  step {step:6d}  {line}  {left}")
        self._lines += 1  # in the first the workers were still starting
        waited = values.get("data_wait", 0.0)
        if waited > MUCH_WAITING and self._lines > 1 and not self._warned:
            self._warned = True
            self.console.print(
                f"warning: {waited:.0%} of the time went into waiting for data. Ways out: more data.workers, up to the"
                " cores of this machine; data.decoder=turbo; a packed dataset (scripts/pack.py)",
                style="yellow",
                markup=False,
            )

    def evaluation(self, epoch: float, text: str, best: bool) -> None:
        self.say(f"epoch {epoch:7.2f}  evaluation  {text}{'  best so far' if best else ''}")
        self._warned = False

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()


def describe(values: dict[str, float]) -> str:
    """A log step in words: what is not known of it is left out."""
    parts = [f"loss {values['loss']:.4f}", f"lr {values['lr']:.5f}", f"{values['images_per_second']:,.0f} img/s"]
    if "data_wait" in values:
        parts.append(f"data wait {values['data_wait']:.0%}")
    if "memory" in values:
        parts.append(f"{values['memory'] / 2**30:.1f} GiB")
    if "mfu" in values:
        parts.append(f"MFU {values['mfu']:.0%}")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
