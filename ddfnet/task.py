"""The contract between the training engine and what it trains: a task, its batches, evaluators and metrics.

train/ is handed a `Task` and knows no more of it than stands here; tasks/ has one folder for each. To add one: a class
that satisfies `Task`, its batch, a line in `tasks.TASKS`, a schema in config/ for its `data:`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .config import Config


@dataclass(frozen=True)
class Metric:
    """A number that an evaluation gives: how it is called, shown, and whether less of it is better."""

    name: str  # its key in results and in summary.json, such as top1
    label: str  # its name for people, such as top-1
    format: str = ".3f"
    lower_is_better: bool = False
    unit: str = ""

    def shown(self, value: float) -> str:
        return format(value, self.format)

    def is_better(self, value: float, than: float) -> bool:
        """Compare two values; nan is never better, and any number is better than nan."""
        if math.isnan(than):
            return not math.isnan(value)
        return value < than if self.lower_is_better else value > than


BatchT = TypeVar("BatchT", bound="Batch", covariant=True)

IMAGES = Metric("images", "images", ",")
IMAGES_PER_SECOND = Metric("images_per_second", "img/s", ",.0f")


@runtime_checkable
class Batch(Protocol):
    """A batch on the device; only its own task looks inside."""

    @property
    def replaced(self) -> list[str]:
        """Names of the images that could not be decoded and that others stand in for."""
        ...

    def __len__(self) -> int: ...

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory until what `stream` has to do by now is done."""
        ...

    def split(self, sizes: list[int]) -> Sequence["Batch"]:
        """Cut it into micro-batches of these numbers of images."""
        ...


class HostBatch(Protocol[BatchT]):
    """A batch as the workers send it."""

    def pin_memory(self) -> Any: ...

    def to(self, device: torch.device) -> BatchT:
        """Copy to the device without waiting for it, and decode there what is left to decode."""
        ...


@runtime_checkable
class Evaluator(Protocol):
    """Judges a network's outputs, batch after batch; made anew for each evaluation."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those of `result` that are numbers, in the order in which they are shown."""
        ...

    def update(self, outputs: Any, batch: Any) -> None:
        """Take in what the task's `outputs` gave for a batch; nothing waits for the device."""
        ...

    def reduce(self) -> None:
        """Bring together what all processes have taken in."""
        ...

    def result(self) -> dict[str, Any]: ...


@runtime_checkable
class Task(Protocol):
    """What is learned: a network, its data, its loss, and what it is judged by."""

    config: "Config"  # as the task has resolved it: a checkpoint needs nothing else
    model: nn.Module
    # Attributes of the class, which reports read without opening a task: those of its own evaluators, in the order in
    # which they are shown, and of these the one that decides which checkpoint is the best.
    metrics: ClassVar[tuple[Metric, ...]]
    headline: ClassVar[Metric]

    @property
    def steps_per_epoch(self) -> int: ...

    @property
    def eval_images(self) -> int: ...

    @property
    def data_identity(self) -> dict[str, Any]:
        """Return what, beside seed and batch size, decides which images a step sees; goes into checkpoints."""
        ...

    @property
    def title(self) -> str:
        """Network and data in one line, for the console."""
        ...

    @property
    def corrupt(self) -> dict[str, int]:
        """Count, by name, the training images that others stood in for since this process began."""
        ...

    @property
    def macs_per_image(self) -> int | None:
        """Multiply-accumulates of the forward pass at the training size, where they can be counted."""
        ...

    def train_batches(self, first: int, last: int) -> Iterator[Batch]:
        """Give this process's batches of steps first..last-1, across epochs without a pause."""
        ...

    def eval_batches(self) -> Iterator[Batch]:
        """Give this process's share of the evaluation's batches."""
        ...

    def prepare(self, batch: Any, step: int) -> Batch:
        """Make of a step's batch what the network is given, a function of the step alone; leaves the batch as it is."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean loss over a prepared batch or a part of one.

        It calls the model exactly once, or the gradients of several processes do not find together.
        """
        ...

    def outputs(self, model: nn.Module, batch: Any) -> Any:
        """Run the network on a batch of `eval_batches`, for the evaluators."""
        ...

    def evaluators(self) -> list[Evaluator]:
        """Return new evaluators for one evaluation; their results hold `images`, the number of images judged."""
        ...

    def pictures(self, model: nn.Module) -> dict[str, Tensor]:
        """Draw what the network makes of an image of the evaluation: name -> (3, H, W) in 0..1, for TensorBoard."""
        ...

    def histograms(self, model: nn.Module) -> dict[str, Tensor]:
        """Return values whose distributions are shown: name -> tensor on the CPU."""
        ...

    def training_pictures(self, batch: Any) -> dict[str, Tensor]:
        """Draw images that `prepare` gave: name -> (3, H, W) in 0..1."""
        ...
