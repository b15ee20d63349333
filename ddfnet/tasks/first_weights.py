"""The files of first weights that a network's options name for timm."""

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..paths import expanded


def with_homes(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options with the home directory for ~ in the files that they name, which timm would look for as it stands."""
    kwargs = _with_home(kwargs, "checkpoint_path")
    for key in ("pretrained_cfg", "pretrained_cfg_overlay"):
        if isinstance(kwargs.get(key), dict):
            kwargs[key] = _with_home(kwargs[key], "file")
    return kwargs


def _with_home(options: dict[str, Any], key: str) -> dict[str, Any]:
    return options | ({key: expanded(options[key])} if isinstance(options.get(key), str) else {})


def require_files(kwargs: dict[str, Any]) -> None:
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
