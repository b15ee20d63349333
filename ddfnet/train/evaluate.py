"""Evaluation: every image judged once, whatever the number of processes."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..eval_mode import evaluating
from ..task import Batch, Evaluator, Metric, Task
from .dist import World, sum_over_ranks
from .failure import is_lost_process
from .precision import autocast


@torch.no_grad()
def evaluate(
    model: nn.Module,
    task: Task,
    world: World,
    amp: str,
    evaluators: list[Evaluator] | None = None,
    batches: Iterable[Batch] | None = None,
) -> dict[str, Any]:
    """Judge the network by the task's evaluation; its modules' modes are left as they were.

    Args:
        evaluators: others than the task's own.
        batches: the task's `eval_batches()`, such as under a progress bar.

    Returns:
        The evaluators' results, and images_per_second, that of the whole, the start of the workers included.

    Raises:
        UserError: an image that cannot be read, another process that was lost.
        RuntimeError: not every image was judged once, which no number of processes and no data may cause.
    """
    started = time.perf_counter()
    evaluators = task.evaluators() if evaluators is None else evaluators
    with evaluating(model), autocast(world.device, amp):
        for batch in task.eval_batches() if batches is None else batches:
            outputs = task.outputs(model, batch)
            for evaluator in evaluators:
                evaluator.update(outputs, batch)
    try:
        for evaluator in evaluators:
            evaluator.reduce()
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise UserError("another process was lost during the evaluation; its own message says why") from error
    results: dict[str, Any] = {}
    for evaluator in evaluators:
        results |= evaluator.result()
    if results["images"] != task.eval_images:
        raise RuntimeError(f"the evaluation counted {results['images']} pictures, the dataset has {task.eval_images}")
    return results | {"images_per_second": results["images"] / (time.perf_counter() - started)}


class SumEvaluator(ABC):
    """An evaluator whose result follows from a vector of float64 sums over the images.

    Args:
        size: of the vector. It is there from the start: a process may have no batch to add.
    """

    metrics: tuple[Metric, ...] = ()

    def __init__(self, size: int, device: torch.device):
        self._total = torch.zeros(size, dtype=torch.float64, device=device)

    @abstractmethod
    def sums(self, outputs: Any, batch: Any) -> Tensor:
        """Return a batch's vector, float64, on the device."""

    @abstractmethod
    def meaning(self, total: Tensor) -> dict[str, Any]:
        """Return what the sums over all images mean."""

    def update(self, outputs: Any, batch: Any) -> None:
        self._total += self.sums(outputs, batch)

    def reduce(self) -> None:
        sum_over_ranks(self._total)

    def result(self) -> dict[str, Any]:
        return self.meaning(self._total)
