"""All that a run cannot compute anew from its step: weights and their average, optimizer, scaler, step, best result."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint_file import FORMAT, write_checkpoint
from ..config import Config, Train
from ..errors import UserError, one_line
from ..task import Metric
from .dist import World, batch_norm_of_ranks, restore_batch_norm, sum_over_ranks
from .ema import Ema

ORDER = ("seed", "batch_size")  # of `train`: what, beside the data, decides which pictures a step sees
GROUPS = ("optimizer", "decay_norm_and_bias", "layer_decay")  # of `train`: what decides the optimizer's state
NOT_OF_THE_RUN = ("run.dir", "data.root")  # where things lie changes nothing
# What a run is trained by, not what is trained: a finished run stays finished with others.
MEANS = ("run.", "data.workers", "train.compile", "train.channels_last", "train.activation_checkpointing")


@dataclass
class State:
    config: Config
    world: World
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None
    data: dict[str, Any]  # what, beside seed and batch size, decides which pictures a step sees; from the task
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)  # the metrics of the best evaluation, and its step
    metrics: dict[str, Any] = field(default_factory=dict)  # of the last evaluation
    seconds: float = 0.0  # by the clock, of training and evaluation, before and after every restart
    corrupt: dict[str, int] = field(default_factory=dict)  # pictures that others stood in for, and how often
    # this process's losses since the last log step: the log of a run that was stopped is that of one that was not
    losses: Tensor = field(init=False)
    losses_from: int = 0  # the step after which they begin

    def __post_init__(self):
        self.losses = torch.zeros((), dtype=torch.float64, device=self.world.device)  # reading it waits for the device

    @property
    def models(self) -> list[nn.Module]:
        return [self.model] if self.ema is None else [self.model, self.ema.model]

    @property
    def identity(self) -> tuple:
        """What must be the same on all ranks: the config, but for where things lie, and the data."""
        flat = _flat(self.config.model_dump())
        return {key: value for key, value in flat.items() if key not in NOT_OF_THE_RUN}, self.data

    def judged_by(self, metric: Metric) -> str:
        """Name the metric of the best checkpoint: that of the averaged weights, where there are some."""
        return metric.name if self.ema is None else f"ema_{metric.name}"

    def update_best(self, metric: Metric) -> bool:
        """Tell whether the last evaluation is the best so far; then `best` is that."""
        name = self.judged_by(metric)
        is_best = name not in self.best or metric.is_better(self.metrics[name], self.best[name])
        if is_best:
            self.best = self.metrics | {"step": self.step}
        return is_best

    def save(self, *paths: Path) -> None:
        """Write the checkpoint to each path; all ranks call it, the first one writes.

        Raises:
            UserError: the weights are not finite, or the disk refuses; the files there are as they were.
        """
        self._require_finite_weights()
        batch_norm = batch_norm_of_ranks(*self.models)  # each rank's own: their mean would change the run
        losses = sum_over_ranks(self.losses.clone())
        if not self.world.is_main:
            return
        content = {
            "format": FORMAT,
            "config": self.config.model_dump(),
            "data": self.data,
            "step": self.step,
            "best": self.best,
            "metrics": self.metrics,
            "seconds": self.seconds,
            "corrupt": self.corrupt,
            "losses": losses.item() / self.world.size,  # which may be another when the run goes on
            "losses_from": self.losses_from,
            "state_dict": self.model.state_dict(),
            "batch_norm": batch_norm,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "torch": str(torch.__version__),  # a str subclass, which weights_only refuses
        }
        if self.ema is not None:
            content["state_dict_ema"] = self.ema.model.state_dict()
        for path in paths:
            write_checkpoint(path, content)

    def load(self, path: Path, content: dict) -> list[str]:
        """Continue from a checkpoint of this run, which `path` held.

        Returns:
            What the config has otherwise than the checkpoint's, as "key: then -> now".

        Raises:
            UserError: made for another network or optimizer, or for another order of the data.
        """
        self._refuse_other_run(path, content)
        try:
            self.model.load_state_dict(content["state_dict"])
        except RuntimeError as error:
            reason, name = one_line(error), self.config.model.name
            raise UserError(f"{path}: holds another network than model.name = {name!r}: {reason}") from None
        if self.ema is not None:  # a run that has no average yet begins it here
            self.ema.model.load_state_dict(content.get("state_dict_ema", content["state_dict"]))
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        try:
            self.optimizer.load_state_dict(content["optimizer"])
        except ValueError as error:
            raise UserError(f"{path}: holds another optimizer's state: {error}; start over with --fresh") from None
        for group, own in zip(self.optimizer.param_groups, options, strict=True):
            group.update(own)  # weight decay and momentum are the config's, not the checkpoint's
        if content["scaler"]:
            self.scaler.load_state_dict(content["scaler"])
        self.step, self.best, self.metrics = content["step"], content["best"], content["metrics"]
        self.seconds, self.corrupt = content.get("seconds", 0.0), content.get("corrupt", {})
        self.losses_from = content.get("losses_from", self.step)
        self.losses.fill_(content.get("losses", 0.0) * self.world.size if self.world.is_main else 0.0)
        restore_batch_norm(self.world, content.get("batch_norm"), *self.models)
        return differences(content["config"], self.config.model_dump(), type(self.config)().model_dump())

    def _require_finite_weights(self) -> None:
        values = [t for model in self.models for t in model.state_dict().values() if t.is_floating_point()]
        bad = sum_over_ranks(torch.stack([t.isfinite().logical_not_().any() for t in values]).any().float())
        if bad.item():
            raise UserError(
                f"weights became nan or inf by step {self.step:,}: training stopped; try a lower train.lr, a warm-up,"
                " train.clip_grad, or train.amp=none"
            )

    def _refuse_other_run(self, path: Path, content: dict) -> None:
        """Another order of the data would not continue the run but mix two; another optimizer has other state."""
        task = content["config"].get("task", "classification")  # those of 0.1 know no other
        if task != self.config.task:
            raise UserError(
                f"{path}: was trained for task = {task!r}, now it is {self.config.task!r}: set it back, give another"
                " run.dir, or start over with --fresh"
            )
        train, old = self.config.train, content["config"]["train"]
        keys = (*ORDER, *GROUPS)
        now = {f"train.{key}": getattr(train, key) for key in keys} | self.data
        then = {f"train.{key}": old.get(key, Train.model_fields[key].default) for key in keys} | content["data"]
        for key, value in now.items():
            if then.get(key) == value:
                continue
            change = f"{then.get(key)!r}, now it is {value!r}" if not isinstance(value, list) else "others than now"
            grouping = key.removeprefix("train.") in GROUPS
            why = "gives the optimizer other state" if grouping else "changes the order of the data"
            raise UserError(
                f"{path}: was trained with {key} = {change}, which {why}: set it back, or start over with --fresh"
            )


def differences(then: dict, now: dict, default: dict) -> list[str]:
    """Say how two configs differ, as "key: then -> now"; a key that `then` is too old to have had the default."""
    new = _flat(now)
    old = {key: value for key, value in _flat(default).items() if key in new} | _flat(then)
    filled = {".".join(parts[:n]) for key in new | old for parts in [key.split(".")] for n in range(1, len(parts))}
    emptied = {key for key in filled if {} in (old.get(key), new.get(key))}  # their own keys say it
    keys = [key for key in new | old if key not in {*NOT_OF_THE_RUN, *emptied} and old.get(key) != new.get(key)]
    return [f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in keys]


def _flat(values: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
