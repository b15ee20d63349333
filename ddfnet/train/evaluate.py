"""Evaluation: every picture counted once, whatever the number of processes."""

import time
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..eval_mode import evaluating
from .dist import World, sum_over_ranks
from .failure import is_lost_process
from .precision import autocast


@torch.no_grad()
def evaluate(model: nn.Module, task, world: World, amp: str) -> dict[str, Any]:
    """The task's metrics over its evaluation batches, with the throughput; the model's modes are left as they were.

    The task gives `eval_batches()`, this rank's share of them; `score(model, batch)`, a float64 vector of `score_size`
    sums; `metrics(sums)`, what they mean over all ranks, `images` among it; `eval_images`, how many that must be.
    The throughput is that of the whole, the start of the loader's workers included.

    Raises:
        UserError: a picture that cannot be read, another process that was lost.
        RuntimeError: not every picture was counted once, which no number of processes and no data may cause.
    """
    started = time.perf_counter()
    total = torch.zeros(task.score_size, dtype=torch.float64, device=world.device)
    with evaluating(model), autocast(world.device, amp):
        for batch in task.eval_batches():
            total += task.score(model, batch)
    try:
        total = sum_over_ranks(total)
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise UserError("another process was lost during the evaluation; its own message says why") from error
    metrics = task.metrics(total)
    if metrics["images"] != task.eval_images:
        raise RuntimeError(f"the evaluation counted {metrics['images']} pictures, the dataset has {task.eval_images}")
    return metrics | {"images_per_second": metrics["images"] / (time.perf_counter() - started)}
