"""Other ways than PIL's to the same picture: turbo, and the device; and the way there."""

import io
import tarfile

import numpy as np
import pytest
import torch
from image_batches import feeder, images_and_labels
from jpegs import differences, smooth, write_jpegs
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation

from ddfnet.config import Data
from ddfnet.data import TrainOrder
from ddfnet.data.sources import ImageFolder
from ddfnet.errors import UserError
from ddfnet.tasks.classification.augment import train_transform
from ddfnet.tasks.classification.crops import Crops
from ddfnet.tasks.classification.dataset import Pictures
from ddfnet.tasks.classification.decoders import jpeg_header, open_decoder

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return write_jpegs(tmp_path / "data")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "random"])
def test_turbo_sees_what_pil_sees(folder, interpolation):
    pytest.importorskip("simplejpeg")
    data = Data(image_size=64, decoder="turbo", interpolation=interpolation)
    assert differences(ImageFolder(folder), data, None).max() < 0.5  # of 255: what rounding makes of it


def test_turbo_shrinks_while_decoding_what_is_far_too_large(tmp_path):
    pytest.importorskip("simplejpeg")
    (tmp_path / "cat").mkdir()
    smooth(np.random.default_rng(1), 900, 1200).save(tmp_path / "cat/a.jpg")
    data = Data(image_size=48, decoder="turbo")
    found = differences(ImageFolder(tmp_path), data, None, epochs=30)
    assert 0.1 < found.mean() < 2 and found.max() < 4  # steep shapes, moved by a part of a pixel


@pytest.mark.parametrize("side,shrunk", [(199, 199), (200, 100), (399, 200), (400, 100), (800, 100), (1600, 200)])
def test_turbo_decodes_at_half_the_size_from_four_times_what_is_needed(tmp_path, side, shrunk):
    """At a quarter from eight times, an eighth from sixteen times."""
    pytest.importorskip("simplejpeg")
    (tmp_path / "cat").mkdir()
    smooth(np.random.default_rng(1), side, side).save(tmp_path / "cat/a.jpg")
    decoder = open_decoder(Data(image_size=50, decoder="turbo", scale=[1, 1], ratio=[1, 1]))
    plain, seen = decoder._decode, []
    decoder._decode = lambda *args, **kwargs: seen.append(plain(*args, **kwargs)) or seen[-1]
    assert decoder(ImageFolder(tmp_path), 0, 0).shape[1:] == (50, 50)
    assert seen[0].shape[:2] == (shrunk, shrunk)


def test_turbo_decodes_no_more_rows_than_the_crop_needs_and_exactly_those(folder):
    simplejpeg = pytest.importorskip("simplejpeg")
    source, seen = ImageFolder(folder), []
    decoder = open_decoder(Data(image_size=32, decoder="turbo", scale=[0.1, 0.2]))
    plain = decoder._decode

    def decode(blob, *args, **kwargs):
        seen.append(plain(blob, *args, **kwargs))
        return seen[-1]

    decoder._decode = decode
    for index in range(5):
        for epoch in range(10):
            decoder(source, index, epoch)
        full = simplejpeg.decode_jpeg(source.encoded(index), "RGB")
        for pixels in seen:
            safe = len(pixels) if len(pixels) == len(full) else len(pixels) - 2
            assert np.array_equal(pixels[:safe], full[:safe])
        if index != 3:  # progressive: all of it
            assert min(map(len, seen)) < len(full)
        seen.clear()


@pytest.mark.parametrize("augment", ["rand-m7-mstd0.5-inc1", None])
def test_what_follows_the_crop_is_the_same_for_all_decoders(folder, augment):
    pytest.importorskip("simplejpeg")
    data = Data(image_size=48, decoder="turbo", auto_augment=augment, color_jitter=0.0 if augment else 0.4)
    found = differences(ImageFolder(folder), data, None)
    assert np.median(found) < 0.5 and found.max() < 8  # solarising and posterising make much of a rounding


def test_the_crop_is_the_one_that_timm_draws():
    import random

    data = Data(scale=[0.08, 1.0], ratio=[0.5, 0.6])  # a ratio that often does not fit
    crops = Crops(data)
    for number in range(300):
        width, height = 40 + number, 300 - number // 2
        random.seed(number)
        top, left, h, w = RandomResizedCropAndInterpolation.get_params(
            Image.new("L", (width, height)), data.scale, data.ratio
        )
        random.seed(number)
        crop = crops.draw(width, height, 0)
        assert (crop.left, crop.top, crop.width, crop.height) == (left, top, w, h)


def test_pictures_left_to_the_device_are_what_pil_sees(folder):
    data, source = Data(image_size=64, decoder="nvjpeg"), ImageFolder(folder)
    batches = []
    for decoder, workers in ((None, 0), (open_decoder(data), 0), (open_decoder(data), 2)):
        pictures = Pictures(source, train_transform(data), 3, decoder)
        batches.append(images_and_labels(feeder(pictures, TrainOrder(16, 8, 3, 0, 6), workers)))
    for (want, labels), *others in zip(*batches, strict=True):
        for found, other_labels in others:
            assert found.shape == want.shape and found.dtype == torch.uint8 and torch.equal(labels, other_labels)
            assert (found.float() - want.float()).abs().mean((1, 2, 3)).max() < 0.5
    assert all(
        torch.equal(a, b) for one, other in zip(*batches[1:], strict=True) for a, b in zip(one, other, strict=True)
    )


def test_what_the_device_cannot_decode_goes_the_way_of_pil(folder, monkeypatch):
    """A file that has a JPEG's head and end, and in between nothing that torchvision could decode."""
    source, data = ImageFolder(folder), Data(image_size=32, decoder="nvjpeg")
    blob = (folder / "cat/0.jpg").read_bytes()
    broken = blob[: blob.index(b"\xff\xda")] + b"\xff\xd9"
    (folder / "cat/0.jpg").write_bytes(broken)
    pictures = Pictures(source, train_transform(data), 3, open_decoder(data))
    with pytest.raises(UserError, match=r"cat/0.jpg: the picture cannot be decoded"):
        list(feeder(pictures, TrainOrder(16, 16, 3, 0, 1)))
    pictures = Pictures(source, train_transform(data), 3, open_decoder(data), replace_corrupt=True)
    batches = feeder(pictures, TrainOrder(16, 16, 3, 0, 1))
    ((images, labels),) = images_and_labels(batches)
    assert len(images) == len(labels) == 16 and batches.replaced == {"cat/0.jpg": 1}


def test_nvjpeg_refuses_what_it_leaves_no_place_for():
    with pytest.raises(UserError, match=r"data.decoder = 'nvjpeg' leaves nothing to PIL"):
        open_decoder(Data(decoder="nvjpeg", auto_augment="rand-m7"))


@pytest.mark.parametrize("name,data", [("simplejpeg", {"decoder": "turbo"}), ("cv2", {"source": "packed"})])
def test_a_missing_library_is_named(monkeypatch, name, data):
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'ddfnet\[turbo\]'"):
        open_decoder(Data(**data))


def test_real_photographs_by_turbo(tmp_path, reference_data):
    pytest.importorskip("simplejpeg")
    with tarfile.open(reference_data("data/imagenet-sample-200.tar")) as archive:
        archive.extractall(tmp_path, filter="data")
    source = ImageFolder(next(tmp_path.iterdir()))
    found = differences(source, Data(decoder="turbo"), None, epochs=1)
    assert len(found) == 200 and found.mean() < 0.1 and found.max() < 1


def test_jpeg_headers():
    picture = smooth(np.random.default_rng(0), 33, 44)

    def header(**options):
        file = io.BytesIO()
        picture.save(file, "JPEG", **options)
        return jpeg_header(file.getvalue()), file.getvalue()

    found, blob = header()
    assert (found.width, found.height, found.components, found.baseline) == (44, 33, 3, True)
    assert header(progressive=True)[0].baseline is False
    for odd in (b"", blob[:-40], blob[:20], b"\x89PNG", blob.replace(b"\xff\xc0", b"\xff\xc9", 1)):
        assert jpeg_header(odd) is None
