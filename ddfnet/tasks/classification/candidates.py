"""What an evaluation judges: a network with its weights, the classes it tells apart, and the config of its data."""

import sys
from dataclasses import dataclass

import timm
from timm.data import ImageNetInfo, resolve_data_config
from timm.models import PretrainedCfg
from torch import nn

from ...checkpoint_file import read_run_checkpoint
from ...config import (
    Config,
    Model,
    load_config,
    parse_config,
)
from ...counted import counted
from ...errors import UserError
from ...models.architecture import with_architecture
from ...models.build import build_model
from ...models.load import load_checkpoint, read_state_dict


@dataclass(frozen=True)
class Candidate:
    origin: str  # of the weights: a file, a repository, or "pretrained"
    config: Config
    model: nn.Module  # on the CPU
    classes: list[str]  # the names of its outputs
    named: bool  # False: the names are none that the data could be compared with
    step: int | None  # of the training run, where that is known
    ema: bool


def open_candidates(
    checkpoints: list[str],
    models: list[str],
    weights: list[str],
    pretrained: bool,
    config_file: str | None,
    overrides: list[str],
    ema: bool,
) -> list[Candidate]:
    """The checkpoints of runs, then the models of timm, whose weights are files, one for each, or timm's own.

    Raises:
        UserError: as the two functions below; nothing to judge, or a model without weights.
    """
    if not checkpoints and not models:
        raise UserError(
            "nothing to evaluate: give --ckpt FILE of a run, or --model NAME of timm and --weights FILE or --pretrained"
        )
    if not models and (weights or pretrained or config_file):
        raise UserError("--weights, --pretrained and --config are for --model NAME; a checkpoint of a run has its own")
    if models and bool(weights) == pretrained:
        raise UserError(f"--model {models[0]} needs weights: either --weights FILE, or --pretrained for timm's own")
    if weights and len(weights) != len(models):
        raise UserError(
            f"--weights: {len(weights)} for {counted(len(models), 'model')}, expected one each, in their order"
        )
    if pretrained and ema:
        raise UserError(
            "--ema is for checkpoints that hold averaged weights too: --pretrained weights are what they are"
        )
    opened = [open_checkpoint(path, overrides, ema) for path in checkpoints]
    files: list[str | None] = list(weights) or [None] * len(models)
    named = zip(models, files, strict=True)
    return opened + [open_timm(name, file, config_file, overrides, ema) for name, file in named]


def open_checkpoint(path: str, overrides: list[str], ema: bool = False) -> Candidate:
    """A checkpoint of train.py, which holds its config.

    Raises:
        UserError: no such file, no checkpoint of ours, weights of another network, no averaged weights.
    """
    content = read_run_checkpoint(path)
    data, values = content.get("data"), content["config"]
    task = values.get("task", "classification") if isinstance(values, dict) else "classification"
    if task != "classification":
        raise UserError(f"{path}: is of task = {task!r}, this evaluates networks that classify")
    classes = data.get("classes") if isinstance(data, dict) else None
    if not isinstance(values, dict) or not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        raise UserError(f"{path}: does not say which classes and which config it was trained with: not train.py's file")
    step = content.get("step")
    config = parse_config(values, overrides, origin=path)
    model = load_checkpoint(build_model(config, len(classes), pretrained=False), path, ema, content)
    return Candidate(path, config, model, classes, True, step if isinstance(step, int) else None, ema)


def open_timm(name: str, weights: str | None, config_file: str | None, overrides: list[str], ema: bool) -> Candidate:
    """A model of timm with weights from a file, or timm's own where `weights` is None.

    What the config file and the overrides do not say of the pictures is as the model's `pretrained_cfg` has it: size,
    crop, interpolation, mean, standard deviation, those meant for testing first.

    Raises:
        UserError: no such model, no such weights, or weights of another network.
    """
    config = load_config(config_file, overrides) if config_file else parse_config({}, overrides, origin="command line")
    kwargs = dict(config.model.kwargs) | ({"pretrained": True} if weights is None else {})
    section = config.model.model_copy(update={"name": name, "kwargs": kwargs})
    config = with_architecture(config.model_copy(update={"model": section}))
    outputs = _outputs(config.model, weights, ema)
    model = build_model(config, outputs, pretrained=weights is None)
    if weights is not None:
        load_checkpoint(model, weights, ema)
    names = ImageNetInfo().label_names() if outputs == 1000 else [str(index) for index in range(outputs)]
    origin = weights or (name if ":" in name else "pretrained")
    return Candidate(origin, _with_defaults(config, model), model, names, False, None, ema)


def _outputs(model: Model, weights: str | None, ema: bool) -> int:
    """The number of classes: the classifier's in the file, otherwise that of timm's weights."""
    own = model.kwargs.get("pretrained_cfg")
    try:
        cfg = PretrainedCfg(**own) if isinstance(own, dict) else timm.get_pretrained_cfg(model.name)
    except (RuntimeError, TypeError) as error:  # of a tag that timm does not know, of keys that it does not know
        raise UserError(f"--model {model.name}: {error}") from None
    if cfg is None:  # build_model has the sentence for it
        return 1000
    if weights is not None:
        state = read_state_dict(weights, ema)
        head = cfg.classifier if isinstance(cfg.classifier, str) else next(iter(cfg.classifier or ()), "")
        for key in (f"{head}.bias", f"{head}.weight"):
            if key in state:
                return len(state[key])
    return cfg.num_classes


def _with_defaults(config: Config, model: nn.Module) -> Config:
    """The config with the model's own data settings wherever the user gave none."""
    name, given = config.model.name, set(config.data.model_fields_set)
    if "image_size" in given:
        given.add("eval_image_size")  # which follows it
    if "interpolation" in given:
        given.add("eval_interpolation")
    own = resolve_data_config({}, model=model, use_test_size=True)
    _, height, width = own["input_size"]
    if height != width and "eval_image_size" not in given:
        raise UserError(f"--model {name}: was made for pictures of {height}x{width}: give a square --image-size")
    if own["crop_mode"] != "center":
        print(
            f"note: {name} was tested with crop mode {own['crop_mode']!r}; here the centre is cropped", file=sys.stderr
        )
    defaults = {
        "eval_image_size": height,
        "crop_pct": own["crop_pct"],
        "eval_interpolation": own["interpolation"],
        "mean": list(own["mean"]),
        "std": list(own["std"]),
    }
    values = config.model_dump()
    values["data"] |= {key: value for key, value in defaults.items() if key not in given}
    return parse_config(values, origin=f"the pretrained_cfg of {name}")
