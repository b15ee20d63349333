"""The systems that the paper compares DDF with, a file each. Importing this registers them with timm."""

from . import (
    adaptive,
    attention_augmented,
    bam,
    cbam,
    condconv,
    depthwise,
    dynamic_filter,
    dynet,
    weightnet,
)

__all__ = [
    "adaptive",
    "attention_augmented",
    "bam",
    "cbam",
    "condconv",
    "depthwise",
    "dynamic_filter",
    "dynet",
    "weightnet",
]
