"""The DDF operator, `ddf`, and what feeds it at inference, `ddf_branches`; the files beside this one are their backends
and their registration."""

from .branches import ddf_branches
from .functional import ddf
from .kernels import warmup
from .library import decompositions
from .sources import kernel_sources

__all__ = ["ddf", "ddf_branches", "decompositions", "kernel_sources", "warmup"]
