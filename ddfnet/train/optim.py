"""The optimizer: SGD as in the paper, or one of timm's; and its learning rate as a function of the step."""

import inspect
import math
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from torch import nn

from ..config import Train
from ..errors import UserError, did_you_mean, one_line


def build_optimizer(model: nn.Module, train: Train) -> torch.optim.Optimizer:
    """`sgd` is torch's, as in the paper, all other names are timm's (whose own `sgd` means Nesterov momentum).

    Groups of parameters may hold an `lr_scale`, which the loop multiplies the learning rate by.

    Raises:
        UserError: an optimizer that timm does not know or cannot build from the options.
    """
    groups = parameter_groups(model, train)
    if train.optimizer == "sgd":
        on_gpu = all(p.is_cuda for group in groups for p in group["params"])
        return _sgd(groups, train, fused=train.amp == "fp16" and on_gpu)
    options: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in train.optimizer_kwargs.items()}
    _require_known(train.optimizer, options)
    options |= {"lr": train.lr, "weight_decay": train.weight_decay, "momentum": train.momentum}
    try:
        probe = nn.Parameter(
            torch.zeros(2, 2, device=groups[0]["params"][0].device)
        )  # some options fail in a step only
        probe.grad = torch.ones_like(probe)
        create_optimizer_v2([{"params": [probe]}], opt=train.optimizer, **options).step()
        return create_optimizer_v2(groups, opt=train.optimizer, **options)
    except Exception as error:  # optimizers check their arguments by all kinds of exceptions
        reason = one_line(error)
        raise UserError(
            f"train.optimizer = {train.optimizer!r} cannot be built with train.optimizer_kwargs ="
            f" {train.optimizer_kwargs}: {reason}"
        ) from None


def _sgd(groups: list[dict[str, Any]], train: Train, fused: bool) -> torch.optim.SGD:
    """Fused, it asks on the device whether fp16's gradients overflowed, where the scaler would wait for the answer."""
    options: Any = {"fused": True} if fused else {}
    sgd = torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=train.nesterov, **options)
    if fused and train.momentum:  # torch takes memory as it finds it and, if the first step overflows, leaves it so
        for group in sgd.param_groups:
            for parameter in group["params"]:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return sgd


def _require_known(name: str, options: dict[str, Any]) -> None:
    if name not in list_optimizers():
        known = ["sgd", *map(str, list_optimizers())]
        hint = did_you_mean(name, known) or ", expected sgd, adamw, lamb or another of timm's"
        raise UserError(f"train.optimizer = {name!r} is none that timm knows{hint}")
    info = get_optimizer_info(name)
    if info.second_order:
        raise UserError(f"train.optimizer = {name!r} needs second derivatives, which this loop does not compute")
    dropped = set(inspect.signature(create_optimizer_v2).parameters) - {"foreach"}  # of no use beside our own groups
    dropped |= {option for option, has in (("eps", info.has_eps), ("betas", info.has_betas)) if not has}
    for option in options:
        if option in dropped:  # timm would drop it without a word
            raise UserError(f"train.optimizer_kwargs.{option} = {options[option]!r} is no option of {name}")


def parameter_groups(model: nn.Module, train: Train) -> list[dict[str, Any]]:
    """Weight decay on every parameter, as in the paper's protocol, or on those of two dimensions and more only.

    With train.layer_decay the groups of each layer have lr_scale = layer_decay ** (its distance from the last one).
    """
    scales = _layer_scales(model, train.layer_decay) if train.layer_decay is not None else {}
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = train.decay_norm_and_bias or parameter.dim() > 1
        options: dict[str, Any] = {"weight_decay": train.weight_decay if decays else 0.0}
        if scales:
            options["lr_scale"] = scales[name]
        group = groups.setdefault((not decays, scales.get(name, 1.0)), {"params": [], **options})
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """The lr_scale of each parameter, by timm's numbering of layers: stem, blocks, head."""
    if not hasattr(model, "group_matcher"):
        raise UserError(f"train.layer_decay = {decay}: {type(model).__name__} does not number its layers, leave it out")
    layer_of = group_parameters(model, model.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    last = max(layer_of.values())
    return {name: decay ** (last - layer) for name, layer in layer_of.items()}


def peak_learning_rate(train: Train) -> float:
    """The learning rate per 256 pictures, scaled to the global batch: by default linearly."""
    power = {"linear": 1.0, "sqrt": 0.5, "none": 0.0}[train.lr_scaling]
    return train.lr * (train.batch_size / 256) ** power


def learning_rate(step: int, steps_per_epoch: int, train: Train) -> float:
    """A linear warm-up from warmup_lr to the peak, a cosine from there to exactly min_lr at its last step, then min_lr.

    The cosine starts where the warm-up ends, so the peak is reached whatever its length.
    """
    peak = peak_learning_rate(train)
    warmup, end = round(train.warmup_epochs * steps_per_epoch), train.epochs * steps_per_epoch
    if step < warmup:
        return train.warmup_lr + (peak - train.warmup_lr) * step / warmup
    progress = min(1.0, (step - warmup) / max(1, end - 1 - warmup))
    return train.min_lr + (peak - train.min_lr) * (1 + math.cos(math.pi * progress)) / 2
