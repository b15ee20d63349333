"""load_checkpoint: every format it takes, and what it says of those it cannot."""

import argparse
import pathlib
import pickle
import subprocess
import zipfile

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from ddfnet.checkpoint_file import read_checkpoint, write_checkpoint
from ddfnet.errors import UserError
from ddfnet.models import load_checkpoint


def network(seed=0):
    torch.manual_seed(seed)
    return timm.create_model("ddf_resnet18", num_classes=4)


STATE = network(1).state_dict()
WRAPPINGS = {
    "plain.pth": STATE,
    "module.pth": {f"module.{k}": v for k, v in STATE.items()},
    "compiled.pt": {"state_dict": {f"_orig_mod.module.{k}": v for k, v in STATE.items()}},
    "authors.pth.tar": {
        "state_dict": STATE,
        "arch": "ddf_mul_resnet18",
        "epoch": 119,
        "args": argparse.Namespace(lr=0.4, amp=True),
    },
    "model.pth": {"model": STATE},
    "tutorial.pt": {"epoch": 4, "model_state_dict": STATE, "optimizer_state_dict": {"state": {}}, "loss": 0.3},
    "net.pth": {"net": {f"module.{k}": v for k, v in STATE.items()}, "acc": 93.1, "epoch": 7},
    "lightning.ckpt": {
        "epoch": 2,
        "pytorch-lightning_version": "2.5",
        "state_dict": {f"model.{k}": v for k, v in STATE.items()},
    },
    "lightning_compiled.ckpt": {"state_dict": {f"net._orig_mod.{k}": v for k, v in STATE.items()}},
    "numpy.pth": {
        "state_dict": STATE,
        "best": np.float64(76.1),
        "args": {"epochs": np.int64(90), "on": np.bool_(True)},
    },
    "paths.pth": {"model": STATE, "args": argparse.Namespace(output=pathlib.Path("runs/a"), torch=torch.__version__)},
    "windows.pth": {"model": STATE, "args": argparse.Namespace(data=pathlib.PureWindowsPath("C:/data"))},
    "ours.pt": {"format": 1, "config": {"train": {"lr": 0.1}}, "step": 3, "state_dict": STATE},
    "weights.safetensors": STATE,
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_every_wrapping_loads(name, tmp_path):
    save = save_file if name.endswith("safetensors") else torch.save
    save(WRAPPINGS[name], tmp_path / name)
    model = load_checkpoint(network(), tmp_path / name)
    assert all(torch.equal(value, STATE[key]) for key, value in model.state_dict().items())


def test_wrapped_models_load_too(tmp_path):
    torch.save(STATE, tmp_path / "a.pth")
    model = network()
    load_checkpoint(torch.nn.DataParallel(model), tmp_path / "a.pth")
    assert torch.equal(model.fc.weight, STATE["fc.weight"])
    load_checkpoint(torch.compile(network(), backend="eager"), tmp_path / "a.pth")


def test_averaged_weights_load_on_demand(tmp_path):
    torch.save({"state_dict": network(2).state_dict(), "state_dict_ema": STATE}, tmp_path / "a.pt")
    assert torch.equal(load_checkpoint(network(), tmp_path / "a.pt", ema=True).fc.weight, STATE["fc.weight"])
    torch.save({"state_dict": STATE}, tmp_path / "b.pt")
    with pytest.raises(UserError, match="holds no averaged weights"):
        load_checkpoint(network(), tmp_path / "b.pt", ema=True)


def test_torchvisions_averaged_weights_load(tmp_path):
    averaged = {"n_averaged": torch.tensor(300)} | {f"module.{k}": v for k, v in STATE.items()}
    args = argparse.Namespace(output_dir=pathlib.Path("out"), lr=np.float64(0.5))
    plain = network(2).state_dict()
    torch.save({"model": plain, "model_ema": averaged, "epoch": 3, "args": args}, tmp_path / "model_3.pth")
    assert torch.equal(load_checkpoint(network(), tmp_path / "model_3.pth", ema=True).fc.weight, STATE["fc.weight"])
    assert torch.equal(load_checkpoint(network(), tmp_path / "model_3.pth").fc.weight, plain["fc.weight"])
    torch.save({"model_ema": averaged}, tmp_path / "ema.pth")
    with pytest.raises(UserError, match=r"it holds averaged weights, under 'model_ema': load them by ema=True"):
        load_checkpoint(network(), tmp_path / "ema.pth")


def test_a_file_older_than_num_batches_tracked_loads_and_the_counts_begin_at_zero(tmp_path):
    old = {key: value for key, value in STATE.items() if not key.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    model = network()
    model.bn1.num_batches_tracked += 3
    load_checkpoint(model, tmp_path / "old.pth")
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in old.items())
    assert model.bn1.num_batches_tracked == 0


def test_what_other_trainers_keep_beside_the_weights_is_no_hindrance(tmp_path):
    beside = dict(rng=np.random.get_state(), mean=np.array([0.5, 0.4]), net=dict(arch="resnet"), model={})
    torch.save(beside | {"model_state_dict": STATE}, tmp_path / "a.pth")
    assert torch.equal(load_checkpoint(network(), tmp_path / "a.pth").fc.weight, STATE["fc.weight"])
    torch.save({"model": {}, "weights": STATE}, tmp_path / "b.pth")
    with pytest.raises(UserError, match="holds no weights; 'weights' looks like weights: save that alone"):
        load_checkpoint(network(), tmp_path / "b.pth")


def test_a_network_whose_own_names_begin_as_a_wrappers_do_loads_its_own_file(tmp_path):
    wrapped = torch.nn.ModuleDict({"model": network(1)})
    torch.save(wrapped.state_dict(), tmp_path / "own.pth")
    loaded = load_checkpoint(torch.nn.ModuleDict({"model": network()}), tmp_path / "own.pth")
    assert torch.equal(loaded["model"].fc.weight, STATE["fc.weight"])


@pytest.mark.parametrize(
    "content,sentence",
    [
        (
            {f"backbone.{key}": value for key, value in STATE.items()},
            "its keys are like backbone.bn1.bias, backbone.bn1.num_batches_tracked, backbone.bn1.running_mean, the"
            " network's like bn1.bias, bn1.num_batches_tracked, bn1.running_mean: save those that begin with 'backbone"
            ".', without it",
        ),
        (
            {"state_dict": {f"model.{key}": value for key, value in STATE.items()} | {"loss.weight": torch.ones(4)}},
            "save those that begin with 'model.', without it, to a file of their own, as by"
            " {key.removeprefix('model.'): value",
        ),
        ({"layers.0.w": torch.ones(2)}, "its keys are like layers.0.w, the network's like bn1.bias"),
        (
            {"epoch": 3, "weights": STATE},
            "'epoch' is a int, expected a tensor; 'weights' looks like weights: save that",
        ),
        ({"epoch": 3}, "expected a tensor; weights stand in a file by themselves, or under state_dict, model, model_"),
    ],
    ids=["backbone", "lightning with a loss", "another network", "under a name of its own", "no weights"],
)
def test_keys_of_another_kind_get_one_line_that_says_how_to_load_them(content, sentence, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(UserError) as error:
        load_checkpoint(network(), tmp_path / "file.pth")
    assert sentence in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 600


def test_missing_unexpected_and_misshaped_keys_are_all_named_and_nothing_is_loaded(tmp_path):
    state = dict(STATE, extra=torch.zeros(1), **{"fc.weight": torch.zeros(10, 512)})
    del state["conv1.weight"], state["bn1.bias"]
    torch.save(state, tmp_path / "bad.pth")
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_checkpoint(model, tmp_path / "bad.pth")
    text = str(error.value)
    assert "2 missing (bn1.bias, conv1.weight)" in text and "1 unexpected (extra)" in text
    assert "1 misshaped (fc.weight (10, 512) instead of (4, 512))" in text
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Attack:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def bad_file(kind, path):
    if kind == "code":
        path.write_bytes(pickle.dumps({"state_dict": Attack()}))
    elif kind == "zip code":
        torch.save({"state_dict": Attack()}, path)
    elif kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.touch()
    elif kind == "tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "no weights":
        torch.save({"state_dict": {"a": "b"}}, path)
    elif kind == "truncated":
        torch.save(STATE, path)
        path.write_bytes(path.read_bytes()[:100_000])


@pytest.mark.parametrize("kind", ["code", "zip code", "text", "empty", "tensor", "no weights", "truncated", "absent"])
def test_what_is_no_checkpoint_gives_one_sentence_and_executes_nothing(kind, tmp_path):
    path = tmp_path / "file.pth"
    bad_file(kind, path)
    with pytest.raises(UserError) as error:
        load_checkpoint(network(), path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_numbers_and_paths_are_read_as_what_they_are_on_any_system(tmp_path):
    values = {"x": np.float32(0.5), "name": np.str_("cat"), "path": pathlib.Path("a/b"), "bytes": np.bytes_(b"a")}
    torch.save(values, tmp_path / "here.pt")
    content = read_checkpoint(tmp_path / "here.pt")
    assert content["x"] == 0.5 and content["name"] == "cat" and str(content["path"]) == "a/b"
    pickled = pickle.dumps({"path": pathlib.PureWindowsPath("C:/data")}, 2)
    for old, new in ((b"pathlib\nPureWindowsPath", b"pathlib\nWindowsPath"), (b"pathlib\n", b"pathlib._local\n")):
        pickled = pickled.replace(old, new)
        torch.save({}, tmp_path / "there.pt")
        with zipfile.ZipFile(tmp_path / "there.pt") as file:
            parts = {name: file.read(name) for name in file.namelist()}
        with zipfile.ZipFile(tmp_path / "there.pt", "w") as file:
            for name, data in parts.items():
                file.writestr(name, pickled if name.endswith("data.pkl") else data)
        assert read_checkpoint(tmp_path / "there.pt")["path"] == pathlib.PureWindowsPath("C:/data")


def test_interrupted_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    write_checkpoint(path, {"step": 1})

    def full_disk(content, file):
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match="could not be written, the previous one is kept: No space left"):
        write_checkpoint(path, {"step": 2})
    assert read_checkpoint(path) == {"step": 1} and list(tmp_path.iterdir()) == [path]


@pytest.fixture
def small_disk(tmp_path):
    """A folder that is a file system of 2 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs mount")
    if done.returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("parts", [1, 40], ids="tensors={}".format)
def test_a_full_disk_says_no_space_left_on_device(small_disk, parts):
    """torch's writer says "unexpected pos" of it."""
    path = small_disk / "last.pt"
    write_checkpoint(path, {"step": 1})
    with pytest.raises(UserError) as error:
        write_checkpoint(path, {"weights": [torch.zeros(1_000_000 // parts) for _ in range(parts)]})
    assert str(error.value) == (
        f"{path}: the checkpoint could not be written, the previous one is kept: No space left on device"
    )
    assert read_checkpoint(path) == {"step": 1} and list(small_disk.iterdir()) == [path]
