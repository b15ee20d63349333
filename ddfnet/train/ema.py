"""An exponential moving average of the weights, often better than the weights themselves."""

import copy

import torch
from torch import nn


def ema_decay(step: int, decay: float) -> float:
    """The share that the average keeps at its update after step `step`: less in the beginning, then `decay`.

    (1 + step) / (10 + step), as TensorFlow's averages warm up, so the first weights, which are noise, are soon gone.
    """
    return min(decay, (1 + step) / (10 + step))


class Ema:
    """A copy of the model whose parameters and floating-point buffers follow the model's; other buffers are copied.

    Batch norm's running statistics are averaged too, so that they are those of the averaged weights. How often it was
    updated is the run's step, which is all that its decay depends on.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        averages, values = zip(*self._averaged, strict=True)
        torch._foreach_lerp_(averages, values, 1 - ema_decay(step, self.decay))
        for copied, value in self._copied:
            copied.copy_(value)
