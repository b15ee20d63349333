"""The DDF operator. `ddf` is the public one; the files beside this one are its backends and its registration."""

from .functional import ddf, ddf_inference
from .kernels import warmup
from .library import decompositions
from .normalize import normalize
from .sources import kernel_sources

__all__ = ["ddf", "ddf_inference", "decompositions", "kernel_sources", "normalize", "warmup"]
