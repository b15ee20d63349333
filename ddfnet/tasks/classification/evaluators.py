"""What a classifier is judged by: its outputs are log-probabilities or logits (B, classes), float32."""

from typing import Any

import torch
from torch import Tensor

from ...train.evaluate import SumEvaluator
from .batch import ImageBatch
from .metrics import (
    METRICS,
    REAL_METRICS,
    basic_metrics,
    basic_sums,
    best_guesses,
    class_sums,
    confusion_sums,
    real_metrics,
    real_sums,
    table_of,
)


class Accuracy(SumEvaluator):
    """Gives top1 and top5 in percent, the mean loss, the number of images."""

    metrics = METRICS

    def __init__(self, device: torch.device):
        super().__init__(len(METRICS), device)

    def sums(self, outputs: Tensor, batch: ImageBatch) -> Tensor:
        return basic_sums(outputs, batch.targets)

    def meaning(self, total: Tensor) -> dict[str, Any]:
        return basic_metrics(total)


class RealAccuracy(SumEvaluator):
    """The same by ReaL labels, of which several may be right (arXiv 2006.07159).

    Args:
        allowed: (images, L) int64, the labels of each image of the dataset, filled up with -1.
    """

    metrics = REAL_METRICS

    def __init__(self, allowed: Tensor):
        super().__init__(len(REAL_METRICS), allowed.device)
        self.allowed = allowed

    def sums(self, outputs: Tensor, batch: ImageBatch) -> Tensor:
        indices = torch.tensor([index for _, index in batch.keys], device=outputs.device)
        return real_sums(best_guesses(outputs), self.allowed[indices])

    def meaning(self, total: Tensor) -> dict[str, Any]:
        return real_metrics(total)


class ClassCounts(SumEvaluator):
    """Gives per_class, (classes, 3) int64: images of a class, right at first guess, right among five."""

    def __init__(self, classes: int, device: torch.device):
        super().__init__(3 * classes, device)
        self.classes = classes

    def sums(self, outputs: Tensor, batch: ImageBatch) -> Tensor:
        return class_sums(best_guesses(outputs), batch.targets, self.classes)

    def meaning(self, total: Tensor) -> dict[str, Any]:
        return {"per_class": table_of(total, self.classes)}


class Confusion(SumEvaluator):
    """Gives confusion, (classes, classes) int64: how often images of a class (row) were taken for each (column)."""

    def __init__(self, classes: int, device: torch.device):
        super().__init__(classes**2, device)
        self.classes = classes

    def sums(self, outputs: Tensor, batch: ImageBatch) -> Tensor:
        return confusion_sums(best_guesses(outputs), batch.targets, self.classes)

    def meaning(self, total: Tensor) -> dict[str, Any]:
        return {"confusion": table_of(total, self.classes)}
