"""SGD as in the paper, and its learning rate as a function of the step."""

import math

import torch
from torch import nn

from ..config import Train


def build_optimizer(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    """SGD; weight decay on every parameter, as in the paper's protocol, or on those of two dimensions and more only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    plain = [] if train.decay_norm_and_bias else [p for p in parameters if p.dim() <= 1]
    decayed = parameters if train.decay_norm_and_bias else [p for p in parameters if p.dim() > 1]
    groups = [dict(params=decayed, weight_decay=train.weight_decay), dict(params=plain, weight_decay=0.0)]
    return torch.optim.SGD(
        [group for group in groups if group["params"]], lr=train.lr, momentum=train.momentum, nesterov=train.nesterov
    )


def peak_learning_rate(train: Train) -> float:
    """The learning rate per 256 pictures, scaled linearly to the global batch."""
    return train.lr * train.batch_size / 256


def learning_rate(step: int, steps_per_epoch: int, train: Train) -> float:
    """A linear warm-up from warmup_lr to the peak, a cosine from there to exactly min_lr at its last step, then min_lr.

    The cosine starts where the warm-up ends, so the peak is reached whatever its length.
    """
    peak = peak_learning_rate(train)
    warmup, end = round(train.warmup_epochs * steps_per_epoch), train.epochs * steps_per_epoch
    if step < warmup:
        return train.warmup_lr + (peak - train.warmup_lr) * step / warmup
    progress = min(1.0, (step - warmup) / max(1, end - 1 - warmup))
    return train.min_lr + (peak - train.min_lr) * (1 + math.cos(math.pi * progress)) / 2
