"""What eval.py says to a mistake: one sentence that names the thing; nothing is executed, nothing half written."""

import pickle
import zipfile

import pytest
import timm
import torch
from commands import command
from eval_runs import FOLDER, assert_says, on_processes, with_content, write_digits

# ---- checkpoints


class Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def spoil(kind, path, checkpoint):
    content = checkpoint.read_bytes()
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("hello")
    elif kind == "folder":
        path.mkdir()
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "one byte":
        with zipfile.ZipFile(checkpoint) as file:
            largest = max(file.infolist(), key=lambda part: part.file_size)
        place = largest.header_offset + 1000
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif kind == "half of another":
        path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    elif kind == "tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "code":
        path.write_bytes(pickle.dumps({"format": 1, "state_dict": Attack(path.with_name("executed"))}))
    elif kind == "code in a zip":
        torch.save({"format": 1, "state_dict": Attack(path.with_name("executed"))}, path)
    elif kind == "code in weights":
        with_content(checkpoint, path, state_dict={"fc.weight": Attack(path.with_name("executed"))})
    elif kind == "foreign":
        torch.save({"state_dict": {"fc.weight": torch.zeros(2, 2)}}, path)
    elif kind == "no classes":
        with_content(checkpoint, path, data=None)
    elif kind == "no mapping":
        with_content(checkpoint, path, config=["train"])
    elif kind == "newer config":
        config = torch.load(checkpoint, weights_only=True)["config"]
        with_content(checkpoint, path, config=config | {"train": config["train"] | {"batch_sise": 3}})
    elif kind == "no weights":
        with_content(checkpoint, path, state_dict={"fc.weight": "zeros"})
    elif kind == "other network":
        config = torch.load(checkpoint, weights_only=True)["config"]
        with_content(checkpoint, path, config=config | {"model": {"name": "resnet10t", "kwargs": {}}})


@pytest.mark.parametrize(
    "kind,sentence",
    [
        ("absent", "file.pt: no such checkpoint file"),
        ("folder", "file.pt: no such checkpoint file"),
        ("empty", "file.pt: cannot be read as a checkpoint"),
        ("text", "file.pt: cannot be read as a checkpoint, it is none or damaged"),
        ("truncated", "file.pt: cannot be read as a checkpoint"),
        ("half of another", "file.pt: cannot be read as a checkpoint"),
        ("one byte", "file.pt: is damaged: the checksum of its part"),
        ("tensor", "file.pt: holds a Tensor, expected a dict of weights"),
        ("list", "file.pt: holds a list, expected a dict of weights"),
        ("code", "expected tensors and plain values only; nothing was executed"),
        ("code in a zip", "holds an object of io.open, expected tensors and plain values only; nothing was executed"),
        ("code in weights", "holds an object of io.open, expected tensors and plain values only; nothing was executed"),
        ("foreign", "file.pt: is no checkpoint of train.py"),
        ("no classes", "file.pt: does not say which classes"),
        ("no mapping", "file.pt: does not say which classes"),
        ("newer config", "train.batch_sise = 3: no such key, did you mean train.batch_size?"),
        ("no weights", "file.pt: holds no weights: 'fc.weight' is a str, expected a tensor"),
        ("other network", "file.pt: does not fit the model, nothing was loaded"),
    ],
)
def test_checkpoint_that_is_none(checkpoint, tmp_path, kind, sentence):
    spoil(kind, tmp_path / "file.pt", checkpoint)
    assert_says(sentence, tmp_path, "--ckpt", tmp_path / "file.pt")  # of which Attack's marker is a part
    if kind in ("text", "one byte", "no weights"):  # the sound one before it is not evaluated first
        assert_says(sentence, tmp_path, "--ckpt", checkpoint, tmp_path / "file.pt", "--json", tmp_path / "out.json")


def test_the_attack_works_where_pickles_are_trusted(tmp_path):
    pickle.loads(pickle.dumps(Attack(tmp_path / "executed"))).close()
    assert (tmp_path / "executed").exists()


# ---- what is asked for


WEIGHTS = ["--weights", "WEIGHTS", "data.source=digits", "data.workers=0"]


@pytest.mark.parametrize(
    "arguments,sentence",
    [
        ([], "nothing to evaluate: give --ckpt FILE of a run, or --model NAME"),
        (["data.root=x"], "nothing to evaluate: give --ckpt FILE of a run, or --model NAME"),
        (["--ckpt", "CKPT", "--ema"], "holds no averaged weights (state_dict_ema), load the plain ones"),
        (["--ckpt", "CKPT", "data.rot=x"], "command line: data.rot = 'x': no such key, did you mean data.root?"),
        (["--ckpt", "CKPT", "lr=3"], "lr=3: no such checkpoint file"),
        (["--ckpt", "CKPT", "task=depth"], "command line: task = 'depth': no such task"),
        (["--ckpt", "CKPT", "--crop-pct", "1.5"], "command line: data.crop_pct = 1.5: input should be less than"),
        (
            ["--ckpt", "CKPT", "--image-size", "big"],
            "command line: data.eval_image_size = big: expected a decimal number such as",
        ),
        (["--ckpt", "CKPT", "data.source=imagefolder", "data.root=none"], "none/val: no such folder"),
        (["--ckpt", "CKPT", "model.name=ddf_resnet50"], "does not fit the model, nothing was loaded"),
        (["--ckpt", "CKPT", "--pretrained"], "--weights, --pretrained and --config are for --model NAME"),
        (["--ckpt", "CKPT", "--config", "x.yaml"], "--weights, --pretrained and --config are for --model NAME"),
        (["--model", "resnet10t"], "--model resnet10t needs weights: either --weights FILE, or --pretrained"),
        (["--model", "resnet10t", "--pretrained", *WEIGHTS], "--model resnet10t needs weights: either --weights"),
        (["--model", "resnet10t", "--ckpt", "CKPT"], "--model resnet10t needs weights: either --weights FILE, or"),
        (["--model", "resnet10t", "resnet18", *WEIGHTS], "--weights: 1 for 2 models, expected one each"),
        (["--model", "resnet10t", "--pretrained", "--ema"], "--ema is for checkpoints that hold averaged weights"),
        (
            ["--model", "resnet100", *WEIGHTS],
            "model.name = 'resnet100' is no model that timm knows, did you mean resne",
        ),
        (["--model", "resnet18.a9", *WEIGHTS], "--model resnet18.a9: Invalid pretrained tag"),
        (["--model", "ddf_resnet18", "--pretrained"], "ddf_resnet18 cannot be built so: No pretrained weights exist"),
        (["--model", "test_vit", *WEIGHTS], "does not fit the model, nothing was loaded"),
        (["--model", "test_resnet", "--weights", "none.pth"], "none.pth: no such checkpoint file"),
        (["--model", "test_resnet", *WEIGHTS, "--ema"], "holds no averaged weights (state_dict_ema)"),
        (["--model", "test_resnet", *WEIGHTS, "--config", "none.yaml"], "none.yaml: no such config file"),
        (["--model", "test_resnet", *WEIGHTS], "data.source = digits has 10 classes, but test_resnet tells 7 apart"),
        (["--ckpt", "CKPT", "--json", "none/r.json"], "none/r.json: the result cannot be written: No such file or"),
        (["--ckpt", "CKPT", "--json", "/proc/r.json"], "/proc/r.json: the result cannot be written"),
        (["--ckpt", "CKPT", "--csv", "FOLDER"], "is a folder, expected a file to write the result to"),
        (["--ckpt", "CKPT", "--per-class", "none/c.csv"], "none/c.csv: the result cannot be written"),
        (["--ckpt", "CKPT", "--confusion", "none/c.png"], "none/c.png: the result cannot be written"),
        (["--ckpt", "CKPT", "--confusion", "c.txt"], "c.txt: matplotlib draws no .txt, expected .png or .pdf"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_line_that_cannot_be_meant(checkpoint, tmp_path, monkeypatch, arguments, sentence):
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "w.pth")
    names = {"CKPT": checkpoint, "WEIGHTS": tmp_path / "w.pth", "FOLDER": tmp_path}
    monkeypatch.chdir(tmp_path)
    assert_says(sentence, tmp_path, *(names.get(argument, argument) for argument in arguments))


def test_picture_size_that_a_network_cannot_take(tmp_path):
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=10).state_dict(), tmp_path / "w.pth")
    options = ["--model", "vit_tiny_patch16_224", "--weights", tmp_path / "w.pth", "data.source=digits"]
    sentence = (
        "vit_tiny_patch16_224 fails on images of data.eval_image_size = 64: Input height (64) doesn't match model"
    )
    assert_says(sentence, tmp_path, *options, "--image-size", "64")


def test_picture_that_cannot_be_read_ends_all_processes(checkpoint, tmp_path):
    root = write_digits(tmp_path / "digits", 30)
    (root / "9/9999.png").write_text("no picture")  # the last one: in the share of rank 1
    arguments = ["--ckpt", checkpoint, *FOLDER, f"data.root={root}", "run.eval_batch_size=16", "run.device=cpu"]
    first, second = on_processes(2, *arguments)
    assert "9999.png" in second and "\n" not in second
    assert first == "error: another process was lost during the evaluation; its own message says why"


# ---- data of other classes


def test_data_of_other_classes(checkpoint, tmp_path):
    root = write_digits(tmp_path / "digits", 20)
    arguments = ["--ckpt", checkpoint, *FOLDER, f"data.root={root}"]
    (root / "9").rename(root / "nine")
    assert_says("has 10 classes, expected the 10 of training; only in one of them: 9, nine", tmp_path, *arguments)
    for picture in (root / "nine").iterdir():
        picture.unlink()
    (root / "nine").rmdir()
    assert_says("has 9 classes, expected the 10 of training; only in one of them: 9", tmp_path, *arguments)


def test_worker_processes_end_with_an_error(checkpoint, tmp_path):
    root = write_digits(tmp_path / "digits", 30)
    (root / "9/9999.png").write_text("no picture")
    options = ["--ckpt", checkpoint, *FOLDER, f"data.root={root}", "data.workers=2", "run.device=cpu"]
    # it hung where the error's traceback kept them alive
    result = command("eval.py", *options, timeout=120, fresh=True)
    assert result.returncode == 1 and "9999.png" in result.stderr and result.stderr.count("\n") == 1
