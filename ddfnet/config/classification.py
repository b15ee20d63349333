"""The keys of `data:` for classification, and what does not go together with others."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from . import checks
from .by_schema import PathText
from .schema import Config, NotNegative, Positive, Probability, Section

Pair = Annotated[list[float], Field(min_length=2, max_length=2)]
NotNegativeTriple = Annotated[list[NotNegative], Field(min_length=3, max_length=3)]
AboveZero = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


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


class ClassificationConfig(Config):
    task: Literal["classification"] = "classification"
    data: Data = Data()

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
        for sentence in checks.of_classification(self.data, self.train):
            raise ValueError(sentence)
        return self
