"""Activation checkpointing: a block keeps its input only and is computed a second time in the backward pass.

timm's set_grad_checkpointing lets batch norm update its running statistics in both passes; this does not.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..errors import UserError


def checkpoint_activations(model: nn.Module) -> None:
    """Checkpoint each residual block of a timm model, in place; parameters and their names stay as they are.

    It costs a second forward pass of the blocks in each training step. Outside of training nothing changes.

    Raises:
        UserError: a model whose blocks timm does not know.
    """
    blocks = _blocks(model)
    if not blocks:
        raise UserError(
            f"train.activation_checkpointing = True: {type(model).__name__} names no blocks (timm's group_matcher)"
            " that could be computed twice: leave it out for this model"
        )
    for block in blocks:
        block.forward = functools.partial(_forward, block)  # type: ignore[method-assign]


def _forward(block: nn.Module, *args, **kwargs):
    forward = functools.partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    if torch.compiler.is_compiling():  # the compiler updates buffers once, whatever it computes twice
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    # random numbers and autocast in the second pass are those of the first: checkpoint sees to that
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _frozen_statistics(block)),
        **kwargs,
    )


@contextlib.contextmanager
def _frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Batch norm normalises by the batch, as in training, but moves its running statistics by nothing and counts none.

    They cannot be taken away from it: autograd saves them, and must save as many tensors as in the first pass.
    """
    norms: list[Any] = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.num_batches_tracked is not None]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, torch.zeros_like(norm.num_batches_tracked)
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The modules that timm's layer groups call blocks, such as layer1.0 of a ResNet; those within another are not."""
    groups = model.group_matcher(coarse=False) if hasattr(model, "group_matcher") else {}  # type: ignore[operator]
    named = groups.get("blocks") or ()
    patterns = [named] if isinstance(named, str) else [pattern for pattern, _ in named]
    blocks: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in blocks)
        matches = [match for pattern in patterns if (match := re.fullmatch(pattern, name))]
        numbered = any(match.groups() for match in matches)  # unlike a norm or head that is grouped with the blocks
        if numbered and not inner and any(True for _ in module.children()):
            blocks[name] = module
    return list(blocks.values())
