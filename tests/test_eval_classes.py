"""Which class is which: orders of folders that a network may not know, and classes that shards only number."""

import io
import json
import os
import tarfile

import pytest
import timm
import torch
from commands import command
from eval_runs import FOLDER, assert_says, eval_py, result_of, with_content, write_digits
from PIL import Image
from small_runs import ALONE, run

from ddfnet.data import open_source
from ddfnet.data.sources import WebDataset
from ddfnet.errors import UserError
from ddfnet.tasks.classification import Classification
from ddfnet.tasks.classification.candidates import open_timm
from ddfnet.tasks.classification.evaluate import open_evaluation
from ddfnet.tasks.classification.label_files import read_class_map


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


# ---- folders with numbers


def write_classes(root, names):
    for name in names:
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (hash(name) % 255, 0, 0)).save(root / name / f"{name[:5]}.png")
    return root


def evaluation(tmp_path, names, *overrides, **measures):
    """Of a network of timm without class names, over folders of these."""
    torch.save(timm.create_model("test_resnet", num_classes=len(names)).state_dict(), tmp_path / "w.pth")
    options = [*FOLDER, f"data.root={write_classes(tmp_path / 'data', names)}", "data.workers=0", *overrides]
    candidate = open_timm("test_resnet", str(tmp_path / "w.pth"), None, options, False)
    return open_evaluation(candidate, ALONE, **measures)


def test_classes_in_another_order_than_their_numbers_are_warned_of(tmp_path, capsys):
    assert evaluation(tmp_path, [str(i) for i in range(12)]).classes[:3] == ["0", "1", "10"]
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {tmp_path}/data: .: the classes are taken in the order 0, 1, 10, 11, ..., but ")
    assert "test_resnet has no names" in said and "number them 0, 1, 2, 3, ...:" in said and "--class-map FILE" in said
    assert said.count("\n") == 1


def test_the_warning_comes_for_archives_too(tmp_path, capsys):
    write_classes(tmp_path / "folder", [f"class {i}" for i in range(12)])
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        archive.add(tmp_path / "folder", ".")
    evaluation(tmp_path, [str(i) for i in range(12)], "data.source=tar", f"data.root={tmp_path}", "data.val_split=val")
    assert "in the order class 0, class 1, class 10, class 11, ..., but" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names",
    [
        [f"n{number:08}" for number in (1440764, 1443537, 15075141, 9246464)],  # WNIDs
        [f"{number:03}" for number in range(12)],
        ["cat", "dog", "emu"],
        list("0123456789"),
    ],
    ids=lambda names: names[0],
)
def test_orders_that_are_the_same_are_not_warned_of(tmp_path, capsys, names):
    evaluation(tmp_path, names)
    assert capsys.readouterr().err == ""


def test_no_warning_where_a_class_map_says_which_they_are(tmp_path, capsys):
    names = sorted(map(str, range(12)))
    (tmp_path / "map.json").write_text(json.dumps({name: int(name) for name in names}))
    task = evaluation(tmp_path, names, class_map=str(tmp_path / "map.json"))
    assert task.model._outputs.tolist() == [int(name) for name in names] and capsys.readouterr().err == ""


def test_no_warning_for_a_run_which_knows_its_classes(checkpoint, tmp_path, capsys):
    root = write_digits(tmp_path / "digits", 20)
    assert eval_py("--ckpt", checkpoint, *FOLDER, f"data.root={root}", "run.device=cpu") is None
    assert "warning" not in capsys.readouterr().err


def test_real_labels_in_another_order_than_the_images_numbers_are_warned_of(tmp_path, capsys):
    (tmp_path / "real.json").write_text(json.dumps([[0]] * 12))
    names = [f"n{number}" for number in range(12)]
    evaluation(tmp_path, names, real=str(tmp_path / "real.json"))
    said = capsys.readouterr().err
    assert "real.json: its labels are taken for the images in the order n0.png, n1.png, n10.png, n11.png, ..., " in said
    assert "not n0.png, n1.png, n2.png, n3.png, ...: rename the images" in said


def test_natural_order_is_timms():
    from timm.utils.misc import natural_key as timms

    from ddfnet.data.sources.names import natural_key

    names = ["10", "9", "a2b10", "a2b9", "A10", "a9", "", "b", "n01440764", "1.5"]
    assert sorted(names, key=natural_key) == sorted(names, key=timms)
    assert natural_key("x²") == ["x²"]  # a digit, but no number for Python


# ---- names that are no UTF-8, in files about classes


def test_files_about_classes_hold_names_as_the_file_system_does(tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    (tmp_path / "map.txt").write_bytes(b"caf\xe9\nb\n")
    assert read_class_map(str(tmp_path / "map.txt"), ["b", odd], ["x", "y"]) == [1, 0]
    write_shard(tmp_path / "val-0.tar", [0, 1])
    (tmp_path / "classnames.txt").write_bytes(b"caf\xe9\nb\n")
    assert open_source("webdataset", str(tmp_path), "val", False, 0).classes == [odd, "b"]


# ---- shards with numbers


def write_shard(path, labels):
    digits = open_source("digits", "", "", True, seed=0)
    with tarfile.open(path, "w") as archive:
        for key, label in enumerate(labels):
            image = io.BytesIO()
            digits.picture(digits.labels.tolist().index(label)).save(image, "png")
            for name, blob in ((f"{key:04}.png", image.getvalue()), (f"{key:04}.cls", str(label).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(blob)
                archive.addfile(info, io.BytesIO(blob))


WITHOUT = [9, 4, 0]  # the last class, one in the middle, the first


@pytest.mark.parametrize("missing", WITHOUT)
def test_a_validation_without_a_class_is_trained_and_evaluated_on_whichever_it_is(tmp_path, small, missing):
    write_shard(tmp_path / "train-0.tar", [*range(10)] * 2)
    write_shard(tmp_path / "val-0.tar", [label for label in range(10) if label != missing] * 2)
    shards = ["data.source=webdataset", f"data.root={tmp_path}"]
    config = small("a", *shards, "train.batch_size=10", "train.epochs=1", "train.warmup_epochs=0")
    assert run(config)["images"] == 18
    options = ["--ckpt", tmp_path / "a/checkpoints/last.pt", "--per-class", tmp_path / "classes.csv"]
    assert result_of(tmp_path, *options)["images"] == 18
    rows = (tmp_path / "classes.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:2] for row in rows] == [[str(i), "0" if i == missing else "2"] for i in range(10)]


def test_shards_of_a_run_with_names_need_classnames_txt(checkpoint, tmp_path):
    (tmp_path / "shards").mkdir()
    write_shard(tmp_path / "shards/val-0.tar", range(9))
    named = with_content(checkpoint, tmp_path / "named.pt", data={"classes": [f"digit {i}" for i in range(10)]})
    options = ["data.source=webdataset", f"data.root={tmp_path / 'shards'}"]
    sentence = f"name all classes in {tmp_path}/shards/classnames.txt, one a line in the order of their numbers"
    assert_says(sentence, tmp_path / "shards", "--ckpt", named, *options)
    (tmp_path / "shards/classnames.txt").write_text("".join(f"digit {i}\n" for i in range(10)))
    assert eval_py("--ckpt", named, *options, "run.device=cpu") is None


def test_a_model_of_timm_is_not_given_classes_that_shards_do_not_have(tmp_path):
    """Nine classes of a dataset are not the first nine of ImageNet."""
    torch.save(timm.create_model("test_resnet", num_classes=10).state_dict(), tmp_path / "w.pth")
    root = tmp_path / "shards"
    root.mkdir()
    write_shard(root / "val-0.tar", range(9))
    options = ["--model", "test_resnet", "--weights", tmp_path / "w.pth", "data.source=webdataset", "data.workers=0"]
    sentence = (
        "has 9 classes, but test_resnet tells 10 apart: give data of just these, or say by --class-map which they"
    )
    sentence += f" are; name all classes in {root}/classnames.txt, one a line"
    assert_says(sentence, root, *options, f"data.root={root}")
    (root / "classnames.txt").write_text("".join(f"{i}\n" for i in range(10)))
    assert eval_py(*options, f"data.root={root}", "run.device=cpu") is None


def test_a_training_without_a_class_of_the_validation_says_so(tmp_path, small):
    write_shard(tmp_path / "train-0.tar", [*range(9)] * 2)
    write_shard(tmp_path / "val-0.tar", range(10))
    with pytest.raises(UserError, match=r"has 10 classes, expected the 9 of training; .*: 9; name all classes in .*"):
        Classification(small("a", "data.source=webdataset", f"data.root={tmp_path}", "train.batch_size=10"), ALONE)


def test_classes_in_another_order_are_said_to_be(checkpoint, tmp_path):
    root = write_digits(tmp_path / "digits", 20)
    turned = with_content(checkpoint, tmp_path / "turned.pt", data={"classes": list("9876543210")})
    sentence = "has 10 classes, expected the 10 of training; they are in another order"
    assert_says(sentence, tmp_path, "--ckpt", turned, *FOLDER, f"data.root={root}")


def test_packed_shards_keep_a_class_that_the_validation_lacks(tmp_path, small):
    write_shard(tmp_path / "train-0.tar", [*range(10)] * 2)
    write_shard(tmp_path / "val-0.tar", range(9))
    shards = ["data.source=webdataset", tmp_path, "--workers", "1"]
    done = command("scripts/pack.py", *shards, "--output", tmp_path / "packed", "--size", "8")
    assert done.returncode == 0, done.stderr
    assert open_source("packed", str(tmp_path / "packed"), "val", False, 0).classes == list("0123456789")
    said = command("scripts/verify_data.py", *shards).stdout
    assert "val: class 9 has no picture" in said and "train only" not in said


def test_classnames_txt_names_every_class_and_no_other(tmp_path):
    write_shard(tmp_path / "val-0.tar", range(10))
    file = tmp_path / "classnames.txt"
    file.write_bytes("".join(f"digit {n}\n" for n in range(10)).encode("utf-8-sig") + b"\n\r\n")
    assert WebDataset(tmp_path, "val").classes == [f"digit {n}" for n in range(10)]
    file.write_text("zero\none\n\nthree\n" + "more\n" * 6)
    with pytest.raises(UserError, match=r"classnames\.txt: line 3 is empty: name a class there"):
        WebDataset(tmp_path, "val")
