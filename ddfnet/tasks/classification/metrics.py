"""What is added up over the pictures of an evaluation: sums that no order of adding changes, not in the last bit.

Counts are whole numbers in float64. Losses are added in steps of 2^-24, which makes whole numbers of them too: one
process and eight give the same mean loss.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...task import IMAGES, Metric

METRICS = (
    Metric("top1", "top-1", unit="%"),
    Metric("top5", "top-5", unit="%"),
    Metric("loss", "loss", ".4f", lower_is_better=True),
    IMAGES,
)
REAL_METRICS = (
    Metric("real_top1", "ReaL top-1", unit="%"),
    Metric("real_top5", "ReaL top-5", unit="%"),
    Metric("real_images", "ReaL images", ","),
)
LOSS_STEP = 2.0**-24


def best_guesses(logits: Tensor) -> Tensor:
    """(B, classes) to the five likeliest classes, best first; (B, 5), or fewer where there are not five."""
    return logits.topk(min(5, logits.shape[1])).indices


def basic_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """(4,) float64, to be added up: right at first guess, right among five, steps of loss, pictures.

    Args:
        logits: (B, classes), float32.
        labels: (B,), int64.
    """
    right = best_guesses(logits) == labels[:, None]
    losses = F.cross_entropy(logits, labels, reduction="none").double()
    steps = (losses / LOSS_STEP).round()
    return torch.stack([right[:, 0].double().sum(), right.double().sum(), steps.sum(), torch.ones_like(steps).sum()])


def basic_metrics(sums: Tensor) -> dict[str, Any]:
    """`top1` and `top5` in percent, the mean `loss`, the number of `images`."""
    top1, top5, steps, images = sums.tolist()
    loss = steps * LOSS_STEP / images
    return {"top1": 100 * top1 / images, "top5": 100 * top5 / images, "loss": loss, "images": int(images)}


def real_sums(guesses: Tensor, allowed: Tensor) -> Tensor:
    """(3,): as `basic_sums`, where any of several labels is right: first guess, among five, pictures that have one.

    Args:
        guesses: (B, up to 5), from `best_guesses`.
        allowed: (B, L), each picture's labels, filled up with -1.
    """
    hits = (guesses[:, :, None] == allowed[:, None, :]).any(2)
    counted = (allowed >= 0).any(1)
    return torch.stack([hits[:, 0].sum(), hits.any(1).sum(), counted.sum()]).double()


def real_metrics(sums: Tensor) -> dict[str, Any]:
    top1, top5, images = sums.tolist()
    return {"real_top1": 100 * top1 / images, "real_top5": 100 * top5 / images, "real_images": int(images)}


def class_sums(guesses: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(classes * 3,): of each class its pictures, right at first guess, right among five."""
    right = guesses == labels[:, None]
    rows = torch.stack([torch.ones_like(right[:, 0]), right[:, 0], right.any(1)], 1).double()
    return rows.new_zeros(classes, 3).index_add_(0, labels, rows).flatten()


def confusion_sums(guesses: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(classes * classes,): how often pictures of a class (row) were taken for each class (column)."""
    ones = torch.ones_like(labels, dtype=torch.float64)
    return ones.new_zeros(classes * classes).index_add_(0, labels * classes + guesses[:, 0], ones)


def table_of(sums: Tensor, classes: int) -> np.ndarray:
    """The sums of `class_sums` (classes, 3) or `confusion_sums` (classes, classes) as whole numbers, int64."""
    return sums.view(classes, -1).cpu().numpy().astype(np.int64)
