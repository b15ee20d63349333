"""The training loop. Learning rate, data order, augmentation and random numbers are functions of the step alone."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..checkpoint_file import read_last_checkpoint
from ..config import Config, dump_config
from ..counted import counted
from ..errors import UserError
from .dist import (
    World,
    average_batch_norm,
    counts_of_all_ranks,
    from_main,
    max_over_ranks,
    parallel,
    same_on_all_ranks,
    sum_over_ranks,
    synchronised_batch_norm,
)
from .ema import Ema
from .evaluate import evaluate
from .failure import in_one_sentence, naming_what_is_kept
from .folder import checkpoint_to_continue, held
from .interrupt import Interrupt, Interrupted
from .logging.run_log import Report
from .mfu import DeviceUse
from .optim import build_optimizer, learning_rate, peak_learning_rate
from .precision import grad_scaler
from .profile import Profile
from .state import MEANS, State
from .step import Step, chunk_sizes


def train(config: Config, task, world: World, dry_run: bool = False, profile: bool = False) -> dict[str, Any]:
    """Train the task's model to the end of its epochs, from the last checkpoint of its folder if there is one.

    Args:
        dry_run: one step and one evaluation; nothing is written.
        profile: write a trace of some steps, see `Profile`.

    Returns:
        The run's summary: the last evaluation's metrics, `epochs`, `step`, `best_top1`, `seconds`.

    Raises:
        UserError: a loss that is not finite, a picture or checkpoint that cannot be read or written, a process that was
            lost; names the last good checkpoint.
        Interrupted: by a signal, after the step under way; all is saved.
    """
    folder = Path(str(config.run.dir))
    wandb_project = config.run.wandb_project if config.run.wandb and not dry_run else None
    with in_one_sentence():
        report = Report(folder, world.is_main, wandb_project)
        with held(folder, world.is_main and not dry_run):
            return _train(config, task, world, report, dry_run, profile)


def _train(config: Config, task, world: World, report: Report, dry_run: bool, profile: bool) -> dict[str, Any]:
    folder = report.folder
    last_checkpoint, best_checkpoint = folder / "checkpoints" / "last.pt", folder / "checkpoints" / "best.pt"
    steps_per_epoch, log_every = task.steps_per_epoch, config.run.log_every
    total_steps = 1 if dry_run else (config.train.epochs + config.train.cooldown_epochs) * steps_per_epoch
    report.say(_plan(config, task, world))
    state = _begin(config, task, world)
    if not dry_run:
        _resume(state, checkpoint_to_continue(folder), total_steps, report)
    if state.step >= total_steps:
        return _already_trained(state, task, report)
    if config.train.compile:
        state.model.compile()
    step = Step(config.train, task, world, parallel(state.model, world), state.optimizer, state.scaler, state.ema)

    corrupt_before = state.corrupt
    first_step, clock, device_use = state.step, Clock(state.step), DeviceUse(world, config.train.amp, task)
    profiles = profile and world.is_main and not dry_run
    state.model.train()
    with (
        contextlib.nullcontext() if dry_run else naming_what_is_kept(last_checkpoint),
        contextlib.closing(report),
        Interrupt(world, 0.0 if dry_run else config.run.checkpoint_minutes) as interrupt,
        Profile(folder / "profile", state.step, world.device, profiles, report.say) as profiler,
    ):
        if not dry_run:
            report.open(dump_config(config), state.step, total_steps)
        for batch in clock.waiting_for(task.train_batches(state.step, total_steps)):
            if state.step == first_step and world.is_main and not dry_run:
                report.pictures(state.step, task.training_pictures(task.prepare(batch, state.step)[0]))
            lr = learning_rate(state.step, steps_per_epoch, config.train)
            state.losses += step(batch, state.step, lr)
            state.step += 1
            profiler.step()
            asked_to_stop, save = interrupt.after_step()

            epoch = state.step / steps_per_epoch
            evaluates = state.step == total_steps or state.step % (config.run.eval_every * steps_per_epoch) == 0
            logs = evaluates or state.step % log_every == 0
            if logs or save:
                mean_loss = _mean_loss(state)
            if logs:
                speed, data_wait = clock.lap(state.step)
                data_wait = max_over_ranks(data_wait, world.device)  # all wait for the one that waits longest
                values = dict(loss=mean_loss, lr=lr, images_per_second=speed * config.train.batch_size)
                values |= {"data_wait": data_wait} | device_use.values(values["images_per_second"])
                state.losses.zero_()
                state.losses_from = state.step
                if not dry_run:
                    report.train(state.step, epoch, values, seconds_left=(total_steps - state.step) / speed)
            if evaluates:
                average_batch_norm(*state.models)
                state.metrics = _evaluate(state, task)
                said = _said(state, task)
                if dry_run:
                    report.say(f"dry run: one step, loss {mean_loss:.4f}; one evaluation, {said}")
                    return state.metrics
                is_best = state.judge(task.best_metric)
                report.evaluation(state.step, epoch, state.metrics, said, is_best)
                if not math.isfinite(state.metrics["loss"]):  # of weights that are, or they would not be saved below
                    report.say(
                        "the evaluation's loss is not finite while that of training is: do the statistics of the batch"
                        " norms not fit yet? Training goes on"
                    )
            if evaluates or save:
                state.seconds += clock.since_asked()
                state.corrupt = counts_of_all_ranks(task.corrupt, corrupt_before if world.is_main else {})
                state.save(*[best_checkpoint] * (evaluates and is_best), last_checkpoint)
                interrupt.saved()
            if evaluates:
                if world.is_main:  # after all is saved: nothing is lost if one cannot be drawn
                    report.pictures(state.step, task.pictures(state.model), task.filter_histograms(state.model))
                clock.restart()
            if asked_to_stop and state.step < total_steps:
                from_main(None)  # the others wait until it has written: launchers kill what is left when one ends
                where = f"after step {state.step:,} of {total_steps:,}"
                raise Interrupted(f"stopped as asked, {where}; all of it is in {last_checkpoint}")
        summary = state.metrics | _outcome(state, task)
        report.summary(summary)
        best_value, name = summary[f"best_{task.best_metric}"], state.judged_by(task.best_metric)
        best = f"best {name} {best_value:.3f} at step {state.best['step']:,}"
        if state.corrupt:
            pictures = counted(len(state.corrupt), "picture")
            report.say(f"{pictures} cannot be decoded, others stood in for them: summary.json has names")
        report.say(f"done: {_said(state, task)}; {best}; all in {folder}")
        return summary


def _begin(config: Config, task, world: World) -> State:
    """The state at step 0, of the config as the task has resolved it: a checkpoint is to need nothing else."""
    train = config.train
    if train.sync_bn:
        task.model = synchronised_batch_norm(task.model, world)
    ema = Ema(task.model, train.ema_decay) if train.ema_decay else None
    optimizer, scaler = build_optimizer(task.model, train), grad_scaler(world.device, train.amp)
    return State(task.config, world, task.model, optimizer, scaler, ema, task.data_identity)


def _resume(state: State, checkpoint: Path, total_steps: int, report: Report) -> None:
    """The state of the checkpoint, where there is one; what has changed since then is said."""
    begun = checkpoint.exists()
    differences = state.load(checkpoint, read_last_checkpoint(checkpoint)) if begun else []
    if state.step == total_steps:
        changed = [difference for difference in differences if not difference.startswith(MEANS)]
        if changed:
            raise UserError(
                f"{report.folder}: is trained to its end with other settings, then -> now: {'; '.join(changed)}: set"
                " them back, give another run.dir, or start over with --fresh; a higher train.epochs goes on with them"
            )
    if state.step > total_steps:
        epochs = f"train.epochs = {state.config.train.epochs}"
        raise UserError(f"{checkpoint}: is at step {state.step:,}, {epochs} end at {total_steps:,}: set it higher")
    if not same_on_all_ranks(state.step):
        raise UserError(f"{checkpoint}: not the same on every node: run.dir must lie in a folder that they share")
    if not same_on_all_ranks(state.identity):
        raise UserError("the processes have not the same config and pictures: give all nodes the same command and data")
    if begun:
        report.say(f"continuing from {checkpoint} at step {state.step:,} of {total_steps:,}")
    if differences:
        report.say(f"changed since then: {'; '.join(differences)}")


def _already_trained(state: State, task, report: Report) -> dict[str, Any]:
    report.say(f"nothing left to do: {report.folder} is trained to its end; --fresh starts a new run beside it")
    summary = _evaluate(state, task) | _outcome(state, task)
    if not (report.folder / "summary.json").exists():  # killed just before it was written
        report.summary(summary)
    return summary


def _mean_loss(state: State) -> float:
    """Over all ranks, since the last log step. The only wait for the device but for evaluations and checkpoints."""
    mean = sum_over_ranks(state.losses.clone()).item() / (state.step - state.losses_from) / state.world.size
    if not math.isfinite(mean):
        raise UserError(
            f"the loss became {mean} in steps {state.losses_from + 1:,} to {state.step:,}: training stopped; try a"
            " lower train.lr, a warm-up, train.clip_grad, or train.amp=none"
        )
    return mean


def _evaluate(state: State, task) -> dict[str, Any]:
    """The metrics of the weights; those of their average, where there is one, beside them as ema_top1 and so on."""
    amp = state.config.train.amp
    metrics = evaluate(state.model, task, state.world, amp)
    if state.ema is not None:
        averaged = evaluate(state.ema.model, task, state.world, amp)
        metrics |= {f"ema_{key}": averaged[key] for key in averaged if key not in ("images", "images_per_second")}
    return metrics


def _said(state: State, task) -> str:
    averaged = {key.removeprefix("ema_"): value for key, value in state.metrics.items() if key.startswith("ema_")}
    text = task.describe(state.metrics)
    return f"{text}; averaged weights: {task.describe(state.metrics | averaged)}" if averaged else text


def _outcome(state: State, task) -> dict[str, Any]:
    epochs = state.config.train.epochs + state.config.train.cooldown_epochs
    best_value = state.best.get(state.judged_by(task.best_metric), state.best[task.best_metric])
    best = {f"best_{task.best_metric}": best_value}
    corrupt = {"corrupt_pictures": state.corrupt} if state.corrupt else {}
    return {"epochs": epochs, "step": state.step, "seconds": round(state.seconds, 1)} | best | corrupt


def _plan(config: Config, task, world: World) -> str:
    train = config.train
    sizes = chunk_sizes(train.batch_size // world.size, train.accumulation)
    share = f"{sizes[0]} x {len(sizes)}" if len(set(sizes)) == 1 else f"({' + '.join(map(str, sizes))})"
    return (
        f"{task.title}; on {world.device.type}, {world.size} x {share.removesuffix(' x 1')} = batch "
        f"{train.batch_size} -> learning rate {peak_learning_rate(train):g}; "
        f"{counted(train.epochs + train.cooldown_epochs, 'epoch')} of {counted(task.steps_per_epoch, 'step')}"
    )


class Clock:
    """How fast the steps go, and how much of their time the loop waits for data."""

    def __init__(self, step: int):
        self.step, self._waited = step, 0.0
        self._lap = self._asked = time.perf_counter()

    def waiting_for(self, batches: Iterator) -> Iterator:
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def lap(self, step: int) -> tuple[float, float]:
        """(steps per second, share of the time that was waited for data) since the last lap."""
        seconds = time.perf_counter() - self._lap
        speed, share = (step - self.step) / seconds, self._waited / seconds
        self.step = step
        self.restart()
        return speed, share

    def restart(self) -> None:
        """Leave out what happened since the last lap."""
        self._lap, self._waited = time.perf_counter(), 0.0

    def since_asked(self) -> float:
        """Seconds since the last call, or since the start."""
        asked, self._asked = self._asked, time.perf_counter()
        return self._asked - asked
