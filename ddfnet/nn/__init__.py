"""Layers around the DDF operator."""

from .ddf import DDF, ChannelBranch, DDFPointwise, SpatialBranch
from .filter_norm import FilterNorm
from .fuse import FusedDDF, fuse_for_inference
from .replace import Replacement, replace_convolutions

__all__ = [
    "DDF",
    "ChannelBranch",
    "DDFPointwise",
    "FilterNorm",
    "FusedDDF",
    "Replacement",
    "SpatialBranch",
    "fuse_for_inference",
    "replace_convolutions",
]
