"""Decoupled Dynamic Filters: operator, layers and DDF-ResNets. Importing this registers the models with timm."""

from . import models, nn, ops
from .nn import DDF, FilterNorm, replace_convolutions
from .ops import ddf
from .version import __version__

__all__ = ["DDF", "FilterNorm", "__version__", "ddf", "models", "nn", "ops", "replace_convolutions"]
