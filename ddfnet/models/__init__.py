"""The networks. Importing this registers them with timm."""

from . import ddf_resnet
from .complexity import complexity, count_macs, count_parameters
from .weights import load_checkpoint

__all__ = ["complexity", "count_macs", "count_parameters", "ddf_resnet", "load_checkpoint"]
