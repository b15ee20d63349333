"""All that a run cannot compute anew from its step: weights, optimizer, scaler, step, best result."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint_file import read_checkpoint, write_checkpoint
from ..config import Config
from ..errors import UserError

FORMAT = 1


@dataclass
class State:
    config: Config
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    data: dict[str, Any]  # what, beside seed and batch size, decides which pictures a step sees; from the task
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)  # the metrics of the best evaluation, and its step

    def save(self, path: Path, metrics: dict[str, Any], batch_norm: Tensor | None = None) -> None:
        """`batch_norm`: the running statistics of every rank, where they are not those of the model."""
        write_checkpoint(
            path,
            {
                "format": FORMAT,
                "config": self.config.model_dump(),
                "data": self.data,
                "step": self.step,
                "best": self.best,
                "metrics": metrics,
                "state_dict": self.model.state_dict(),
                "batch_norm": batch_norm,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "torch": str(torch.__version__),  # a str subclass, which weights_only refuses
            },
        )

    def load(self, path: Path) -> Tensor | None:
        """Continue from a checkpoint of this run.

        Returns:
            The running statistics of every rank, as given to `save`.

        Raises:
            UserError: not a checkpoint of train.py, made for another network, or for another order of the data.
        """
        content = read_run_checkpoint(path)
        self._refuse_other_data(path, content)
        try:
            self.model.load_state_dict(content["state_dict"])
        except RuntimeError as error:
            reason, name = " ".join(str(error).split()), self.config.model.name
            raise UserError(f"{path}: holds another network than model.name = {name!r}: {reason}") from None
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(content["optimizer"])
        except ValueError:
            raise UserError(
                f"{path}: was trained with another train.decay_norm_and_bias than"
                f" {self.config.train.decay_norm_and_bias}: set it back, or start over with --fresh"
            ) from None
        for group, own in zip(self.optimizer.param_groups, options, strict=True):
            group.update(own)  # weight decay and momentum are the config's, not the checkpoint's
        if content["scaler"]:
            self.scaler.load_state_dict(content["scaler"])
        self.step, self.best = content["step"], content["best"]
        return content.get("batch_norm")

    def _refuse_other_data(self, path: Path, content: dict) -> None:
        """Another order of the data would not continue the run but mix two."""
        train = self.config.train
        now = {"train.seed": train.seed, "train.batch_size": train.batch_size} | self.data
        old = content["config"]["train"]
        then = {"train.seed": old["seed"], "train.batch_size": old["batch_size"]} | content["data"]
        for key, value in now.items():
            if then.get(key) == value:
                continue
            change = f"{then.get(key)!r}, now it is {value!r}" if not isinstance(value, list) else "others than now"
            raise UserError(
                f"{path}: was trained with {key} = {change}, which changes the order of the data: set it back, or start"
                " over with --fresh"
            )


def read_run_checkpoint(path: str | Path) -> dict:
    """A checkpoint that `train.py` wrote."""
    content = read_checkpoint(path)
    if content.get("format") != FORMAT or "config" not in content:
        raise UserError(f"{path}: is no checkpoint of train.py (format {FORMAT}): expected last.pt or best.pt of a run")
    return content
