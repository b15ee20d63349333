"""The training loop. Learning rate, data order, augmentation and random numbers are functions of the step alone."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from ..config import Config, dump_config
from ..errors import UserError
from .dist import World, average_batch_norm, sum_over_ranks
from .evaluate import evaluate
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
    state = State(config, model, optimizer, scaler)
    report.say(_plan(config, task, world, epochs))
    if last_checkpoint.exists() and not dry_run:
        state.load(last_checkpoint)
        report.say(f"continuing from {last_checkpoint} at step {state.step:,} of {total_steps:,}")
    parallel = DistributedDataParallel(model, broadcast_buffers=False) if world.size > 1 else model

    if not dry_run:
        report.open(dump_config(config), state.step, total_steps)
    metrics: dict[str, Any] = {}
    losses = torch.zeros((), device=world.device)  # summed on the device, read at log steps only
    logged_step, logged_time = state.step, time.perf_counter()
    model.train()
    try:
        for batch in task.train_batches(state.step, total_steps):
            lr = learning_rate(state.step, steps_per_epoch, config.train)
            for group in optimizer.param_groups:
                group["lr"] = lr
            torch.manual_seed((config.train.seed << 31) + state.step * world.size + world.rank)  # dropout, drop path
            with autocast(world.device, config.train.amp):
                loss = task.loss(parallel, batch, state.step)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses += loss.detach()
            state.step += 1

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
                if dry_run:
                    images = metrics["images"]
                    report.say(
                        f"dry run: one step, loss {mean_loss:.4f}, one evaluation of {images:,} images; all works"
                    )
                    return metrics
                _require_finite("evaluation's loss", metrics["loss"], logged_step, state.step, last_checkpoint)
                is_best = metrics[task.best_metric] > state.best.get(task.best_metric, -math.inf)
                if is_best:
                    state.best = metrics | {"step": state.step}
                report.evaluation(state.step, epoch, metrics, is_best)
                if world.is_main:
                    report.pictures(state.step, task.pictures(model))
                    if is_best:
                        state.save(best_checkpoint, metrics)
                    state.save(last_checkpoint, metrics)
                logged_time = time.perf_counter()
        if not metrics:
            report.say(f"nothing left to do: {folder} is trained to its end; --fresh starts a new run beside it")
            metrics = evaluate(model, task, world, config.train.amp)
        best = state.best[task.best_metric]
        summary = metrics | {"epochs": epochs, "step": state.step, f"best_{task.best_metric}": best}
        report.summary(summary)
        report.say(f"done: top-1 {metrics['top1']:.3f}, best {best:.3f} (step {state.best['step']:,}); all in {folder}")
        return summary
    finally:
        report.close()


def _require_finite(name: str, value: float, first: int, last: int, checkpoint: Path) -> None:
    if not math.isfinite(value):
        kept = checkpoint if checkpoint.exists() else "none, it came before the first"
        raise UserError(
            f"the {name} became {value} in steps {first:,} to {last:,}: training stopped; the last good checkpoint is"
            f" {kept}; try a lower train.lr, a warm-up, or train.amp=none"
        )


def _plan(config: Config, task, world: World, epochs: int) -> str:
    parameters = sum(p.numel() for p in task.model.parameters())
    train = config.train
    return (
        f"{config.model.name}: {parameters:,} parameters, {len(task.classes):,} classes; on {world.device.type}, "
        f"{world.size} x {train.batch_size // world.size} = batch {train.batch_size} -> learning rate "
        f"{peak_learning_rate(train):g}; {epochs} epochs of {task.steps_per_epoch:,} steps"
    )
