"""Rectangles in pictures as masks, for all pictures of a batch at once."""

import numpy as np
import torch
from torch import Tensor


def inside(boxes: np.ndarray, images: Tensor) -> Tensor:
    """(B, 1, H, W) bool on the images' device: True within a picture's box (B, 4) of top, bottom, left, right."""
    top, bottom, left, right = torch.from_numpy(boxes).to(images.device, torch.int32, non_blocking=True).unbind(1)
    y = torch.arange(images.shape[2], device=images.device, dtype=torch.int32)
    x = torch.arange(images.shape[3], device=images.device, dtype=torch.int32)
    rows = (y >= top[:, None]) & (y < bottom[:, None])
    columns = (x >= left[:, None]) & (x < right[:, None])
    return rows[:, None, :, None] & columns[:, None, None, :]
