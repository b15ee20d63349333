"""What is to be computed: all that a plan depends on, and nothing of the tensors beside it.

Tuples, since each is made at every call and is what plans are kept by.
"""

from typing import NamedTuple

import torch

from ..options import DDFOptions
from .specialisations import DTYPE_INDEX

Strides = tuple[int, ...]
NOTHING: Strides = (0, 0, 0, 0)  # of a filter that is not there


class Problem(NamedTuple):
    """The sizes of a DDF, its options and its layout."""

    shape: tuple[int, ...]  # of x: (N, C, H, W)
    options: DDFOptions
    nhwc: bool

    @property
    def out_size(self) -> tuple[int, int]:
        return self.options.output_size(*self.shape[2:])


class Job(NamedTuple):
    """One pass of a DDF, by one kernel."""

    kind: str  # "forward", "grad_x", "filter_grad", or the generic ones: "generic_" and the kernel's name without ddf_
    dtype: torch.dtype
    problem: Problem
    alignment: int  # bytes that divide the addresses of what is copied by more than an element, 16 at most
    s: Strides = NOTHING  # of the spatial filter
    ds: Strides = NOTHING  # of its gradient
    want_channel: bool = False
    want_spatial: bool = False
    relu: bool = False

    @property
    def dtype_index(self) -> int:
        return DTYPE_INDEX[self.dtype]


class BranchesJob(NamedTuple):
    """Both branches' reading of x."""

    dtype: torch.dtype
    shape: tuple[int, ...]  # of x
    outputs: int
    stride: int
    nhwc: bool
    alignment: int  # bytes that divide the address of x, 16 at most
