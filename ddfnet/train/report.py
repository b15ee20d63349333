"""What a run tells: lines or a progress bar on the console, metrics.jsonl, TensorBoard, summary.json."""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import UserError


class Report:
    """Everything here happens on the first process only; on the others every method does nothing."""

    def __init__(self, folder: Path, enabled: bool):
        self.folder, self.enabled = folder, enabled
        self.console = Console(quiet=not enabled, highlight=False, soft_wrap=True)
        self._writer: Any = None
        self._progress: Progress | None = None

    def open(self, config_yaml: str, step: int, total_steps: int) -> None:
        """Prepare the folder, drop what a killed run logged after the checkpoint it continues from, show the bar."""
        if not self.enabled:
            return
        from torch.utils.tensorboard import SummaryWriter  # half a second to import

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "config.yaml").write_text(config_yaml)
            log = self.folder / "metrics.jsonl"
            lines = log.read_text().splitlines(keepends=True) if log.exists() else []
            kept = [line for line in lines if _step_of(line) <= step]
            temporary = log.with_name("metrics.jsonl.tmp")
            temporary.write_text("".join(kept))
            os.replace(temporary, log)
            self._log = open(log, "a")
            self._writer = SummaryWriter(str(self.folder / "tb"), purge_step=step + 1)
        except OSError as error:
            raise UserError(f"{self.folder}: the run's folder cannot be written: {error}") from None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[line]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._bar = self._progress.add_task("training", total=total_steps, completed=step, line="")
        self._progress.start()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def train(self, step: int, epoch: float, values: dict[str, float], seconds_left: float) -> None:
        """One log step of training."""
        if not self.enabled:
            return
        assert self._progress is not None
        line = f"loss {values['loss']:.4f}  lr {values['lr']:.5f}  {values['images_per_second']:,.0f} img/s"
        self._progress.update(self._bar, completed=step, line=line)
        if not self.console.is_terminal:
            self.say(f"epoch {epoch:7.2f}  step {step:6d}  {line}  {_duration(seconds_left)} left")
        self._record("train", step, epoch, values)

    def evaluation(self, step: int, epoch: float, values: dict[str, float], text: str, best: bool) -> None:
        """One evaluation, its metrics as values and as text."""
        if not self.enabled:
            return
        self.say(f"epoch {epoch:7.2f}  evaluation  {text}{'  best so far' if best else ''}")
        self._record("eval", step, epoch, values)

    def pictures(self, step: int, pictures: dict[str, torch.Tensor]) -> None:
        if self.enabled:
            for name, picture in pictures.items():
                self._writer.add_image(name, picture, step)

    def summary(self, values: dict[str, Any]) -> None:
        """The run's result, beside its logs."""
        if not self.enabled:
            return
        temporary = self.folder / "summary.json.tmp"
        temporary.write_text(json.dumps(values, indent=2) + "\n")
        os.replace(temporary, self.folder / "summary.json")

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._writer is not None:
            self._log.close()
            self._writer.close()

    def _record(self, kind: str, step: int, epoch: float, values: dict[str, float]) -> None:
        self._log.write(json.dumps({"kind": kind, "step": step, "epoch": round(epoch, 4)} | values) + "\n")
        self._log.flush()
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)


def _step_of(line: str) -> float:
    """The step of a log line; infinite for what a crash left of one."""
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
