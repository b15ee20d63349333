"""Before the first step: what a run starts from, and whether it may go on from there."""

from pathlib import Path

import torch

from ..checkpoint_file import read_last_checkpoint
from ..config import Config
from ..counted import counted
from ..errors import UserError
from ..task import Task
from .dist import World, same_on_all_ranks, synchronised_batch_norm
from .ema import Ema
from .logging.run_log import Report
from .optim import build_optimizer, peak_learning_rate
from .precision import grad_scaler
from .state import MEANS, State
from .step import chunk_sizes


def plan(config: Config, task: Task, world: World) -> str:
    """Say in one line what will be trained, where and for how long."""
    train = config.train
    sizes = chunk_sizes(train.batch_size // world.size, train.accumulation)
    share = f"{sizes[0]} x {len(sizes)}" if len(set(sizes)) == 1 else f"({' + '.join(map(str, sizes))})"
    return (
        f"{task.title}; on {world.device.type}, {world.size} x {share.removesuffix(' x 1')} = batch "
        f"{train.batch_size} -> learning rate {peak_learning_rate(train):g}; "
        f"{counted(train.epochs + train.cooldown_epochs, 'epoch')} of {counted(task.steps_per_epoch, 'step')}"
    )


def begin(config: Config, task: Task, world: World) -> State:
    """Make the state at step 0, of the config as the task has resolved it: a checkpoint is to need nothing else."""
    train = config.train
    if world.device.type == "cuda":
        let_cudnn_measure()
    if train.sync_bn:
        task.model = synchronised_batch_norm(task.model, world)
    ema = Ema(task.model, train.ema_decay) if train.ema_decay else None
    optimizer, scaler = build_optimizer(task.model, train), grad_scaler(world.device, train.amp)
    return State(task.config, world, task.model, optimizer, scaler, ema, task.data_identity)


def let_cudnn_measure() -> None:
    """Have cuDNN try its algorithms once for every shape: training has few. Not where results are to be repeatable."""
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()


def resume(state: State, checkpoint: Path, total_steps: int, report: Report) -> None:
    """Load the state of the checkpoint, where there is one; what has changed since then is said."""
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
