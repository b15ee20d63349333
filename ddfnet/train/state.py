"""All that a run cannot compute anew from its step: weights, optimizer, scaler, step, best result."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint_file import read_checkpoint, write_checkpoint
from ..config import Config
from ..errors import UserError

FORMAT = 1
# What decides which pictures a step sees; another value would not continue the run but mix two.
DATA_ORDER = (
    ("train", "seed"),
    ("train", "batch_size"),
    ("data", "source"),
    ("data", "root"),
    ("data", "train_split"),
)


@dataclass
class State:
    config: Config
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)  # the metrics of the best evaluation, and its step

    def save(self, path: Path, metrics: dict[str, Any]) -> None:
        write_checkpoint(
            path,
            {
                "format": FORMAT,
                "config": self.config.model_dump(),
                "step": self.step,
                "best": self.best,
                "metrics": metrics,
                "state_dict": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "torch": str(torch.__version__),  # a str subclass, which weights_only refuses
            },
        )

    def load(self, path: Path) -> None:
        """Continue from a checkpoint of this run.

        Raises:
            UserError: not a checkpoint of train.py, made for another network, or for another order of the data.
        """
        content = read_run_checkpoint(path)
        for section, key in DATA_ORDER:
            then, now = content["config"].get(section, {}).get(key), getattr(getattr(self.config, section), key)
            if then != now:
                raise UserError(
                    f"{path}: was trained with {section}.{key} = {then!r}, now it is {now!r}, which changes the order"
                    " of the data: set it back, or start over with --fresh"
                )
        try:
            self.model.load_state_dict(content["state_dict"])
            self.optimizer.load_state_dict(content["optimizer"])
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            name = self.config.model.name
            raise UserError(f"{path}: holds another network than model.name = {name!r}: {reason}") from None
        self.scaler.load_state_dict(content["scaler"])
        self.step, self.best = content["step"], content["best"]


def read_run_checkpoint(path: str | Path) -> dict:
    """A checkpoint that `train.py` wrote."""
    content = read_checkpoint(path)
    if content.get("format") != FORMAT or "config" not in content:
        raise UserError(f"{path}: is no checkpoint of train.py (format {FORMAT}): expected last.pt or best.pt of a run")
    return content
