"""Pictures that are odd, and pictures that are none: what is read, what is refused in a sentence, what is replaced."""

import io
import os
import shutil
import signal
import struct
import time
import zlib

import numpy as np
import pytest
import torch
from image_batches import feeder, images_and_labels, reading_process
from PIL import Image

from ddfnet.config import Data
from ddfnet.data import EvalOrder, TrainOrder
from ddfnet.data.picture import decode
from ddfnet.data.sources import ImageFolder
from ddfnet.errors import UserError
from ddfnet.tasks.classification.augment import eval_transform, train_transform
from ddfnet.tasks.classification.dataset import Pictures
from ddfnet.tasks.classification.decoders import open_decoder

PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
CPU = torch.device("cpu")


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(quality=95):
    return encoded(Image.fromarray(PIXELS), "JPEG", quality=quality)


def huge_png():
    """A header that claims 60,000 x 60,000 pixels, and nothing to fill them."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def turned_by_exif():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    return encoded(FIRST, "PNG", exif=exif)


BAD = {
    "zero bytes": (b"", "the file is empty"),
    "text": (b"hello", "is not a picture, although it is named like one"),
    "truncated JPEG": (jpeg()[:300], "the picture cannot be decoded: "),
    "JPEG of a header alone": (jpeg()[:30], "the picture cannot be decoded: "),
    "truncated PNG": (encoded(Image.fromarray(PIXELS), "PNG")[:400], "the picture cannot be decoded: "),
    "huge": (huge_png(), "is too large to be decoded: "),
    "floating point TIFF": (
        encoded(Image.new("F", (4, 4)), "TIFF"),
        "pixels are floating point, expected 8 or 16 bits",
    ),
    "32-bit TIFF": (
        encoded(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), "TIFF"),
        "pixels are 32-bit integers, expected 8 or 16 bits",
    ),
    "zeros": (bytes(1000), "is not a picture"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_picture_is_refused_in_one_sentence(tmp_path, kind):
    blob, sentence = BAD[kind]
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/bad.jpg").write_bytes(blob)
    with pytest.raises(UserError) as error:
        ImageFolder(tmp_path).picture(0)
    message = str(error.value)
    assert message.startswith(f"{tmp_path}/cat/bad.jpg: ") and sentence in message and "\n" not in message


GREY16 = (np.arange(600, dtype=np.uint16) * 100).reshape(20, 30)
FIRST, SECOND = Image.fromarray(PIXELS), Image.new("RGB", (30, 20))
ODD = {
    "16-bit PNG": (encoded(Image.fromarray(GREY16), "PNG"), np.stack([GREY16 >> 8] * 3, -1), 0),
    "16-bit TIFF": (encoded(Image.fromarray(GREY16), "TIFF"), np.stack([GREY16 >> 8] * 3, -1), 0),
    "greyscale JPEG": (encoded(Image.fromarray(PIXELS).convert("L"), "JPEG", quality=100), None, 4),
    "CMYK JPEG": (encoded(Image.fromarray(PIXELS).convert("CMYK"), "JPEG", quality=100, subsampling=0), PIXELS, 12),
    "palette with alpha": (
        encoded(Image.fromarray(PIXELS // 64 * 64).quantize(256), "PNG", transparency=3),
        PIXELS // 64 * 64,
        64,
    ),
    "alpha is dropped": (encoded(Image.fromarray(np.dstack([PIXELS, PIXELS[..., :1]])), "PNG"), PIXELS, 0),
    "1-bit": (encoded(Image.new("1", (30, 20), 1), "PNG"), np.full((20, 30, 3), 255), 0),
    "animated GIF": (encoded(FIRST, "GIF", save_all=True, append_images=[SECOND]), PIXELS, 128),
    "animated WebP": (encoded(FIRST, "WEBP", save_all=True, append_images=[SECOND], lossless=True), PIXELS, 0),
    "not turned by EXIF": (turned_by_exif(), PIXELS, 0),
    "CMYK TIFF": (encoded(Image.fromarray(PIXELS).convert("CMYK"), "TIFF"), PIXELS, 2),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_odd_pictures_are_read_as_eight_bit_rgb(kind):
    blob, want, tolerance = ODD[kind]
    if want is None:
        want = np.stack([np.asarray(Image.fromarray(PIXELS).convert("L"))] * 3, -1)
    found = decode(blob, kind)
    assert found.mode == "RGB"
    assert np.abs(np.asarray(found).astype(int) - want).max() <= tolerance


# ---- in a dataset


@pytest.fixture
def folder(tmp_path):
    """Two classes of twenty pictures."""
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(20):
            picture = Image.fromarray(np.roll(PIXELS, i * 7 + (name == "dog"), (0, 1)))
            picture.save(tmp_path / "data" / name / f"{i:02}.jpg")
    return tmp_path / "data"


def spoil(folder):
    (folder / "cat/03.jpg").write_bytes(jpeg()[:300])
    (folder / "dog/11.jpg").write_bytes(b"")


@pytest.mark.parametrize("decoder", ["pil", "turbo", "nvjpeg"])
def test_a_corrupt_picture_is_replaced_by_the_same_one_for_any_number_of_workers(folder, decoder):
    if decoder == "turbo":
        pytest.importorskip("simplejpeg")
    spoil(folder)
    data = Data(image_size=16, decoder=decoder)
    found, counted = [], []
    for workers in (0, 2):
        pictures = Pictures(ImageFolder(folder), train_transform(data), 5, open_decoder(data), replace_corrupt=True)
        batches = feeder(pictures, TrainOrder(40, 8, 5, 0, 15), workers)
        found.append(images_and_labels(batches))
        counted.append(batches.replaced)
    assert counted[0] == counted[1] and sorted(counted[0]) == ["cat/03.jpg", "dog/11.jpg"]
    assert all(3 <= count <= 5 for count in counted[0].values())  # three epochs, and drawn for one another
    for (images, labels), (others, other_labels) in zip(*found, strict=True):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)


def test_replacements_differ_from_epoch_to_epoch(folder):
    spoil(folder)
    pictures = Pictures(ImageFolder(folder), train_transform(Data(image_size=16)), 0, replace_corrupt=True)
    samples = [pictures[epoch, 3] for epoch in range(8)]
    assert all(sample.replaced == ["cat/03.jpg"] for sample in samples)
    assert {sample.label for sample in samples} == {0, 1}


def test_corrupt_pictures_are_never_replaced_by_default_or_when_they_are_missing(folder):
    spoil(folder)
    with pytest.raises(UserError, match=r"cat/03.jpg: the picture cannot be decoded"):
        raise Pictures(ImageFolder(folder), train_transform(Data(image_size=16)), 0)[0, 3]
    source = ImageFolder(folder)
    (folder / "cat/05.jpg").unlink()
    with pytest.raises(UserError, match=r"cat/05.jpg: the file has vanished since the dataset was opened"):
        raise Pictures(source, train_transform(Data(image_size=16)), 0, replace_corrupt=True)[0, 5]


def test_a_dataset_of_nothing_but_corrupt_pictures_is_an_error_even_so(folder):
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"")
    error = Pictures(ImageFolder(folder), train_transform(Data(image_size=16)), 0, replace_corrupt=True)[0, 0]
    assert isinstance(error, UserError) and "the file is empty (and 10 others drawn in its place" in str(error)


def test_a_dataset_that_vanished_is_one_sentence(folder):
    source = ImageFolder(folder)
    shutil.rmtree(folder)
    data = Data(image_size=16)
    with pytest.raises(UserError) as error:
        list(feeder(Pictures(source, eval_transform(data), None), EvalOrder(40, 8), workers=1))
    assert str(error.value) == f"{folder}: the dataset has vanished since it was opened: bring it back and run again"


def test_a_file_that_may_not_be_read_is_named(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    source = ImageFolder(folder)
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match=r"00.jpg: the file cannot be read: Permission denied"):
        source.encoded(0)


def test_a_killed_worker_is_one_sentence_not_a_traceback(folder):
    class Slow(ImageFolder):
        def encoded(self, index):
            time.sleep(0.05)
            return super().encoded(index)

    handler = signal.getsignal(signal.SIGCHLD)
    pictures = Pictures(Slow(folder), train_transform(Data(image_size=16)), 0)
    read = feeder(pictures, TrainOrder(40, 8, 0, 0, 500), workers=2)
    batches = iter(read)
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == handler  # so that it is found where the data are waited for
    os.kill(reading_process(read), signal.SIGKILL)
    with pytest.raises(UserError, match=r"was killed, most likely by the system.*fewer than data.workers = 2"):
        list(batches)
