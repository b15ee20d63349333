"""The keys of a config: each with its type, its default and, beside it, its unit and reason."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .by_schema import PathText
from .checks import contradictions

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
NotNegativeTriple = Annotated[list[NotNegative], Field(min_length=3, max_length=3)]
AboveZero = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Model(Section):
    name: str = "ddf_resnet50"  # any model timm knows
    kwargs: dict[str, Any] = {}  # for timm.create_model; `num_classes` comes from the data


class Data(Section):
    source: Literal["imagefolder", "tar", "webdataset", "hf", "packed", "synthetic", "digits"] = "imagefolder"
    root: PathText = "data/imagenet"  # holds the two splits; hf: or a name on the hub
    train_split: str = "train"
    val_split: str = "val"
    workers: Annotated[int, Field(ge=0)] = 8  # processes per GPU
    image_size: Positive = 224  # pixels, of the training crops and, without eval_image_size, of those of evaluation
    eval_image_size: Positive | None = None
    start_image_size: Positive | None = None  # pictures grow from it to image_size, 32 pixels at a time
    grow_from_epoch: Annotated[int, Field(ge=0)] = 0  # the last epoch at start_image_size
    grow_until_epoch: Annotated[int, Field(ge=0)] = 0  # the first one at image_size
    decoder: Literal["pil", "turbo", "nvjpeg"] = "pil"  # of training JPEGs; evaluation is PIL's, to be comparable
    on_corrupt: Literal["raise", "replace"] = "raise"  # training pictures that cannot be decoded: stop, or take others
    synthetic_pictures: Positive = 1_281_167  # synthetic: noise to train on, as many as ImageNet's by default
    interpolation: Literal["bilinear", "bicubic", "random"] = "bilinear"  # of training; random: one or the other
    eval_interpolation: Literal["bilinear", "bicubic"] | None = None  # default: interpolation's; of random, bilinear
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 0.875  # evaluation: the part of the resized picture that is cropped
    mean: NotNegativeTriple = [0.485, 0.456, 0.406]  # of red, green, blue, from 0 to 1; of what networks are given
    std: AboveZero = [0.229, 0.224, 0.225]
    scale: Pair = [0.08, 1.0]  # training crop: its share of the area
    ratio: Pair = [0.75, 1.3333333333333333]  # and its width over its height
    hflip: Probability = 0.5
    color_jitter: NotNegative = 0.0
    auto_augment: str | None = None  # timm's notation, such as rand-m7-mstd0.5-inc1
    grayscale: Probability = 0.0
    gaussian_blur: Probability = 0.0  # by timm's kernel of 23 pixels
    random_erase: Probability = 0.0  # of an image: a box of it becomes noise, after normalising
    random_erase_count: Positive = 1  # boxes of it at most, which share the area of one; above 1: noise for each image
    mixup: NotNegative = 0.0  # alpha of the beta distribution that a picture's share in the mixture is drawn from
    cutmix: NotNegative = 0.0  # the same for a pasted rectangle's area; 0 turns either off
    mix_probability: Probability = 1.0  # of a picture
    mix_switch_probability: Probability = 0.5  # of cutmix, where both are on
    mix_off_epochs: Annotated[int, Field(ge=0)] = 0  # the last ones of the run see whole pictures


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
    model: Model = Model()
    data: Data = Data()
    train: Train = Train()
    run: Run = Run()

    @field_validator("data")
    @classmethod
    def _ordered(cls, data: Data) -> Data:
        for name in ("scale", "ratio"):
            low, high = getattr(data, name)
            if not 0 < low <= high:
                raise ValueError(f"data.{name} = [{low}, {high}] is no range, expected two rising numbers above 0")
        for name in ("mean", "std"):
            values = getattr(data, name)
            if max(values) > 1:
                likely = [round(value / 255, 4) for value in values]
                raise ValueError(f"data.{name} = {values} is of pixels from 0 to 255, expected of 0 to 1: {likely}?")
        return data

    @model_validator(mode="after")
    def _fits(self):
        if "num_classes" in self.model.kwargs:
            raise ValueError("model.kwargs.num_classes comes from the data's classes: leave it out")
        if "features_only" in self.model.kwargs:
            raise ValueError("model.kwargs.features_only leaves no classifier to train: leave it out")
        if self.train.warmup_epochs >= self.train.epochs:
            raise ValueError(
                f"train.warmup_epochs = {self.train.warmup_epochs} leaves nothing of train.epochs = {self.train.epochs}"
            )
        if self.train.nesterov and not self.train.momentum:
            raise ValueError("train.nesterov = True needs train.momentum above 0")
        for sentence in contradictions(self.data, self.train):
            raise ValueError(sentence)
        return self
