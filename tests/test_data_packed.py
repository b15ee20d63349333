"""Packed pictures: what scripts/pack.py makes, and how it is read."""

import os
import pickle
import resource
import signal
import time
from multiprocessing import Process, active_children

import numpy as np
import pytest
import torch
from commands import command
from image_batches import feeder, images_and_labels
from jpegs import differences, write_jpegs
from PIL import Image

from ddfnet.config import Data
from ddfnet.data import Packed, TrainOrder, pack
from ddfnet.data.sources import Digits, ImageFolder
from ddfnet.data.sources.packed import DATA_START
from ddfnet.errors import UserError
from ddfnet.tasks.classification.augment import eval_transform, train_transform
from ddfnet.tasks.classification.dataset import Pictures
from ddfnet.tasks.classification.decoders import open_decoder

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return write_jpegs(tmp_path / "data")


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


@pytest.mark.parametrize("side", [20, 50])
def test_a_very_long_image_is_packed_without_its_far_ends_and_evaluated_alike(tmp_path, side):
    pixels = np.random.default_rng(0).integers(0, 255, (side, 101 * side, 3), dtype=np.uint8)
    (tmp_path / "data/cat").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "data/cat/0.png")
    small, transform = packed(tmp_path / "data", tmp_path, size=32, workers=0), eval_transform(Data(image_size=28))
    assert small.picture(0).size == (64 * min(side, 32), min(side, 32))
    assert np.array_equal(transform(small.picture(0)), transform(Image.fromarray(pixels)))


def test_pack_shrinks_as_the_evaluation_interpolates(folder, tmp_path):
    """With the interpolation of training drawn for each image."""
    (tmp_path / "both").mkdir()
    for split in ("train", "val"):
        (tmp_path / "both" / split).symlink_to(folder)
    options = ["data.interpolation=random", "data.eval_interpolation=bicubic"]
    arguments = ["--output", tmp_path, "--size", "64", "--workers", "1"]
    result = command("scripts/pack.py", tmp_path / "both", *options, *arguments)
    assert result.returncode == 0, result.stderr
    source, small = ImageFolder(folder), Packed(tmp_path, "val")
    transform = eval_transform(Data(image_size=56, interpolation="random", eval_interpolation="bicubic"))
    assert all(np.array_equal(transform(small.picture(i)), transform(source.picture(i))) for i in range(16))


def test_packed_crops_are_crops_of_the_packed_pictures(folder, tmp_path):
    pytest.importorskip("cv2")
    small = packed(folder, tmp_path, size=80)
    for size in (64, 32):  # 32 shrinks by more than OpenCV's filter is good for
        data = Data(image_size=size, source="packed")
        assert differences(small, data, None).max() < 2


@pytest.mark.parametrize("size,by_opencv", [(54, True), (53, False)])
def test_opencv_shrinks_by_no_more_than_a_half(folder, tmp_path, size, by_opencv):
    """Of 80 pixels: from 1.5 times the size on its filter would leave pixels out."""
    pytest.importorskip("cv2")
    small, data = packed(folder, tmp_path, size=80), Data(image_size=size, source="packed", scale=[1, 1], ratio=[1, 1])
    decoder = open_decoder(data)
    plain, asked = decoder._resize, []
    decoder._resize = lambda *args: asked.append(args) or plain(*args)
    assert decoder(small, 0, 0).shape == (3, size, size)
    assert bool(asked) == by_opencv


def test_packed_pictures_are_sent_to_workers_that_are_not_forked(folder, tmp_path):
    small = packed(folder, tmp_path)
    want = small.pixels(3).copy()  # the file is mapped, which cannot be sent
    again = pickle.loads(pickle.dumps(small))
    assert np.array_equal(again.pixels(3), want) and again.name(3) == small.name(3)


def test_packed_batches_are_the_same_for_any_number_of_workers(folder, tmp_path):
    pytest.importorskip("cv2")
    small, data = packed(folder, tmp_path), Data(image_size=32, source="packed")
    small.pixels(0)
    found = []
    for workers in (0, 2):
        pictures = Pictures(small, train_transform(data), 0, open_decoder(data))
        found.append(images_and_labels(feeder(pictures, TrainOrder(16, 8, 0, 0, 4), workers)))
    assert all(torch.equal(a, b) for one, other in zip(*found, strict=True) for a, b in zip(one, other, strict=True))


def test_a_pack_is_whole_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    synced, part = [], tmp_path / "val.pack.part"
    monkeypatch.setattr("os.fsync", lambda number: synced.append(part.exists() and part.read_bytes()))
    pack(Digits(False, 0), tmp_path / "val.pack", 6, workers=0)
    assert (tmp_path / "val.pack").read_bytes() in synced


class KillsItsProcess(Digits):
    def picture(self, index):
        if index == 100:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().picture(index)


def test_packing_whose_worker_is_killed_says_so_and_goes_on_where_it_was(tmp_path):
    pack(Digits(False, 0), tmp_path / "whole/val.pack", 6, workers=0)
    path, done = tmp_path / "killed/val.pack", []
    with pytest.raises(UserError, match=r"a worker process was killed, .*: the same command, with fewer --workers"):
        pack(KillsItsProcess(False, 0), path, 6, workers=1)
    pack(Digits(False, 0), path, 6, workers=1, progress=done.append)
    assert 0 < done[0] <= 100 and path.read_bytes() == (tmp_path / "whole/val.pack").read_bytes()


def test_packing_that_is_stopped_ends_its_workers(tmp_path):
    def stop(done):
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(Digits(False, 0), tmp_path / "val.pack", 6, workers=2, progress=stop)
    assert not active_children()
    done = []
    pack(Digits(False, 0), tmp_path / "val.pack", 6, workers=0, progress=done.append)
    assert done[0] == 50


def test_workers_of_a_packing_that_is_killed_end_too(tmp_path):
    def kill(done):
        if done == 50:
            os.kill(os.getpid(), signal.SIGKILL)

    read, write = os.pipe()  # its end is read when no process is left that could write
    path = tmp_path / "val.pack"
    process = Process(target=pack, args=(Digits(False, 0), path, 6), kwargs={"workers": 2, "progress": kill})
    process.start()
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    process.join()
    pack(Digits(False, 0), path, 6, workers=0)  # nobody holds its lock


def test_packing_onto_a_full_disk_names_the_file_and_goes_on_when_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr("ddfnet.data.packing.FLUSH_SECONDS", 0)
    pack(Digits(False, 0), tmp_path / "whole/val.pack", 8, workers=0)
    path, done = tmp_path / "full/val.pack", []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))  # fails in write(), as a full disk does
    try:
        with pytest.raises(UserError, match=rf"{path}.part: File too large: make room"):
            pack(Digits(False, 0), path, 8, workers=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    pack(Digits(False, 0), path, 8, workers=0, progress=done.append)
    assert 100 < done[0] < 360 and path.read_bytes() == (tmp_path / "whole/val.pack").read_bytes()


def test_pictures_left_out_before_a_stop_are_listed_at_the_end(folder, tmp_path):
    def stop(done):
        if done == 6:
            raise KeyboardInterrupt

    (folder / "cat/1.jpg").write_bytes(b"")
    (folder / "dog/3.jpg").write_bytes(b"")
    arguments = (ImageFolder(folder), tmp_path / "train.pack", 48)
    with pytest.raises(KeyboardInterrupt):
        pack(*arguments, workers=0, leave_out_corrupt=True, progress=stop)
    bad = pack(*arguments, workers=0, leave_out_corrupt=True)
    assert [sentence.split(": ")[0] for sentence in bad] == [f"{folder}/cat/1.jpg", f"{folder}/dog/3.jpg"]


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
