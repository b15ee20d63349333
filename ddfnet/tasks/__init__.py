"""What is learned."""

from .classification import Classification
from .filter_pictures import filter_pictures

__all__ = ["Classification", "filter_pictures"]
