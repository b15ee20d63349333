"""Data: sources and their complaints, the order of batches, augmentation as a function of seed, epoch and index."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_batches import feeder, images_and_labels
from PIL import Image
from timm.data import create_transform

from ddfnet.config import ClassificationConfig, Data
from ddfnet.data import EvalOrder, TrainOrder, open_source, require_same_classes
from ddfnet.data.sources import Digits, ImageFolder
from ddfnet.errors import UserError
from ddfnet.tasks.classification.augment import eval_transform, train_transform
from ddfnet.tasks.classification.dataset import Batches, Pictures


@pytest.fixture
def folder(tmp_path):
    """Two classes of three pictures in each split, one in a subfolder, one grey."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name / "more").mkdir(parents=True)
            for i, place in enumerate(("a.jpg", "b.PNG", "more/c.JPEG")):
                pixels = rng.integers(0, 255, (40, 50) if i == 1 else (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / place)
            (tmp_path / split / name / "notes.txt").write_text("no picture")
    return tmp_path


def test_imagefolder_reads_imagenets_layout(folder):
    source = ImageFolder(folder / "train")
    assert source.classes == ["cat", "dog"] and source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert all(source.picture(i).mode == "RGB" and source.picture(i).size == (50, 40) for i in range(6))


def read_all(root):
    """One epoch of both splits through worker processes."""
    data = Data(root=str(root), image_size=32)
    train, val = (open_source(data.source, data.root, split, split == "train", seed=0) for split in ("train", "val"))
    require_same_classes(train.classes, val, f"{data.root}: val")
    for source, transform in ((train, train_transform(data)), (val, eval_transform(data))):
        pictures = Pictures(source, transform, seed=0)
        for _ in Batches(pictures, EvalOrder(len(source.labels), 2), workers=1, pin_memory=False):
            pass


def spoil(folder, kind):
    if kind == "truncated picture":
        path = folder / "train/cat/a.jpg"
        path.write_bytes(path.read_bytes()[:500])
    elif kind == "text as picture":
        path = folder / "val/dog/fake.jpg"
        path.write_text("hello")
    elif kind == "empty file":
        path = folder / "train/dog/none.jpg"
        path.touch()
    elif kind == "empty class":
        for split in ("train", "val"):
            path = folder / split / "bird"
            path.mkdir()
        path = folder / "train/bird"
    elif kind == "class in one split":
        (folder / "train/bird").mkdir()
        Image.new("RGB", (8, 8)).save(folder / "train/bird/a.png")
        path = folder
    elif kind == "no split":
        (folder / "val").rename(folder / "test")
        path = folder / "val"
    elif kind == "no classes":
        path = folder / "train"
        path.rename(folder / "old")
        path.mkdir()
    return path


@pytest.mark.parametrize(
    "kind,sentence",
    [
        ("truncated picture", "the picture cannot be decoded: "),
        ("text as picture", "is not a picture, although it is named like one"),
        ("empty file", "the file is empty"),
        ("empty class", "holds no pictures"),
        ("class in one split", "val has 2 classes, expected the 3 of training; only in one of them: bird"),
        ("no split", "no such folder"),
        ("no classes", "holds no class folders"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_sentence_with_its_path(folder, kind, sentence):
    read_all(folder)
    path = spoil(folder, kind)
    with pytest.raises(UserError) as error:
        read_all(folder)
    assert str(error.value).startswith(f"{path}: ") and sentence in str(error.value) and "\n" not in str(error.value)


def test_digits_split_is_fixed_by_the_seed():
    train, val = Digits(True, 3), Digits(False, 3)
    assert (len(train.labels), len(val.labels), len(train.classes)) == (1437, 360, 10)
    assert np.array_equal(val.labels, Digits(False, 3).labels)
    assert not np.array_equal(val.labels, Digits(False, 4).labels)
    together = np.concatenate([train._images, val._images]).reshape(1797, -1)
    other = np.concatenate([Digits(True, 4)._images, Digits(False, 4)._images]).reshape(1797, -1)
    assert np.array_equal(np.sort(together.sum(1)), np.sort(other.sum(1)))  # nothing lost, nothing in both halves


@settings(max_examples=100, deadline=None)
@given(
    pictures=st.integers(8, 200),
    share=st.integers(1, 4),
    world=st.integers(1, 4),
    seed=st.integers(0, 5),
    first=st.integers(0, 30),
)
def test_order_is_the_same_for_any_number_of_ranks_and_any_start(pictures, share, world, seed, first):
    batch = share * world
    if batch > pictures:
        return
    whole = list(TrainOrder(pictures, batch, seed, 0, 40))
    parts = [list(TrainOrder(pictures, batch, seed, first, 40, rank, world)) for rank in range(world)]
    assert all(len(TrainOrder(pictures, batch, seed, first, 40, rank, world)) == 40 - first for rank in range(world))
    together = [[key for rank in range(world) for key in parts[rank][i]] for i in range(40 - first)]
    assert together == whole[first:]
    steps = pictures // batch
    one_epoch = [index for keys in whole[:steps] for _, index in keys][: steps * batch]
    assert len(set(one_epoch)) == len(one_epoch)  # none twice within an epoch


def test_epochs_differ_in_their_order():
    order = list(TrainOrder(64, 64, 0, 0, 2))
    assert sorted(i for _, i in order[0]) == sorted(i for _, i in order[1]) and [i for _, i in order[0]] != [
        i for _, i in order[1]
    ]


@settings(max_examples=50, deadline=None)
@given(pictures=st.integers(1, 60), batch=st.integers(1, 20), world=st.integers(1, 5))
def test_eval_counts_every_picture_once(pictures, batch, world):
    orders = [EvalOrder(pictures, batch, rank, world) for rank in range(world)]
    seen = sorted(index for order in orders for keys in order for _, index in keys)
    assert seen == list(range(pictures))
    assert all(len(order) == len(list(order)) for order in orders)
    together = sorted(keys for order in orders for keys in order)
    assert together == list(EvalOrder(pictures, batch))  # in batches that are the same for any number of ranks


def batches(source, data, workers, seed=0):
    order = TrainOrder(len(source.labels), 8, seed, 0, 4)
    return images_and_labels(feeder(Pictures(source, train_transform(data), seed), order, workers))


def test_augmentation_depends_on_seed_epoch_and_index_only():
    data = Data(
        source="digits", image_size=16, color_jitter=0.4, auto_augment="rand-m7-mstd0.5-inc1", interpolation="random"
    )
    source = Digits(False, 0)
    for (a, labels_a), (b, labels_b) in zip(batches(source, data, 0), batches(source, data, 2), strict=True):
        assert torch.equal(a, b) and torch.equal(labels_a, labels_b) and a.dtype == torch.uint8
    pictures = Pictures(source, train_transform(data), 0)
    assert not torch.equal(pictures[0, 5][0], pictures[1, 5][0])
    assert not torch.equal(pictures[0, 5][0], Pictures(source, train_transform(data), 1)[0, 5][0])


def test_evaluation_sees_the_centre_crop_of_the_resized_picture():
    data = Data(image_size=224)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 640, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((320, 256), Image.Resampling.BILINEAR).crop((48, 16, 272, 240)))
    assert np.array_equal(np.asarray(eval_transform(data)(image)).transpose(1, 2, 0), expected)


def test_the_far_ends_of_a_very_long_image_are_cut_before_it_is_resized(monkeypatch):
    made = []
    crop, resize = Image.Image.crop, Image.Image.resize
    monkeypatch.setattr(Image.Image, "crop", lambda *a, **k: made.append(crop(*a, **k)) or made[-1])
    monkeypatch.setattr(Image.Image, "resize", lambda *a, **k: made.append(resize(*a, **k)) or made[-1])
    pixels = np.zeros((20_000, 1, 3), np.uint8)
    pixels[9_900:10_100] = (10, 200, 30)  # the middle is green
    transform = eval_transform(Data(image_size=28))  # of 32
    for image in (Image.fromarray(pixels), Image.fromarray(pixels.transpose(1, 0, 2))):
        seen = np.asarray(transform(image))
        assert seen.shape == (3, 28, 28) and (seen == np.array((10, 200, 30))[:, None, None]).all()
    assert len(made) >= 4 and max(max(image.size) for image in made) <= 64 * 32


@pytest.mark.parametrize("size", [(500, 375), (3, 2), (20, 1280), (1281, 20), (64, 1), (1, 1)])
def test_ordinary_images_are_evaluated_as_timm_does(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
    timms = create_transform(224, is_training=False, use_prefetcher=True, crop_pct=0.875, interpolation="bicubic")
    longer = max(size) > 64 * min(size)
    assert np.array_equal(eval_transform(Data(interpolation="bicubic"))(image), timms(image)) != longer


def test_evaluation_may_interpolate_in_a_way_of_its_own():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 260, 3), dtype=np.uint8))
    for training in ("bilinear", "bicubic", "random"):
        for ours, name in (("bicubic", "bicubic"), ("bilinear", "bilinear"), (None, training)):
            want = create_transform(
                64, use_prefetcher=True, crop_pct=0.875, interpolation=name.replace("random", "bilinear")
            )
            data = Data(image_size=64, interpolation=training, eval_interpolation=ours)
            assert np.array_equal(eval_transform(data)(image), want(image))


def test_default_config_is_imagenet_at_224():
    config = ClassificationConfig()
    assert (config.data.source, config.data.image_size, config.data.crop_pct) == ("imagefolder", 224, 0.875)
