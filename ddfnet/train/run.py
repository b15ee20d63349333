"""What a run does between its steps: it logs, evaluates, saves and sums up."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..counted import counted
from ..errors import UserError
from ..task import IMAGES, Task
from .clock import Clock
from .dist import average_batch_norm, counts_of_all_ranks, max_over_ranks, sum_over_ranks
from .evaluate import evaluate
from .logging.run_log import Report
from .mfu import DeviceUse
from .state import State


@dataclass
class Run:
    state: State
    task: Task
    report: Report
    clock: Clock
    device_use: DeviceUse
    total_steps: int

    def __post_init__(self):
        self._corrupt_before = self.state.corrupt

    @property
    def last_checkpoint(self) -> Path:
        return self.report.folder / "checkpoints" / "last.pt"

    @property
    def best_checkpoint(self) -> Path:
        return self.report.folder / "checkpoints" / "best.pt"

    @property
    def epoch(self) -> float:
        return self.state.step / self.task.steps_per_epoch

    def log(self, loss: float, lr: float) -> None:
        """Report the steps since the last log step; `loss` is their mean."""
        state = self.state
        speed, data_wait = self.clock.lap(state.step)
        data_wait = max_over_ranks(data_wait, state.world.device)  # all wait for the one that waits longest
        values = dict(loss=loss, lr=lr, images_per_second=speed * state.config.train.batch_size)
        values |= {"data_wait": data_wait} | self.device_use.values(values["images_per_second"])
        state.losses.zero_()
        state.losses_from = state.step
        self.report.train(state.step, self.epoch, values, seconds_left=(self.total_steps - state.step) / speed)

    def evaluate(self) -> bool:
        """Evaluate, and tell whether that is the best so far."""
        state = self.state
        average_batch_norm(*state.models)
        state.metrics = evaluate_all(state, self.task)
        is_best = state.update_best(self.task.headline)
        self.report.evaluation(state.step, self.epoch, state.metrics, described(state.metrics, self.task), is_best)
        if not math.isfinite(state.metrics.get("loss", 0.0)):  # of weights that are, or they would not be saved
            self.report.say(
                "the evaluation's loss is not finite while that of training is: do the statistics of the batch norms"
                " not fit yet? Training goes on"
            )
        return is_best

    def save(self, is_best: bool) -> None:
        state = self.state
        state.seconds += self.clock.since_asked()
        before = self._corrupt_before if state.world.is_main else {}
        state.corrupt = counts_of_all_ranks(self.task.corrupt, before)
        state.save(*[self.best_checkpoint] * is_best, self.last_checkpoint)

    def show_training_pictures(self, batch: Any) -> None:
        if self.state.world.is_main:
            prepared = self.task.prepare(batch, self.state.step)
            self.report.pictures(self.state.step, self.task.training_pictures(prepared))

    def show_pictures(self) -> None:
        """Show what the network makes of images: after all is saved, so that nothing is lost if one cannot be drawn."""
        if self.state.world.is_main:
            model = self.state.model
            self.report.pictures(self.state.step, self.task.pictures(model), self.task.histograms(model))

    def finish(self) -> dict[str, Any]:
        """Write and return the summary."""
        state, headline = self.state, self.task.headline
        summary = state.metrics | outcome(state, self.task)
        self.report.summary(summary)
        best_value = headline.shown(summary[f"best_{headline.name}"])
        best = f"best {state.judged_by(headline)} {best_value} at step {state.best['step']:,}"
        if state.corrupt:
            pictures = counted(len(state.corrupt), "picture")
            self.report.say(f"{pictures} cannot be decoded, others stood in for them: summary.json has names")
        self.report.say(f"done: {described(state.metrics, self.task)}; {best}; all in {self.report.folder}")
        return summary


def mean_loss(state: State) -> float:
    """Return the mean over all ranks since the last log step. Reading it waits for the device.

    Raises:
        UserError: it is not finite.
    """
    mean = sum_over_ranks(state.losses.clone()).item() / (state.step - state.losses_from) / state.world.size
    if not math.isfinite(mean):
        raise UserError(
            f"the loss became {mean} in steps {state.losses_from + 1:,} to {state.step:,}: training stopped; try a"
            " lower train.lr, a warm-up, train.clip_grad, or train.amp=none"
        )
    return mean


def evaluate_all(state: State, task: Task) -> dict[str, Any]:
    """Return the metrics of the weights and, as ema_top1 and so on, those of their average, where there is one."""
    amp = state.config.train.amp
    metrics = evaluate(state.model, task, state.world, amp)
    if state.ema is not None:
        averaged = evaluate(state.ema.model, task, state.world, amp)
        metrics |= {f"ema_{key}": averaged[key] for key in averaged if key not in ("images", "images_per_second")}
    return metrics


def described(values: dict[str, Any], task: Task) -> str:
    """Say what an evaluation gave, such as "top-1 98.333  top-5 100.000  loss 0.0712  of 360 images"."""
    metrics = [metric for metric in task.metrics if metric is not IMAGES]

    def text(prefix: str) -> str:
        numbers = "  ".join(f"{m.label} {m.shown(values[prefix + m.name])}" for m in metrics)
        return f"{numbers}  of {counted(values['images'], 'image')}"

    averaged = any(key.startswith("ema_") for key in values)
    return f"{text('')}; averaged weights: {text('ema_')}" if averaged else text("")


def outcome(state: State, task: Task) -> dict[str, Any]:
    """Return what a summary says beside the last evaluation's metrics."""
    headline = task.headline
    best = state.best.get(state.judged_by(headline), state.best[headline.name])
    values: dict[str, Any] = {
        "epochs": state.config.train.epochs + state.config.train.cooldown_epochs,
        "step": state.step,
        "seconds": round(state.seconds, 1),
        "headline": headline.name,
        f"best_{headline.name}": best,
    }
    return values | ({"corrupt_pictures": state.corrupt} if state.corrupt else {})
