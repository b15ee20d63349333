"""Weights from a file: the authors' releases, timm's, and ours, checked whole before anything is loaded."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..checkpoint_file import read_checkpoint
from ..errors import UserError

PREFIXES = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile


def load_checkpoint(model: nn.Module, path: str | Path, ema: bool = False) -> nn.Module:
    """Load a checkpoint's weights into the model, strictly, and return the model.

    Takes plain state dicts and those wrapped as {"state_dict": ...}, {"model": ...} or as `train.py` writes them, with
    `module.` or `_orig_mod.` prefixes, from .pth, .pt, .pth.tar and .safetensors files. No code in a file is executed.
    A file cannot tell "mul" from "add" networks: they have the same weights.

    Args:
        ema: take the averaged weights of a checkpoint that has them.

    Raises:
        UserError: no such file, not a checkpoint, or keys missing, unexpected or of another shape (all are named); the
            model is then as it was.
    """
    state = read_state_dict(path, ema)
    bare: Any = model
    for wrapper in ("_orig_mod", "module"):  # torch.compile's around DistributedDataParallel's, or one of them
        bare = getattr(bare, wrapper, bare)
    own = bare.state_dict()
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unexpected": sorted(state.keys() - own.keys()),
        "misshaped": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    found = [f"{len(keys)} {kind} ({', '.join(keys)})" for kind, keys in problems.items() if keys]
    if found:
        raise UserError(f"{path}: does not fit the model, nothing was loaded: {'; '.join(found)}")
    bare.load_state_dict(state)
    return model


def read_state_dict(path: str | Path, ema: bool = False) -> dict[str, Tensor]:
    """The weights of a checkpoint file by their bare names, on the CPU."""
    content = read_checkpoint(path)
    names = ("state_dict_ema", "model_ema") if ema else ("state_dict", "model")
    wrapped = next((content[name] for name in names if isinstance(content.get(name), dict)), None)
    if ema and wrapped is None:
        raise UserError(f"{path}: holds no averaged weights (state_dict_ema), load the plain ones")
    state = content if wrapped is None else wrapped
    bare: dict[str, Tensor] = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: holds no weights: {key!r} is a {type(value).__name__}, expected a tensor")
        while key.startswith(PREFIXES):
            key = key.split(".", 1)[1]
        bare[key] = value
    return bare
