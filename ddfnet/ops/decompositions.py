"""The operators as plain torch operations."""

import torch

from .branches import branches_reference
from .inference import inference_reference
from .reference import ddf_reference


def decompositions() -> dict:
    """For `ExportedProgram.run_decompositions`: the operators as plain torch operations, for runtimes without them."""
    ops = torch.ops.ddfnet
    return {
        ops.ddf.default: ddf_reference,
        ops.ddf_inference.default: inference_reference,
        ops.ddf_branches.default: branches_reference,
    }
