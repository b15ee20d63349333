"""Other ways than PIL's to the same picture: turbo, the device, packed pixels; and the way to the device."""

import io
import os
import signal
import tarfile
import time
from multiprocessing import Process

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation

from ddfnet.config import Data
from ddfnet.data import (
    Feeder,
    Loader,
    Packed,
    Pictures,
    TrainOrder,
    decoders,
    eval_transform,
    open_decoder,
    pack,
    train_transform,
)
from ddfnet.data.crops import Crops
from ddfnet.data.sources import Digits, ImageFolder
from ddfnet.data.sources.packed import DATA_START
from ddfnet.errors import UserError

CPU = torch.device("cpu")


def smooth(rng, height, width):
    """A picture of soft shapes, as photographs are."""
    small = Image.fromarray(rng.integers(0, 255, (6, 7, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """JPEGs of all kinds in two classes, and a PNG."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number, options in enumerate(
            [
                {"subsampling": "4:2:0"},
                {"subsampling": "4:4:4"},
                {"subsampling": "4:2:2", "restart_marker_rows": 1},
                {"progressive": True},
                {"optimize": True, "comment": b"x" * 3000},
            ]
        ):
            picture = smooth(rng, 100 + 37 * number, 151)
            picture.save(tmp_path / "data" / name / f"{number}.jpg", quality=85, **options)
        smooth(rng, 90, 120).convert("L").save(tmp_path / "data" / name / "6.jpg")
        smooth(rng, 90, 120).convert("CMYK").save(tmp_path / "data" / name / "7.jpg")
        smooth(rng, 90, 120).save(tmp_path / "data" / name / "8.png")
    return tmp_path / "data"


def differences(source, data, other, epochs=4):
    """Mean absolute difference from PIL's way of each picture in each epoch."""
    reference = Pictures(source, train_transform(data), 3)
    fast = Pictures(other or source, train_transform(data), 3, open_decoder(data))
    found = []
    for epoch in range(epochs):
        for index in range(len(source.labels)):
            a, b = reference[epoch, index].image, fast[epoch, index].image
            assert a.shape == b.shape and b.dtype == torch.uint8
            found.append((a.float() - b.float()).abs().mean().item())
    return np.array(found)


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
        batches.append(list(Feeder(Loader(pictures, TrainOrder(16, 8, 3, 0, 6), workers, pin_memory=False), CPU)))
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
    loader = Loader(pictures, TrainOrder(16, 16, 3, 0, 1), 0, pin_memory=False)
    with pytest.raises(UserError, match=r"cat/0.jpg: the picture cannot be decoded"):
        list(Feeder(loader, CPU))
    pictures = Pictures(source, train_transform(data), 3, open_decoder(data), replace_corrupt=True)
    feeder = Feeder(Loader(pictures, TrainOrder(16, 16, 3, 0, 1), 0, pin_memory=False), CPU)
    ((images, labels),) = feeder
    assert len(images) == len(labels) == 16 and feeder.replaced == {"cat/0.jpg": 1}


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


# ---- packed


def packed(folder, where, size=64, **options):
    pack(ImageFolder(folder), where / "train.pack", size, **options)
    return Packed(where, "train")


def test_packed_pictures_are_the_source_s_made_smaller(folder, tmp_path):
    source, small = ImageFolder(folder), packed(folder, tmp_path)
    assert small.classes == source.classes and np.array_equal(small.labels, source.labels)
    assert [small.name(i) for i in range(16)] == [source.name(i) for i in range(16)]
    assert all(min(small.picture(i).size) == 64 and small.intact(i) for i in range(16))
    # evaluation, whose first step is that very resize, cannot tell the difference
    transform = eval_transform(Data(image_size=56))
    for i in range(16):
        assert np.array_equal(transform(small.picture(i)), transform(source.picture(i)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "train.pack"]


def test_packed_crops_are_crops_of_the_packed_pictures(folder, tmp_path):
    pytest.importorskip("cv2")
    small = packed(folder, tmp_path, size=80)
    for size in (64, 32):  # 32 shrinks by more than OpenCV's filter is good for
        data = Data(image_size=size, source="packed")
        assert differences(small, data, None).max() < 2


def test_packed_batches_are_the_same_for_any_number_of_workers(folder, tmp_path):
    pytest.importorskip("cv2")
    small, data = packed(folder, tmp_path), Data(image_size=32, source="packed")
    small.pixels(0)
    found = []
    for workers in (0, 2):
        pictures = Pictures(small, train_transform(data), 0, open_decoder(data))
        found.append(list(Feeder(Loader(pictures, TrainOrder(16, 8, 0, 0, 4), workers, pin_memory=False), CPU)))
    assert all(torch.equal(a, b) for one, other in zip(*found, strict=True) for a, b in zip(one, other, strict=True))


class Slowly(Digits):
    def picture(self, index):
        time.sleep(0.003)
        return super().picture(index)


def test_packing_that_is_killed_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr("ddfnet.data.packing.FLUSH_SECONDS", 0.05)
    pack(Digits(False, 0), tmp_path / "whole/val.pack", 6, workers=0)
    journal = tmp_path / "killed/val.pack.journal"
    process = Process(target=pack, args=(Slowly(False, 0), tmp_path / "killed/val.pack", 6), kwargs={"workers": 0})
    process.start()
    while process.is_alive() and not (journal.exists() and journal.stat().st_size > 1000):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "killed/val.pack").exists()
    done = []
    pack(Digits(False, 0), tmp_path / "killed/val.pack", 6, workers=1, progress=done.append)
    assert 0 < done[0] < 360 and done[-1] == 360
    assert (tmp_path / "killed/val.pack").read_bytes() == (tmp_path / "whole/val.pack").read_bytes()
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["val.pack"]


def test_packing_says_what_is_in_its_way(folder, tmp_path):
    source = ImageFolder(folder)
    packed(folder, tmp_path)
    pack(source, tmp_path / "train.pack", 64)  # it is there: nothing to do
    with pytest.raises(UserError, match=r"train.pack: holds other pictures, or of another size"):
        pack(source, tmp_path / "train.pack", 48)
    (folder / "dog/3.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"dog/3.jpg: the file is empty"):
        pack(source, tmp_path / "b.pack", 48, workers=0)
    with pytest.raises(UserError, match=r"b.pack.part: is the beginning of another packing"):
        pack(source, tmp_path / "b.pack", 32, workers=0)
    (bad,) = pack(source, tmp_path / "c.pack", 48, workers=0, leave_out_corrupt=True)
    small = Packed(tmp_path, "c")
    assert "dog/3.jpg" in bad and len(small.labels) == 15 and small.intact(14) and small.name(14) == "dog/8.png"


@pytest.mark.parametrize(
    "spoil,sentence",
    [
        (lambda blob: b"", "is no packed file of scripts/pack.py"),
        (lambda blob: b"\xff\xd8" + blob[2:], "is no packed file of scripts/pack.py"),
        (lambda blob: blob[:8] + b"\2" + blob[9:], "has version 2, expected 1"),
        (lambda blob: blob[:20] + b"\7" + blob[21:], "is damaged or incomplete"),
        (lambda blob: blob[:50], "is damaged or incomplete"),
        (lambda blob: blob[:-1], "is damaged or incomplete"),
        (lambda blob: blob[:-40] + b"x" + blob[-39:], "is damaged or incomplete"),
    ],
)
def test_a_packed_file_that_is_not_whole_is_refused(tmp_path, spoil, sentence):
    pack(Digits(False, 0), tmp_path / "val.pack", 8, workers=0)
    path = tmp_path / "val.pack"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(UserError) as error:
        Packed(tmp_path, "val")
    assert str(error.value).startswith(f"{path}: ") and sentence in str(error.value)


def test_a_changed_pixel_is_found_by_its_checksum(tmp_path):
    pack(Digits(False, 0), tmp_path / "val.pack", 8, workers=0)
    path = tmp_path / "val.pack"
    blob = bytearray(path.read_bytes())
    blob[DATA_START + 8 * 8 * 3 * 5] ^= 1
    path.write_bytes(blob)
    assert [i for i in range(360) if not Packed(tmp_path, "val").intact(i)] == [5]


def test_jpeg_headers():
    picture = smooth(np.random.default_rng(0), 33, 44)

    def header(**options):
        file = io.BytesIO()
        picture.save(file, "JPEG", **options)
        return decoders.jpeg_header(file.getvalue()), file.getvalue()

    found, blob = header()
    assert (found.width, found.height, found.components, found.baseline) == (44, 33, 3, True)
    assert header(progressive=True)[0].baseline is False
    for odd in (b"", blob[:-40], blob[:20], b"\x89PNG", blob.replace(b"\xff\xc0", b"\xff\xc9", 1)):
        assert decoders.jpeg_header(odd) is None
