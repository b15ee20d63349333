"""One step and one evaluation of a run: whether it would work, and nothing is written."""

from pathlib import Path
from typing import Any

from ..config import Config
from ..task import Task
from .begin import begin, plan
from .dist import World, average_batch_norm, parallel
from .failure import in_one_sentence
from .logging.run_log import Report
from .optim import learning_rate
from .run import described, evaluate_all, mean_loss
from .step import Step


def dry_run(config: Config, task: Task, world: World) -> dict[str, Any]:
    """Train one step, evaluate once and return the metrics.

    Raises:
        UserError: as `train`.
    """
    with in_one_sentence():
        report = Report(Path(str(config.run.dir)), world.is_main)
        report.say(plan(config, task, world))
        state = begin(config, task, world)
        if config.train.compile:
            state.model.compile()
        step = Step(config.train, task, world, parallel(state.model, world), state.optimizer, state.scaler, state.ema)
        state.model.train()
        for batch in task.train_batches(0, 1):
            state.losses += step(batch, 0, learning_rate(0, task.steps_per_epoch, config.train))
        state.step = 1
        loss = mean_loss(state)
        average_batch_norm(*state.models)
        metrics = evaluate_all(state, task)
        report.say(f"dry run: one step, loss {loss:.4f}; one evaluation, {described(metrics, task)}")
        return metrics
