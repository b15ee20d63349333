"""Image classification: which model, which pictures, what is minimised and what is reported."""

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ...config import Config, Data
from ...counted import counted
from ...data import (
    EvalOrder,
    Feeder,
    Key,
    Place,
    Synthetic,
    TrainOrder,
    open_source,
    require_same_classes,
)
from ...errors import UserError, one_line
from ...models import count_macs
from ...models.activation_checkpointing import checkpoint_activations
from ...models.architecture import with_architecture
from ...models.build import build_model
from ...task import Evaluator, HostBatch, Metric, Task
from ...train.dist import World
from ...train.folder import checkpoint_to_continue, has_begun
from ..filter_pictures import (
    filter_histograms,
    filter_pictures,
    generated_filters,
    mosaic,
)
from .augment import TrainTransform, Transform, eval_transform, image_size
from .batch import ImageBatch
from .dataset import Batches, Pictures, synthetic_batches
from .decoders import open_decoder
from .device_decode import EncodedBatch
from .evaluators import Accuracy
from .fit import require_fit
from .losses import classification_loss
from .metrics import METRICS
from .mix import Mixing, mix
from .random_erasing import random_erase


class Classification:
    """Classification as a `Task`: a network and images of classes.

    A run that has begun loads no pretrained weights: its checkpoint holds all, and they may be gone.

    Args:
        training: False for evaluation alone, which opens the validation pictures only and loads no pretrained weights.
        model: the network; without one it is built as the config says.

    Raises:
        UserError: an unknown model or option, data that is not there, a batch that does not divide among the ranks, a
            network that does not take the images or gives no number per class.
    """

    metrics: ClassVar[tuple[Metric, ...]] = METRICS
    headline: ClassVar[Metric] = METRICS[0]

    def __init__(self, config: Config, world: World, training: bool = True, model: nn.Module | None = None):
        folder = Path(str(config.run.dir))
        begun = checkpoint_to_continue(folder) if training and has_begun(folder, world) else None
        self.config = config = with_architecture(config, begun)  # as the checkpoint is to have it
        self.world = world
        data, train = config.data, config.train
        self._transforms = _transforms(data)
        if training and train.batch_size % world.size:
            size = f"train.batch_size = {train.batch_size}"
            raise UserError(f"{size} does not divide among {world.size} processes, expected a multiple")
        self.val_source = open_source(
            data.source, data.root, data.val_split, False, train.seed, data.synthetic_pictures
        )
        self.classes = self.val_source.classes
        if training:
            self._open_training()
        if model is None:
            model = build_model(config, len(self.classes), pretrained=training and begun is None)
        model = model.to(world.device)
        if training and train.activation_checkpointing:
            checkpoint_activations(model)
        self.model = model.to(memory_format=torch.channels_last) if train.channels_last else model
        self._mean = torch.tensor(data.mean, device=world.device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(data.std, device=world.device).view(1, 3, 1, 1) * 255
        self._eval_feeder: Feeder[ImageBatch] | None = None
        self._train_feeder: Feeder[ImageBatch] | None = None
        if training:
            self._require_all_sizes_fit()

    def _open_training(self) -> None:
        data, train = self.config.data, self.config.train
        self.train_source = open_source(
            data.source, data.root, data.train_split, True, train.seed, data.synthetic_pictures
        )
        self._decoder = open_decoder(data)
        require_same_classes(self.train_source.classes, self.val_source, f"{data.root}: {data.val_split}")
        self.classes = self.val_source.classes
        pictures = len(self.train_source.labels)
        self.steps_per_epoch = pictures // train.batch_size
        if not self.steps_per_epoch:
            raise UserError(
                f"train.batch_size = {train.batch_size} is more than the {counted(pictures, 'training picture')}"
            )
        if train.batch_size // self.world.size < 2:
            raise UserError(f"train.batch_size = {train.batch_size} leaves a process one picture, batch norm needs two")
        dataset = f"{pictures} pictures of {len(self.classes)} classes, fingerprint {self.train_source.fingerprint}"
        self.data_identity = {"dataset": dataset, "classes": self.classes}

    def _require_all_sizes_fit(self) -> None:
        """The network takes the images of all epochs and of the evaluation."""
        data, train = self.config.data, self.config.train
        sizes = {image_size(data, epoch) for epoch in range(train.epochs + train.cooldown_epochs)}
        for size in sorted(sizes):
            key = "data.image_size" if size == data.image_size else "data.start_image_size, growing,"
            self.require_fit(key, size, len(self.classes), training=True)
        key = "data.eval_image_size" if data.eval_image_size else "data.image_size"
        self.require_fit(key, data.eval_image_size or data.image_size, len(self.classes), training=False)

    def require_fit(self, key: str, size: int, classes: int, training: bool) -> None:
        """Raise a UserError where the network does not take images of a size, which `key` says, or gives no classes."""

        def black() -> Tensor:
            return self.normalised(torch.zeros(2, 3, size, size, dtype=torch.uint8, device=self.world.device))

        require_fit(self.config, self.model, black, classes, f"{key} = {size}", training)

    @property
    def title(self) -> str:
        parameters = sum(p.numel() for p in self.model.parameters())
        return f"{self.config.model.name}: {parameters:,} parameters, {counted(len(self.classes), 'class')}"

    def train_batches(self, first: int, last: int) -> Iterator[ImageBatch]:
        """The batches of steps first..last-1, across epochs without a pause."""
        train, world = self.config.train, self.world
        order = TrainOrder(
            len(self.train_source.labels), train.batch_size, train.seed, first, last, world.rank, world.size
        )
        replace = self.config.data.on_corrupt == "replace"
        pictures = Pictures(self.train_source, self._transforms[0], train.seed, self._decoder, replace)
        self._train_feeder = self._feeder(pictures, order)
        return self._batches(self._train_feeder, order, lambda epoch: image_size(self.config.data, epoch))

    def eval_batches(self) -> Iterator[ImageBatch]:
        if self._eval_feeder is None:
            pictures = Pictures(self.val_source, self._transforms[1], seed=None)
            self._eval_feeder = self._feeder(pictures, self.eval_order)
        size = self.config.data.eval_image_size or self.config.data.image_size
        return self._batches(self._eval_feeder, self.eval_order, lambda epoch: size)

    @property
    def eval_order(self) -> EvalOrder:
        return EvalOrder(self.eval_images, self.config.run.eval_batch_size, self.world.rank, self.world.size)

    @property
    def eval_images(self) -> int:
        return len(self.val_source.labels)

    @property
    def corrupt(self) -> dict[str, int]:
        """Training pictures that could not be decoded and how often others stood in, since this process began."""
        return self._train_feeder.replaced if self._train_feeder else {}

    def _feeder(self, pictures: Pictures, order: Iterable[list[Key]]) -> Feeder[ImageBatch]:
        device = self.world.device
        return Feeder(Batches(pictures, order, self.config.data.workers, pin_memory=device.type == "cuda"), device)

    def _batches(
        self, feeder: Feeder[ImageBatch], order: Iterable[list[Key]], size_in_epoch: Callable[[int], int]
    ) -> Iterator[ImageBatch]:
        if isinstance(self.val_source, Synthetic):
            return synthetic_batches(self.val_source, order, size_in_epoch, self.world.device)
        return iter(feeder)

    def prepare(self, batch: ImageBatch, step: int) -> ImageBatch:
        """This process's part of a step's batch as the network sees it: normalised, erased, mixed."""
        images, labels = self.normalised(batch.images), batch.targets
        data, train = self.config.data, self.config.train
        place = Place(train.seed, step, train.batch_size, self.world.rank * len(images), len(images))
        if data.random_erase:
            images = random_erase(images, data.random_erase, place, data.random_erase_count)
        mixing = Mixing(data.mixup, data.cutmix, data.mix_probability, data.mix_switch_probability)
        last_mixed = train.epochs + train.cooldown_epochs - data.mix_off_epochs
        if mixing and step < last_mixed * self.steps_per_epoch:
            images, labels = mix(images, labels, len(self.classes), mixing, place)
        return ImageBatch(images, labels, batch.keys)

    def loss(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        train = self.config.train
        return classification_loss(
            model(batch.images), batch.targets, train.loss, train.label_smoothing, train.bce_target_threshold
        )

    def outputs(self, model: nn.Module, batch: ImageBatch) -> Tensor:
        """Logits (B, classes), float32."""
        return model(self.normalised(batch.images)).float()

    def evaluators(self) -> list[Evaluator]:
        return [Accuracy(self.world.device)]

    def pictures(self, model: nn.Module) -> dict[str, Tensor]:
        """What the network makes of one validation picture: name -> (3, H, W) in 0..1."""
        images = self._validation_pictures(1)
        return {"input": self._visible(images)[0]} | filter_pictures(generated_filters(model, images))

    def histograms(self, model: nn.Module) -> dict[str, Tensor]:
        """The values of the filters that each DDF layer generates for 8 validation pictures: name -> (n,)."""
        return filter_histograms(generated_filters(model, self._validation_pictures(8)))

    def training_pictures(self, batch: ImageBatch) -> dict[str, Tensor]:
        """Up to 16 of the pictures that `prepare` gave: name -> (3, H, W) in 0..1."""
        images = self._visible(batch.images[:16])
        return {"training": torch.stack([mosaic(images[:, colour], gap=2) for colour in range(3)])}

    @functools.cached_property
    def macs_per_image(self) -> int | None:
        """Multiply-accumulates of the forward pass at the training size; None for a network that "meta" cannot run."""
        size = self.config.data.image_size
        with contextlib.suppress(Exception):  # networks of all kinds, and it is for a figure in the log only
            return count_macs(copy.deepcopy(self.model).to("meta"), (3, size, size))
        return None

    def _validation_pictures(self, count: int) -> Tensor:
        """(N, 3, H, W), normalised, on the device."""
        pictures = Pictures(self.val_source, self._transforms[1], seed=None)
        order = EvalOrder(min(count, len(self.val_source.labels)), count)
        (batch,) = Feeder(Batches(pictures, order, workers=0, pin_memory=False), self.world.device)
        return self.normalised(batch.images)

    def _visible(self, images: Tensor) -> Tensor:
        """The normalising undone: in 0..1, on the CPU."""
        return ((images * self._std + self._mean) / 255).clamp(0, 1).cpu()

    def normalised(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 as float32, in the network's memory format."""
        layout = torch.channels_last if self.config.train.channels_last else torch.contiguous_format
        images = images.contiguous(memory_format=layout)  # of bytes, as they come with a pixel's colours adjacent
        return (images.float() - self._mean) / self._std


def _transforms(data: Data) -> tuple[TrainTransform, Transform]:
    try:
        return TrainTransform(data), eval_transform(data)
    except Exception as error:  # timm asserts on what it cannot parse
        reason = one_line(error)
        raise UserError(f"data.auto_augment = {data.auto_augment!r} is nothing that timm can parse: {reason}") from None


if TYPE_CHECKING:  # mypy holds each part of the contract against its protocol here

    def _task(this: Classification) -> Task:
        return this

    def _host_batches(this: ImageBatch, encoded: EncodedBatch) -> tuple[HostBatch[ImageBatch], HostBatch[ImageBatch]]:
        return this, encoded
