"""Builds the network that a config names, with the first weights that its options name for timm."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from ..config import Config
from ..errors import UserError, did_you_mean, one_line
from ..paths import expanded
from .architecture import with_architecture


def build_model(config: Config, num_classes: int, pretrained: bool = True) -> nn.Module:
    """The timm model of the config, its weights drawn from train.seed; `pretrained=False` overrules the config."""
    model = with_architecture(config).model
    name, kwargs = model.name, _with_homes(model.kwargs)
    if kwargs.get("in_chans", 3) != 3:
        raise UserError(f"model.kwargs.in_chans = {kwargs['in_chans']!r}, expected 3: pictures are read in colour")
    if kwargs.get("device") == "meta":
        raise UserError("model.kwargs.device = 'meta' has no weights: leave it out, run.device says where they lie")
    if not timm.is_model(name):
        hint = did_you_mean(name, timm.list_models())
        if "/" in name:
            hint = f", did you mean hf-hub:{name} or local-dir:{name}?"
        raise UserError(f"model.name = {name!r} is no model that timm knows{hint}")
    if pretrained:
        _require_files(kwargs)
    else:
        kwargs = {k: v for k, v in kwargs.items() if k not in ("pretrained", "checkpoint_path")}
    torch.manual_seed(config.train.seed)
    try:
        return timm.create_model(name, num_classes=num_classes, **kwargs)
    except Exception as error:  # networks check their arguments by all kinds of exceptions
        reason = one_line(error)
        raise UserError(f"model.kwargs = {kwargs}: {name} cannot be built so: {reason}") from None


def _with_homes(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options with the home directory for ~ in the files that they name, which timm would look for as it stands."""
    kwargs = _with_home(kwargs, "checkpoint_path")
    for key in ("pretrained_cfg", "pretrained_cfg_overlay"):
        if isinstance(kwargs.get(key), dict):
            kwargs[key] = _with_home(kwargs[key], "file")
    return kwargs


def _with_home(options: dict[str, Any], key: str) -> dict[str, Any]:
    return options | ({key: expanded(options[key])} if isinstance(options.get(key), str) else {})


def _require_files(kwargs: dict[str, Any]) -> None:
    """The files of weights that timm is told of, whose absence it reports without their names."""
    files = {"checkpoint_path": kwargs.get("checkpoint_path")}
    for key in ("pretrained_cfg", "pretrained_cfg_overlay"):
        if kwargs.get("pretrained") and isinstance(kwargs.get(key), dict):
            files[f"{key}.file"] = kwargs[key].get("file")
    for key, file in files.items():
        if file and not (isinstance(file, str) and Path(file).exists()):
            raise UserError(f"model.kwargs.{key} = {file!r}: no such file")
    if files["checkpoint_path"] and Path(files["checkpoint_path"]).is_dir():
        raise UserError(f"model.kwargs.checkpoint_path = {files['checkpoint_path']!r}: is a folder, expected a file")
