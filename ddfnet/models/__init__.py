"""The networks. Importing this registers them with timm: DDF-ResNets, and what the paper compares them with."""

from . import compared, ddf_resnet
from .complexity import complexity, count_macs, count_parameters
from .load import load_checkpoint

__all__ = ["compared", "complexity", "count_macs", "count_parameters", "ddf_resnet", "load_checkpoint"]
