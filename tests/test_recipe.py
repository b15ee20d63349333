"""The recipe: augmentation by name, growing pictures, what does not go together, and all of it resumed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_batches import feeder
from PIL import Image
from small_runs import ALONE, assert_equal_weights, logged, run, weights

from ddfnet.config import Data, load_config
from ddfnet.data import TrainOrder
from ddfnet.data.sources import Digits
from ddfnet.errors import UserError
from ddfnet.tasks.classification import Classification
from ddfnet.tasks.classification.augment import TrainTransform, eval_transform, image_size
from ddfnet.tasks.classification.dataset import Pictures
from ddfnet.train import train

# ---- augmentation by name


@pytest.mark.parametrize(
    "name",
    ["original", "v0", "originalr-mstd0.5", "3a", "augmix-m5-w4-d2", "rand-n1-m10-p1-mstd101-inc1", "rand-m9-mstd0.5"],
)
def test_timms_augmentations_work_by_name_and_are_seeded(name):
    data = Data(source="digits", image_size=32, hflip=0.0, scale=[0.999, 1.0], ratio=[1.0, 1.0], auto_augment=name)
    source = Digits(False, 0)
    plain = Pictures(source, TrainTransform(data.model_copy(update={"auto_augment": None})), 0)
    augmented, again = (Pictures(source, TrainTransform(data), 0) for _ in range(2))
    changed = 0
    for i in range(12):
        image = augmented[0, i][0]
        assert image.dtype == torch.uint8 and image.shape == (3, 32, 32) and torch.equal(image, again[0, i][0])
        changed += not torch.equal(image, plain[0, i][0])
    assert changed >= 3


def test_an_augmentation_that_timm_cannot_parse_is_named(small):
    with pytest.raises(UserError, match=r"data\.auto_augment = 'trivial' is nothing that timm can parse: \S"):
        Classification(small("a", "data.auto_augment=trivial"), ALONE)


def test_grayscale_and_blur():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    options = dict(image_size=64, hflip=0.0, scale=[1.0, 1.0], ratio=[1.0, 1.0])
    transform = TrainTransform(Data(grayscale=1.0, **options)).in_epoch(0)
    grey = np.asarray(transform(picture))
    assert (grey[0] == grey[1]).all() and (grey[0] == grey[2]).all()
    blurred = np.asarray(TrainTransform(Data(gaussian_blur=1.0, **options)).in_epoch(0)(picture))
    assert (
        np.abs(np.diff(blurred.astype(int))).mean()
        < 0.7 * np.abs(np.diff(pixels.transpose(2, 0, 1).astype(int))).mean()
    )


# ---- the size of the pictures


def test_pictures_grow_32_pixels_at_a_time_between_the_two_epochs():
    data = Data(start_image_size=128, image_size=224, grow_from_epoch=2, grow_until_epoch=8)
    assert [image_size(data, epoch) for epoch in range(10)] == [128, 128, 128, 128, 160, 192, 192, 192, 224, 224]
    assert [image_size(Data(), epoch) for epoch in (0, 100)] == [224, 224]
    odd = Data(start_image_size=50, image_size=100, grow_until_epoch=4)
    assert [image_size(odd, epoch) for epoch in range(6)] == [50, 50, 82, 82, 100, 100]


@settings(max_examples=50, deadline=None)
@given(start=st.integers(16, 300), more=st.integers(0, 300), first=st.integers(0, 50), length=st.integers(1, 50))
def test_pictures_never_shrink(start, more, first, length):
    data = Data(start_image_size=start, image_size=start + more, grow_from_epoch=first, grow_until_epoch=first + length)
    sizes = [image_size(data, epoch) for epoch in range(first + length + 2)]
    assert sizes == sorted(sizes) and sizes[0] == start and sizes[first + length] == start + more


def test_a_step_has_the_same_size_for_any_workers_and_ranks():
    data = Data(source="digits", image_size=96, start_image_size=32, grow_from_epoch=0, grow_until_epoch=2)
    source = Digits(False, 0)  # 360 pictures, three steps of 120

    def sizes(workers, rank=0, world=1, first=0):
        order = TrainOrder(len(source.labels), 120, 0, first, 9, rank, world)
        batches = feeder(Pictures(source, TrainTransform(data), 0), order, workers)
        return [batch.images.shape[1:] for batch in batches]

    alone = sizes(0)
    assert alone == [(3, size, size) for size in (32, 32, 32, 64, 64, 64, 96, 96, 96)]
    assert sizes(2) == sizes(0, 1, 4) == alone and sizes(2, first=4) == alone[4:]


def test_evaluation_may_have_a_size_of_its_own():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8))
    data = Data(image_size=176, eval_image_size=224, crop_pct=0.9655)
    expected = np.asarray(picture.resize((232, 232), Image.Resampling.BILINEAR).crop((4, 4, 228, 228)))
    assert np.array_equal(np.asarray(eval_transform(data)(picture)).transpose(1, 2, 0), expected)
    assert TrainTransform(data).in_epoch(0)(picture).shape == (3, 176, 176)


# ---- all together


class Killed(Exception):
    pass


def test_resume_is_exact_with_every_trick(small):
    """Growing, mixed, erased pictures, layer-wise LAMB, BCE, computing the blocks twice: killed before they grow."""
    options = [
        *("data.start_image_size=16", "data.image_size=32", "data.grow_until_epoch=1", "data.auto_augment=rand-m5"),
        *("data.mixup=0.2", "data.cutmix=1.0", "data.mix_off_epochs=1", "data.eval_image_size=16"),
        *("train.optimizer=lamb", "train.lr_scaling=sqrt", "train.layer_decay=0.9", "train.lr=0.02"),
        *("train.decay_norm_and_bias=false", "train.loss=bce", "train.activation_checkpointing=true"),
        "train.epochs=2",
    ]
    whole, broken = small("whole", *options), small("broken", *options, "run.checkpoint_minutes=1e-9")
    run(whole)
    task = Classification(broken, ALONE)
    real_batches = task.train_batches

    def dying(first, last):
        for step, batch in enumerate(real_batches(first, last)):
            if step == 5:
                raise Killed
            yield batch

    task.train_batches = dying
    with pytest.raises(Killed):
        train(broken, task, ALONE)
    assert weights(broken)["step"] == 5
    run(broken)
    assert_equal_weights(weights(whole), weights(broken))
    losses = [line["loss"] for line in logged(whole, "train")]
    assert losses[-1] < losses[0]


# ---- contradictions


@pytest.mark.parametrize(
    "options,sentence",
    [
        (
            ["data.start_image_size=300", "data.grow_until_epoch=5"],
            "data.start_image_size = 300 is more than data.image_size = 224",
        ),
        (["data.start_image_size=128"], "data.grow_until_epoch = 0 does not come after data.grow_from_epoch = 0"),
        (
            ["data.start_image_size=128", "data.grow_until_epoch=120"],
            "leaves no epoch at data.image_size of the run's 120",
        ),
        (["data.grow_until_epoch=5"], "data.grow_until_epoch = 5 needs data.start_image_size"),
        (["data.grow_from_epoch=5"], "data.grow_from_epoch = 5 needs data.start_image_size"),
        (["data.mixup=0.2", "train.batch_size=1"], "data.mixup = 0.2 needs two pictures, but train.batch_size = 1"),
        (["data.cutmix=1.0", "data.mix_off_epochs=120"], "data.mix_off_epochs = 120 leaves no epoch to mix in"),
        (["train.bce_target_threshold=0.2"], "is of train.loss = bce, which is cross_entropy"),
        (
            ["train.loss=bce", "train.bce_target_threshold=0.2", "train.label_smoothing=0.1"],
            "train.label_smoothing = 0.1 is undone by train.bce_target_threshold = 0.2",
        ),
        (["train.optimizer_kwargs={eps: 1}"], "train.optimizer_kwargs are for timm's optimizers"),
        (
            ["train.optimizer=adamw", "train.nesterov=true"],
            "train.nesterov = True is an option of train.optimizer = sgd",
        ),
        (
            ["train.optimizer=adamw", "train.optimizer_kwargs={weight_decay: 1}"],
            "train.optimizer_kwargs.weight_decay has a key of its own: train.weight_decay",
        ),
        (["train.layer_decay=1.5"], "train.layer_decay = 1.5: input should be less than or equal to 1"),
        (["data.mixup=-1"], "data.mixup = -1: input should be greater than or equal to 0"),
        (["train.loss=mse"], "train.loss = 'mse': input should be 'cross_entropy' or 'bce'"),
    ],
    ids=str,
)
def test_what_contradicts_itself_is_one_sentence(tmp_path, options, sentence):
    (tmp_path / "a.yaml").write_text("")
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "a.yaml", options)
    assert (
        sentence in str(error.value) and str(error.value).startswith("command line: ") and "\n" not in str(error.value)
    )
