"""The networks. Importing this registers them with timm: DDF-ResNets, and what the paper compares them with."""

from . import (
    adaptive,
    attention_augmented,
    bam,
    cbam,
    condconv,
    ddf_resnet,
    depthwise,
    dynamic_filter,
    dynet,
    weightnet,
)
from .complexity import complexity, count_macs, count_parameters
from .weights import load_checkpoint

__all__ = [
    "adaptive",
    "attention_augmented",
    "bam",
    "cbam",
    "complexity",
    "condconv",
    "count_macs",
    "count_parameters",
    "ddf_resnet",
    "depthwise",
    "dynamic_filter",
    "dynet",
    "load_checkpoint",
    "weightnet",
]
