"""Parameters and multiply-accumulates of a network, in plain counting and in the paper's."""

from collections.abc import Iterable

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from ..eval_mode import evaluating
from ..nn import DDF


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224), convention: str = "macs") -> int:
    """Multiply-accumulates for one picture of `input_size` (channels, height, width).

    Conventions:
        "layers": convolutions and matrix products only.
        "macs": those, and the k*k multiply-accumulates per output value that apply the filters of a DDF.
        "paper": the authors' own counting, which alone gives the paper's 2.298, 2.299 and 2.300 G (Table 3c): "layers",
            and one per value of every batch norm's output, residual sum and final pooling's input, and per DDF with c
            channels and n output pixels: c*n for its pooling, k*k*(c + n) for the filter norms, k*k*c*n each for
            combining and applying the filters.

    The model is run once on "meta" tensors where it stands on that device, else on zeros.

    Raises:
        ValueError: the convention is none of the three.
    """
    if convention not in ("layers", "macs", "paper"):
        raise ValueError(f"count_macs: convention is {convention!r}, expected 'layers', 'macs' or 'paper'")
    extra = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal extra
        extra += _paper_extra(module, inputs[0], output)

    final_pool = getattr(model, "global_pool", None)
    counted = [
        m for m in model.modules() if isinstance(m, (_BatchNorm, BasicBlock, Bottleneck, DDF)) or m is final_pool
    ]
    hooks = [m.register_forward_hook(count) for m in counted]
    parameter = next(model.parameters())
    # without gradients, or the counter stumbles over parameters that are handed to a module, as timm's PiT does
    detached = {name: p.detach() for name, p in model.named_parameters()}
    try:
        with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as flops:
            x = torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)
            functional_call(model, detached, (x,))
    finally:
        for hook in hooks:
            hook.remove()
    by_operator = flops.get_flop_counts()["Global"]
    applied = by_operator.get(torch.ops.ddfnet.ddf, 0) + by_operator.get(torch.ops.ddfnet.ddf_inference, 0)
    layers = (sum(by_operator.values()) - applied) // 2
    return layers + {"layers": 0, "macs": applied // 2, "paper": extra}[convention]


def _paper_extra(module: nn.Module, x: Tensor, y: Tensor) -> int:
    if not isinstance(module, DDF):  # a batch norm's output, a block's sum; of the final pooling, what goes in
        return y.numel() if isinstance(module, (_BatchNorm, BasicBlock, Bottleneck)) else x.numel()
    taps, channels, pixels = module.kernel_size**2, y.shape[1], y.shape[2] * y.shape[3]
    return channels * pixels + taps * (channels + pixels) + 2 * taps * channels * pixels


def complexity(
    model: nn.Module, conventions: Iterable[str] = ("macs", "paper"), input_size=(3, 224, 224)
) -> dict[str, int]:
    """{"params": ..., and the count of each convention}."""
    return {"params": count_parameters(model)} | {c: count_macs(model, input_size, c) for c in conventions}
