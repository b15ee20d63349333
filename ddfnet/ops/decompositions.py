"""The operators as plain torch operations."""

import torch

from .inference import inference_reference
from .options import DDFOptions, Epilogue
from .reference import branches_reference, ddf_reference


def decompositions() -> dict:
    """For `ExportedProgram.run_decompositions`: the operators as plain torch operations, for runtimes without them."""
    ops = torch.ops.ddfnet
    return {
        ops.ddf.default: lambda x, c, s, *options: ddf_reference(x, c, s, DDFOptions(*options)),
        ops.ddf_inference.default: lambda x, c, s, scale, bias, relu, *options: inference_reference(
            x, c, s, DDFOptions(*options), Epilogue(scale, bias, relu)
        ),
        ops.ddf_branches.default: branches_reference,
    }
