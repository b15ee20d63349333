"""Decoupled Dynamic Filters: the operator, the layers and DDF-ResNets; importing this registers the models with timm."""

from . import models, nn, ops
from .nn import DDF, FilterNorm, replace_convolutions
from .ops import ddf

__version__ = "0.1.0"
__all__ = ["DDF", "FilterNorm", "ddf", "models", "nn", "ops", "replace_convolutions"]
