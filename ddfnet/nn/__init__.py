"""Layers around the DDF operator."""

from .ddf import DDF, ChannelBranch, DDFPointwise, SpatialBranch
from .filter_norm import FilterNorm
from .replace import Replacement, replace_convolutions

__all__ = ["DDF", "ChannelBranch", "DDFPointwise", "FilterNorm", "Replacement", "SpatialBranch", "replace_convolutions"]
