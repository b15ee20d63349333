"""What is learned."""

from .classification import Classification
from .filter_pictures import generated_filters

__all__ = ["Classification", "generated_filters"]
