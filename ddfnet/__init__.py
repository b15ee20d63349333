"""Decoupled Dynamic Filters: operator, layers and DDF-ResNets. Importing this registers the models with timm."""

from . import models, nn, ops
from .nn import DDF, FilterNorm, fuse_for_inference, replace_convolutions
from .ops import ddf
from .version import __version__

__all__ = [
    "DDF",
    "FilterNorm",
    "__version__",
    "ddf",
    "fuse_for_inference",
    "models",
    "nn",
    "ops",
    "replace_convolutions",
]
