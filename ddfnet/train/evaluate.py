"""Evaluation: every picture counted once, whatever the number of processes."""

import time

import torch
from torch import nn

from .dist import World, sum_over_ranks
from .precision import autocast


@torch.no_grad()
def evaluate(model: nn.Module, task, world: World, amp: str) -> dict[str, float]:
    """The task's metrics over its evaluation batches, with the throughput; the model's mode is left as it was."""
    training = model.training
    model.eval()
    started = time.perf_counter()
    total = torch.zeros(4, dtype=torch.float64, device=world.device)
    with autocast(world.device, amp):
        for batch in task.eval_batches():
            total += task.score(model, batch)
    model.train(training)
    metrics = task.metrics(sum_over_ranks(total))
    return metrics | {"images_per_second": metrics["images"] / (time.perf_counter() - started)}
