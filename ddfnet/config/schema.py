"""The keys of a config that all tasks have: each with its type, its default and, beside it, its unit and reason."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from . import checks
from .by_schema import PathText

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Model(Section):
    name: str = "ddf_resnet50"  # any model timm knows
    kwargs: dict[str, Any] = {}  # for timm.create_model; `num_classes` comes from the data


class Train(Section):
    epochs: Positive = 120  # of the cosine, warm-up included
    warmup_epochs: NotNegative = 0.0
    cooldown_epochs: Annotated[int, Field(ge=0)] = 0  # after the cosine, at min_lr
    batch_size: Positive = 256  # global: of all GPUs together
    optimizer: str = "sgd"  # the paper's; or any of timm's, such as lamb, adamw
    optimizer_kwargs: dict[str, Any] = {}  # for timm's, such as betas
    lr: Annotated[float, Field(gt=0)] = 0.1  # at a global batch of 256
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"  # with the global batch
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None  # factor on lr from each layer to the one before it
    min_lr: NotNegative = 1e-5  # not scaled
    warmup_lr: NotNegative = 1e-6  # at the first step of a warm-up, not scaled
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 1e-4
    decay_norm_and_bias: bool = True  # False leaves parameters of one dimension without weight decay
    clip_grad: Annotated[float, Field(gt=0)] | None = None  # largest norm of the gradient of all parameters together
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"  # bce: each class by itself, the mean over the classes
    bce_target_threshold: Probability | None = None  # targets above it are 1, the others 0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of averaged weights, evaluated beside the others; 0: none
    accumulation: Positive = 1  # pieces that a GPU's part of the batch is cut into, for want of memory
    activation_checkpointing: bool = False  # keeps the blocks' inputs only and computes the rest twice
    sync_bn: bool = False  # batch norm over the pictures of all GPUs
    amp: Literal["none", "bf16", "fp16"] = "none"
    channels_last: bool = False
    compile: bool = False  # by torch.compile: a minute or more at the start, then faster steps
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Run(Section):
    dir: PathText | None = None  # default: runs/<the config file's name>
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_every: Positive = 50  # steps
    eval_every: Positive = 1  # epochs
    eval_batch_size: Positive = 256  # of each process
    checkpoint_minutes: NotNegative = 15  # between checkpoints inside an epoch; 0: at evaluations only
    wandb: bool = False  # log to Weights & Biases too; WANDB_MODE=offline without a network
    wandb_project: Annotated[str, Field(min_length=1)] = "ddfnet"  # where the run stands there


class Config(Section):
    """What all tasks have in common; each has a schema of its own for `data`."""

    task: str = "classification"  # what is learned, which decides the keys of `data`
    model: Model = Model()
    data: Any = None
    train: Train = Train()
    run: Run = Run()

    @model_validator(mode="after")
    def _trains(self):
        for sentence in checks.of_training(self.train):
            raise ValueError(sentence)
        return self
