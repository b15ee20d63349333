"""Evaluation: every picture counted once, whatever the number of processes."""

import time
from typing import Any

import torch
from torch import nn

from ..modes import evaluating
from .dist import World, sum_over_ranks
from .precision import autocast


@torch.no_grad()
def evaluate(model: nn.Module, task, world: World, amp: str) -> dict[str, Any]:
    """The task's metrics over its evaluation batches, with the throughput; the model's modes are left as they were."""
    started = time.perf_counter()
    total = torch.zeros(task.score_size, dtype=torch.float64, device=world.device)
    with evaluating(model), autocast(world.device, amp):
        for batch in task.eval_batches():
            total += task.score(model, batch)
    metrics = task.metrics(sum_over_ranks(total))
    return metrics | {"images_per_second": metrics["images"] / (time.perf_counter() - started)}
