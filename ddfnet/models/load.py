"""Weights from a file: the authors' releases, timm's, and ours, checked whole before anything is loaded."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint_file import read_checkpoint
from ..errors import UserError

NAMES = ("state_dict", "model", "model_state_dict", "net")  # under which a checkpoint holds its weights
AVERAGED = ("state_dict_ema", "model_ema")
WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")  # DistributedDataParallel's and torch.compile's
OWNERS = ("model.", "net.")  # what the network is called in Lightning's module, and in those of many others


def load_checkpoint(model: nn.Module, path: str | Path, ema: bool = False, content: dict | None = None) -> nn.Module:
    """Load a checkpoint's weights into the model, strictly, and return the model.

    Takes plain state dicts and those that stand under `state_dict` (as train.py and Lightning write them), `model`,
    `model_state_dict` or `net`; keys that begin with `module.`, `_orig_mod.`, `model.` or `net.`; .pth, .pt, .pth.tar
    and .safetensors files. No code in a file is executed. Old files have no `num_batches_tracked`, which then begin at
    zero. A file cannot tell "mul" from "add" networks: they have the same weights.

    Args:
        ema: take the averaged weights of a checkpoint that has them.
        content: what the file holds, where it has been read already.

    Raises:
        UserError: no such file, not a checkpoint, or keys missing, unexpected or of another shape (all are named); the
            model is then as it was.
    """
    bare: Any = model
    for wrapper in ("_orig_mod", "module"):  # torch.compile's around DistributedDataParallel's, or one of them
        bare = getattr(bare, wrapper, bare)
    own = bare.state_dict()
    state = read_state_dict(path, ema, own, content)
    counts = {key: torch.zeros_like(own[key]) for key in own if key.endswith(".num_batches_tracked")}
    state = counts | state  # older than them, as torch's own strict loading takes it
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
        other = _other_names(list(own), list(state.keys() - counts.keys()))
        raise UserError(f"{path}: does not fit the model, nothing was loaded: {other or '; '.join(found)}")
    bare.load_state_dict(state)
    return model


def read_state_dict(
    path: str | Path, ema: bool = False, own: Collection[str] = (), content: dict | None = None
) -> dict[str, Tensor]:
    """The weights of a checkpoint file by their bare names, on the CPU. `own` are the network's, where one is known."""
    content = read_checkpoint(path) if content is None else content
    names = AVERAGED if ema else NAMES
    candidates = [content[name] for name in names if isinstance(content.get(name), dict)]
    wrapped = next((each for each in candidates if _are_weights(each)), next(iter(candidates), None))
    if ema and wrapped is None:
        raise UserError(f"{path}: holds no averaged weights (state_dict_ema), load the plain ones")
    state = content if wrapped is None else wrapped
    if not state:
        raise UserError(f"{path}: holds no weights{_elsewhere(content)}")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            what = f"{key!r} is a {type(value).__name__}, expected a tensor"
            raise UserError(f"{path}: holds no weights: {what}{_elsewhere(content)}")
    return _bare(state, own)


def _bare(state: dict[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Without what a wrapper put before every name, and without the count of torch's AveragedModel."""
    state = {WRAPPERS.sub("", key): value for key, value in state.items() if key != "n_averaged" or key in own}
    for owner in OWNERS:
        if _all_begin(state, owner) and not _all_begin(own, owner):
            return _bare({key.removeprefix(owner): value for key, value in state.items()}, own)
    return state


def _all_begin(names: Collection[str], prefix: str) -> bool:
    return bool(names) and all(name.startswith(prefix) for name in names)


def _are_weights(content: Any) -> bool:
    return isinstance(content, dict) and bool(content) and all(isinstance(value, Tensor) for value in content.values())


def _elsewhere(content: dict) -> str:
    """Where else in the file weights seem to be, and how to load those."""
    for key, value in content.items():
        if _are_weights(value):
            if key in AVERAGED:
                return f"; it holds averaged weights, under {key!r}: load them by ema=True (eval.py: --ema)"
            return f"; {key!r} looks like weights: save that alone to a file of its own, and load it"
    return f"; weights stand in a file by themselves, or under {', '.join(NAMES)}"


def _other_names(own: list[str], found: list[str]) -> str:
    """Of a file that has no name in common with the network: what its names look like, and what is to be done."""
    if set(own) & set(found) or not found:
        return ""
    few = f"its keys are like {', '.join(sorted(found)[:3])}, the network's like {', '.join(sorted(own)[:3])}"
    first = next((name for name in found if name.endswith(f".{own[0]}")), None)
    if first is None:
        return f"{few}: none is the same; is it another network's, or do they need to be renamed?"
    prefix = first.removesuffix(own[0])
    return (
        f"{few}: save those that begin with {prefix!r}, without it, to a file of their own, as by"
        f" {{key.removeprefix({prefix!r}): value for key, value in weights.items() if key.startswith({prefix!r})}}"
    )
