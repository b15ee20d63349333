"""Evaluation alone, by more measures than training needs: ReaL labels, subsets of the classes, mirrored pictures."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from ...counted import counted
from ...data import (
    Batch,
    eval_interpolation,
    remedy_for_numbers,
    require_same_classes,
)
from ...data.order import Key
from ...data.sources.names import natural_key
from ...errors import UserError
from ...printable import printable
from ...train.dist import World
from .candidates import Candidate
from .label_files import read_class_map, read_real
from .metrics import (
    SIZE,
    basic_metrics,
    basic_sums,
    best_guesses,
    class_sums,
    confusion_sums,
    real_metrics,
    real_sums,
    table_of,
)
from .task import Classification


class Evaluation(Classification):
    """A network, and the pictures and measures it is judged by.

    Args:
        flip: judge the mean of the probabilities (after the softmax) of a picture and of its mirror image.
        real: a file of ReaL labels, see `read_real`.
        class_map: a file that says which outputs of the network the dataset's classes are, see `read_class_map`; the
            others are left out before the softmax.
        per_class, confusion: count these too; `metrics` then has "per_class", (classes, 3), and "confusion",
            (classes, classes), as arrays.

    Raises:
        UserError: data that is not there or not of the network's classes, files that do not fit, a size of picture that
            the network cannot take.
    """

    def __init__(
        self,
        candidate: Candidate,
        world: World,
        flip: bool = False,
        real: str | None = None,
        class_map: str | None = None,
        per_class: bool = False,
        confusion: bool = False,
    ):
        super().__init__(candidate.config, world, training=False, model=candidate.model)
        data = candidate.config.data
        where = f"{data.root}: {data.val_split}" if data.source == "imagefolder" else f"data.source = {data.source}"
        self.candidate, self.flip = candidate, flip
        self._outputs = self._real = None
        if class_map:
            outputs = read_class_map(class_map, candidate.classes, self.classes)
            self._outputs = torch.tensor(outputs, device=world.device)
        elif candidate.named:
            require_same_classes(candidate.classes, self.val_source, where)
            self.classes = self.val_source.classes
        elif len(candidate.classes) != len(self.classes):
            raise UserError(
                f"{where} has {counted(len(self.classes), 'class')}, but {candidate.config.model.name} tells"
                f" {len(candidate.classes)} apart: give data of just these, or say by --class-map which they are"
                f"{remedy_for_numbers(self.val_source)}"
            )
        elif orders := _differing_orders(self.classes):
            self._warn(
                f"{where}: the classes are taken in the order {orders[0]}, but {candidate.config.model.name} has no"
                f" names to tell whether it knows them so, and timm's training would number them {orders[1]}: if it was"
                " trained like that, say by --class-map FILE which of its outputs each class is"
            )
        if real:
            names = self._file_names(where)
            self._real = torch.from_numpy(read_real(real, names, len(self.classes))).to(world.device)
            if orders := _differing_orders(sorted(Path(name).name for name in names)):
                self._warn(
                    f"{real}: its labels are taken for the images in the order {orders[0]}, not {orders[1]}: rename the"
                    " images, with as many digits each, if that is not the file's order"
                )
        self._sizes = {"basic": SIZE}
        if real:
            self._sizes["real"] = 3
        if per_class:
            self._sizes["per_class"] = 3 * len(self.classes)
        if confusion:
            self._sizes["confusion"] = len(self.classes) ** 2
        self.score_size = sum(self._sizes.values())
        size = data.eval_image_size or data.image_size
        self._try_images(size, "data.eval_image_size", len(candidate.classes), training=False)

    @property
    def about(self) -> dict[str, Any]:
        """What is judged and how, JSON-able: the first columns of its results."""
        data = self.candidate.config.data
        return {
            "checkpoint": self.candidate.origin,
            "model": self.candidate.config.model.name,
            "step": self.candidate.step,
            "ema": self.candidate.ema,
            "image_size": data.eval_image_size or data.image_size,
            "crop_pct": data.crop_pct,
            "interpolation": eval_interpolation(data),
            "flip": self.flip,
        }

    def eval_batches(self) -> Iterator[tuple[list[Key], Batch]]:  # type: ignore[override]
        """With the keys of their pictures, by which a picture's ReaL labels are found."""
        console = Console(stderr=True)
        batches = zip(self.eval_order, super().eval_batches(), strict=True)
        hidden = not (self.world.is_main and console.is_terminal)
        title = self.candidate.config.model.name
        yield from track(batches, title, len(self.eval_order), console=console, transient=True, disable=hidden)

    def score(self, model: nn.Module, batch: tuple[list[Key], Batch]) -> Tensor:  # type: ignore[override]
        keys, (images, labels) = batch[0], self._to_device(batch[1])
        logits = self._logits(model, images)
        guesses, classes = best_guesses(logits), len(self.classes)
        parts = {"basic": basic_sums(logits, labels)}
        if self._real is not None:
            indices = torch.tensor([index for _, index in keys], device=labels.device)
            parts["real"] = real_sums(guesses, self._real[indices])
        if "per_class" in self._sizes:
            parts["per_class"] = class_sums(guesses, labels, classes)
        if "confusion" in self._sizes:
            parts["confusion"] = confusion_sums(guesses, labels, classes)
        return torch.cat([parts[name] for name in self._sizes])

    def metrics(self, sums: Tensor) -> dict[str, Any]:
        parts = dict(zip(self._sizes, sums.split(list(self._sizes.values())), strict=True))
        metrics = basic_metrics(parts["basic"])
        if "real" in parts:
            metrics |= real_metrics(parts["real"])
        return metrics | {
            name: table_of(parts[name], len(self.classes)) for name in ("per_class", "confusion") if name in parts
        }

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        logits = [model(view).float() for view in ([images, images.flip(3)] if self.flip else [images])]
        if self._outputs is not None:
            logits = [each[:, self._outputs] for each in logits]
        if len(logits) == 1:
            return logits[0]
        return torch.stack([each.log_softmax(1) for each in logits]).logsumexp(0) - math.log(2)

    def _warn(self, text: str) -> None:
        if self.world.is_main:
            print(f"warning: {printable(text)}", file=sys.stderr)

    def _file_names(self, where: str) -> list[str]:
        names = [self.val_source.name(index) for index in range(self.eval_images)]
        if not all(Path(name).suffix for name in names):
            raise UserError(f"--real goes by the pictures' file names, and {where} has none: use image folders")
        return names


def _differing_orders(names: list[str]) -> list[str] | None:
    """Where names are sorted as text, and otherwise than by the numbers in them: how both orders begin."""
    natural = sorted(names, key=natural_key)
    return [", ".join([*each[:4], "..."]) for each in (names, natural)] if names == sorted(names) != natural else None
