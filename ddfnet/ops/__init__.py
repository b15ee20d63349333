"""The DDF operator, `ddf`, and for inference `ddf_branches` and `ddf_inference`. The files beside this one
are their backends and their registration."""

from .branches import ddf_branches
from .decompositions import decompositions
from .functional import ddf
from .inference import ddf_inference
from .kernels import warmup
from .normalize import normalize
from .sources import kernel_sources

__all__ = ["ddf", "ddf_branches", "ddf_inference", "decompositions", "kernel_sources", "normalize", "warmup"]
