"""Evaluation alone, by more than training needs: ReaL labels, subsets of the classes, mirrored images."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from ...counted import counted
from ...data import remedy_for_numbers, require_same_classes
from ...data.sources.names import natural_key
from ...errors import UserError
from ...printable import printable
from ...task import IMAGES_PER_SECOND, Evaluator, Metric
from ...train.dist import World
from .augment import eval_interpolation
from .batch import ImageBatch
from .candidates import Candidate
from .evaluators import Accuracy, ClassCounts, Confusion, RealAccuracy
from .label_files import read_class_map, read_real
from .task import Classification


class ChosenOutputs(nn.Module):
    """A network of which only some outputs count, in the order of the data's classes."""

    def __init__(self, model: nn.Module, outputs: list[int], device: torch.device):
        super().__init__()
        self.model, self._outputs = model, torch.tensor(outputs, device=device)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)[:, self._outputs]


class Mirrored(nn.Module):
    """The log of the mean probabilities that a network gives an image and its mirror image."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        both = [self.model(view).float().log_softmax(1) for view in (images, images.flip(3))]
        return torch.stack(both).logsumexp(0) - math.log(2)


@dataclass
class Evaluation:
    """What `ddfnet.train.evaluate` needs to judge one candidate, and what its result begins with."""

    task: Classification
    model: nn.Module
    evaluators: list[Evaluator]
    about: dict[str, Any]  # what is judged and how, JSON-able

    @property
    def amp(self) -> str:
        return self.task.config.train.amp

    @property
    def classes(self) -> list[str]:
        return self.task.classes

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of the result, in the order of the table's columns."""
        first, *others = (evaluator.metrics for evaluator in self.evaluators)
        return (*first, IMAGES_PER_SECOND, *(metric for metrics in others for metric in metrics))

    def batches(self) -> Iterator[ImageBatch]:
        """The task's, under a progress bar where there is a terminal."""
        console = Console(stderr=True)
        hidden = not (self.task.world.is_main and console.is_terminal)
        total, title = len(self.task.eval_order), self.about["model"]
        yield from track(self.task.eval_batches(), title, total, console=console, transient=True, disable=hidden)


def open_evaluation(
    candidate: Candidate,
    world: World,
    *,
    flip: bool = False,
    real: str | None = None,
    class_map: str | None = None,
    per_class: bool = False,
    confusion: bool = False,
) -> Evaluation:
    """Open the images a candidate is judged by.

    Args:
        flip: judge the mean of the probabilities (after the softmax) of an image and of its mirror image.
        real: a file of ReaL labels, see `read_real`.
        class_map: a file that says which outputs of the network the dataset's classes are, see `read_class_map`; the
            others are left out before the softmax.
        per_class, confusion: count these too; the result then has "per_class", (classes, 3), and "confusion",
            (classes, classes), as arrays.

    Raises:
        UserError: data that is not there or not of the network's classes, files that do not fit, a size of image that
            the network cannot take.
    """
    config, data = candidate.config, candidate.config.data
    task = Classification(config, world, training=False, model=candidate.model)
    where = f"{data.root}: {data.val_split}" if data.source == "imagefolder" else f"data.source = {data.source}"
    model = task.model
    if class_map:
        model = ChosenOutputs(model, read_class_map(class_map, candidate.classes, task.classes), world.device)
    else:
        _require_classes(candidate, task, where)
    evaluators: list[Evaluator] = [Accuracy(world.device)]
    if real:
        evaluators.append(RealAccuracy(_real_labels(real, task, where)))
    if per_class:
        evaluators.append(ClassCounts(len(task.classes), world.device))
    if confusion:
        evaluators.append(Confusion(len(task.classes), world.device))
    size = data.eval_image_size or data.image_size
    task.require_fit("data.eval_image_size", size, len(candidate.classes), training=False)
    about = {
        "checkpoint": candidate.origin,
        "model": config.model.name,
        "step": candidate.step,
        "ema": candidate.ema,
        "image_size": size,
        "crop_pct": data.crop_pct,
        "interpolation": eval_interpolation(data),
        "flip": flip,
    }
    return Evaluation(task, Mirrored(model) if flip else model, evaluators, about)


def _require_classes(candidate: Candidate, task: Classification, where: str) -> None:
    """The dataset's classes are the network's outputs, as far as these have names."""
    name = candidate.config.model.name
    if candidate.named:
        require_same_classes(candidate.classes, task.val_source, where)
        task.classes = task.val_source.classes
    elif len(candidate.classes) != len(task.classes):
        raise UserError(
            f"{where} has {counted(len(task.classes), 'class')}, but {name} tells {len(candidate.classes)} apart: give"
            f" data of just these, or say by --class-map which they are{remedy_for_numbers(task.val_source)}"
        )
    elif orders := _differing_orders(task.classes):
        _warn(
            task.world,
            f"{where}: the classes are taken in the order {orders[0]}, but {name} has no names to tell whether it knows"
            f" them so, and timm's training would number them {orders[1]}: if it was trained like that, say by"
            " --class-map FILE which of its outputs each class is",
        )


def _real_labels(file: str, task: Classification, where: str) -> Tensor:
    """(images, L), filled up with -1, on the device."""
    names = [task.val_source.name(index) for index in range(task.eval_images)]
    if not all(Path(name).suffix for name in names):
        raise UserError(f"--real goes by the pictures' file names, and {where} has none: use image folders")
    labels = torch.from_numpy(read_real(file, names, len(task.classes))).to(task.world.device)
    if orders := _differing_orders(sorted(Path(name).name for name in names)):
        _warn(
            task.world,
            f"{file}: its labels are taken for the images in the order {orders[0]}, not {orders[1]}: rename the images,"
            " with as many digits each, if that is not the file's order",
        )
    return labels


def _warn(world: World, text: str) -> None:
    if world.is_main:
        print(f"warning: {printable(text)}", file=sys.stderr)


def _differing_orders(names: list[str]) -> list[str] | None:
    """Where names are sorted as text, and otherwise than by the numbers in them: how both orders begin."""
    natural = sorted(names, key=natural_key)
    return [", ".join([*each[:4], "..."]) for each in (names, natural)] if names == sorted(names) != natural else None
