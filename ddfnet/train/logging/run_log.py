"""What a run tells: on the console, in metrics.jsonl and summary.json, to TensorBoard, to Weights & Biases if asked."""

import json
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from ...errors import UserError
from ...files import write_whole
from .console import RunConsole
from .metrics_log import MetricsLog, plain
from .tensorboard import Events
from .wandb import WeightsAndBiases


class Report:
    """All that the training loop talks to. It happens on the first process; on the others every method does nothing.

    Args:
        folder: of the run.
        enabled: False on all processes but the first.
        wandb_project: log to Weights & Biases too, into this project.

    Raises:
        UserError: Weights & Biases is asked for and not installed.
        OSError: by every method that logs, naming the file: the disk is full, the folder is gone.
    """

    def __init__(self, folder: Path, enabled: bool, wandb_project: str | None = None):
        self.folder, self.enabled = folder, enabled
        self._console = RunConsole(quiet=not enabled)
        self._wandb = WeightsAndBiases(folder, wandb_project) if enabled and wandb_project else None

    def open(self, config_yaml: str, step: int, total_steps: int) -> None:
        """Prepare the folder, drop what a killed run logged after the checkpoint it continues from, show the bar."""
        if not self.enabled:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "summary.json").unlink(missing_ok=True)  # of an end that is none any more
            write_whole(self.folder / "config.yaml", config_yaml.encode())
            self._log = MetricsLog(self.folder / "metrics.jsonl", step)
            self._events = Events(self.folder / "tb", step + 1)
        except OSError as error:
            raise UserError(f"{self.folder}: the run's folder cannot be written: {error}") from None
        if self._wandb is not None:
            self._wandb.open(yaml.safe_load(config_yaml))
        self._console.start(step, total_steps)

    def say(self, text: str) -> None:
        self._console.say(text)

    def train(self, step: int, epoch: float, values: dict[str, float], seconds_left: float) -> None:
        """One log step of training.

        Args:
            values: loss, lr, images_per_second; where they are known data_wait (share of the time, 0..1), memory (peak
                on the device, bytes) and mfu (0..1); anything else is logged and not shown.
        """
        if self.enabled:
            self._console.train(step, epoch, values, seconds_left)
            self._record("train", step, epoch, values)

    def evaluation(self, step: int, epoch: float, values: dict[str, Any], text: str, best: bool) -> None:
        """One evaluation, its metrics as values and as text."""
        if self.enabled:
            self._console.evaluation(epoch, text, best)
            self._record("eval", step, epoch, values)

    def pictures(self, step: int, pictures: dict[str, Tensor], histograms: dict[str, Tensor] | None = None) -> None:
        """Pictures, (3, H, W) in 0..1 each, and tensors whose values' distributions are shown."""
        if self.enabled:
            self._events.pictures(step, pictures)
            self._events.histograms(step, histograms or {})
            if self._wandb is not None:
                self._wandb.pictures(step, pictures, histograms or {})

    def summary(self, values: dict[str, Any]) -> None:
        """The run's result, beside its logs."""
        if self.enabled:
            finite = {key: plain(value) for key, value in values.items()}
            write_whole(self.folder / "summary.json", json.dumps(finite, indent=2, allow_nan=False).encode() + b"\n")
            if self._wandb is not None:
                self._wandb.summary(values)

    def close(self) -> None:
        """Nothing is left to be written but what Weights & Biases sends."""
        self._console.close()
        if self._wandb is not None:
            self._wandb.close()

    def _record(self, kind: str, step: int, epoch: float, values: dict[str, Any]) -> None:
        self._log.add(kind, step, epoch, values)
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, (int, float))}
        self._events.scalars(step, numbers)
        if self._wandb is not None:
            self._wandb.log(step, {"epoch": epoch} | numbers)
