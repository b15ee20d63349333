"""One step: forward and backward through the batch, in one piece or several, then the update."""

import contextlib

import torch
from torch import Tensor, nn

from ..config import Train
from ..counted import counted
from ..errors import UserError
from ..seeding import seed_step
from ..task import Batch, Task
from .dist import World
from .ema import Ema
from .precision import autocast


def chunk_sizes(pictures: int, accumulation: int) -> list[int]:
    """A process's pictures of a step, cut into at most that many pieces; the last one may be smaller.

    Raises:
        UserError: a piece of one picture, which batch norm cannot normalise.
    """
    size = -(-pictures // accumulation)
    sizes = [min(size, pictures - start) for start in range(0, pictures, size)]
    if min(sizes) < 2:
        raise UserError(
            f"train.accumulation = {accumulation} cuts the {counted(pictures, 'picture')} of a process into"
            f" {counted(len(sizes), 'piece')}, the last one of {sizes[-1]}, batch norm needs two at least: lower it"
        )
    return sizes


class Step:
    """Calling it with (batch, step) updates the weights.

    The gradient is that of the mean loss over the global batch, whatever the number of processes and pieces: each piece
    counts by its pictures; the processes' gradients, averaged in the last piece's backward pass, are of equal parts.
    """

    def __init__(
        self,
        train: Train,
        task: Task,
        world: World,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        ema: Ema | None,
    ):
        self.train, self.task, self.world, self.model = train, task, world, model
        self.optimizer, self.scaler, self.ema = optimizer, scaler, ema
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.sizes = chunk_sizes(train.batch_size // world.size, train.accumulation)

    def __call__(self, batch: Batch, step: int, learning_rate: float) -> Tensor:
        """The mean loss of this process's pictures, float64, on the device; nothing waits for it."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)  # layer-wise decay, where it is used
        seed_step(self.train.seed, step, self.world.rank)
        batch = self.task.prepare(batch, step)
        mean_loss = torch.zeros((), dtype=torch.float64, device=self.world.device)
        for number, part in enumerate(batch.split(self.sizes)):
            last = number == len(self.sizes) - 1
            with contextlib.nullcontext() if last else _without_exchange(self.model):
                with autocast(self.world.device, self.train.amp):
                    loss = self.task.loss(self.model, part) * (len(part) / len(batch))
                self.scaler.scale(loss).backward()
            mean_loss += loss.detach()
        if self.train.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.parameters, self.train.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(step)
        return mean_loss


def _without_exchange(model: nn.Module):
    return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else contextlib.nullcontext()
