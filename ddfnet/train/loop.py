"""The training loop. Learning rate, data order, augmentation and random numbers are functions of the step alone."""

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import torch

from ..config import Config, dump_config
from ..errors import UserError
from .dist import (
    World,
    average_batch_norm,
    batch_norm_of_ranks,
    parallel,
    restore_batch_norm,
    same_on_all_ranks,
    sum_over_ranks,
)
from .evaluate import evaluate
from .interrupt import Interrupt, Interrupted
from .optim import build_optimizer, learning_rate, peak_learning_rate
from .precision import autocast, grad_scaler
from .report import Report
from .state import State


def train(config: Config, task, world: World, dry_run: bool = False) -> dict[str, Any]:
    """Train the task's model to the end of its epochs, from the last checkpoint of its folder if there is one.

    Returns:
        The run's summary: the last evaluation's metrics, `epochs`, `step`, `best_top1`.

    Raises:
        UserError: a loss that is not finite, a picture or checkpoint that cannot be read or written.
        Interrupted: by a signal, after the step under way; all is saved.
    """
    folder = Path(str(config.run.dir))
    last_checkpoint, best_checkpoint = folder / "checkpoints" / "last.pt", folder / "checkpoints" / "best.pt"
    epochs = config.train.epochs + config.train.cooldown_epochs
    steps_per_epoch = task.steps_per_epoch
    total_steps = 1 if dry_run else epochs * steps_per_epoch
    report = Report(folder, enabled=world.is_main)

    model = task.model
    optimizer = build_optimizer(model, config.train)
    scaler = grad_scaler(world.device, config.train.amp)
    state = State(config, model, optimizer, scaler, task.data_identity)
    report.say(_plan(config, task, world, epochs))
    if last_checkpoint.exists() and not dry_run:
        restore_batch_norm(model, world, state.load(last_checkpoint))
        report.say(f"continuing from {last_checkpoint} at step {state.step:,} of {total_steps:,}")
    if not same_on_all_ranks(state.step):
        raise UserError(f"{last_checkpoint}: not the same on every node: run.dir must lie in a folder that they share")
    if state.step >= total_steps:
        report.say(f"nothing left to do: {folder} is trained to its end; --fresh starts a new run beside it")
        return evaluate(model, task, world, config.train.amp) | _outcome(state, task, epochs)
    distributed = parallel(model, world)

    if not dry_run:
        report.open(dump_config(config), state.step, total_steps)
    metrics: dict[str, Any] = {}
    losses = torch.zeros((), device=world.device)  # summed on the device, read at log steps only
    logged_step, logged_time = state.step, time.perf_counter()
    model.train()
    minutes = 0.0 if dry_run else config.run.checkpoint_minutes
    with contextlib.closing(report), Interrupt(world, minutes) as interrupt:
        for batch in task.train_batches(state.step, total_steps):
            lr = learning_rate(state.step, steps_per_epoch, config.train)
            for group in optimizer.param_groups:
                group["lr"] = lr
            torch.manual_seed((config.train.seed << 31) + state.step * world.size + world.rank)  # dropout, drop path
            with autocast(world.device, config.train.amp):
                loss = task.loss(distributed, batch, state.step)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses += loss.detach()
            state.step += 1
            asked_to_stop, save = interrupt.after_step()

            epoch = state.step / steps_per_epoch
            evaluates = state.step == total_steps or state.step % (config.run.eval_every * steps_per_epoch) == 0
            if evaluates or state.step % config.run.log_every == 0:
                steps = state.step - logged_step
                mean_loss = sum_over_ranks(losses).item() / steps / world.size  # the only wait for the device
                _require_finite("loss", mean_loss, logged_step + 1, state.step, last_checkpoint)
                speed = steps / (time.perf_counter() - logged_time)
                values = dict(loss=mean_loss, lr=lr, images_per_second=speed * config.train.batch_size)
                if not dry_run:
                    report.train(state.step, epoch, values, seconds_left=(total_steps - state.step) / speed)
                losses.zero_()
                logged_step, logged_time = state.step, time.perf_counter()

            if evaluates:
                average_batch_norm(model)
                metrics = evaluate(model, task, world, config.train.amp)
                _require_finite("evaluation's loss", metrics["loss"], logged_step, state.step, last_checkpoint)
                if dry_run:
                    report.say(f"dry run: one step, loss {mean_loss:.4f}; one evaluation, {task.describe(metrics)}")
                    return metrics
                is_best = metrics[task.best_metric] > state.best.get(task.best_metric, -math.inf)
                if is_best:
                    state.best = metrics | {"step": state.step}
                report.evaluation(state.step, epoch, metrics, task.describe(metrics), is_best)
                if world.is_main:
                    report.pictures(state.step, task.pictures(model))
                    if is_best:
                        state.save(best_checkpoint, metrics)
                    state.save(last_checkpoint, metrics)
                interrupt.saved()
                logged_time = time.perf_counter()
            elif save:
                batch_norm = batch_norm_of_ranks(model)  # not averaged: that would change the run
                if world.is_main:
                    state.save(last_checkpoint, metrics, batch_norm)
            if asked_to_stop and state.step < total_steps:
                where = f"after step {state.step:,} of {total_steps:,}"
                raise Interrupted(f"stopped as asked, {where}; all of it is in {last_checkpoint}")
        summary = metrics | _outcome(state, task, epochs)
        report.summary(summary)
        report.say(f"done: {task.describe(metrics)}; {_best(state, task)}; all in {folder}")
        return summary


def _require_finite(name: str, value: float, first: int, last: int, checkpoint: Path) -> None:
    if not math.isfinite(value):
        kept = checkpoint if checkpoint.exists() else "none, it came before the first"
        raise UserError(
            f"the {name} became {value} in steps {first:,} to {last:,}: training stopped; the last good checkpoint is"
            f" {kept}; try a lower train.lr, a warm-up, or train.amp=none"
        )


def _outcome(state: State, task, epochs: int) -> dict[str, Any]:
    return {"epochs": epochs, "step": state.step, f"best_{task.best_metric}": state.best[task.best_metric]}


def _best(state: State, task) -> str:
    return f"best {task.best_metric} {state.best[task.best_metric]:.3f} at step {state.best['step']:,}"


def _plan(config: Config, task, world: World, epochs: int) -> str:
    train = config.train
    return (
        f"{task.title}; on {world.device.type}, {world.size} x {train.batch_size // world.size} = batch "
        f"{train.batch_size} -> learning rate {peak_learning_rate(train):g}; {epochs} epochs of "
        f"{task.steps_per_epoch:,} steps"
    )
