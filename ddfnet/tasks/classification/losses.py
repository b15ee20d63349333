"""What classification minimises: cross entropy or a binary one for each class, of hard or of mixed targets."""

import torch.nn.functional as F
from torch import Tensor


def classification_loss(
    logits: Tensor, targets: Tensor, loss: str = "cross_entropy", smoothing: float = 0.0, threshold: float | None = None
) -> Tensor:
    """The mean over the pictures, in float32 at least.

    Args:
        logits: (B, classes).
        targets: labels (B,) int64, or a distribution (B, classes).
        loss: "cross_entropy", or "bce", each class by itself, the mean over the classes (arXiv 2110.00476).
        smoothing: the share of a target that is spread over all classes (1512.00567); that of mixed ones too.
        threshold: for bce, targets above it become 1 and the others 0.
    """
    logits = logits.float() if logits.itemsize < 4 else logits
    if loss == "cross_entropy":
        targets = targets.to(logits.dtype) if targets.is_floating_point() else targets
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    classes = logits.shape[1]
    targets = (targets if targets.is_floating_point() else F.one_hot(targets, classes)).to(logits.dtype)
    targets = targets * (1 - smoothing) + smoothing / classes
    if threshold is not None:
        targets = (targets > threshold).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets)
