"""The DDF operator. `ddf` is the public one; the files beside this one are its backends and its registration."""

from .functional import ddf
from .kernels import warmup
from .library import decompositions
from .sources import kernel_sources

__all__ = ["ddf", "decompositions", "kernel_sources", "warmup"]
