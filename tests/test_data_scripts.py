"""scripts/pack.py, scripts/verify_data.py and scripts/benchmark.py data, as a user runs them."""

import json
import os
import signal
import sys

import numpy as np
import pytest
import torch
import verify_data
from commands import command
from measure import data as measure_data
from PIL import Image
from small_runs import run

from ddfnet.data.processes import AHEAD, CHUNK, in_order
from ddfnet.data.sources import Digits
from ddfnet.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Two classes of four JPEGs in each split."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(4):
                picture = Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
                picture.save(tmp_path / "data" / split / name / f"{i}.jpg")
    return tmp_path / "data"


def verify(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["verify_data.py", "--workers", "1", *map(str, arguments)])
    code = verify_data.main()
    return code, capsys.readouterr().out


def test_pack_then_verify_then_train(folder, tmp_path, small, monkeypatch, capsys):
    pytest.importorskip("cv2")
    out = tmp_path / "packed"
    result = command("scripts/pack.py", folder, "--output", out, "--size", "24", "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["train.pack", "val.pack"]
    code, said = verify(monkeypatch, capsys, out, "data.source=packed")
    assert code == 0 and "8 pictures of 2 classes in train, 8 pictures of 2 classes in val: in order" in said
    summary = run(small("a", "data.source=packed", f"data.root={out}", "train.batch_size=4", "train.epochs=2"))
    assert summary["images"] == 8
    blob = bytearray((out / "val.pack").read_bytes())
    blob[5000] ^= 1
    (out / "val.pack").write_bytes(blob)
    code, said = verify(monkeypatch, capsys, out, "data.source=packed")
    assert code == 1 and "val.pack: cat/0.jpg has a wrong checksum" in said


def test_pack_names_a_corrupt_picture_and_goes_on_when_it_is_mended(folder, tmp_path):
    good = (folder / "train/dog/2.jpg").read_bytes()
    (folder / "train/dog/2.jpg").write_bytes(good[:200])
    arguments = ["scripts/pack.py", folder, "--output", tmp_path / "out", "--size", "24", "--workers", "1"]
    result = command(*arguments)
    assert result.returncode == 1 and result.stderr.startswith(f"error: {folder}/train/dog/2.jpg: the picture cannot")
    assert result.stderr.count("\n") == 1 and not (tmp_path / "out/train.pack").exists()
    (folder / "train/dog/2.jpg").write_bytes(good)
    assert command(*arguments).returncode == 0 and (tmp_path / "out/val.pack").exists()


def test_verify_lists_bad_pictures_and_differing_classes(folder, tmp_path, monkeypatch, capsys):
    assert verify(monkeypatch, capsys, folder)[0] == 0
    (folder / "train/cat/1.jpg").write_bytes(b"")
    (folder / "val/dog/3.jpg").write_text("hello")
    (folder / "val/dog").rename(folder / "val/emu")
    code, said = verify(monkeypatch, capsys, folder, "--list", tmp_path / "bad.txt")
    lines = said.splitlines()
    assert code == 1 and "6 pictures" not in said
    for sentence in (
        f"{folder}/train/cat/1.jpg: the file is empty",
        f"{folder}/val/emu/3.jpg: is not a picture, although it is named like one",
        "class dog is in train only",
        "class emu is in val only",
    ):
        assert sentence in lines and sentence in (tmp_path / "bad.txt").read_text()
    assert lines[-1].endswith("4 things are wrong")


class KillsItsProcess(Digits):
    def picture(self, index):
        if index == 100:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().picture(index)


def test_verify_says_that_a_worker_was_killed():
    with pytest.raises(UserError, match=r"a worker process was killed, most likely for want of memory: use fewer"):
        verify_data.bad_pictures("val", KillsItsProcess(False, 0), 2)


def test_verify_counts_against_imagenet(folder, monkeypatch, capsys):
    code, said = verify(monkeypatch, capsys, folder, "--imagenet")
    assert code == 1 and "train: 8 pictures, ImageNet-1k has 1,281,167" in said
    assert "val: 2 classes, ImageNet-1k has 1,000" in said and "val: class dog has 4 pictures, expected 50" in said

    class Whole:
        classes = [f"n{number:08}" for number in range(1000)]

    train, val = Whole(), Whole()
    train.labels, val.labels = np.arange(1_281_167) % 1000, np.repeat(np.arange(1000), 50)
    assert verify_data.looks_like_imagenet(train.classes)
    assert verify_data.differences_from_imagenet({"train": train, "val": val}) == []
    val.labels = val.labels[1:]
    assert len(verify_data.differences_from_imagenet({"train": train, "val": val})) == 2


def test_a_config_names_the_dataset(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "a.yaml").write_text(f"data: {{root: {folder}}}\n")
    assert verify(monkeypatch, capsys, "--config", tmp_path / "a.yaml")[0] == 0
    with pytest.raises(UserError, match=r"^command line: expected a dataset's folder, or --config FILE$"):
        verify(monkeypatch, capsys, "data.image_size=64")
    assert verify(monkeypatch, capsys, f"data.root={folder}")[0] == 0


def test_no_more_waits_in_memory_than_a_few_chunks_for_each_process():
    class Counted(list):
        drawn = 0

        def __getitem__(self, place):
            self.drawn += 1
            return super().__getitem__(place)

    numbers = Counted(range(40 * CHUNK))
    results = in_order(abs, numbers, 2, "")
    for number in range(20 * CHUNK):
        assert next(results) == number
        assert numbers.drawn <= number // CHUNK + 1 + AHEAD * 2
    results.close()


@pytest.mark.parametrize("script", ["pack.py", "verify_data.py"])
def test_mistakes_are_one_sentence(tmp_path, script):
    output = ["--output", tmp_path / "out"] if script == "pack.py" else []
    result = command(f"scripts/{script}", tmp_path / "nowhere", *output)
    assert result.returncode == 1 and result.stderr == (
        f"error: {tmp_path}/nowhere/train: no such folder, expected one with a folder of pictures for each class\n"
    )


def test_benchmark_of_the_data_path_measures_every_way(folder, capsys):
    figures: dict = {}
    measure_data.measure(figures, folder, torch.device("cpu"), size=24, rounds=1, workers=(1,))
    ways = [row["way"].split(":")[0] for row in figures["one_core"]]
    assert ways[:2] == [measure_data.REFERENCE, "pil"] and ways[-1] == "nvjpeg"
    assert figures["pictures"]["count"] == 8 and len(figures["loader"]) == len(ways) - 1
    assert all(row["images_per_second"] > 0 for row in figures["one_core"] + figures["loader"])
    assert json.dumps(figures)


def test_training_on_synthetic_pictures_needs_no_data(small):
    overrides = ["data.source=synthetic", "data.synthetic_pictures=8", "train.batch_size=4", "train.epochs=2"]
    assert run(small("a", *overrides))["images"] == 8


def test_replaced_pictures_are_counted_by_the_task(folder, small):
    from small_runs import ALONE

    from ddfnet.tasks.classification import Classification

    (folder / "train/cat/1.jpg").write_bytes(b"")
    overrides = ["data.source=imagefolder", f"data.root={folder}", "train.batch_size=8", "data.on_corrupt=replace"]
    task = Classification(small("a", *overrides), ALONE)
    assert task.corrupt == {}
    list(task.train_batches(0, 2))
    assert list(task.corrupt) == ["cat/1.jpg"] and task.corrupt["cat/1.jpg"] >= 2
    assert task.data_identity["dataset"].startswith("8 pictures of 2 classes, fingerprint ")
