"""The DDF operator, `ddf`, and for inference `ddf_branches` and `ddf_inference`. The files beside this one
are their backends and their registration."""

from .decompositions import decompositions
from .functional import ddf
from .gpu.sources import kernel_sources
from .gpu.warmup import warmup
from .inference import ddf_branches, ddf_inference
from .normalize import normalize

__all__ = ["ddf", "ddf_branches", "ddf_inference", "decompositions", "kernel_sources", "normalize", "warmup"]
