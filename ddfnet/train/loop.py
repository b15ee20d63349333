"""The training loop. Learning rate, data order, augmentation and random numbers are functions of the step alone."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

from ..config import Config, dump_config
from ..config import Run as RunConfig
from ..task import Task
from .begin import begin, plan, resume
from .clock import Clock
from .dist import World, from_main, parallel
from .failure import in_one_sentence, naming_what_is_kept
from .folder import checkpoint_to_continue, held
from .interrupt import Interrupt, Interrupted, Requests
from .logging.run_log import Report
from .mfu import DeviceUse
from .optim import learning_rate
from .profile import Profile
from .run import Run, evaluate_all, mean_loss, outcome
from .state import State
from .step import Step


def train(config: Config, task: Task, world: World, profile: bool = False) -> dict[str, Any]:
    """Train the task's model to the end of its epochs, from the last checkpoint of its folder if there is one.

    Args:
        profile: write a trace of some steps, see `Profile`.

    Returns:
        The run's summary: the last evaluation's metrics, `epochs`, `step`, `seconds`, `headline`, the name of the
        metric that decides which evaluation is the best, and its best value, such as `best_top1`.

    Raises:
        UserError: a loss that is not finite, a picture or checkpoint that cannot be read or written, a process that was
            lost; names the last good checkpoint.
        Interrupted: by a signal, after the step under way; all is saved.
    """
    folder = Path(str(config.run.dir))
    with in_one_sentence():
        report = Report(folder, world.is_main, config.run.wandb_project if config.run.wandb else None)
        with held(folder, world.is_main):
            return _train(config, task, world, report, profile)


def _train(config: Config, task: Task, world: World, report: Report, profile: bool) -> dict[str, Any]:
    steps_per_epoch = task.steps_per_epoch
    total_steps = (config.train.epochs + config.train.cooldown_epochs) * steps_per_epoch
    report.say(plan(config, task, world))
    state = begin(config, task, world)
    resume(state, checkpoint_to_continue(report.folder), total_steps, report)
    if state.step >= total_steps:
        return _already_trained(state, task, report)
    if config.train.compile:
        state.model.compile()
    step = Step(config.train, task, world, parallel(state.model, world), state.optimizer, state.scaler, state.ema)

    first_step, clock = state.step, Clock(state.step)
    run = Run(state, task, report, clock, DeviceUse(world, config.train.amp, task), total_steps)
    state.model.train()
    with (
        naming_what_is_kept(run.last_checkpoint),
        contextlib.closing(report),
        Interrupt(world, config.run.checkpoint_minutes) as interrupt,
        Profile(report.folder / "profile", first_step, world.device, profile and world.is_main, report.say) as profiler,
    ):
        report.open(dump_config(config), first_step, total_steps)
        for batch in clock.waiting_for(task.train_batches(first_step, total_steps)):
            if state.step == first_step:
                run.show_training_pictures(batch)
            lr = learning_rate(state.step, steps_per_epoch, config.train)
            state.losses += step(batch, state.step, lr)
            state.step += 1
            profiler.step()

            due = due_after(state.step, total_steps, steps_per_epoch, config.run, interrupt.after_step())
            if due.log or due.save:
                loss = mean_loss(state)
            if due.log:
                run.log(loss, lr)
            is_best = due.evaluate and run.evaluate()
            if due.save:
                run.save(is_best)
                interrupt.saved()
            if due.evaluate:
                run.show_pictures()
                clock.restart()
            if due.stop:
                from_main(None)  # the others wait until it has written: launchers kill what is left when one ends
                where = f"after step {state.step:,} of {total_steps:,}"
                raise Interrupted(f"stopped as asked, {where}; all of it is in {run.last_checkpoint}")
        return run.finish()


class Due(NamedTuple):
    """What is to be done after a step, in this order."""

    log: bool
    evaluate: bool
    save: bool
    stop: bool


def due_after(step: int, total_steps: int, steps_per_epoch: int, run: RunConfig, asked: Requests) -> Due:
    """Decide what is due after the run's first `step` steps: every evaluation is logged before and saved after."""
    evaluate = step == total_steps or step % (run.eval_every * steps_per_epoch) == 0
    log = evaluate or step % run.log_every == 0
    return Due(log, evaluate, evaluate or asked.save, asked.stop and step < total_steps)


def _already_trained(state: State, task: Task, report: Report) -> dict[str, Any]:
    report.say(f"nothing left to do: {report.folder} is trained to its end; --fresh starts a new run beside it")
    summary = evaluate_all(state, task) | outcome(state, task)
    if not (report.folder / "summary.json").exists():  # killed just before it was written
        report.summary(summary)
    return summary
